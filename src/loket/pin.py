"""The pin of the kernel: its files' digests and public signatures, which change only with a reason.

`python -m loket.pin` says what differs from the pin; `python -m loket.pin "REASON"` writes the pin anew and the reason
into the changelog (the unfreeze ceremony, `docs/architecture.md`). Both work below the working directory.
"""

import ast
import hashlib
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

KERNEL: Final = "src/loket/kernel"
CONTRACT: Final = "wit/loket.wit"
PIN: Final = f"{KERNEL}/pin.toml"
CHANGELOG: Final = "CHANGELOG.md"
HEADING: Final = "### The pinned kernel"
_PLACE: Final = f"{HEADING}\n\n- "
LEAST: Final = 20
"""Characters of a reason."""

_HEAD = """\
# The pin of the kernel: SHA-256 of each of its files and of the contract, and its public signatures.
# Written by: python -m loket.pin "REASON"   (what the reason is for: docs/architecture.md, "The pin")
"""


def pinned(root: Path) -> str:
    """The pin of what stands below `root`, as the text of a TOML file."""
    sources = sorted((root / KERNEL).rglob("*.py"))
    lines = [_HEAD, "[sha256]"]
    lines += [_line(file.relative_to(root), _sha256(file)) for file in [*sources, root / CONTRACT]]
    lines += ["", "[signatures]"]
    lines += [_line(file.relative_to(root), list(signatures(_read(file)))) for file in sources]
    return "\n".join(lines) + "\n"


def _line(file: Path, value: str | list[str]) -> str:
    if isinstance(value, str):
        return f"{json.dumps(file.as_posix())} = {json.dumps(value)}"
    inner = "".join(f"    {json.dumps(one)},\n" for one in value)
    return f"{json.dumps(file.as_posix())} = [\n{inner}]"


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def signatures(source: str) -> Iterator[str]:
    """The public signatures of a module, in their order: constants, functions, classes with fields and methods."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield f"class {node.name}({', '.join(map(ast.unparse, node.bases))})"
            yield from (f"{node.name}.{one}" for member in node.body for one in _signature(member))
        else:
            yield from _signature(node)


def _signature(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if not node.name.startswith("_") or node.name in ("__init__", "__call__"):
            word = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
            returns = ast.unparse(node.returns) if node.returns is not None else ""
            yield f"{word}{node.name}({ast.unparse(node.args)}) -> {returns}"
    elif isinstance(node, ast.AnnAssign):
        if not ast.unparse(node.target).startswith("_"):
            yield f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}"
    elif isinstance(node, ast.Assign):
        yield from (name for name in map(ast.unparse, node.targets) if not name.startswith("_"))


def name_of(pin: str) -> str:
    """The name of a pin, by which the changelog gives its reason: 12 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(pin.encode()).hexdigest()[:12]


def reason_of(pin: str, changelog: str) -> str | None:
    """The reason that a changelog gives for a pin; None where it gives none."""
    begin = f"- `{name_of(pin)}`: "
    said = next((line.removeprefix(begin) for line in changelog.splitlines() if line.startswith(begin)), "")
    return said if len(said) >= LEAST else None


def differences(held: str, found: str) -> list[str]:
    """What differs between two pins: files that came, went or changed, and signatures with them."""
    before, after = tomllib.loads(held), tomllib.loads(found)
    said = []
    for file in sorted(before["sha256"].keys() | after["sha256"].keys()):
        if before["sha256"].get(file) != after["sha256"].get(file):
            said.append(f"{file}: {_how(file, before, after)}")
            said += [f"    {line}" for line in _changed(file, before, after)]
    return said


def _how(file: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if file not in before["sha256"]:
        return "is new"
    return "was changed" if file in after["sha256"] else "is gone"


def _changed(file: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = (side["signatures"].get(file, []) for side in (before, after))
    return [f"- {one}" for one in old if one not in new] + [f"+ {one}" for one in new if one not in old]


def write(root: Path, reason: str) -> str:
    """Pin what stands below `root`, and give the reason in the changelog; the pin's name. Raises `ValueError`."""
    reason = " ".join(reason.split())
    if len(reason) < LEAST:
        raise ValueError(f"a reason has {LEAST} characters at least: it says what the kernel has to do otherwise")
    pin, changelog = pinned(root), _read(root / CHANGELOG)
    if _PLACE not in changelog:
        raise ValueError(f"{CHANGELOG} has no list under {HEADING!r} for the reason")
    (root / PIN).write_text(pin, encoding="utf-8")
    if reason_of(pin, changelog) is None:
        entry = f"{HEADING}\n\n- `{name_of(pin)}`: {reason}\n- "
        (root / CHANGELOG).write_text(changelog.replace(_PLACE, entry, 1), encoding="utf-8")
    return name_of(pin)


def main(args: list[str]) -> int:
    """0: nothing differs, or it is pinned now; 1: something differs; 2: the reason is missing."""
    root = Path()
    if args:
        try:
            sys.stdout.write(f"The kernel is pinned as {write(root, ' '.join(args))}.\n")
        except ValueError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        return 0
    found = differences(_read(root / PIN), pinned(root))
    sys.stdout.write("".join(f"{line}\n" for line in found) or "The kernel is as it is pinned.\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
