"""Reads and writes the pieces that WebAssembly's binary format is made of: numbers, names, vectors, sections."""

from collections.abc import Iterator, Sequence

_IMPORTS, _TYPES = 2, 1
_FUNCTION, _TABLE, _MEMORY, _GLOBAL, _TAG = range(5)


class Reader:
    """Goes through bytes from front to back. Reading past their end raises `ValueError`."""

    def __init__(self, data: bytes, start: int = 0) -> None:
        self._data = data
        self._at = start

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """An unsigned number in LEB128."""
        value = shift = 0
        while True:
            piece = self.byte()
            value |= (piece & 0x7F) << shift
            shift += 7
            if piece < 0x80:  # noqa: PLR2004 - the bit that says that there is more
                return value

    def name(self) -> str:
        return self.take(self.number()).decode()

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise ValueError("the file ends in the middle")
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def sections(self) -> Iterator[tuple[int, bytes]]:
        """Number and content of each section."""
        while self._at < len(self._data):
            kind = self.byte()
            yield kind, self.take(self.number())


def number(value: int) -> bytes:
    """A number in LEB128."""
    made = bytearray()
    while value >= 0x80:  # noqa: PLR2004 - seven bits a byte
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def name_of(text: str) -> bytes:
    """A name: its length in bytes, and its UTF-8."""
    raw = text.encode()
    return number(len(raw)) + raw


def vector(items: Sequence[bytes]) -> bytes:
    """A vector: how many there are, and all of them."""
    return number(len(items)) + b"".join(items)


def section(kind: int, content: bytes) -> bytes:
    """A section: its number, its length, its content."""
    return bytes([kind]) + number(len(content)) + content


def core_imports(module: bytes) -> Iterator[tuple[str, str, bytes]]:
    """The functions that a core module imports: from where, under which name, and of which type (as it is written)."""
    types: list[bytes] = []
    for kind, content in Reader(module, 8).sections():
        if kind == _TYPES:
            types = _types(Reader(content))
        elif kind == _IMPORTS:
            yield from _functions(Reader(content), types)


def _types(content: Reader) -> list[bytes]:
    made = []
    for _ in range(content.number()):
        if content.byte() != 0x60:  # noqa: PLR2004 - the mark of a function type
            raise ValueError("a core module has a type that is no function's")
        made.append(b"\x60" + b"".join(vector([bytes([one]) for one in content.take(content.number())]) for _ in "io"))
    return made


def _functions(content: Reader, types: list[bytes]) -> Iterator[tuple[str, str, bytes]]:
    for _ in range(content.number()):
        origin, name, kind = content.name(), content.name(), content.byte()
        if kind == _FUNCTION:
            yield origin, name, types[content.number()]
        elif kind in (_TABLE, _MEMORY):
            if kind == _TABLE:
                content.byte()
            _limits(content)
        elif kind in (_GLOBAL, _TAG):
            content.take(2) if kind == _GLOBAL else content.number()
        else:
            raise ValueError(f"a core module imports something of the kind {kind}")


def _limits(content: Reader) -> None:
    flags = content.byte()
    for _ in range(1 + (flags & 1)):
        content.number()
