"""Builds a module's component from its sources in JavaScript or TypeScript.

`guests/javascript/build.cjs` does it in Node: esbuild makes one file of the sources, of what they import from
`node_modules`, and of the guest library; componentize-qjs evaluates it in QuickJS and freezes the engine in that state.
So whatever stands outside functions runs at build time, and an instance starts in a fraction of a millisecond. What
componentize-qjs makes has WASI imports still; `component.sealed` leaves the counter alone.

TypeScript is stripped of its types, not checked: that is the editor's work, or that of `tsc --noEmit`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

from loket.contracts import BadInput, Failed
from loket.packages.component import sealed
from loket.packages.javascript_tools import find_node, javascript_tools, node_environment
from loket.packages.manifest import Manifest
from loket.packages.resources import resource
from loket.packages.sources import source_error
from loket.packages.tool import run_tool

_TIMEOUT_S = 120

_LONGEST_NAME = 200


def component(directory: Path, manifest: Manifest, work: Path, tell: Callable[[str], None]) -> Path:
    """Make the component in the folder `work`; its path. `build.build` says what is raised."""
    tools = javascript_tools(tell)
    tell("building the component")
    directory = directory.resolve()
    made = work / "module.wasm"
    result = _run(
        {
            "directory": str(directory),
            "source": manifest.source,
            "library": str((resource("guests/javascript") / "loket_guest").resolve()),
            "tools": str(tools),
            "wit": str(resource("wit")),
            "declared": [operation.name for operation in manifest.operations],
            "output": str(made),
        }
    )
    if "error" in result:
        raise _explain(result["error"], directory)
    try:
        made.write_bytes(sealed(made.read_bytes()))
    except ValueError as error:
        raise Failed("build.component", f"the tool made a component of an unknown form: {error}") from None
    return made


def _run(given: dict[str, Any]) -> dict[str, Any]:
    """Run the builder in Node: its answer."""
    node = find_node()
    command = [*node.node, str(resource("guests/javascript") / "build.cjs")]
    environment = node_environment(node)
    result = run_tool(command, timeout_s=_TIMEOUT_S, environment=environment, given=json.dumps(given))
    if result is None:
        raise BadInput(
            "build.endless",
            f"loading the sources did not end within {_TIMEOUT_S} s",
            "look for a loop outside all functions",
        )
    if result.returncode != 0:
        said = result.stderr.strip().partition("\n")[0]
        raise Failed("build.failed", f"the JavaScript tools failed: {said or 'they gave no reason'}", blame="machine")
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def _explain(fact: dict[str, Any], directory: Path) -> BadInput:
    """Turn what the builder found into the language's own message."""
    if fact["kind"] == "outside":
        return BadInput(
            "build.source",
            f"the sources import {fact['message']}, which lies outside of the module's folder",
            "copy it into the folder, or install it there with npm",
        )
    if fact["kind"] == "engine":
        reason = fact["message"].strip(" :\n").partition("\n")[0]
        return BadInput(
            "build.failed", f"the component could not be built: {reason}", "see what the sources do on load"
        )
    file, line = fact.get("file", ""), fact.get("line", 0)
    text = fact.get("text") or _line(directory / file, line)
    error = source_error(fact["type"], fact["message"], file, line, text, fact.get("column", 0))
    if fact.get("missing"):
        error.remedy = _missing(fact["missing"])
    return error


def _line(file: Path, line: int) -> str:
    """A line of a source; empty where there is none."""
    if not line or not file.is_file():
        return ""
    return file.read_text(encoding="utf-8", errors="replace").splitlines()[line - 1 : line][0]


def _missing(name: str) -> str:
    if name.startswith("."):
        return f"write the file {name}, or name another one"
    package = "/".join(name.split("/")[: 2 if name.startswith("@") else 1])
    line = f"npm install {quote(package)}" if _can_be_a_name(package) else "install it with npm"
    return f"a module has nothing of Node's own; if it is a package: {line}, in the module's folder"


def _can_be_a_name(package: str) -> bool:
    """The name stands in a line that people copy, and comes from sources that somebody else may have written."""
    return package.isprintable() and len(package) <= _LONGEST_NAME and not package.startswith("-")
