"""Tests of the layout: who may import whom, each with its reason (the table is also in `docs/architecture.md`)."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import loket.contracts

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "loket"


class Rule(NamedTuple):
    """What one part of Loket may import beyond the standard library and itself."""

    reason: str
    parts: frozenset[str] = frozenset()
    libraries: frozenset[str] = frozenset()
    typing_only: frozenset[str] = frozenset()
    """Libraries that are named in annotations and never imported at run time."""


def _rule(reason: str, parts: str = "", libraries: str = "", typing_only: str = "") -> Rule:
    return Rule(reason, frozenset(parts.split()), frozenset(libraries.split()), frozenset(typing_only.split()))


RULES = {
    "__init__": _rule("the version alone, so that its import costs nothing"),
    "contracts": _rule(
        "everyone rests on it, so it rests on nothing; one annotation says what an agent's connection is",
        typing_only="apsw",
    ),
    "kernel": _rule("promises are kept by code that can be read in one sitting, without any library", "contracts"),
    "policy": _rule(
        "a pure function: request and facts in, decision out; rules are Cedar, in files of the home",
        "contracts durable",
        "cedarpy",
    ),
    "policy_replay": _rule("decides what the journal says again, under other rules", "contracts kernel store"),
    "roles": _rule("who somebody is, for the policy", "contracts policy store"),
    "jail": _rule("how a program of this machine is confined, without any library", "contracts"),
    "sandbox": _rule("the one place where the engine can be exchanged", "contracts", "wasmtime"),
    "store": _rule(
        "the one place where files of databases are opened, and encrypted", "contracts durable", "apsw cryptography"
    ),
    "audit": _rule(
        "signs what the journal is, and proves it to whoever has nothing but a public key",
        "chain contracts durable kernel periodic store",
        "cryptography",
    ),
    "children": _rule("runs that wait for other runs: their time, their share, their end", "contracts kernel store"),
    "delegation": _rule(
        "agents that work for each other, over engine, database and grants; wired by app",
        "children contracts ids kernel store",
    ),
    "module_calls": _rule(
        "operations of tools and skills as capabilities, over engine, grants and registry; wired by app",
        "children contracts ids kernel packages store",
    ),
    "approvals": _rule(
        "asks the owner, and keeps what was asked and said", "approval_words contracts ids kernel store"
    ),
    "approval_words": _rule("what an approval is bound to, and its words: pure functions", "contracts kernel store"),
    "orchestrator": _rule("plans as data: whatever they rest on is handed to them", "contracts"),
    "planning": _rule(
        "plans over engine, database, grants and policy; wired by app",
        "children contracts ids kernel orchestrator store",
    ),
    "skills": _rule(
        "instructions that the owner approved, read from their folders; the format is checked by its own library",
        "contracts durable packages",
        "skills_ref",
    ),
    "slash": _rule(
        "what is typed instead of a message: which it is, who may, and the run that answers it",
        "contracts ids kernel packages",
    ),
    "commands": _rule(
        "what slash commands need of a running system: wired by app",
        "approvals contracts kernel module_calls slash store",
    ),
    "schedules": _rule(
        "when what comes due, and performing it through what is handed to them; backups are verified as they are made",
        "backup contracts store",
        "croniter",
    ),
    "channels": _rule(
        "keeps the wires of channel modules; addresses are checked as those of `net` are, and the system is handed in",
        "contracts ids packages providers schemas store",
        "httpx2 websockets",
    ),
    "clockwork": _rule(
        "what schedules need of a running system: wired by app",
        "backup config contracts home ids kernel providers schedules store stores",
    ),
    "limits": _rule("rates, sums and loops, in front of the kernel's own bounds", "config contracts kernel store"),
    "backup": _rule(
        "copies what every other part keeps, and knows how each of them must be copied",
        "__init__ chain contracts durable home kernel providers store",
    ),
    "doctor": _rule(
        "looks at every part from outside, also where a part does not start",
        "__init__ backup chain config contracts home jail kernel packages providers store",
        "apsw",
    ),
    "erasure": _rule("destroys what was said in journal and stores", "contracts erasure_links kernel store"),
    "erasure_links": _rule("who got to know what a run said, read from the journal", "contracts kernel store"),
    "retention": _rule("old runs are erased by the owner's settings", "erasure periodic store"),
    "lessons": _rule(
        "errors of runs become memories, through the counter; what they propose is kept in a file of its own",
        "contracts kernel lesson_words store",
    ),
    "lesson_words": _rule("the words of lessons: pure functions of what the journal says", "contracts kernel"),
    "providers": _rule(
        "a family of capabilities is a file of its own that reaches neither the kernel nor another family",
        "contracts durable",
        "apsw cryptography httpx2 keyring openai xllamacpp",
    ),
    "packages": _rule(
        "reading a package runs nothing of it; a manifest's JSON Schemas are checked where they are read, and a pack's"
        " signature too",
        "contracts",
        "cryptography jsonschema_rs",
    ),
    "gateway": _rule(
        "the only door in: it knows operations by name", "contracts kernel policy", "argon2 h11 starlette uvicorn"
    ),
    "testing": _rule(
        "fakes and suites for whoever writes a provider or a guest; the disk that loses power is a VFS of SQLite",
        "chain contracts kernel policy replay sandbox schemas store tokens",
        "apsw",
    ),
    "cli": _rule(
        "words and tables around operations; nothing is decided here",
        "__init__ contracts app audit backup doctor gateway operations home config mcp_server packages resting server"
        " bench evaluation",
        "typer rich",
    ),
    "durable": _rule("files that are on the disk, and wiped: the steps of that in one place, without any library"),
    "ids": _rule("ids of runs, which sort by time; two parts make them, and one spelling has to fit both"),
    "periodic": _rule("two parts work hourly beside the rest, and neither may end with an error", "contracts"),
    "home": _rule("paths and the lock, needed before anything else is there", "contracts durable"),
    "config": _rule("settings are decoded into types once, at the edge", "contracts home"),
    "schemas": _rule("how the counter checks JSON by a schema, in one place", "contracts", "jsonschema_rs"),
    "tokens": _rule("what a run may do is signed in a format that others can check", "contracts", "biscuit_auth"),
    "sandbox_run": _rule(
        "one operation of a module with exactly what the owner names, over the whole system",
        "app contracts ids packages schemas",
    ),
    "installed": _rule(
        "what is installed, from which bytes and with which grants",
        "contracts home kernel narrowing packages sandbox store",
    ),
    "narrowing": _rule("what a grant may narrow, checked where somebody says it", "contracts"),
    "pin": _rule("the kernel's digests and signatures, by the standard library alone"),
    "watching": _rule("hands on what happens in runs; nothing is kept of it"),
    "resting": _rule("waits for runs, for whoever closes a system", "contracts kernel"),
    "chain": _rule("compares the journal with its hashes, apart from the code that writes them", "contracts kernel"),
    "publishers": _rule("whose keys the owner trusts, and keys of the owner's own", "contracts kernel packages store"),
    "offers": _rule(
        "what can be installed, and by which word of the owner's",
        "contracts home installed kernel packages publishers",
    ),
    "dropbox": _rule("a folder in which packages wait for the owner's word", "contracts packages"),
    "replay": _rule("runs modules again on their journal, and compares", "chain contracts kernel"),
    "labelling": _rule("where values come from, by reference and by exact match", "contracts"),
    "marking": _rule("labels that an answer's place or words earn", "confidential contracts filter labelling"),
    "confidential": _rule("what the owner's settings keep on this machine", "contracts"),
    "findings": _rule(
        "where critical values come from in a running system: the judge on journal, grants and clean reads",
        "contracts kernel provenance",
    ),
    "provenance": _rule("a pure function: the owner's words and clean reads in, origins out", "contracts"),
    "leaving": _rule("redaction at every exit, as obligations and around answers", "contracts redaction"),
    "redaction": _rule(
        "what must not leave is taken out of everything that leaves", "contracts", "phonenumbers stdnum"
    ),
    "mcp": _rule(
        "servers whose tools are capabilities; addresses are checked as those of `net` are",
        "contracts filter providers store",
        "anyio httpx2 mcp mcp_types pydantic",
    ),
    "filter": _rule("reads texts and nothing else; the weights come with it", "contracts"),
    "app": _rule(
        "the composition root: the one file that knows everyone",
        "calling channels clockwork contracts config delegation erasure gate home ids installed jail kernel lessons"
        " limits mcp orchestrator packages planning policy providers quarantine replay sandbox schedules schemas store"
        " stores tracing watching commands module_calls skills slash",
    ),
    "gate": _rule(
        "what stands around the counter, put together; nothing else rests on it",
        "approvals confidential config contracts findings home kernel labelling leaving limits marking policy providers"
        " roles stores tokens",
    ),
    "stores": _rule("the files of a home, opened and closed together", "config home kernel providers store"),
    "ledger": _rule(
        "compares the lists that commands read with the journal that proves them", "chain contracts kernel store"
    ),
    "models": _rule(
        "choosing models is settings, discovery and the running provider together",
        "app config contracts durable home providers",
        "tomlkit",
    ),
    "operations": _rule(
        "what an owner can do, for every door",
        "__init__ app approvals audit backup calling channels children clients contracts doctor dropbox erasure ids"
        " installed ledger mcp models offers packages poison policy policy_replay publishers quarantine schedules store"
        " tracing sandbox_run skills slash",
    ),
    "server": _rule(
        "the composition of what `loket up` starts: a system, its operations, and the gateway in front of them",
        "a2a app contracts durable gateway home mcp_server operations resting retention schemas sharing store",
    ),
    "poison": _rule("what derives from a source, and what was exposed to it", "contracts kernel store"),
    "quarantine": _rule(
        "takes back what a source left in the stores, and gives it back",
        "contracts poison providers store",
        "apsw",
    ),
    "tracing": _rule(
        "spans are made of the public facts of journal rows; what exports them is imported where that is on",
        "__init__ contracts ids",
        "opentelemetry",
    ),
    "mcp_server": _rule(
        "agents and grants for clients of the protocol; the official SDK is imported at the first request over HTTP",
        "__init__ app calling clients contracts gateway operations",
        "mcp mcp_types starlette",
    ),
    "clients": _rule(
        "clients as principals, and what the owner grants them", "app calling contracts ids narrowing store"
    ),
    "calling": _rule("a client's run is calls and nothing else; app puts it in a guest's place", "contracts"),
    "sharing": _rule(
        "what is served beyond loopback, with a table of its own that has none of the owner's routes",
        "config contracts gateway home tls",
        "starlette uvicorn",
    ),
    "tls": _rule("certificates of this home", "contracts durable", "cryptography"),
    "a2a": _rule(
        "one more protocol behind the gateway's checks, over its official SDK, imported at first use",
        "contracts gateway",
        "a2a starlette",
    ),
    "documents": _rule("documents that are derived from code", "config contracts"),
    "evaluation": _rule("measures the brain as it is, without a kernel around it", "contracts providers store"),
    "bench": _rule(
        "measures every part as it is, and plain SQLite and tools of the usual kinds beside it",
        "__init__ app approvals config contracts delegation filter findings gateway home ids installed kernel labelling"
        " jail operations orchestrator packages planning policy provenance providers sandbox schemas slash tokens store"
        " testing",
        "agentdojo apsw httpx2 mcp",
    ),
}

FAMILIES = {
    "brain": _rule("memory is SQLite with full-text search, on a connection that the store owns", libraries="apsw"),
    "agents": _rule("asking goes through a protocol; the running system does it"),
    "message": _rule("delivery and topics go through protocols"),
    "fs": _rule("an agent's own folder, and rows about it on the connection that the store owns", libraries="apsw"),
    "net": _rule("the network through one client, imported at the first request", libraries="httpx2"),
    "exec": _rule("programs of this machine through a launcher that it is handed"),
    "kv": _rule("values live beside the brain, on the same connection", libraries="apsw"),
    "schedule": _rule("the table goes through a protocol; sleeping needs a clock and nothing else"),
    "plan": _rule("saved plans live beside the brain; running them goes through a protocol", libraries="apsw"),
    "llm": _rule(
        "endpoints through the client (and the errors of its transport), the embedded model in a worker",
        libraries="openai httpx2 xllamacpp",
    ),
    "vault": _rule(
        "secrets are an encrypted file; its key is a file or in the keyring", libraries="cryptography keyring"
    ),
}
"""The files of `providers`, by the beginning of their names: families never import each other."""

EAGER = frozenset({"__init__", "contracts", "cli", "durable", "home"})
"""What a command may import before it knows what it has to do: `loket --help` must not wait for an engine."""


def table() -> str:
    """The rules as `docs/architecture.md` shows them."""
    rows = [f"| `{part}` | {_listed(rule)} | {rule.reason} |" for part, rule in RULES.items() if part != "__init__"]
    return "\n".join(["| part | may import | because |", "|---|---|---|", *rows])


def _listed(rule: Rule) -> str:
    names = [*sorted(rule.parts - {"__init__"}), *(f"`{name}`" for name in sorted(rule.libraries))]
    names += [f"`{name}` (annotations)" for name in sorted(rule.typing_only)]
    return ", ".join(names) or "nothing"


class Import(NamedTuple):
    """One import statement: the file, the module it names, and whether it happens at import, later, or never."""

    file: Path
    line: int
    name: str
    when: str
    """`early`, `late` (inside a function) or `typing` (under `if TYPE_CHECKING`)."""

    @property
    def part(self) -> str:
        """The part of Loket that the file belongs to."""
        return _part_of(self.file.relative_to(SOURCE))

    @property
    def target(self) -> str | None:
        """The part of Loket that is imported, if it is one."""
        words = self.name.split(".")
        if words[0] != "loket":
            return None
        return words[1] if len(words) > 1 and _exists(words[1]) else "__init__"

    @property
    def library(self) -> str | None:
        """The library that is imported, if it is one."""
        top = self.name.partition(".")[0]
        return None if top == "loket" or top in sys.stdlib_module_names else top

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.name} ({self.when})"


def _part_of(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else path.stem


def _exists(part: str) -> bool:
    return (SOURCE / part).is_dir() or (SOURCE / f"{part}.py").is_file()


def _imports(file: Path) -> Iterator[Import]:
    """All imports of a file, those inside functions and those made by name (`import_module("loket.x")`) included."""

    def visit(node: ast.AST, when: str) -> Iterator[Import]:
        for name in _named(node):
            yield Import(file, node.lineno, name, when)  # type: ignore[attr-defined] - statements have a line
        inner = when
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and when == "early":
            inner = "late"
        for child in ast.iter_child_nodes(node):
            typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and child in node.body
            yield from visit(child, "typing" if typing else inner)

    yield from visit(ast.parse(file.read_text(encoding="utf-8"), str(file)), "early")


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"relative import of {node.module}: write it in full"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and any("import_module" in ast.unparse(part) for part in (node.func, *node.args)):
        yield from (part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str))


FILES = sorted(path for path in SOURCE.rglob("*.py") if "_prebuilt" not in path.parts)
IMPORTS = [found for file in FILES for found in _imports(file)]


def test_every_part_has_its_rule_and_its_reason() -> None:
    """A new folder or file below `src/loket` needs a line in the table; a line without its part is taken out."""
    parts = {_part_of(file.relative_to(SOURCE)) for file in FILES}
    assert parts <= RULES.keys()
    assert RULES.keys() - parts <= {"bench"}
    assert all(rule.reason for rule in (*RULES.values(), *FAMILIES.values()))


@pytest.mark.parametrize("part", sorted(RULES))
def test_a_part_imports_what_its_rule_allows(part: str) -> None:
    """Lazy imports and annotations count as imports."""
    rule = RULES[part]
    wrong = [
        str(found)
        for found in IMPORTS
        if found.part == part
        and (
            (found.target not in (None, part) and found.target not in rule.parts)
            or (found.library is not None and not _library_allowed(found, rule))
        )
    ]
    assert not wrong, f"{part} may import {sorted(rule.parts | rule.libraries) or 'nothing'}, because {rule.reason}"


def _library_allowed(found: Import, rule: Rule) -> bool:
    return found.library in rule.libraries or (found.when == "typing" and found.library in rule.typing_only)


def test_the_rules_stand_in_the_documents() -> None:
    """Whoever reads the architecture reads the rules that are tested."""
    assert table() in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_only_the_sandbox_imports_the_engine() -> None:
    """A module's border is written once."""
    assert {found.part for found in IMPORTS if found.library == "wasmtime"} == {"sandbox"}


def test_families_of_providers_know_neither_each_other_nor_each_others_libraries() -> None:
    """A family may use its own files and its own library; what two need goes through the contracts."""
    for found in (one for one in IMPORTS if one.part == "providers" and one.file.stem != "__init__"):
        family = _family(found.file.stem)
        if found.target == "providers":
            assert _family(found.name.split(".")[2]) == family, str(found)
        elif found.library is not None:
            assert found.library in FAMILIES[family].libraries, str(found)


def _family(stem: str) -> str:
    family = stem.partition("_")[0]
    assert family in FAMILIES, f"providers/{stem}.py belongs to no family of FAMILIES"
    return family


def test_a_command_imports_what_is_slow_only_when_it_needs_it() -> None:
    """At its start the command line imports contracts, home and itself: everything else is inside functions."""
    early = [found for found in IMPORTS if found.part == "cli" and found.when == "early"]
    assert not [str(found) for found in early if found.target not in EAGER and found.target is not None]
    assert {found.library for found in early} <= {None, "typer"}


def test_the_contracts_are_imported_by_their_public_face() -> None:
    """Outside of it nobody imports a private file of `contracts`; the catalogue is public, and is data."""
    private = {file.stem for file in (SOURCE / "contracts").glob("*.py")} - {"__init__", "catalogue"}
    inside = [found for found in IMPORTS if found.target == "contracts" and found.part != "contracts"]
    assert not [str(found) for found in inside if set(found.name.split(".")[2:3]) & private]


_CATALOGUE = (
    "catalogue",
    "catalogue_channel",
    "catalogue_exec",
    "catalogue_plan",
    "catalogue_schedule",
    "catalogue_skill",
    "catalogue_tools",
    "shapes",
)
"""The catalogue's own files: data, not part of the public face."""


def test_the_public_face_of_the_contracts_agrees_with_its_private_files() -> None:
    """`__all__` lists every public name that the private files define, once, and nothing else."""
    defined: list[str] = []
    for file in sorted((SOURCE / "contracts").glob("*.py")):
        if file.stem not in ("__init__", *_CATALOGUE):
            defined += _public_names(ast.parse(file.read_text(encoding="utf-8")))
    assert sorted(defined) == sorted(loket.contracts.__all__)
    assert not [name for name in loket.contracts.__all__ if not hasattr(loket.contracts, name)]


def _public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        names: list[str] = []
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from (name for name in names if not name.startswith("_"))
