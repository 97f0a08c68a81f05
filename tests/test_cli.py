"""The command line as a person uses it: without a server, on a home of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from live import loket, prepare
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
    (recall,) = [row for row in shown["rows"] if row.get("capability") == "brain.search"]
    assert "My sister's name is Ana" in [memory["text"] for memory in recall["value"]["answer"]["memories"]]
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
    loket(home, "grants", "revoke", "main", "kv.get")
    refused = loket(home, "ask", "main", "hello", code=3)
    assert "main has no grant for kv.get" in refused
    assert "loket grants allow main kv.get" in refused
    loket(home, "grants", "allow", "main", "kv.get")
    assert "You said" in loket(home, "ask", "main", "hello")
    grants = loket(home, "grants", "list", "main", "--json")["grants"]
    assert {"agent": "main", "capability": "kv.get", "by": "owner"}.items() <= next(
        grant for grant in grants if grant["capability"] == "kv.get"
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
