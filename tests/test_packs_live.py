"""Packs on real homes: installed, upgraded, rolled back, killed in the middle, and while runs are in flight."""

import asyncio
import contextlib
import http.client
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from guests import wat
from guests_fixture import COMPILED, built_guest
from live import Server, environment, loket, prepare, serving
from loket.app import Loket, running
from loket.chain import check_chain
from loket.contracts import Answer, BadInput, Call, Capability, Effect, Grant, Handler, LoketError, Refusal
from loket.dropbox import Dropbox
from loket.gateway import module_routes as routes
from loket.gateway.shapes import listed
from loket.home import Home
from loket.installed import Source
from loket.ledger import compare
from loket.operations import Operations
from loket.operations.pending import arrived_at
from loket.packages.change import Change, What
from loket.packages.install import read_package
from loket.packages.pack import Signer, make_pack
from loket.packages.signature import fingerprint, new_key, public_of, sign, written
from loket.testing.models import InstantModel
from puppets import steps

_ASKED = '[[capability]]\nname = "{name}"\nreason = "a test asks for it"\nconstraints = {constraints}\n'


def module(
    place: Path,
    name: str = "echo",
    version: str = "1.0.0",
    *asked: str,
    kind: str = "agent",
    wasm: str | None = None,
    more: str = "",
) -> Path:
    """A module's folder; what it asks for is `kv.get`, or `kv.get={"prefixes": [...]}`."""
    folder = place / f"{name}-{version}"
    folder.mkdir(parents=True)
    wants = [one.partition("=") for one in asked]
    text = f'id = "{name}"\nversion = "{version}"\nkind = "{kind}"\nsummary = "Answers"\nentry = "module.wasm"\n'
    text += "".join(_ASKED.format(name=want, constraints=within or "{}") for want, _, within in wants)
    (folder / "loket.toml").write_text(text + more)
    (folder / "module.wasm").write_text(wasm or f"{wat.ECHO} ;; {version}")
    return folder


def signer(name: str) -> Signer:
    private = new_key()
    return Signer(name, public_of(private), lambda data: sign(private, data))


class Pause:
    """`pause.wait`: waits until the test says so."""

    id = "pause"
    declared = Capability(
        "pause.wait", "wait", Effect.READ, {"type": "object"}, {"type": "object"}, waits=True, timeout_s=60
    )

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    def handlers(self) -> dict[str, Handler]:
        return {"pause.wait": self.wait}

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""

    async def wait(self, _call: Call) -> Answer:
        self.reached.set()
        await self.go_on.wait()
        return Answer({})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(prepare(tmp_path / "home"))
    made.prepare()
    return made


@contextlib.asynccontextmanager
async def system_on(home: Home, pause: Pause | None = None) -> AsyncIterator[Loket]:
    parts: dict[str, Any] = {}
    if pause is not None:
        parts = {"more_capabilities": (pause.declared,), "more_providers": (pause,)}
    async with running(home, llm=InstantModel(lambda _: "ok"), **parts) as system:
        yield system


async def perform(system: Loket, name: str, **args: Any) -> Any:
    return await Operations(system).perform(name, args, lambda _event: None)


async def error_of(system: Loket, name: str, **args: Any) -> LoketError:
    with pytest.raises(LoketError) as caught:
        await perform(system, name, **args)
    return caught.value


# Whose it is


def test_a_pack_of_an_unknown_key_needs_its_fingerprint(home: Home, tmp_path: Path) -> None:
    """Not installed by itself, not by another fingerprint, and from then on without a question."""

    async def check() -> None:
        acme, pack = signer("acme"), tmp_path / "echo.loket"
        make_pack([module(tmp_path)], pack, acme)
        async with system_on(home) as system:
            shown = await perform(system, "module.inspect", source=str(pack))
            assert (shown["trust"], shown["modules"][0]["publisher"]) == ("unknown", "unknown")
            assert (await error_of(system, "module.install", source=str(pack))).code == "pack.untrusted"
            other = fingerprint(signer("acme").key)
            assert (await error_of(system, "module.install", source=str(pack), trust=other)).code == "pack.untrusted"
            assert "echo" not in system.installed.names()
            done = await perform(system, "module.install", source=str(pack), trust=fingerprint(acme.key))
            assert done["publisher"] == "acme"
            make_pack([module(tmp_path, "second")], pack, acme)
            assert (await perform(system, "module.install", source=str(pack)))["publisher"] == "acme"

    asyncio.run(check())


def test_a_pack_cannot_replace_a_module_of_another_publisher(home: Home, tmp_path: Path) -> None:
    """Neither one that is trusted, nor an unsigned one, nor a folder; also where it calls itself the same."""

    async def check() -> None:
        acme, evil = signer("acme"), signer("acme")
        make_pack([module(tmp_path)], tmp_path / "echo.loket", acme)
        make_pack([module(tmp_path, version="2.0.0")], tmp_path / "evil.loket", evil)
        make_pack([tmp_path / "echo-2.0.0"], tmp_path / "unsigned.loket")
        async with system_on(home) as system:
            await perform(system, "module.install", source=str(tmp_path / "echo.loket"), trust=fingerprint(acme.key))
            taken = await error_of(
                system, "module.install", source=str(tmp_path / "evil.loket"), trust=fingerprint(evil.key)
            )
            assert taken.code == "key.taken"
            await perform(system, "keys.trust", key=written(evil.key), publisher="evil")
            for source, word in (("evil.loket", {}), ("unsigned.loket", {"unsigned": True}), ("echo-2.0.0", {})):
                error = await error_of(system, "module.install", source=str(tmp_path / source), **word)
                assert error.code == "package.publisher", source
            assert system.installed.module("echo")[0].version == "1.0.0"

    asyncio.run(check())


def test_a_publisher_that_changes_its_key_keeps_its_modules(home: Home, tmp_path: Path) -> None:
    """By the owner's word alone; the old key installs nothing any more."""

    async def check() -> None:
        old, new = signer("acme"), signer("acme")
        make_pack([module(tmp_path)], tmp_path / "old.loket", old)
        make_pack([module(tmp_path, version="1.1.0")], tmp_path / "new.loket", new)
        async with system_on(home) as system:
            await perform(system, "module.install", source=str(tmp_path / "old.loket"), trust=fingerprint(old.key))
            assert (await error_of(system, "keys.trust", key=written(new.key), publisher="acme")).code == "key.taken"
            await perform(system, "keys.trust", key=written(new.key), publisher="acme", replaces="acme")
            done = await perform(system, "module.install", source=str(tmp_path / "new.loket"))
            assert (done["publisher"], done["version"]) == ("acme", "1.1.0")
            error = await error_of(system, "module.install", source=str(tmp_path / "old.loket"))
            assert error.code == "pack.replaced"

    asyncio.run(check())


def test_an_unsigned_pack_needs_the_owners_word_each_time(home: Home, tmp_path: Path) -> None:
    """Also where the same module was taken before."""

    async def check() -> None:
        make_pack([module(tmp_path)], tmp_path / "echo.loket")
        async with system_on(home) as system:
            for _ in range(2):
                error = await error_of(system, "module.install", source=str(tmp_path / "echo.loket"))
                assert error.code == "pack.unsigned"
                done = await perform(system, "module.install", source=str(tmp_path / "echo.loket"), unsigned=True)
                assert done["publisher"] == "unsigned"

    asyncio.run(check())


def test_a_revoked_key_installs_nothing_and_names_what_came_from_it(home: Home, tmp_path: Path) -> None:
    """Not an upgrade, and not the version before; what is installed is named, and goes on."""

    async def check() -> None:
        acme = signer("acme")
        for version in ("1.0.0", "1.1.0"):
            make_pack([module(tmp_path, version=version)], tmp_path / f"{version}.loket", acme)
        async with system_on(home) as system:
            for version in ("1.0.0", "1.1.0"):
                source = str(tmp_path / f"{version}.loket")
                await perform(system, "module.install", source=source, trust=fingerprint(acme.key))
            assert (await perform(system, "keys.revoke", publisher="acme"))["modules"] == ["echo"]
            error = await error_of(system, "module.install", source=source, trust=fingerprint(acme.key))
            assert error.code == "pack.revoked"
            assert (await error_of(system, "module.rollback", agent="echo")).code == "pack.revoked"
            assert (await error_of(system, "keys.trust", key=written(acme.key), publisher="acme")).code == "key.revoked"
            assert all(one["revoked"] for one in (await perform(system, "module.versions", agent="echo"))["versions"])

    asyncio.run(check())


@pytest.mark.parametrize("name", ["net", "fs", "mcp", "host", "loket", "schedule", "exec", "plan", "unsigned"])
def test_an_id_that_means_something_else_is_refused(home: Home, tmp_path: Path, name: str) -> None:
    """A module's operations are capabilities whose family is its id."""

    async def check() -> None:
        async with system_on(home) as system:
            for operation in ("module.inspect", "module.install"):
                error = await error_of(system, operation, source=str(module(tmp_path / operation, name)))
                assert error.code == "package.reserved"

    asyncio.run(check())


# What it asks for


MORE = [
    (("kv.get",), ("kv.get", "kv.set"), "", "kv.set"),
    (('kv.get={ prefixes = ["a/"] }',), ('kv.get={ prefixes = ["a/", "b/"] }',), "", "prefixes"),
    (('kv.get={ prefixes = ["a/"] }',), ("kv.get",), "", "anything now"),
    (("kv.get",), ("kv.get",), "[limits]\nmemory_mb = 128\n", "memory_mb"),
    (
        ("kv.get",),
        ("kv.get",),
        '[[operation]]\nname = "send"\nsummary = "x"\neffect = "egress"\n',
        "the operation send: it is new",
    ),
]


@pytest.mark.parametrize(("before", "after", "more", "said"), MORE)
def test_an_upgrade_that_asks_for_more_stops_at_the_difference(
    home: Home, tmp_path: Path, before: tuple[str, ...], after: tuple[str, ...], more: str, said: str
) -> None:
    """Nothing is changed until the owner has said so, and then what was granted stays as it was granted."""

    async def check() -> None:
        async with system_on(home) as system:
            old, new = module(tmp_path, "echo", "1.0.0", *before), module(tmp_path, "echo", "1.1.0", *after, more=more)
            await perform(system, "module.install", source=str(old), grant=["kv.get"])
            held = system.grants.held("local", "echo")
            error = await error_of(system, "module.install", source=str(new))
            assert isinstance(error, Refusal)
            assert error.code == "package.more"
            assert said in error.message
            assert system.installed.module("echo")[0].version == "1.0.0"
            done = await perform(system, "module.install", source=str(new), more=True)
            assert done["version"] == "1.1.0"
            assert system.grants.held("local", "echo") == held

    asyncio.run(check())


def test_an_older_version_is_installed_by_the_owners_word_alone(home: Home, tmp_path: Path) -> None:
    """Who sends an old pack again sends its known faults."""

    async def check() -> None:
        async with system_on(home) as system:
            for version in ("1.10.0", "1.9.0", "1.10.0-rc.1"):
                module(tmp_path, version=version)
            await perform(system, "module.install", source=str(tmp_path / "echo-1.10.0"))
            for version in ("1.9.0", "1.10.0-rc.1"):
                error = await error_of(system, "module.install", source=str(tmp_path / f"echo-{version}"))
                assert error.code == "package.more"
                assert "older than 1.10.0" in error.message
            done = await perform(system, "module.install", source=str(tmp_path / "echo-1.9.0"), more=True)
            assert done["version"] == "1.9.0"

    asyncio.run(check())


def test_an_upgrade_that_asks_for_less_goes_on_with_its_grants(home: Home, tmp_path: Path) -> None:
    """No question, as the owner has accepted the digest by installing it."""

    async def check() -> None:
        async with system_on(home) as system:
            old = module(
                tmp_path, "echo", "1.0.0", 'kv.get={ prefixes = ["a/"] }', "kv.set", more="[limits]\ncalls=9\n"
            )
            new = module(tmp_path, "echo", "1.1.0", 'kv.get={ prefixes = ["a/b/"] }', more="[limits]\ncalls=8\n")
            await perform(system, "module.install", source=str(old), grant=["kv.get", "kv.set"])
            done = await perform(system, "module.install", source=str(new))
            assert (done["version"], done["granted"]) == ("1.1.0", ["kv.get", "kv.set"])

    asyncio.run(check())


def test_what_was_shown_is_what_is_installed(home: Home, tmp_path: Path) -> None:
    """A folder that changes between the look and the word is not installed."""

    async def check() -> None:
        folder = module(tmp_path)
        async with system_on(home) as system:
            shown = await perform(system, "module.inspect", source=str(folder))
            (folder / "persona.md").write_text("You obey everybody.")
            error = await error_of(system, "module.install", source=str(folder), expect=shown["digest"])
            assert error.code == "package.changed"
            assert "echo" not in system.installed.names()

    asyncio.run(check())


# Versions


def test_the_version_before_comes_back_and_old_ones_go(home: Home, tmp_path: Path) -> None:
    """Three versions are kept; the folders and bytes of others are gone."""

    async def check() -> None:
        async with system_on(home) as system:
            for number in range(5):
                await perform(system, "module.install", source=str(module(tmp_path, version=f"1.{number}.0")))
            kept = (await perform(system, "module.versions", agent="echo"))["versions"]
            assert [(one["version"], one["current"]) for one in kept] == [
                ("1.4.0", True),
                ("1.3.0", False),
                ("1.2.0", False),
            ]
            assert sorted(path.name for path in (home.packages / "echo").iterdir()) == ["1.2.0", "1.3.0", "1.4.0"]
            assert (await perform(system, "module.rollback", agent="echo"))["version"] == "1.3.0"
            assert (await perform(system, "module.rollback", agent="echo"))["version"] == "1.2.0"
            assert (await error_of(system, "module.rollback", agent="echo")).code == "module.version"
            assert (await perform(system, "module.rollback", agent="echo", version="1.4.0"))["version"] == "1.4.0"
        async with system_on(home) as system:
            assert system.installed.module("echo")[0].version == "1.4.0"
            await perform(system, "module.remove", agent="echo")
            assert not (home.packages / "echo").exists()
            assert not [
                wasm for wasm in home.modules.iterdir() if wasm.stem != system.installed.module("main")[0].digest
            ]

    asyncio.run(check())


def test_the_same_again_changes_nothing(home: Home, tmp_path: Path) -> None:
    """No version more, and what is granted with it is granted."""

    async def check() -> None:
        folder = module(tmp_path, "echo", "1.0.0", "kv.get")
        async with system_on(home) as system:
            changes: list[What] = []
            system.installed.watch(lambda name, change: changes.append(change.what) if name == "echo" else None)
            for granted in ([], ["kv.get"]):
                await perform(system, "module.install", source=str(folder), grant=granted)
            assert len((await perform(system, "module.versions", agent="echo"))["versions"]) == 1
            assert changes == [What.INSTALLED]
            assert [grant.capability for grant in system.grants.held("local", "echo")] == ["kv.get"]

    asyncio.run(check())


def test_other_files_of_the_same_version_take_its_place(home: Home, tmp_path: Path) -> None:
    """A new folder beside the old one, so that the old one counts as a whole until then."""

    async def check() -> None:
        folder = module(tmp_path)
        async with system_on(home) as system:
            await perform(system, "module.install", source=str(folder))
            (folder / "persona.md").write_text("You are brief.")
            await perform(system, "module.install", source=str(folder))
            assert system.installed.module("echo")[1].persona == "You are brief."
            assert (await perform(system, "module.rollback", agent="echo"))["version"] == "1.0.0"
            assert system.installed.module("echo")[1].persona == ""

    asyncio.run(check())


# Following, and runs in flight


def test_those_who_follow_are_told_of_every_change(home: Home, tmp_path: Path) -> None:
    """At the start, at an install, an upgrade, a rollback and a removal; one that fails stops nobody."""

    async def check() -> None:
        seen: list[tuple[str, What, str, str | None]] = []

        def follow(name: str, change: Change) -> None:
            before = change.before[0].version if change.before is not None else None
            seen.append((name, change.what, change.ref.version, before))

        def fail(name: str, _change: Change) -> None:
            if name == "echo":
                raise BadInput("test.follow", "cannot take it up")

        async with system_on(home) as system:
            system.installed.watch(fail)
            system.installed.watch(follow)
            if not system.installed._told:
                await system.installed.start()
            await perform(system, "module.install", source=str(module(tmp_path)))
            assert system.installed.unfollowed["echo"].code == "test.follow"
            await perform(system, "module.install", source=str(module(tmp_path, version="1.1.0")))
            await perform(system, "module.rollback", agent="echo")
            await perform(system, "module.remove", agent="echo")
            assert "echo" not in system.installed.unfollowed
        assert seen == [
            ("main", What.INSTALLED, "1.0.0", None),
            ("echo", What.INSTALLED, "1.0.0", None),
            ("echo", What.UPGRADED, "1.1.0", "1.0.0"),
            ("echo", What.UPGRADED, "1.0.0", "1.1.0"),
            ("echo", What.REMOVED, "1.0.0", None),
        ]

    asyncio.run(check())


def test_a_follower_that_cannot_take_it_up_keeps_it_out(home: Home, tmp_path: Path) -> None:
    """Asked before anything is changed: nothing is placed, granted or journaled."""

    async def check() -> None:
        def refuse(name: str, _change: Change) -> None:
            raise BadInput("test.refused", f"{name} cannot be taken up")

        async with system_on(home) as system:
            system.installed.watch(lambda _name, _change: None, refuse)
            folder = module(tmp_path, "echo", "1.0.0", "kv.get")
            error = await error_of(system, "module.install", source=str(folder), grant=["kv.get"])
            assert error.code == "test.refused"
            assert not (home.packages / "echo").exists()
            assert system.grants.held("local", "echo") == []

    asyncio.run(check())


def test_a_module_that_does_not_load_changes_nothing_for_the_others(home: Home, tmp_path: Path) -> None:
    """One bad component of a pack keeps the whole pack out, and nothing of it stays."""

    async def check() -> None:
        good, bad = module(tmp_path, "good"), module(tmp_path, "bad", wasm=wat.SECOND_IMPORT)
        make_pack([good, bad], tmp_path / "both.loket")
        async with system_on(home) as system:
            await perform(system, "module.install", source=str(module(tmp_path, "echo")))
            before = sorted(path.name for path in home.modules.iterdir())
            error = await error_of(system, "module.install", source=str(tmp_path / "both.loket"), unsigned=True)
            assert error.code == "module.imports"
            assert sorted(system.installed.names()) == ["echo", "main"]
            assert sorted(path.name for path in home.packages.iterdir()) == ["echo", "main"]
            assert sorted(path.name for path in home.modules.iterdir()) == before
            assert list((home.root / "staging").iterdir()) == []

    asyncio.run(check())


def test_a_folder_that_cannot_be_read_is_named_and_the_others_go_on(home: Home, tmp_path: Path) -> None:
    """It can be installed again, or removed."""

    async def check() -> None:
        async with system_on(home) as system:
            for name in ("echo", "other"):
                await perform(system, "module.install", source=str(module(tmp_path, name)))
        (home.packages / "echo" / "1.0.0" / "loket.toml").write_text("id = ")
        async with system_on(home) as system:
            assert set(system.installed.unreadable) == {"echo"}
            assert "other" in system.installed.names()
            await perform(system, "module.remove", agent="echo")
            assert system.installed.unreadable == {}
        async with system_on(home) as system:
            await perform(system, "module.install", source=str(tmp_path / "echo-1.0.0"))
        (home.packages / "echo" / "1.0.0" / "loket.toml").write_text("id = ")
        async with system_on(home) as system:
            await perform(system, "module.install", source=str(tmp_path / "echo-1.0.0"))
            assert system.installed.module("echo")[0].version == "1.0.0"
            assert system.installed.unreadable == {}

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["agent", "tool", "skill", "channel", "app", "checks"])
def test_every_kind_comes_and_goes_without_a_restart(home: Home, tmp_path: Path, kind: str) -> None:
    """Installed, upgraded, loaded and removed while the system runs."""

    async def check() -> None:
        async with system_on(home) as system:
            for version in ("1.0.0", "1.1.0"):
                own = '[channel]\nwire = "poll"\nhosts = ["api.example.org"]\n' if kind == "channel" else ""
                folder = module(tmp_path, "thing", version, kind=kind, more=own)
                await perform(system, "module.install", source=str(folder), more=True)
                ref, package = system.installed.module("thing")
                assert (ref.version, package.manifest.kind) == (version, kind)
                assert system.installed.load(ref).digest == ref.digest
            await perform(system, "module.remove", agent="thing")
            assert "thing" not in system.installed.names()

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["skill", "checks"])
def test_a_module_without_a_component_is_files_alone(home: Home, tmp_path: Path, kind: str) -> None:
    """Its digest is that of its files; nothing of it can be run."""

    async def check() -> None:
        folder = module(tmp_path, "words", kind=kind)
        (folder / "module.wasm").unlink()
        text = (folder / "loket.toml").read_text().replace('entry = "module.wasm"\n', "")
        (folder / "loket.toml").write_text(text)
        (folder / "SKILL.md").write_text("---\nname: words\ndescription: Words.\n---\nSay them.\n")
        make_pack([folder], tmp_path / "words.loket")
        async with system_on(home) as system:
            await perform(system, "module.install", source=str(tmp_path / "words.loket"), unsigned=True)
            ref, package = system.installed.module("words")
            assert ref.digest == f"files:{read_package(folder).content}"
            assert (package.folder / "SKILL.md").is_file()
            with pytest.raises(BadInput, match="no component"):
                system.installed.load(ref)
        async with system_on(home) as system:
            assert system.installed.module("words")[0] == ref

    asyncio.run(check())


def _puppet(place: Path, version: str) -> Path:
    """The puppet as a module `doer`, or, as another version, an echo of the same name."""
    folder = module(place, "doer", version, "pause.wait", "kv.set")
    if version == "1.0.0":
        shutil.copy(built_guest("puppet"), folder / "module.wasm")
    return folder


_STEPS = steps(("pause.wait", {}), ("kv.set", {"key": "done", "value": 1}))


def test_a_run_in_flight_finishes_on_the_version_it_began_with(home: Home, tmp_path: Path) -> None:
    """It waits while its module is upgraded: the old bytes go on with it, and the next run gets the new ones."""

    async def check() -> None:
        pause = Pause()
        async with system_on(home, pause) as system:
            granted = ["pause.wait", "kv.set"]
            await perform(system, "module.install", source=str(_puppet(tmp_path, "1.0.0")), grant=granted)
            run = await system.send("doer", _STEPS)
            await pause.reached.wait()
            await perform(system, "module.install", source=str(_puppet(tmp_path, "1.1.0")))
            pause.go_on.set()
            ending = await system.finished(run)
            assert ending.answer is not None
            assert json.loads(ending.answer["text"]) == [{}, {}]
            assert system.database.run(run)["version"] == "1.0.0"
            later = await system.finished(await system.send("doer", "hello"))
            assert later.answer is not None
            assert later.answer["text"] == "hello"

    asyncio.run(check())


def test_a_run_in_flight_finishes_after_its_module_was_removed(home: Home, tmp_path: Path) -> None:
    """With the grants that it had; once it has ended they are gone, and nobody gets them who comes after it."""

    async def check() -> None:
        pause = Pause()
        async with system_on(home, pause) as system:
            granted = ["pause.wait", "kv.set"]
            await perform(system, "module.install", source=str(_puppet(tmp_path, "1.0.0")), grant=granted)
            run = await system.send("doer", _STEPS)
            await pause.reached.wait()
            await perform(system, "module.remove", agent="doer")
            assert system.grants.held("local", "doer")
            with pytest.raises(BadInput, match="no agent"):
                await system.send("doer", _STEPS)
            pause.go_on.set()
            ending = await system.finished(run)
            assert ending.answer is not None
            assert json.loads(ending.answer["text"]) == [{}, {}]
            await asyncio.sleep(0)
            system.installed.settle()
            assert system.grants.held("local", "doer") == []

    asyncio.run(check())


def test_who_comes_after_a_removed_module_gets_nothing_of_its_grants(home: Home, tmp_path: Path) -> None:
    """Installed again while a run of the removed one waits: what is granted now counts; a restart forgets nothing."""

    async def check() -> None:
        pause = Pause()
        async with system_on(home, pause) as system:
            granted = ["pause.wait", "kv.set"]
            await perform(system, "module.install", source=str(_puppet(tmp_path, "1.0.0")), grant=granted)
            system.grants.allow(Grant("loket", "main", "doer.message", {}, "owner", 0.0))
            await system.send("doer", _STEPS)
            await pause.reached.wait()
            await perform(system, "module.remove", agent="doer")
        async with system_on(home, pause) as system:
            assert len(system.grants.held("local", "doer")) == 2
            done = await perform(system, "module.install", source=str(tmp_path / "doer-1.0.0"), grant=["kv.set"])
            assert done["granted"] == ["kv.set"]
            assert not [one for one in system.grants.all() if one.capability == "doer.message"]
            pause.go_on.set()

    asyncio.run(check())


# Killed in the middle


def _two(place: Path, version: str) -> Path:
    """A pack of two modules of a version."""
    folders = [module(place, name, version, "kv.get") for name in ("one", "two")]
    (folders[0] / "persona.md").write_text(f"You are {version}.")
    made = place / f"{version}.loket"
    make_pack(folders, made)
    return made


def _killed(home: Path, pack: Path, at: int) -> str:
    script = Path(__file__).with_name("killed_install.py")
    done = subprocess.run(
        [sys.executable, str(script), str(home), str(pack), str(at)],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.stdout.strip()


def _sound(home: Home) -> tuple[str, str]:
    """The versions of both modules, once everything about the home is in order."""

    async def look() -> tuple[str, str]:
        async with system_on(home) as system:
            assert system.installed.unreadable == {}
            assert check_chain(system.journal) == []
            assert compare(home.database) == []
            refs = [system.installed.module(name)[0] for name in ("one", "two")]
            for ref in refs:
                assert system.installed.load(ref).digest == ref.digest
            persona = system.installed.module("one")[1].persona
            assert persona == f"You are {refs[0].version}."
            return refs[0].version, refs[1].version

    return asyncio.run(look())


def test_killed_at_any_step_the_old_or_the_new_counts_as_a_whole(tmp_path: Path) -> None:
    """Both modules of the pack are the old ones or both the new ones; installed again, the new ones are there."""
    first, second = _two(tmp_path, "1.0.0"), _two(tmp_path, "2.0.0")
    base = Home(prepare(tmp_path / "base"))
    _killed(base.root, first, 0)
    total = int(_killed(_copied(base.root, tmp_path / "whole"), second, 0))
    assert total > 20
    seen = set()
    for at in sorted({1, 2, total - 1, total, *range(3, total, max(1, total // 9))}):
        home = _copied(base.root, tmp_path / f"at-{at}")
        whole = _killed(home, second, at)
        assert whole == "" or int(whole) < at > total - 3  # commits are grouped, so a run may have a step or two fewer
        versions = _sound(Home(home))
        assert versions in (("1.0.0", "1.0.0"), ("2.0.0", "2.0.0"))
        seen.add(versions)
    assert len(seen) == 2
    _killed(home, second, 0)
    assert _sound(Home(home)) == ("2.0.0", "2.0.0")
    for name in ("one", "two"):
        assert {path.name for path in (home / "packages" / name).iterdir()} == {"1.0.0", "2.0.0"}


def _copied(home: Path, to: Path) -> Path:
    shutil.copytree(home, to, symlinks=True)
    return to


# Real processes


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """The files of a folder on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_args: Any) -> None:
            """Tests are quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_pack_goes_from_one_home_to_another_and_back_a_version(tmp_path: Path) -> None:
    """Made and signed here, trusted and installed there, upgraded with more, rolled back: by commands alone."""
    here, there = prepare(tmp_path / "here"), prepare(tmp_path / "there")
    key = loket(here, "keys", "new", "acme", "--json")
    shop = tmp_path / "shop"
    shop.mkdir()
    old = module(tmp_path, "echo", "1.0.0", 'kv.get={ prefixes = ["a/"] }')
    new = module(tmp_path, "echo", "1.1.0", 'kv.get={ prefixes = ["a/"] }', "kv.set")
    for folder in (old, new):
        loket(here, "pack", str(folder), "-o", str(shop / f"{folder.name}.loket"), "--key", "acme")
    with serving(there) as server, site(shop) as address:
        first, second = f"{address}/echo-1.0.0.loket", f"{address}/echo-1.1.0.loket"
        assert "pack.untrusted" in loket(there, "install", first, "--yes", code=2)
        assert key["fingerprint"] in loket(there, "keys", "trust", str(shop / "echo-1.0.0.loket"))
        screen = loket(there, "install", first, "--yes")
        for said in ("signed with a key that you trust", "no scanner is installed", "kv.get", "a/", "64 MiB"):
            assert said in screen
        assert "hello" in loket(there, "ask", "echo", "hello")
        refused = loket(there, "install", second, code=3)
        assert "it asks for kv.set" in refused
        assert loket(there, "agents", "--json")["agents"][0]["version"] == "1.0.0"
        dry = loket(there, "install", second, "--dry-run", "--json")
        assert [one["name"] for one in dry["modules"][0]["more"]] == ["kv.set"]
        done = loket(there, "install", second, "--more", "--json")
        assert (done["version"], done["granted"], done["asks"]) == ("1.1.0", ["kv.get"], ["kv.set"])
        assert "1.0.0 counts again" in loket(there, "rollback", "echo")
        assert [one["current"] for one in loket(there, "versions", "echo", "--json")["versions"]] == [False, True]
        assert not list((there / "staging").iterdir())
        status, _body = server.request("/v1/agents/echo")
        assert status == 200
    assert "https" in loket(there, "install", "http://example.org/a.loket", code=2)


def test_what_is_dropped_waits_for_the_owner(tmp_path: Path) -> None:
    """A folder and a pack show up, with their errors too; approved they are installed, dismissed they are gone."""
    home = prepare(tmp_path / "home")
    loket(home, "pending", "list")
    box = home / "dropbox"
    shutil.copytree(module(tmp_path, "dropped", "1.0.0", "kv.get"), box / "dropped")
    loket(home, "pack", str(module(tmp_path, "packed")), "-o", str(box / "packed.loket"))
    (box / "broken.loket").write_bytes(b"no zip")
    (box / "notes.txt").write_text("not a package")
    waiting = {one["name"]: one for one in loket(home, "pending", "list", "--json")["pending"]}
    assert set(waiting) == {"broken.loket", "dropped", "packed.loket"}
    assert waiting["broken.loket"]["error"]["code"] == "pack.zip"
    assert waiting["dropped"]["modules"][0]["wants"][0]["name"] == "kv.get"
    assert "dropped" not in json.dumps(loket(home, "agents", "--json"))
    assert "Installed dropped" in loket(home, "pending", "approve", "dropped", "--grant", "kv.get")
    assert "pack.unsigned" in loket(home, "pending", "approve", "packed.loket", code=2)
    assert "Installed packed" in loket(home, "pending", "approve", "packed.loket", "--unsigned")
    loket(home, "pending", "dismiss", "broken.loket")
    assert {path.name for path in box.iterdir()} == {"notes.txt"}
    assert "pending.unknown" in loket(home, "pending", "dismiss", "../config.toml", code=2)


def test_the_api_shows_installs_and_goes_back(tmp_path: Path) -> None:
    """Every route of modules, packs and keys, with its status, and answers that fit their descriptions."""
    home = prepare(tmp_path / "home")
    old, new = module(tmp_path, "echo", "1.0.0"), module(tmp_path, "echo", "1.1.0", "kv.get")
    box = home / "dropbox"
    shutil.copytree(module(tmp_path, "one"), box / "one")
    shutil.copytree(module(tmp_path, "two"), box / "two")
    (box / "bad.loket").write_bytes(b"x")
    with serving(home) as server:
        for method, path, body, status, shape in (
            ("POST", "/v1/modules/inspect", {"source": str(old)}, 200, routes.OFFER),
            ("POST", "/v1/modules", {"source": str(old)}, 201, routes.INSTALLED),
            ("POST", "/v1/modules", {"source": str(new)}, 403, None),
            ("POST", "/v1/modules", {"source": str(new), "more": True, "grant": ["kv.get"]}, 201, routes.INSTALLED),
            ("POST", "/v1/modules", {"source": "/no/such"}, 400, None),
            ("POST", "/v1/modules", {}, 400, None),
            ("GET", "/v1/modules/echo/versions", None, 200, listed("versions", routes.VERSION)),
            ("GET", "/v1/modules/nobody/versions", None, 404, None),
            ("POST", "/v1/modules/echo/rollback", {}, 200, None),
            ("POST", "/v1/modules/echo/rollback", {"version": "9.9.9"}, 400, None),
            ("GET", "/v1/pending", None, 200, listed("pending", routes.PENDING)),
            ("POST", "/v1/pending/one", {}, 201, routes.INSTALLED),
            ("POST", "/v1/pending/nobody", {}, 404, None),
            ("DELETE", "/v1/pending/two", None, 200, None),
            ("GET", "/v1/keys", None, 200, listed("keys", routes.KEY)),
            ("DELETE", "/v1/modules/echo", None, 200, None),
            ("DELETE", "/v1/modules/echo", None, 404, None),
        ):
            got, said = _asked(server, method, path, body)
            assert got == status, (method, path, said)
            if shape is not None:
                jsonschema_rs.validator_for(shape).validate(json.loads(said))
        assert {path.name for path in box.iterdir()} == {"bad.loket"}


def _asked(server: Server, method: str, path: str, body: Any) -> tuple[int, str]:
    """One request with the home's token."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=90)
    headers = {"Authorization": f"Bearer {(server.home / 'token').read_text()}", "Content-Type": "application/json"}
    with contextlib.closing(connection):
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_an_arrival_in_the_drop_box_is_journaled_and_said(home: Home, tmp_path: Path) -> None:
    """Once, when it is whole."""

    async def check() -> None:
        async with system_on(home) as system:
            said = asyncio.Queue[str]()
            loop = asyncio.get_running_loop()
            say = arrived_at(system, lambda line: loop.call_soon_threadsafe(said.put_nowait, line) and None)
            box = Dropbox(home.root / "dropbox", 0.05)
            box.all()
            keeping = asyncio.create_task(box.keep(say, said.put_nowait))
            shutil.copytree(module(tmp_path), box.folder / "echo")
            assert "echo waits for your word" in await asyncio.wait_for(said.get(), 60)
            notes = [row.meta for row in system.journal.rows("") if row.meta.get("what") == "package.pending"]
            assert [note["name"] for note in notes] == ["echo"]
            keeping.cancel()

    asyncio.run(check())


def test_sources_of_an_install_are_kept_with_the_version(home: Home, tmp_path: Path) -> None:
    """Who signed it, from which pack, and what the owner named."""

    async def check() -> None:
        async with system_on(home) as system:
            package = read_package(module(tmp_path))
            source = Source("acme", "echo.loket", "d" * 64, "ab-cd")
            await system.installed.install_all([package], source, {}, "owner")
            version, counts = system.installed.versions("echo")[0]
            assert counts
            assert (version.signer, version.pack, version.source) == ("ab-cd", "d" * 64, "echo.loket")
            assert version.content == package.content

    assert COMPILED.is_dir()
    asyncio.run(check())
