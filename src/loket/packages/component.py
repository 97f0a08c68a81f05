"""Wires the core modules of a JavaScript component anew, for the contract's world alone.

The tool that builds a component from JavaScript leaves in it what it needed while building: an export `init`, an
import of a module loader, and imports of WASI. Its own stubs hide those behind further components, each with a memory
of its own, and a module may have one. So the core modules are taken out and wired again in the same way, with one
difference: what came from anywhere else than the counter is now a function of a small core module that traps.

The format is that of the component model's `Binary.md`; only what the tool writes is understood, and anything else is
an error. Indices of core functions, memories, tables and globals stay as they are. Those of core modules and core
instances grow by one, since the module that traps comes first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from loket.packages.binary import Reader, core_imports, name_of, number, section, vector

COUNTER = "loket:kernel/counter@1.0.0"

_TRAPS = "quickjs"
"""Name of the core module that traps; a backtrace shows it: `quickjs!clocks-wall-clock-now`."""

_HEADER = b"\0asm\x0d\0\x01\0"
_CORE_MODULE, _CORE_INSTANCE, _COMPONENT, _ALIAS, _TYPE, _CANON, _IMPORT, _EXPORT = 1, 2, 4, 6, 7, 8, 10, 11
_FUNCTION, _TYPE_SORT, _INSTANCE = 1, 3, 5

_COUNTER_TYPE = (
    b"\x42\x06"  # an instance type with six declarations:
    b"\x01\x6b\x73"  # option<string>
    b"\x01\x72\x03\x04code\x73\x07message\x73\x06remedy\x00"  # record { code, message, remedy }
    b"\x04\x00\x07refusal\x03\x00\x01"  # under the name refusal
    b"\x01\x6a\x01\x73\x01\x02"  # result<string, refusal>
    b"\x01\x40\x02\x0acapability\x73\x04args\x73\x00\x03"  # func(capability: string, args: string) -> that
    b"\x04\x00\x04call\x01\x04"  # under the name call
)
_HANDLE_TYPES = b"\x6a\x01\x73\x01\x01", b"\x40\x02\x09operation\x73\x04args\x73\x00\x02"


@dataclass
class _Trap:
    """A core function that is to trap: its name in a backtrace, and its type once a module was seen to import it."""

    name: str
    type: bytes | None = None


@dataclass
class _Parts:
    """What was read of the tool's component. Lists are index spaces."""

    instances: list[str] = field(default_factory=list)
    """Imported instances by name."""
    types: list[str] = field(default_factory=list)
    """Names of types that come from an imported instance; empty for others, which nothing here refers to."""
    functions: list[str] = field(default_factory=list)
    """Functions of the component: `INSTANCE#NAME` where they are imported."""
    core_functions: list[_Trap | str] = field(default_factory=list)
    """A trap, or the name under which a core instance exports it."""
    modules: list[bytes] = field(default_factory=list)
    exports: list[dict[str, int]] = field(default_factory=list)
    """Of each core instance that lists its exports: the functions among them."""
    body: list[bytes] = field(default_factory=list)
    """Sections of the new component."""
    lifted: bytes = b""
    """The `canon lift` of `handle` without the type at its end."""


def sealed(component: bytes) -> bytes:
    """The component with the counter as its one import and `handle` as its one export.

    Raises `ValueError` for one that is built in another way than the pinned tool does it.
    """
    parts = _Parts()
    for kind, content in _inner(component).sections():
        _HANDLERS.get(kind, _leave_out)(parts, Reader(content))
    if not parts.lifted:
        raise ValueError("the component has no handle")
    return b"".join((_HEADER, *_head(parts), *parts.body, *_tail(parts)))


def _inner(component: bytes) -> Reader:
    """The component inside that imports the counter."""
    wanted = name_of(COUNTER)
    for kind, content in Reader(component, 8).sections():
        if kind == _COMPONENT and any(
            one == _IMPORT and wanted in imports for one, imports in Reader(content, 8).sections()
        ):
            return Reader(content, 8)
    raise ValueError("no component in it imports the counter")


def _head(parts: _Parts) -> Iterator[bytes]:
    """The counter's type and import, the type `refusal`, and the core module that traps with its instance."""
    yield section(_TYPE, vector([_COUNTER_TYPE]))
    yield section(_IMPORT, vector([b"\0" + name_of(COUNTER) + b"\x05\0"]))
    yield section(_ALIAS, vector([b"\x03\0\0" + name_of("refusal"), b"\x01\0\0" + name_of("call")]))
    traps = [one for one in parts.core_functions if isinstance(one, _Trap)]
    yield section(_CORE_MODULE, _trap_module(traps))
    yield section(_CORE_INSTANCE, vector([b"\0\0\0"]))


def _tail(parts: _Parts) -> Iterator[bytes]:
    yield section(_TYPE, vector(list(_HANDLE_TYPES)))
    yield section(_CANON, vector([parts.lifted + number(3)]))
    yield section(_EXPORT, vector([b"\0" + name_of("handle") + b"\x01" + number(1) + b"\0"]))


def _trap_module(traps: list[_Trap]) -> bytes:
    """A core module whose functions `0`, `1`, ... have these types and do nothing but trap."""
    types = vector([trap.type or b"\x60\0\0" for trap in traps])
    functions = vector([number(index) for index in range(len(traps))])
    exports = vector([name_of(str(index)) + b"\0" + number(index) for index in range(len(traps))])
    code = vector([b"\x03\0\x00\x0b"] * len(traps))
    names = vector([number(index) + name_of(trap.name) for index, trap in enumerate(traps)])
    named = name_of("name") + section(0, name_of(_TRAPS)) + section(1, names)
    numbered = ((1, types), (3, functions), (7, exports), (10, code), (0, named))
    return b"\0asm\x01\0\0\0" + b"".join(section(kind, content) for kind, content in numbered)


def _leave_out(_parts: _Parts, _content: Reader) -> None:
    """Types, exports, names: of no use in the new component."""


def _import(parts: _Parts, content: Reader) -> None:
    for _ in range(content.number()):
        content.byte()
        name, sort = content.name(), content.byte()
        if sort == _INSTANCE:
            parts.instances.append(name)
            content.number()
        elif sort == _TYPE_SORT:
            content.byte()
            content.number()
        else:
            raise ValueError(f"the tool's component imports {name}, which is no instance")


def _module(parts: _Parts, content: Reader) -> None:
    parts.modules.append(content.rest())
    parts.body.append(section(_CORE_MODULE, parts.modules[-1]))


def _core_instances(parts: _Parts, content: Reader) -> None:
    makers = (_instantiated, _listed)
    made = [makers[content.byte()](parts, content) for _ in range(content.number())]
    parts.body.append(section(_CORE_INSTANCE, vector(made)))


def _instantiated(parts: _Parts, content: Reader) -> bytes:
    module, args = content.number(), {}
    for _ in range(content.number()):
        name = content.name()
        content.byte()
        args[name] = content.number()
    for origin, name, kind in core_imports(parts.modules[module]):
        function = parts.exports[args[origin]].get(name) if origin in args else None
        trap = parts.core_functions[function] if function is not None else None
        if isinstance(trap, _Trap):
            trap.type = kind
    parts.exports.append({})
    given = [name_of(name) + b"\x12" + number(index + 1) for name, index in args.items()]
    return b"\0" + number(module + 1) + vector(given)


def _listed(parts: _Parts, content: Reader) -> bytes:
    functions, listed = {}, []
    for _ in range(content.number()):
        name, sort, index = content.name(), content.byte(), content.number()
        if sort == 0:
            functions[name] = index
        listed.append(name_of(name) + bytes([sort]) + number(index))
    parts.exports.append(functions)
    return b"\x01" + vector(listed)


def _aliases(parts: _Parts, content: Reader) -> None:
    kept = []
    for _ in range(content.number()):
        sort = content.byte()
        core_sort = content.byte() if sort == 0 else 0
        content.byte()
        instance, name = content.number(), content.name()
        if sort == 0:
            if core_sort == 0:
                parts.core_functions.append(name)
            kept.append(bytes([0, core_sort, 1]) + number(instance + 1) + name_of(name))
        elif sort == _FUNCTION:
            parts.functions.append(f"{parts.instances[instance]}#{name}")
    if kept:
        parts.body.append(section(_ALIAS, vector(kept)))


def _canons(parts: _Parts, content: Reader) -> None:
    """Keep the lowering of `call` and the lifting of `handle`; every other lowered function becomes one that traps."""
    for _ in range(content.number()):
        kind = content.byte()
        if kind == 0:
            _lift(parts, content)
        elif kind == 1:
            _lower(parts, content)
        elif kind in (2, 3, 4):  # a resource's new, drop and rep
            content.number()
            _add_trap(parts, "io-resource")
        else:
            raise ValueError(f"the tool's component uses the built-in {kind:#x}")


def _lift(parts: _Parts, content: Reader) -> None:
    content.byte()
    function = content.number()
    options = _options(content)
    content.number()
    parts.functions.append("")
    if parts.core_functions[function] == "handle":
        parts.lifted = b"\0\0" + number(function) + options


def _lower(parts: _Parts, content: Reader) -> None:
    content.byte()
    name = parts.functions[content.number()]
    options = _options(content)
    if name == f"{COUNTER}#call":
        parts.core_functions.append("call")
        parts.body.append(section(_CANON, vector([b"\x01\0\0" + options])))
    else:
        _add_trap(parts, _shown(name))


def _add_trap(parts: _Parts, name: str) -> None:
    index = sum(isinstance(one, _Trap) for one in parts.core_functions)
    parts.core_functions.append(_Trap(name))
    parts.body.append(section(_ALIAS, vector([b"\0\0\x01\0" + name_of(str(index))])))


def _shown(name: str) -> str:
    """`wasi:clocks/wall-clock@0.2.12#now` as `clocks-wall-clock-now`."""
    interface, _, function = name.partition("#")
    return f"{interface.partition('@')[0].rpartition(':')[2].replace('/', '-')}-{function}"


def _options(content: Reader) -> bytes:
    """The options of a lift or a lower as they stand: encoding, memory, realloc, post-return."""
    made = []
    for _ in range(content.number()):
        option = content.byte()
        if option > 5:  # noqa: PLR2004 - asynchronous functions have more, and the contract has none
            raise ValueError(f"the tool's component has a function with the option {option:#x}")
        made.append(bytes([option]) + (number(content.number()) if option >= 3 else b""))  # noqa: PLR2004 - an index
    return vector(made)


_HANDLERS = {
    _CORE_MODULE: _module,
    _CORE_INSTANCE: _core_instances,
    _ALIAS: _aliases,
    _CANON: _canons,
    _IMPORT: _import,
}
