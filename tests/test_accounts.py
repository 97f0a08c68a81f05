"""The owner's account, sessions and API tokens: made once, tried a bounded number of times, ended in time."""

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live import loket, prepare
from loket.contracts import BadInput, Damaged, LoketError, Refusal
from loket.gateway.accounts import FORGET_S, FREE_ATTEMPTS, LONGEST_WAIT_S, Accounts, delay
from loket.gateway.errors import Busy, status_of
from loket.gateway.passwords import Passwords
from loket.gateway.sessions import IDLE_S, LONGEST_S, PREFIX, TOUCH_S, Sessions, Tokens
from loket.store.accounts import Accounts as Database

PASSWORD = "correct horse"


def in_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Runs an asynchronous test."""

    @functools.wraps(test)
    def run(*args: Any, **keywords: Any) -> None:
        asyncio.run(test(*args, **keywords))

    return run


class Counted(Passwords):
    """The real thing, which also counts."""

    def __init__(self) -> None:
        super().__init__()
        self.checks = 0
        self.at_once = 0
        self.most_at_once = 0

    async def fits(self, hashed: str, password: bytes) -> bool:
        self.checks += 1
        return await super().fits(hashed, password)

    async def _in_turn(self, work: Callable[..., Any], *args: Any) -> Any:
        def watched(*given: Any) -> Any:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                return work(*given)
            finally:
                self.at_once -= 1

        return await super()._in_turn(watched, *args)


class House:
    """Accounts, sessions and tokens on one database, and a clock that stands still."""

    def __init__(self, path: Path) -> None:
        self.time = 1_000_000.0
        self.store = Database(path)
        self.passwords = Counted()
        self.accounts = Accounts(self.store, self.passwords, lambda: self.time)
        self.sessions = Sessions(self.store, self.accounts, lambda: self.time)
        self.tokens = Tokens(self.store, lambda: self.time)


@contextlib.asynccontextmanager
async def house(path: Path, *, account: bool = True) -> AsyncIterator[House]:
    made = House(path / "gateway.db")
    try:
        if account:
            await made.accounts.create("ana", PASSWORD)
        yield made
    finally:
        made.store.close()


def stored(folder: Path) -> bytes:
    """Every byte of the files."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def fails(work: Any, kind: type[LoketError]) -> LoketError:
    with pytest.raises(kind) as caught:
        await work
    return caught.value


@in_loop
async def test_a_setup_code_makes_the_account_exactly_once(tmp_path: Path) -> None:
    """Of ten that come with the right code at once one makes the account, and the code is spent."""
    async with house(tmp_path, account=False) as one:
        code = await one.accounts.setup_code()
        assert code is not None
        one.store.attempt = lambda *_: 0.0  # type: ignore[method-assign] - attempts have a test of their own
        tries = [one.accounts.set_up(code.upper(), f"ana{at}", PASSWORD) for at in range(6)]
        came = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(result is None for result in came) == 1
        assert {error.code for error in came if isinstance(error, LoketError)} == {"account.exists"}
        assert await one.accounts.setup_code() is None
        assert (await fails(one.accounts.set_up(code, "eve", PASSWORD), BadInput)).code == "account.exists"


@in_loop
async def test_each_start_has_a_setup_code_of_its_own_that_is_kept_as_a_hash(tmp_path: Path) -> None:
    """The last code counts, the one before does not, and neither is in the file."""
    async with house(tmp_path, account=False) as one:
        first, second = await one.accounts.setup_code(), await one.accounts.setup_code()
        assert first is not None
        assert second is not None
        assert first != second
        assert len(set(second.replace("-", ""))) > 5
        assert (await fails(one.accounts.set_up(first, "ana", PASSWORD), Refusal)).code == "setup.code"
        await one.accounts.set_up(second, "ana", PASSWORD)
        held = stored(tmp_path)
        assert first.encode() not in held
        assert second.encode() not in held
        assert PASSWORD.encode() not in held
        assert b"$argon2id$v=19$m=65536,t=3,p=4$" in held


@in_loop
async def test_wrong_setup_codes_are_limited(tmp_path: Path) -> None:
    """After four of them even the right one has to wait."""
    async with house(tmp_path, account=False) as one:
        code = await one.accounts.setup_code()
        assert code is not None
        for _ in range(FREE_ATTEMPTS):
            assert (await fails(one.accounts.set_up("wrong", "ana", PASSWORD), Refusal)).code == "setup.code"
        assert status_of(await fails(one.accounts.set_up(code, "ana", PASSWORD), Busy)) == 429
        one.time += 1.0
        await one.accounts.set_up(code, "ana", PASSWORD)
        assert await one.accounts.name() == "ana"


@pytest.mark.parametrize("password", ["", "ninechars", "x" * 1025, "\ud800" + "x" * 12, "e\u0301" * 5])
@in_loop
async def test_a_password_has_a_length_and_no_other_rule(tmp_path: Path, password: str) -> None:
    """Ten characters (counted as they are hashed) to 1024 bytes; the error never repeats it."""
    async with house(tmp_path, account=False) as one:
        error = await fails(one.accounts.create("ana", password), BadInput)
        assert error.code == "account.password"
        assert not password or password not in error.message
        await one.accounts.create("ana", "          ")


@in_loop
async def test_a_password_is_the_same_from_every_keyboard(tmp_path: Path) -> None:
    """Composed and decomposed letters are one password, and one name."""
    async with house(tmp_path, account=False) as one:
        await one.accounts.create("ren\u00e9", "caf\u00e9 caf\u00e9 caf\u00e9")
        await one.accounts.check("rene\u0301", "cafe\u0301 cafe\u0301 cafe\u0301")


@pytest.mark.parametrize("name", ["", " ana", "a" * 65, "a\nb", "a\x00b", "\u202eana"])
@in_loop
async def test_a_name_can_be_seen(tmp_path: Path, name: str) -> None:
    """Nothing that hides, and no more than 64 characters."""
    async with house(tmp_path, account=False) as one:
        assert (await fails(one.accounts.create(name, PASSWORD), BadInput)).code == "account.name"


@in_loop
async def test_a_name_that_is_not_there_costs_the_same_work(tmp_path: Path) -> None:
    """One argon2 check each, with the same parameters, the same error and the same limit."""
    async with house(tmp_path) as one:
        for name in ("ana", "eve"):
            seen = []
            for _ in range(FREE_ATTEMPTS + 1):
                before = one.passwords.checks
                error = await fails(one.accounts.check(name, "wrong password"), Refusal)
                seen.append((error.code, error.message, one.passwords.checks - before))
            if name == "ana":
                first = seen
        assert seen == first
        assert seen[0][2] == 1
        assert seen[-1][0] == "login.wait"
        account = one.store.account() or {}
        assert account["hash"].split("$")[:4] == account["decoy"].split("$")[:4]
        assert account["hash"] != account["decoy"]


def test_the_delay_grows_to_a_bound() -> None:
    """Four attempts are free, then one second, doubling to fifteen minutes."""
    assert [delay(n) for n in range(FREE_ATTEMPTS)] == [0.0] * FREE_ATTEMPTS
    assert [delay(FREE_ATTEMPTS + n) for n in range(4)] == [1.0, 2.0, 4.0, 8.0]
    assert delay(10_000) == LONGEST_WAIT_S


@in_loop
async def test_many_attempts_at_once_are_counted_before_they_are_looked_at(tmp_path: Path) -> None:
    """Of fifty guesses that come together four are checked, one at a time; the right one among the rest waits too."""
    async with house(tmp_path) as one:
        guesses = [one.accounts.check("ana", f"wrong guess {at}") for at in range(49)]
        came = await asyncio.gather(*guesses, one.accounts.check("ana", PASSWORD), return_exceptions=True)
        codes = [error.code for error in came if isinstance(error, LoketError)]
        assert codes.count("login.wait") == 50 - FREE_ATTEMPTS
        assert one.passwords.checks == FREE_ATTEMPTS
        assert one.passwords.most_at_once == 1


def test_attempts_are_counted_across_threads_and_connections(tmp_path: Path) -> None:
    """Two connections, as of two processes: together they let four attempts through."""
    stores = [Database(tmp_path / "gateway.db") for _ in range(2)]
    barrier = threading.Barrier(8)

    def attempt(at: int) -> float:
        barrier.wait()
        return stores[at % 2].attempt(7, 1000.0, delay, FORGET_S)

    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(attempt, range(8)))
    assert waits.count(0.0) == FREE_ATTEMPTS
    for store in stores:
        store.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 2000.0), max_size=40))
def test_nobody_tries_faster_than_the_delays_allow(
    tmp_path_factory: pytest.TempPathFactory, pauses: list[float]
) -> None:
    """Whatever the pauses between attempts: after n in a row the next one is let through no sooner than delay(n)."""
    store = Database(tmp_path_factory.mktemp("attempts") / "gateway.db")
    try:
        now, row, last = 0.0, 0, 0.0
        for pause in pauses:
            now += pause
            wait = store.attempt(1, now, delay, FORGET_S)
            assert (wait > 0) == (row > 0 and now < last + delay(row))
            if wait == 0:
                row, last = row + 1, now
    finally:
        store.close()


@in_loop
async def test_a_good_login_forgives_and_a_clock_put_back_locks_nobody_out(tmp_path: Path) -> None:
    """The count starts anew after a good one; times that lie in the future are not waited for."""
    async with house(tmp_path) as one:
        for _ in range(FREE_ATTEMPTS - 1):
            await fails(one.accounts.check("ana", "wrong password"), Refusal)
        await one.accounts.check("ana", PASSWORD)
        for _ in range(FREE_ATTEMPTS):
            await fails(one.accounts.check("ana", "wrong password"), Refusal)
        assert (await fails(one.accounts.check("ana", PASSWORD), Busy)).code == "login.wait"
        one.time -= 100_000
        await one.accounts.check("ana", PASSWORD)


@in_loop
async def test_too_many_checks_at_once_are_refused(tmp_path: Path) -> None:
    """Sixteen wait, each for its 64 MiB; the others come again later."""
    async with house(tmp_path) as one:
        hashes = [one.passwords.hashed(b"some password") for _ in range(20)]
        came = await asyncio.gather(*hashes, return_exceptions=True)
        assert sum(isinstance(result, Busy) for result in came) == 4
        assert one.passwords.most_at_once == 1


@in_loop
async def test_a_session_ends_when_it_is_idle_and_at_its_longest(tmp_path: Path) -> None:
    """Used once a while it lives on, up to a week; left alone for twelve hours it ends."""
    async with house(tmp_path) as one:
        secret, session = await one.sessions.begin("ana", PASSWORD)
        assert session.ends == one.time + IDLE_S
        began = one.time
        while one.time + IDLE_S / 2 < began + LONGEST_S:
            one.time += IDLE_S / 2
            assert await one.sessions.find(secret, used=True) is not None
        one.time = began + LONGEST_S
        assert await one.sessions.find(secret, used=True) is None
        idle, _session = await one.sessions.begin("ana", PASSWORD)
        one.time += IDLE_S - 1
        assert await one.sessions.find(idle, used=False) is not None
        one.time += 1
        assert await one.sessions.find(idle, used=True) is None


@in_loop
async def test_looking_at_a_session_keeps_none_alive(tmp_path: Path) -> None:
    """A stream that is open looks whether its session goes on; that is no use of it."""
    async with house(tmp_path) as one:
        secret, _session = await one.sessions.begin("ana", PASSWORD)
        for _ in range(3):
            one.time += IDLE_S / 3
            found = await one.sessions.find(secret, used=False)
        assert found is None


@in_loop
async def test_a_session_is_kept_as_a_hash_and_can_be_ended(tmp_path: Path) -> None:
    """The secret is in no file; after `end` it is worth nothing."""
    async with house(tmp_path) as one:
        secret, _session = await one.sessions.begin("ana", PASSWORD)
        assert secret.encode() not in stored(tmp_path)
        await one.sessions.end(secret)
        assert await one.sessions.find(secret, used=True) is None
        assert await one.sessions.find("", used=True) is None


@in_loop
async def test_a_new_password_ends_all_sessions_and_those_that_begin_meanwhile(tmp_path: Path) -> None:
    """Also a login whose check of the old password came before the change and whose session would come after."""
    async with house(tmp_path) as one:
        old = [(await one.sessions.begin("ana", PASSWORD))[0] for _ in range(2)]
        hashed = await one.accounts.check("ana", PASSWORD)
        await one.accounts.change("another password", PASSWORD)
        for secret in old:
            assert await one.sessions.find(secret, used=True) is None
        assert not one.store.add_session(b"late", one.time, hashed, 10, 0.0)
        assert (await fails(one.sessions.begin("ana", PASSWORD), Refusal)).code == "login.wrong"
        await one.sessions.begin("ana", "another password")
        assert (await fails(one.accounts.change("a third password", "wrong password"), Refusal)).code == "login.wrong"
        await one.accounts.change("a third password", None)
        await one.sessions.begin("ana", "a third password")


@in_loop
async def test_a_password_from_the_command_line_lets_the_owner_in_at_once(tmp_path: Path) -> None:
    """Whoever guessed had blocked the name: the new password, set by who has the home, is tried without waiting."""
    async with house(tmp_path) as one:
        for _ in range(FREE_ATTEMPTS):
            await fails(one.accounts.check("ana", "wrong password"), Refusal)
        assert (await fails(one.accounts.check("ana", PASSWORD), Busy)).code == "login.wait"
        await one.accounts.change("another password", None)
        await one.accounts.check("ana", "another password")


@in_loop
async def test_sessions_do_not_pile_up(tmp_path: Path) -> None:
    """The least recently used ones make room."""
    async with house(tmp_path) as one:
        hashed = (one.store.account() or {})["hash"]
        for at in range(70):
            assert one.store.add_session(bytes([at]), 1000.0 + at, hashed, 64, 0.0)
        assert [at for at in range(70) if one.store.session(bytes([at])) is not None] == list(range(6, 70))


@in_loop
async def test_a_damaged_hash_is_said_and_lets_nobody_in(tmp_path: Path) -> None:
    """The remedy is a new password."""
    async with house(tmp_path) as one:
        assert one.store.change("$argon2id$nonsense", one.time, None)
        error = await fails(one.accounts.check("ana", PASSWORD), Damaged)
        assert error.remedy == "loket account password sets a new one"


@in_loop
async def test_tokens_are_shown_once_expire_and_are_revoked(tmp_path: Path) -> None:
    """Kept as a hash; nothing is found by a wrong, an expired or a revoked one."""
    async with house(tmp_path) as one:
        made = await one.tokens.make("editor", 2)
        secret = made["secret"]
        assert secret.startswith(PREFIX)
        assert secret.encode() not in stored(tmp_path)
        assert "secret" not in (await one.tokens.all())[0]
        assert (await one.tokens.find(secret, used=True) or {})["id"] == made["id"]
        one.time += TOUCH_S * 2
        await one.tokens.find(secret, used=True)
        assert (await one.tokens.all())[0]["used"] == one.time
        assert await one.tokens.find(secret[:-1], used=True) is None
        assert await one.tokens.find("", used=True) is None
        assert (await fails(one.tokens.make("editor", None), BadInput)).code == "token.exists"
        one.time = made["expires"]
        assert await one.tokens.find(secret, used=True) is None
        lasting = await one.tokens.make("lasting", None)
        await one.tokens.revoke(lasting["id"])
        assert await one.tokens.find(lasting["secret"], used=True) is None
        assert (await fails(one.tokens.revoke(lasting["id"]), BadInput)).code == "token.unknown"


@pytest.mark.parametrize(
    ("name", "days"), [("", 1), ("a b", 1), ("x" * 65, 1), ("ok", 0), ("ok", -1), ("ok", 5000), ("ok", float("nan"))]
)
@in_loop
async def test_a_token_that_cannot_be_is_named(tmp_path: Path, name: str, days: float) -> None:
    """Names that a shell and a table can hold, and a time to come."""
    async with house(tmp_path) as one:
        assert (await fails(one.tokens.make(name, days), BadInput)).code in ("token.name", "token.days")


def test_the_command_line_makes_account_and_tokens_without_a_server(tmp_path: Path) -> None:
    """Passwords come from standard input; a second account, a short password and an unknown token are errors."""
    home = prepare(tmp_path / "home")
    assert "shorter than 10" in loket(home, "account", "create", "ana", stdin="short\n", code=2)
    assert loket(home, "account", "create", "ana", "--json", stdin=PASSWORD + "\n") == {"name": "ana"}
    assert "there is an account already" in loket(home, "account", "create", "eve", stdin=PASSWORD, code=2)
    assert loket(home, "account", "password", "--json", stdin="another password") == {"changed": True}
    made = loket(home, "token", "create", "editor", "--expires", "30", "--json")
    assert made["secret"].startswith(PREFIX)
    listed = loket(home, "token", "list", "--json")["tokens"]
    assert [token["name"] for token in listed] == ["editor"]
    assert made["secret"] not in json.dumps(listed)
    assert "editor" in loket(home, "token", "list")
    assert loket(home, "token", "revoke", "editor", "--json") == {"revoked": "editor"}
    assert "there is no token 'editor'" in loket(home, "token", "revoke", "editor", code=2)
    assert "there is no token" in loket(home, "token", "list")
    assert (home / "gateway.db").stat().st_mode & 0o777 == 0o600
