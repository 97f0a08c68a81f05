"""Opens a pack that nobody trusts yet. What is not exactly as `pack.make_pack` writes it is refused with the reason.

A zip says everything twice (in its directory at the end, and before each file), and readers differ in what they take.
So the border of every entry is compared with the directory's, and nothing may lie between, before or after them.
"""

import contextlib
import hashlib
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from loket.contracts import BadInput, Failed
from loket.packages.content import MOST_BYTES, MOST_FILE, Listed, check_names
from loket.packages.files import check_regular
from loket.packages.pack import LIST, SIGNATURE, Inside, PackList, read_list
from loket.packages.signature import is_signed

MOST_PACK: Final = 256 << 20
"""Bytes of a pack, as it is packed."""
MOST_ENTRIES: Final = 5_000
MOST_RATIO: Final = 100
"""How many bytes one packed byte may become."""

_FREE_BYTES: Final = 1 << 20
"""A file up to so many bytes may be packed as tightly as it can be: a page of blanks is no bomb."""
_MOST_LIST: Final = 2 << 20
_MOST_DIRECTORY: Final = 2 << 20
_END: Final = struct.Struct("<4s4H2LH")
_END_MARK: Final = b"PK\x05\x06"
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_LOCAL_MARK: Final = b"PK\x03\x04"
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_KNOWN_FLAGS: Final = 0x6 | 0x800
"""How hard it was packed, and that the name is UTF-8."""
_SIGNATURE_BYTES: Final = 64
_CHUNK: Final = 1 << 20


@contextlib.contextmanager
def unpacked(pack: Path, staging: Path) -> Iterator[tuple[PackList, Path]]:
    """Check a pack and unpack it into a fresh folder below `staging`; the folder is gone when the context ends.

    Each module is a folder of its id in it. The signature is checked, whether its key is trusted is the caller's.

    Raises `BadInput` (`pack.*`, `package.*`) that says what is wrong, and `Failed` where it cannot be unpacked; nothing
    is left behind then.
    """
    folder = Path(tempfile.mkdtemp(dir=staging, prefix="unpack-"))
    try:
        with _sound(pack) as (archive, file):
            listed = _checked(archive, file)
            _extract(archive, listed, folder)
        yield listed, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_pack(pack: Path) -> PackList:
    """The list of a pack, its signature checked, nothing unpacked. Raises `BadInput` as `unpacked` does."""
    with _sound(pack) as (archive, file):
        return _checked(archive, file)


@contextlib.contextmanager
def _sound(pack: Path) -> Iterator[tuple[zipfile.ZipFile, BinaryIO]]:
    """The archive and its file. Raises `BadInput` for whatever the reader of zips stumbles over inside the context."""
    try:
        with _opened(pack) as file, zipfile.ZipFile(file) as archive:
            yield archive, file
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, struct.error, UnicodeDecodeError) as error:
        raise _bad("pack.zip", f"is no sound zip: {error}") from None
    except OSError as error:
        raise Failed("pack.io", f"the pack cannot be read or unpacked: {error.strerror}", "free disk space") from None


def _bad(code: str, said: str, remedy: str = "get it again from its publisher") -> BadInput:
    return BadInput(code, f"the pack {said}", remedy)


@contextlib.contextmanager
def _opened(pack: Path) -> Iterator[BinaryIO]:
    """The file, once its end says that its directory can be read at all."""
    try:
        check_regular(pack)
        file = pack.open("rb")
    except OSError as error:
        raise BadInput("pack.missing", f"cannot read {pack}: {error.strerror}", "name the file") from None
    with file:
        _check_end(file)
        yield file


def _check_end(file: BinaryIO) -> None:
    size = file.seek(0, 2)
    if size > MOST_PACK:
        raise _bad("pack.size", f"has {size:,} bytes, and {MOST_PACK:,} are allowed")
    if size < _END.size:
        raise _bad("pack.zip", "is no zip: it is too short")
    file.seek(size - _END.size)
    mark, disk, first_disk, here, entries, directory, offset, comment = _END.unpack(file.read(_END.size))
    if mark != _END_MARK or comment or disk or first_disk or here != entries:
        raise _bad("pack.zip", "is no zip, or something stands behind its end")
    if directory > _MOST_DIRECTORY or entries > MOST_ENTRIES:
        raise _bad("pack.count", f"has {entries:,} entries, and {MOST_ENTRIES:,} are allowed")
    if offset + directory + _END.size != size:
        raise _bad("pack.zip", "has something before its beginning or behind its directory")
    file.seek(0)


def _checked(archive: zipfile.ZipFile, file: BinaryIO) -> PackList:
    """The list, when all entries are what it says and the signature is right."""
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise _bad("pack.count", f"has {len(entries):,} entries, and {MOST_ENTRIES:,} are allowed")
    for entry in entries:
        _check_entry(entry)
    check_names([entry.filename for entry in entries])
    _check_borders(entries, file, archive.start_dir)
    by_name = {entry.filename: entry for entry in entries}
    data = _read(archive, by_name, LIST, _MOST_LIST)
    listed = read_list(data)
    _check_listed(listed, by_name)
    _check_signature(listed, data, archive, by_name)
    return listed


def _check_entry(entry: zipfile.ZipInfo) -> None:
    """Raises `BadInput` for an entry that is not a plain file, packed in the usual way, of a bounded size."""
    name = entry.orig_filename[:200]
    if entry.flag_bits & _ENCRYPTED:
        raise _bad("pack.encrypted", f"has an encrypted entry, {name!r}", "ask for one that is not encrypted")
    if entry.orig_filename != entry.filename:
        raise _bad("package.name", f"has an entry whose name holds a NUL character or a backslash, {name!r}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir() or kind not in (0, stat.S_IFREG):
        what = "a link" if kind == stat.S_IFLNK else "a folder or a device"
        raise _bad("pack.link", f"has {what} among its entries, {name!r}: only plain files are taken")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _bad("pack.compression", f"has {name!r} packed in a way of number {entry.compress_type}")
    if entry.flag_bits & ~_KNOWN_FLAGS or entry.extra or entry.comment or entry.volume:
        raise _bad("pack.zip", f"has an entry of an unusual form, {name!r}", "make it with `loket pack`")
    _check_size(entry, name)


def _check_size(entry: zipfile.ZipInfo, name: str) -> None:
    if entry.file_size > MOST_FILE:
        raise _bad("pack.size", f"has {name!r} with {entry.file_size:,} bytes, and {MOST_FILE:,} are allowed")
    if entry.file_size > max(_FREE_BYTES, MOST_RATIO * entry.compress_size):
        raise _bad("pack.bomb", f"has {name!r}, of which each byte becomes more than {MOST_RATIO}")


def _check_borders(entries: Sequence[zipfile.ZipInfo], file: BinaryIO, end: int) -> None:
    """Raises `BadInput` unless the entries lie one behind the other, as the directory says, and nothing between."""
    total = sum(entry.file_size for entry in entries)
    if total > MOST_BYTES:
        raise _bad("pack.size", f"becomes {total:,} bytes, and {MOST_BYTES:,} are allowed")
    at = 0
    for entry in sorted(entries, key=lambda one: one.header_offset):
        if entry.header_offset != at:
            raise _bad("pack.zip", f"has entries that overlap, or something between them, at {entry.filename!r}")
        file.seek(at)
        at = _behind(file.read(_LOCAL.size), entry)
    if at != end:
        raise _bad("pack.zip", "has something between its entries and its directory")


def _behind(header: bytes, entry: zipfile.ZipInfo) -> int:
    """Where an entry ends. Raises `BadInput` where what stands before the file is not what the directory says."""
    mark, _needs, flags, method, _time, _day, crc, packed, size, name, extra = _LOCAL.unpack(header)
    same = (flags, method, crc, packed, size, extra) == (
        entry.flag_bits,
        entry.compress_type,
        entry.CRC,
        entry.compress_size,
        entry.file_size,
        0,
    )
    if mark != _LOCAL_MARK or not same:
        raise _bad("pack.zip", f"says two things about {entry.filename!r}")
    return int(entry.header_offset + _LOCAL.size + name + packed)


def _check_listed(listed: PackList, entries: Mapping[str, zipfile.ZipInfo]) -> None:
    """Raises `BadInput` unless the list names exactly the files that are there, all of them in the modules' folders."""
    files = {one.path: one for one in listed.files}
    there = entries.keys() - {LIST, SIGNATURE}
    for path in sorted(files.keys() - there):
        raise _bad("pack.missing", f"lacks {path}, which its list names")
    for path in sorted(there - files.keys()):
        raise _bad("pack.unlisted", f"holds {path}, which its list does not name")
    ids = {one.id for one in listed.modules}
    for path, one in files.items():
        if path.partition("/")[0] not in ids:
            raise _bad("pack.unlisted", f"holds {path}, which belongs to none of its modules")
        if entries[path].file_size != one.size:
            raise _bad("pack.digest", f"holds {path} with another size than its list says")
    for module in listed.modules:
        if module.entry is not None and f"{module.id}/{module.entry}" not in files:
            raise _bad("pack.missing", f"lacks the component of {module.id}, {module.entry}")


def _check_signature(
    listed: PackList, data: bytes, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]
) -> None:
    signed = SIGNATURE in entries
    if listed.key is None:
        if signed:
            raise _bad("pack.signature", "has a signature and names no publisher")
        return
    if not signed:
        raise _bad("pack.signature", f"says that {listed.publisher} made it, and is not signed")
    if not is_signed(listed.key, data, _read(archive, entries, SIGNATURE, _SIGNATURE_BYTES)):
        raise _bad("pack.signature", f"is not what {listed.publisher} ({listed.fingerprint}) signed: it was changed")


def _read(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], name: str, most: int) -> bytes:
    if name not in entries:
        raise _bad("pack.list", f"has no {name}: it is no pack of Loket", "make one: loket pack DIR -o NAME.loket")
    with archive.open(entries[name]) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise _bad("pack.size", f"has a {name} of more than {most:,} bytes")
    return data


def _extract(archive: zipfile.ZipFile, listed: PackList, folder: Path) -> None:
    for one in listed.files:
        target = folder / one.path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _copied(archive, one, target) != one.sha256:
            raise _bad("pack.digest", f"holds {one.path} with another digest than its list says")


def _copied(archive: zipfile.ZipFile, one: Listed, target: Path) -> str:
    """Unpack one file, never more of it than the list says; its SHA-256 (hex)."""
    digest, left = hashlib.sha256(), one.size
    with archive.open(one.path) as source, target.open("xb") as made:
        target.chmod(0o600)
        while piece := source.read(_CHUNK):
            left -= len(piece)
            if left < 0:
                raise _bad("pack.bomb", f"holds more of {one.path} than its list says")
            digest.update(piece)
            made.write(piece)
    return digest.hexdigest()


def check_module(inside: Inside, manifest_id: str, version: str, kind: str) -> None:
    """Raises `BadInput` where a pack's list says another module than the manifest in its folder."""
    if (inside.id, inside.version, inside.kind) != (manifest_id, version, kind):
        raise _bad(
            "pack.list",
            f"lists {inside.id} {inside.version} ({inside.kind}), and holds {manifest_id} {version} ({kind})",
        )
