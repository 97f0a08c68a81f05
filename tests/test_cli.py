"""The command line as a person uses it: without a server, on a home of its own."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from guests import wat
from live import Server, environment, loket, prepare, serving
from loket.cli import show
from loket.cli.main import app
from loket.contracts import BadInput, Damaged, Failed, LoketError, Refusal, RunEnded
from loket.testing.model_server import ModelServer, Reply, Request


def echo(request: Request) -> Reply:
    return Reply(f"You said: {request.body['messages'][-1]['content'][-40:]}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ModelServer(echo) as model:
        yield prepare(tmp_path_factory.mktemp("cli") / "home", model.url)


def test_asking_prints_the_answer_with_its_calls_and_tokens(home: Path) -> None:
    """`ask --json` gives run, answer, calls (capability, decision, reason, ms) and tokens."""
    result = loket(home, "ask", "main", "My sister's name is Ana", "--json")
    assert set(result) == {"run", "answer", "calls", "tokens"}
    assert result["answer"].startswith("You said:")
    assert "brain.add" in [call["capability"] for call in result["calls"]]
    assert all(call["decision"] == "allow" and call["reason"] and call["ms"] >= 0 for call in result["calls"])
    assert result["tokens"] == 15


def test_what_was_said_is_recalled_in_a_new_process_and_both_runs_verify(home: Path) -> None:
    """The next process recalls the memory (it stands in the run's journal), and the runs replay."""
    loket(home, "ask", "main", "My sister's name is Ana")
    asked = loket(home, "ask", "main", "What is my sister's name?", "--json")
    shown = loket(home, "runs", "show", asked["run"], "--json")
    recalls = [row["value"]["answer"] for row in shown["rows"] if row.get("capability") == "brain.search"]
    assert "My sister's name is Ana" in [memory["text"] for recall in recalls for memory in recall["memories"]]
    verified = loket(home, "runs", "verify", "--json")
    assert verified["failed"] == 0
    assert verified["verified"] >= 2
    replayed = loket(home, "runs", "replay", asked["run"][:12], "--json")
    assert replayed["ok"]


def test_the_brain_is_searched_with_the_fixed_fields(home: Path) -> None:
    """`brain AGENT search --json` prints memories with their provenance."""
    loket(home, "brain", "main", "add", "Ana lives in Utrecht", "--subject", "Ana", "--key", "lives in")
    found = loket(home, "brain", "main", "search", "where does Ana live", "--json")["memories"]
    assert {"id", "text", "kind", "subject", "score", "source", "run", "created"} <= set(found[0])
    assert found[0]["text"] == "Ana lives in Utrecht"
    assert found[0]["source"] == "owner"
    loket(home, "brain", "main", "correct", str(found[0]["id"]), "Ana lives in Delft")
    again = loket(home, "brain", "main", "search", "where does Ana live", "--json")["memories"]
    assert [memory["text"] for memory in again if memory["subject"] == "Ana"] == ["Ana lives in Delft"]
    history = loket(home, "brain", "main", "history", str(again[0]["id"]), "--json")["memories"]
    assert [memory["text"] for memory in history] == ["Ana lives in Utrecht", "Ana lives in Delft"]
    exported = loket(home, "brain", "main", "export", "--json")["memories"]
    assert {"Ana lives in Utrecht", "Ana lives in Delft"} <= {memory["text"] for memory in exported}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("ask", "nobody", "hi"), 2, "there is no agent 'nobody'"),
        (("ask", "main", " "), 2, "the text is empty"),
        (("runs", "show", "zzz"), 2, "there is no run"),
        (("grants", "revoke", "main", "net.fetch"), 2, "no grant"),
        (("grants", "allow", "main", "kv.gte"), 3, "did you mean kv.get"),
        (("brain", "main", "dance"), 2, "no action"),
        (("brain", "main", "correct", "x"), 2, "needs the id"),
        (("caps", "no.such"), 3, "no.such"),
        (("install", "/no/such/folder"), 2, "no folder"),
        (("up", "--port", "http"), 2, "no number"),
        (("status", "--port=65536"), 2, "'65536' is no number from 0 to 65535"),
        (("status", "--port"), 2, "--port needs a value"),
        (("status", "--home"), 2, "--home needs a value"),
        (("--home=", "status"), 2, "--home needs a value"),
        (("grants", "allow", "main", "kv.get", "--constraint", "x"), 2, "not NAME=JSON"),
        (("grants", "allow", "main", "kv.get", "--constraint", "prefixes=[a"), 2, "prefixes is no JSON"),
        (("model", "use", "nonsense"), 2, "no model route"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_wrong_input_says_what_and_how_to_mend_it(home: Path, words: tuple[str, ...], code: int, says: str) -> None:
    """Exit codes are 2 for wrong usage and 3 for a refusal; the message names the thing."""
    assert says in loket(home, *words, code=code)


def test_a_refusal_is_an_object_with_json(home: Path) -> None:
    """With `--json` the refusal is printed as an object too."""
    error = loket(home, "grants", "allow", "main", "kv.gte", "--json", code=3)["error"]
    assert error["code"] == "capability.unknown"
    assert error["remedy"]


def test_a_revoked_grant_is_refused_and_the_refusal_names_the_remedy(home: Path) -> None:
    """Revoke, ask, read the remedy, do it, ask again."""
    loket(home, "grants", "revoke", "main", "brain.search")
    refused = loket(home, "ask", "main", "hello", code=3)
    assert "main has no grant for brain.search" in refused
    assert "loket grants allow main brain.search" in refused
    shown = loket(home, "runs", "show", refused.split()[-1])
    assert re.search("^ +remedy +loket grants allow main brain.search$", shown, re.MULTILINE)
    assert re.search("^remedy +loket grants allow main brain.search$", shown, re.MULTILINE)
    loket(home, "grants", "allow", "main", "brain.search")
    assert "You said" in loket(home, "ask", "main", "hello")
    grants = loket(home, "grants", "list", "main", "--json")["grants"]
    assert {"agent": "main", "capability": "brain.search", "by": "owner"}.items() <= next(
        grant for grant in grants if grant["capability"] == "brain.search"
    ).items()


def test_a_corrupt_setting_is_named_and_nothing_is_lost(home: Path) -> None:
    """An unknown key in config.toml is an error that names it; mended, everything is there."""
    config = home / "config.toml"
    good = config.read_text()
    config.write_text("[server]\nprot = 1\n" + good)
    assert "did you mean server.port" in loket(home, "status", code=2)
    config.write_text(good)
    assert loket(home, "runs", "list", "--json")["runs"]


def test_without_a_model_it_says_so_and_serves_commands(tmp_path: Path) -> None:
    """No model at all: the agent says so, remembers, and its commands work."""
    home = prepare(tmp_path / "home")
    assert "no language model" in loket(home, "ask", "main", "My sister's name is Ana")
    assert "Ana" in loket(home, "ask", "main", "/recall sister")


def test_a_new_agent_is_made_built_installed_asked_and_removed(home: Path, tmp_path: Path) -> None:
    """From a template to an answer, with the owner's decisions about its grants, without a restart."""
    loket(home, "new", "agent", "helper", "--directory", str(tmp_path))
    folder = tmp_path / "helper"
    assert "loket build" in loket(home, "install", str(folder), code=2)
    loket(home, "build", str(folder))
    installed = loket(home, "install", str(folder), "--json")
    assert installed["granted"] == []
    assert installed["asks"]
    assert "has no grant for" in loket(home, "ask", "helper", "Hello", code=None)
    again = loket(home, "install", str(folder), "--yes")
    assert "Installed helper" in again
    assert loket(home, "ask", "helper", "Hello", "--json")["answer"]
    kept = loket(home, "install", str(folder), "--no-grants", "--json")
    assert kept["asks"] == []
    run = loket(home, "runs", "list", "--agent", "helper", "--json")["runs"][0]["id"]
    loket(home, "remove", "helper")
    assert "helper" not in [agent["id"] for agent in loket(home, "agents", "--json")["agents"]]
    assert loket(home, "runs", "replay", run, "--json")["ok"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ModelServer(echo) as model:
        home = prepare(tmp_path_factory.mktemp("served") / "home", model.url)
        with serving(home) as server:
            yield server


def test_a_run_is_shown_in_words(server: Server) -> None:
    """The answer is text, what was recalled and the labels stand on rows' lines, and `--full` cuts nothing."""
    loket(server.home, "ask", "main", "Ana's cat is called Tom")
    asked = loket(server.home, "ask", "main", "What is Ana's cat called?", "--json")
    shown = loket(server.home, "runs", "show", asked["run"])
    assert re.search(rf"^answer +{re.escape(asked['answer'])}$", shown, re.MULTILINE)
    assert "    recalled  memory 1 (episode, from agent:main): Ana's cat is called Tom" in shown
    assert re.search(r"^    labels    .*capability:brain.search, .*owner(, private)?$", shown, re.MULTILINE)
    assert "    said      What is Ana's cat called?" in shown
    assert " ..." in shown
    full = loket(server.home, "runs", "show", asked["run"], "--full")
    assert "Never invent a memory" not in shown
    assert "Never invent a memory" in full
    assert not re.search(r" \.\.\.$", full, re.MULTILINE)


def test_ids_can_be_copied_at_eighty_columns(server: Server) -> None:
    """No id is cut or folded: what is less needed gives way."""
    loket(server.home, "ask", "main", "hello")
    runs = {run["id"] for run in loket(server.home, "runs", "list", "--json")["runs"]}
    lines = loket(server.home, "runs", "list", columns=80).splitlines()
    assert {line.split()[0] for line in lines[1:]} == runs
    assert max(len(line) for line in lines) <= 80


def test_a_narrow_table_leaves_out_what_is_spare_and_folds_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns that are to be whole stay whole; the spare ones go, then the others fold."""
    monkeypatch.setenv("COLUMNS", "40")
    name = "1m7ykycn81byjp5xs4s5"
    show.table(["id", "about", "more"], [[name, "many words that fold", "x" * 30]], "", whole=["id"], spare=["more"])
    show.table(["id", "about"], [[name, "q" * 60]], "", whole=["id"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "about"]
    assert [line.split()[0] for line in lines if name in line] == [name, name]
    assert sum(line.count("q") for line in lines) == 60
    assert max(len(line) for line in lines) <= 40


def test_what_is_not_read_by_a_terminal_is_not_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pipe a row is a line, however long."""
    monkeypatch.delenv("COLUMNS", raising=False)
    show.table(["id", "text"], [["1", "z" * 500]], "")
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "z" * 500]


def test_no_text_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What a model or a memory says is printed without characters that a terminal obeys."""
    show.say("\x1b[2Jgone\x9b1m\tstays\n")
    show.table(["text"], [["\x1b]0;title\x07"]], "")
    show.pairs([("name", ["\x1b[31mred", "\x7f"])])
    show.error(Failed("model.x", "\x1b[1mbold"), as_object=False)
    printed = capsys.readouterr()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", printed.out + printed.err)
    assert "\tstays\n" in printed.out


def test_no_text_is_read_otherwise_than_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """In words and in JSON: controls of the second kind, and what turns the order of letters, are shown as such."""
    text = "pay \u202eeve\u2066 \x9b2J\x7f\u2028now"
    show.say(text)
    show.as_json({"text": text})
    shown = capsys.readouterr().out
    assert [sign for sign in shown if not sign.isprintable() and sign not in "\n\ufffd"] == []
    said, _, value = shown.partition("\n")
    assert said == "pay \ufffdeve\ufffd \ufffd2J\ufffd\ufffdnow"
    assert json.loads(value) == {"text": text}


def test_the_status_is_names_and_values(server: Server) -> None:
    """No empty header, and lists with commas."""
    lines = loket(server.home, "status").splitlines()
    assert [line.split()[0] for line in lines] == ["version", "home", "agents", "unfinished"]
    assert lines[2].split() == ["agents", "main"]


def test_changing_a_brain_says_what_happened(server: Server) -> None:
    """A sentence for people, JSON with `--json`; scores have three digits that count, times are local."""
    brain = ("brain", "main")
    added = loket(server.home, *brain, "add", "Tom likes fish", "--subject", "Tom", "--json")["ids"][0]
    fixed = loket(server.home, *brain, "correct", str(added), "Tom likes milk")
    assert f"Memory {added + 1} takes the place of memory {added}" in fixed
    row = loket(server.home, *brain, "search", "milk").splitlines()[1]
    assert re.search(r"^\d+ +\d(\.\d{1,2})?(e-\d+)? |^\d+ +0\.0*\d{1,3} ", row), row
    assert re.search(r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d *$", row), row
    gone = loket(server.home, *brain, "forget", str(added + 1))
    assert re.fullmatch(rf"main has forgotten memories {added}, {added + 1}\.\n", gone)
    assert re.fullmatch(r"main remembers it as memory \d+\.\n", loket(server.home, *brain, "add", "Tom is old"))


def test_storing_a_key_prints_an_object_with_json(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """`model key --json` names the key, never its value."""
    monkeypatch.setenv("LOKET_TEST_KEY", "sk-hidden")
    words = ("model", "key", "mine", "--env", "LOKET_TEST_KEY", "--json")
    assert loket(server.home, *words) == {"name": "mine"}


def test_a_grant_can_be_narrowed_on_the_command_line(server: Server) -> None:
    """`--constraint NAME=JSON` is stored with the grant and shown; an unknown name is an error."""
    allow = ("grants", "allow", "main", "kv.get", "--constraint")
    granted = loket(server.home, *allow, 'prefixes=["conversation/"]', "--json")
    assert granted["constraints"] == {"prefixes": ["conversation/"]}
    assert '{"prefixes": ["conversation/"]}' in loket(server.home, "grants", "list", "main")
    assert "no constraint 'prefix'" in loket(server.home, *allow, 'prefix=["a"]', code=2)
    assert loket(server.home, "ask", "main", "hello", "--json")["answer"]


def test_a_grant_that_would_allow_nothing_is_refused_with_the_line_that_works(home: Path) -> None:
    """What a capability needs is named, whatever else was given stays in the line, and the line does what it says."""
    for given, line in (
        ((), "--add hosts=example.org"),
        (("--add", "private=nas.local:80"), "--add private=nas.local:80 --add hosts=example.org"),
    ):
        said = loket(home, "grants", "allow", "main", "net.fetch", *given, code=2)
        assert "without hosts a grant of net.fetch allows nothing" in said
        assert f"Remedy: loket grants allow main net.fetch {line}\n" in said
        assert "net.fetch" not in loket(home, "grants", "list", "main")
    granted = loket(home, "grants", "allow", "main", "net.fetch", *line.split(), "--json")
    assert granted["constraints"] == {"private": ["nas.local:80"], "hosts": ["example.org"]}
    widened = loket(home, "grants", "allow", "main", "net.fetch", "--add", "secrets=KEY", "--json")
    assert widened["constraints"]["hosts"] == ["example.org"]
    assert "without hosts" in loket(home, "grants", "allow", "main", "net.fetch", code=2)
    loket(home, "grants", "revoke", "main", "net.fetch")


def test_the_list_of_capabilities_says_what_a_grant_names(home: Path) -> None:
    """Names of constraints in the table, all about them with `--json`."""
    (line,) = [line for line in loket(home, "caps").splitlines() if line.startswith("net.fetch ")]
    assert "hosts (needed), private, secrets" in line
    (shown,) = loket(home, "caps", "kv.get", "--json")["capabilities"]
    (rule,) = shown["constraints"]
    assert rule == {"name": "prefixes", "argument": "key", "match": "prefix", "required": False, "owner_only": False}


def _module(folder: Path, name: str, text: str) -> Path:
    (folder / name).mkdir()
    manifest = f'id = "{name}"\nversion = "1.0.0"\nkind = "agent"\nsummary = "of a test"\nentry = "module.wasm"\n'
    (folder / name / "loket.toml").write_text(manifest)
    (folder / name / "module.wasm").write_text(text)
    return folder / name


_FAILS = (
    wat.ECHO.replace('(memory (export "memory") 1)', '(memory (export "memory") 1) (data (i32.const 64) "guest.broke")')
    .replace("(i32.store (i32.const 16) (i32.const 0))", "(i32.store (i32.const 16) (i32.const 1))")
    .replace("(i32.const 20) (local.get 2)", "(i32.const 20) (i32.const 64)")
    .replace("(i32.const 24) (local.get 3)", "(i32.const 24) (i32.const 11)")
    .replace("    (i32.const 16)))", "    (i32.store (i32.const 36) (i32.const 0)) (i32.const 16)))")
)
"""Answers every message with an error of its own, of the code `guest.broke` and without words."""


def test_a_module_that_fails_by_itself_was_not_refused(server: Server, tmp_path: Path) -> None:
    """Its own crash ends the run: exit code 1, and `Run ended`, not `Refused`."""
    loket(server.home, "install", str(_module(tmp_path, "broken", _FAILS)))
    said = loket(server.home, "ask", "broken", "hello", code=1)
    assert said.startswith("Run ended: ")
    assert "(guest.broke)" in said


def test_installing_says_that_it_compiles_and_removing_can_revoke(server: Server, tmp_path: Path) -> None:
    """The slow step is announced once for the same bytes, and never among JSON; `--revoke` reaches the kernel."""
    fresh = f"(component {wat.ECHO[len('(component') :]} ;; {tmp_path}\n"
    folder = _module(tmp_path, "fresh", fresh)
    assert "Compiling the module for this machine" in loket(server.home, "install", str(folder))
    assert "Compiling" not in loket(server.home, "install", str(folder))
    assert loket(server.home, "ask", "fresh", "hello") == "hello\n"
    assert "but not run" in loket(server.home, "remove", "fresh", "--revoke")
    run = loket(server.home, "runs", "list", "--agent", "fresh", "--json")["runs"][0]["id"]
    assert loket(server.home, "runs", "replay", run, "--json")["ok"]


@pytest.mark.parametrize(
    ("error", "word", "code"),
    [
        (Refusal("grant.missing", "no"), "Refused", 3),
        (BadInput("a.b", "no"), "Wrong input", 2),
        (Failed("a.b", "no"), "Failed", 1),
        (RunEnded("guest.error", "no"), "Run ended", 1),
        (Damaged("a.b", "no"), "Damaged", 1),
    ],
)
def test_an_error_is_called_by_its_kind(
    error: LoketError, word: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each branch of the error tree has its word and its exit code."""
    show.error(error, as_object=False)
    assert capsys.readouterr().err.startswith(f"{word}: no ({error.code})\n")
    assert show.exit_code(error) == code


def _commands(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
        return
    for name, one in inner.items():
        yield from _commands(one, f"{words} {name}")


def test_every_command_has_an_example_and_json() -> None:
    """The help of each command ends with a line to copy, which names the command; all but `up` have `--json`."""
    commands = dict(_commands(typer.main.get_command(app), "loket"))
    brief = [name for name, command in commands.items() if f"Example: {name}" not in (command.epilog or "")]
    assert [name for name in brief if name != "loket brain"] == []
    assert "Example: loket brain main" in commands["loket brain"].epilog
    plain = [name for name, one in commands.items() if not any("--json" in param.opts for param in one.params)]
    assert plain == ["loket up"]


def test_the_shell_completes_agents_without_starting_anything(tmp_path: Path) -> None:
    """Ids come from the folders of the home; the script for the shell can be shown."""
    for name in ("main", "mailer", "weather"):
        (tmp_path / "packages" / name).mkdir(parents=True)

    def complete(words: str) -> list[str]:
        given = {"_LOKET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        done = subprocess.run(
            [sys.executable, "-m", "loket.cli.main"],
            env={**environment(tmp_path), **given},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.split()

    assert complete("loket ask ma") == ["mailer", "main"]
    assert complete("loket remove w") == ["weather"]
    assert complete("loket brain main s") == ["search"]
    assert not (tmp_path / "kernel.db").exists()
    # from a shell, whichever the tests were started by: the command asks which one it is in
    command = f"{shlex.quote(sys.executable)} -m loket.cli.main --show-completion; true"
    shown = subprocess.run(
        ["/bin/bash", "-c", command], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert "_LOKET_COMPLETE" in shown.stdout
