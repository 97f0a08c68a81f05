"""Tests of the documents: what is not documented, and what is documented wrongly, fails the build."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from kit import open_kernel
from loket import documents
from loket.cli import show
from loket.cli.main import app
from loket.config import SETTINGS
from loket.contracts import Limits, RowKind
from loket.contracts.catalogue import STOCK
from loket.kernel.journal import Journal
from loket.packages.manifest import RANGES, AskedCapability, Context, Manifest, Operation, load_manifest
from loket.policy.plain import RULES
from loket.providers.llm_settings import PRESETS, Route

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md")])
ALL = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def _page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_the_list_of_capabilities_is_the_catalogues() -> None:
    """`docs/capabilities.md` is what `make docs` writes."""
    assert _page("docs/capabilities.md") == documents.capabilities()


def test_every_capability_is_documented() -> None:
    """A capability that no page names cannot be found by those who write agents."""
    assert not [capability.id for capability in STOCK if f"`{capability.id}`" not in ALL]


def test_every_setting_is_documented() -> None:
    """The table of settings is the code's own, and every setting of a route and every preset is named."""
    operations = _page("docs/operations.md")
    assert documents.settings() in operations
    assert not [setting.key for setting in SETTINGS if setting.key not in operations]
    routes = {field.name for field in fields(Route)} - {"name"} | {"preset", "chain"} | PRESETS.keys()
    assert not [key for key in sorted(routes) if f"`{key}`" not in operations]


def _commands(command: Any, words: str) -> Iterator[str]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words
        return
    for name, one in inner.items():
        yield from _commands(one, f"{words} {name}")


def test_every_command_is_documented() -> None:
    """Each command of the command line is named in the operations page with its whole name."""
    commands = list(_commands(typer.main.get_command(app), "loket"))
    assert "loket runs verify" in commands
    operations = _page("docs/operations.md")
    assert not [command for command in commands if not re.search(rf"`{command}[` ]", operations)]


def test_no_command_is_documented_that_is_not_there() -> None:
    """Whatever a page shows after `loket` at the start of a line or of code is a command."""
    known = set(_commands(typer.main.get_command(app), "loket"))
    known |= {" ".join(command.split()[:2]) for command in known}
    shown = {f"loket {word}" for word in re.findall(r"(?:^ {4}(?:\$ )?|`)loket ([a-z][a-z-]*)", ALL, re.MULTILINE)}
    assert shown <= known


def test_exit_codes_are_documented() -> None:
    """The table has a line for each code."""
    operations = _page("docs/operations.md")
    for code in (show.DONE, show.FAILED, show.USAGE, show.REFUSED):
        assert f"\n| {code} | " in operations


def test_every_limit_is_documented_with_its_default_and_range() -> None:
    """Those who set a limit find what it means, what it is without, and what it may be."""
    page, defaults = _page("docs/write-an-agent.md"), Limits()
    for limit in fields(Limits):
        low, high = RANGES[limit.name]
        assert f"| `{limit.name}` | {getattr(defaults, limit.name):,} | {low:,} to {high:,} |" in page


def test_every_key_of_the_manifest_is_documented() -> None:
    """`loket.toml` has no key that the page does not list."""
    page = _page("docs/write-an-agent.md")
    keys = {f"| `{field.name}` |" for kind in (Manifest, AskedCapability, Operation, Context) for field in fields(kind)}
    keys -= {f"| `{name}` |" for name in ("capabilities", "operations", "contexts", "commands", "limits", "own")}
    tables = {f"`[[{name}]]`" for name in ("capability", "operation", "context", "command")}
    assert not [key for key in sorted(keys | tables | {"`[limits]`"}) if key not in page]


def test_every_rule_and_refusal_of_the_kernel_is_documented() -> None:
    """What a module is refused with, and what decided, is in the contract."""
    contract = _page("docs/contract.md")
    assert not [rule.id for rule in RULES if f"| `{rule.id}` | {rule.verdict.value} |" not in contract]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/loket/kernel").glob("*.py"))
    codes = set(re.findall(r'(?:Refusal|code, message)(?:\(|\s=)\s*"([a-z]+\.[a-z_]+)"', sources))
    assert {"grant.missing", "policy.ask"} <= codes
    assert not [code for code in sorted(codes) if f"`{code}`" not in contract]


def test_the_contract_shown_is_the_contract() -> None:
    """The page has the file `wit/loket.wit`, to the letter."""
    assert f"```wit\n{_page('wit/loket.wit')}```" in _page("docs/contract.md")


def test_the_journal_can_be_checked_by_what_is_written_about_it(tmp_path: Path) -> None:
    """The program in the contract, which knows nothing of Loket, accepts a journal and finds a changed row."""
    program = next(text for text in _code(_page("docs/contract.md"), "python") if "hashlib" in text)
    (tmp_path / "vault").mkdir()
    key = b"k" * 32
    (tmp_path / "vault" / "journal.key").write_text(key.hex())
    database = open_kernel(tmp_path / "kernel.db", runs=("r1",))
    journal = Journal(database, key, lambda: 1_795_000_000.25)
    for ordinal in range(3):
        journal.append("r1", ordinal, RowKind.CALL, {"capability": "kv.get", "ü": [1, 2.5]}, '{"answer":{}}')
    journal.sync()
    assert _run(program, tmp_path) == "3 rows, unchanged\n"
    database._writer.execute("DROP TRIGGER journal_append_only_update")
    database._writer.execute("UPDATE journal SET facts = replace(facts, 'kv.get', 'kv.set') WHERE seq = 2")
    assert "row 2 was changed" in _run(program, tmp_path)
    database.close()


def _code(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _run(program: str, home: Path) -> str:
    done = subprocess.run([sys.executable, "-c", program, str(home)], capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def test_the_agent_in_the_readme_is_the_example() -> None:
    """What the README shows is a file that can be built, and its manifest is sound."""
    example = ROOT / "examples" / "shopping-list"
    source = (example / "agent.py").read_text(encoding="utf-8")
    assert source in _code(_page("README.md"), "python")
    assert [operation.name for operation in load_manifest(example).operations] == ["message"]
    assert ast.parse(source)


def test_the_two_commands_stand_on_the_first_screen() -> None:
    """Whoever opens the README sees how to start and how to test."""
    screen = _page("README.md").splitlines()[:24]
    assert any(line.startswith("    make up") for line in screen)
    assert any(line.startswith("    make test") for line in screen)


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or a folder of the checkout that is not empty."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", link):
            target = page.parent / link.partition("#")[0]
            assert target.is_file() or any(target.iterdir()), f"{_named(page)}: {link}"


def test_every_test_that_is_named_exists() -> None:
    """The pages point at the tests that show their claims; a renamed test is renamed there too."""
    named = set(re.findall(r"`(tests/\w+\.py)::(\w+)`", ALL))
    assert named
    for file, name in sorted(named):
        assert f"def {name}(" in _page(file), f"{file} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_pages_are_finished_and_name_no_machine(page: Path) -> None:
    """No page has something left to do, or a path that exists on one machine only."""
    text = page.read_text(encoding="utf-8")
    assert "TODO" not in text
    assert not re.findall(r"(?<![\w.~])/(?:work|root)\b|(?<![\w.~])/home/(?!you/)\w+", text)
