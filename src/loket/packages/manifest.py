"""The manifest, `loket.toml`: decoded into types once, strictly. Every error names the file, the key and the remedy.

Top level: `id`, `version`, `kind`, `summary`, `entry` (the component; left out, an agent runs on the stock agent's),
`source` (the file that it is built from, in Python, JavaScript or TypeScript; `agent.py` if left out), then
`[[capability]]`, `[[operation]]`, `[[context]]`, `[[command]]` and `[limits]`, and of some kinds a table of their own
(`OWN`). Who published a module is no part of it: that comes from a signature.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from loket.contracts import BadInput, Effect, Json, Limits
from loket.contracts.catalogue import BY_ID
from loket.packages.files import read_regular
from loket.packages.manifest_channel import decode_channel
from loket.packages.table import Table, suggestion

FILE = "loket.toml"

KINDS = ("agent", "tool", "skill", "channel", "app", "checks")

PASSIVE = ("skill", "checks")
"""Kinds that may do without a component: their files are read, and nothing of them runs."""

OWN: dict[str, Callable[[Table], object]] = {"channel": decode_channel}
"""Kind to what decodes the table of its own, which is called like the kind: `[channel]`. A decoder takes all that it
knows, calls `Table.done`, raises `BadInput`, and gives a frozen value that can be compared."""

ID = re.compile(r"[a-z][a-z0-9-]{1,40}")
"""Of a module: also the name of an agent's folder."""

_OTHERS = ("agent.", "message.")
"""Families by which a module has others work."""

_MOST_BYTES = 256 << 10
_NEAR = 0.85
"""How alike (0 to 1) a name must be to that of a capability to be a slip of the pen."""
VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}(-[0-9A-Za-z.-]{1,40})?")
_OPERATION = re.compile(r"[a-z][a-z0-9_-]{0,40}")
_CONTEXT = _OPERATION
_COMMAND = re.compile(r"[a-z][a-z0-9-]{0,30}")
_CAPABILITY = re.compile(r"[a-z][a-z0-9-]*(\.[a-z][a-z0-9_-]*)+(@[1-9][0-9]*)?")
_ENTRY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}\.wasm")
_SOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,80}\.(py|js|mjs|ts)")

RANGES: Mapping[str, tuple[float, float]] = {
    "memory_mb": (1, 4096),
    "cpu_ms": (10, 600_000),
    "calls": (1, 100_000),
    "args_kb": (1, 65_536),
    "answer_kb": (1, 65_536),
    "log_kb": (0, 65_536),
    "tokens": (0, 100_000_000),
    "money": (0, 10_000),
    "depth": (1, 64),
}
"""What `[limits]` may say, both ends included; the units are those of `loket.contracts.Limits`."""


@dataclass(frozen=True, slots=True)
class AskedCapability:
    """A capability that the module asks for, why, and the constraints that it accepts."""

    name: str
    reason: str
    constraints: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the module. `arguments` and `answer` are JSON Schemas (2020-12)."""

    name: str
    summary: str
    effect: Effect
    arguments: Mapping[str, Json]
    answer: Mapping[str, Json]
    critical: tuple[str, ...] | None = None
    """The arguments that say who, where, which object or how much; None where the manifest does not say which."""


@dataclass(frozen=True, slots=True)
class Command:
    """A slash command of the module's own: `/name TEXT` runs the operation with `{"text": TEXT}`."""

    name: str
    operation: str
    summary: str


@dataclass(frozen=True, slots=True)
class Context:
    """A named part of the world that an operation may be run with: capability to constraints, as a grant has them.

    It is called by effect and name, `read:inventory_data`. None of its capabilities does more than that effect says.
    """

    name: str
    effect: Effect
    summary: str
    allows: Mapping[str, Mapping[str, Json]]

    @property
    def id(self) -> str:
        return f"{self.effect.value}:{self.name}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a module says about itself. `entry` is None where it runs on the stock agent's component."""

    id: str
    version: str
    kind: str
    summary: str
    entry: str | None
    source: str
    capabilities: tuple[AskedCapability, ...]
    operations: tuple[Operation, ...]
    limits: Limits
    contexts: tuple[Context, ...] = ()
    own: object = None
    """What the kind's own table says, decoded; None for a kind that has none."""
    commands: tuple[Command, ...] = ()

    @property
    def passive(self) -> bool:
        """Whether it has no component: nothing of it runs."""
        return self.entry is None and self.kind in PASSIVE


def load_manifest(path: Path, *, known: Collection[str] = BY_ID.keys(), check_schemas: bool = True) -> Manifest:
    """Read a `loket.toml`, or that of a directory.

    `known` are the ids of the capabilities that may be asked for. Without `check_schemas` the operations' JSON
    Schemas are taken as they are (Loket's own build does that, where no validator is installed).

    Raises `BadInput` for whatever is missing, unknown or out of range.
    """
    file = path / FILE if path.is_dir() else path
    table = Table(file.name, "", _read(file))
    manifest = Manifest(
        id=table.text("id", ID, example="weather"),
        version=table.text("version", VERSION, example="1.0.0"),
        kind=table.choice("kind", KINDS),
        summary=table.text("summary", example="Tells the weather"),
        entry=table.text("entry", _ENTRY, example="module.wasm") if table.has("entry") else None,
        source=table.text("source", _SOURCE, default="agent.py", example="agent.py"),
        capabilities=tuple(_capability(one, known) for one in table.tables("capability")),
        operations=tuple(_operation(one, check_schemas) for one in table.tables("operation")),
        limits=_limits(table.table("limits")),
        contexts=tuple(_context(one) for one in table.tables("context")),
        own=_own(table),
        commands=tuple(_command(one) for one in table.tables("command")),
    )
    table.done()
    _no_twins(table, "capability", [one.name for one in manifest.capabilities])
    _no_twins(table, "operation", [one.name for one in manifest.operations])
    _no_twins(table, "context", [one.id for one in manifest.contexts])
    _no_twins(table, "command", [one.name for one in manifest.commands])
    for context in manifest.contexts:
        _asked_for(table, context, manifest.capabilities)
    for command in manifest.commands:
        _runs(table, command, manifest.operations)
    if manifest.kind == "channel" and manifest.capabilities:
        raise table.bad("capability", "is there, and a channel does nothing else but relay", "leave it out")
    if manifest.entry is None and manifest.kind != "agent" and (manifest.kind not in PASSIVE or manifest.operations):
        raise table.bad("entry", f"is missing, and a {manifest.kind} has no other component", 'entry = "module.wasm"')
    return manifest


def _read(file: Path) -> dict[str, Json]:
    try:
        return tomllib.loads(read_regular(file, _MOST_BYTES).decode("utf-8"))
    except OSError as error:
        raise BadInput(
            "manifest.missing",
            f"cannot read {file}: {error.strerror}",
            f"a module's directory holds a {FILE}; `loket new agent NAME` makes one",
        ) from None
    except UnicodeDecodeError as error:
        raise BadInput(
            "manifest.syntax", f"{file.name}: byte {error.start} is not UTF-8", "save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadInput("manifest.syntax", f"{file.name}: {said}", "mend the TOML at that place") from None


def _own(table: Table) -> object:
    """Decode the table of the manifest's kind; another kind's is an unknown key."""
    kind = table.choice("kind", KINDS)
    return OWN[kind](table.table(kind)) if kind in OWN else None


def _capability(table: Table, known: Collection[str]) -> AskedCapability:
    name = table.text("name", _CAPABILITY, example="kv.get")
    if name not in known and not _elsewhere(name, known):
        remedy = suggestion(name, known) or "`loket caps` lists them all"
        raise table.bad("name", f'asks for "{name}", and there is no such capability', remedy)
    asked = AskedCapability(
        name=name,
        reason=table.text("reason", example="remembers the last visit"),
        constraints=table.table("constraints").values(),
    )
    table.done()
    return asked


def _elsewhere(name: str, known: Collection[str]) -> bool:
    """Whether it may be another module's operation or a connected server's tool, which come and go."""
    families = {one.partition(".")[0] for one in known}
    return name.partition(".")[0] not in families and not difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)


def _operation(table: Table, check_schemas: bool) -> Operation:
    operation = Operation(
        name=table.text("name", _OPERATION, example="forecast"),
        summary=table.text("summary", example="Forecast for a place"),
        effect=Effect(table.choice("effect", [effect.value for effect in Effect])),
        arguments=table.table("arguments").values() or {"type": "object"},
        answer=table.table("answer").values() or {},
        critical=table.texts("critical", example='["to"]') if table.has("critical") else None,
    )
    table.done()
    for name in operation.critical or ():
        if name not in operation.arguments.get("properties", {}):
            raise table.bad("critical", f'names "{name}", which is no argument', "name properties of its arguments")
    if operation.arguments.get("type") != "object":
        raise table.bad("arguments", "is no schema of an object", 'say type = "object"')
    if check_schemas:
        _check_schema(table, "arguments", operation.arguments)
        _check_schema(table, "answer", operation.answer)
    return operation


def _command(table: Table) -> Command:
    command = Command(
        name=table.text("name", _COMMAND, example="stock"),
        operation=table.text("operation", _OPERATION, example="lookup"),
        summary=table.text("summary", example="what is in stock"),
    )
    table.done()
    return command


def _runs(table: Table, command: Command, operations: tuple[Operation, ...]) -> None:
    """Raises `BadInput` for a command whose operation is not there, or takes no text."""
    found = next((one for one in operations if one.name == command.operation), None)
    if found is None:
        raise table.bad("command", f"/{command.name} runs {command.operation}, which is no operation", "add it")
    if found.arguments.get("properties", {}).get("text", {}).get("type") != "string":
        raise table.bad(
            "command",
            f"/{command.name} runs {command.operation}, which takes no text",
            'give it the argument text = { type = "string" }',
        )


def _context(table: Table) -> Context:
    context = Context(
        name=table.text("name", _CONTEXT, example="inventory_data"),
        effect=Effect(table.choice("effect", [effect.value for effect in Effect])),
        summary=table.text("summary", example="What is in stock, and where"),
        allows=table.table("allows").values(),
    )
    table.done()
    for name, constraints in context.allows.items():
        _fits(table, context, name, constraints)
    return context


def _fits(table: Table, context: Context, name: str, constraints: Json) -> None:
    """Raises `BadInput` where a context allows more than its effect says, or has others work for it."""
    if not isinstance(constraints, dict):
        raise table.bad(f"allows.{name}", "is no table of constraints", f'for example allows = {{ "{name}" = {{}} }}')
    if name.startswith(_OTHERS):
        raise table.bad(
            f"allows.{name}", "has other modules do the work, which no context bounds", "leave it out of the context"
        )
    known = BY_ID.get(name)
    if known is not None and known.effect.changes and known.effect is not context.effect:
        raise table.bad(
            "effect",
            f'is "{context.effect.value}", and {name} has the effect "{known.effect.value}"',
            f'put it into a context with effect = "{known.effect.value}"',
        )


def _asked_for(table: Table, context: Context, asked: tuple[AskedCapability, ...]) -> None:
    names = {one.name for one in asked}
    for name in context.allows:
        if name not in names:
            raise table.bad(
                "context",
                f"{context.id} allows {name}, and the module does not ask for it",
                f'add [[capability]] name = "{name}" with its reason',
            )


def _fetch_nothing(address: str) -> Json:
    """Reading a manifest reaches nothing but the manifest."""
    raise ValueError(f"a schema may refer to itself alone, not to {address}")


def _check_schema(table: Table, key: str, schema: Mapping[str, Json]) -> None:
    import jsonschema_rs

    try:
        jsonschema_rs.validator_for(dict(schema), validate_formats=True, retriever=_fetch_nothing)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        place = ".".join([key, *map(str, getattr(error, "instance_path", []))])
        message = getattr(error, "message", str(error))
        raise table.bad(place, f"is no valid JSON Schema: {message}", "see json-schema.org, draft 2020-12") from None


def _limits(table: Table) -> Limits:
    defaults = Limits()
    values = {}
    for limit in fields(Limits):
        low, high = RANGES[limit.name]
        whole = limit.name != "money"
        values[limit.name] = table.number(limit.name, low, high, getattr(defaults, limit.name), whole=whole)
    table.done()
    return Limits(**values)  # type: ignore[arg-type]  # `whole` gives an int for every field but money


def _no_twins(table: Table, key: str, names: list[str]) -> None:
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise table.bad(key, f'names "{twins[0]}" twice', "keep one of them")
