"""Execution tokens: forged, expired, revoked, borrowed and widened ones are refused, whoever made them."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import biscuit_auth
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import EngineRig, Handlers, Rig, Script, Values, begin, capability
from loket.contracts import Answer, Call, Limits, ModuleRef, Refusal, RunRequest, RunStatus, Token
from loket.kernel.state import RunState
from loket.tokens import _SAID, DELEGATING, BiscuitTokens

MODULE = ModuleRef("local", "tester", "1", "d" * 64)
KV = {"kv.get": {"prefixes": ["a/"]}}
ASKING: dict[str, Any] = {"agent.ask": {"agents": ["helper"]}, **KV}


class Clock:
    """A clock that tests set, in seconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> BiscuitTokens:
    return BiscuitTokens(clock)


def request(run: str = "r1", parent: RunRequest | None = None, rights: Any = ASKING, **more: Any) -> RunRequest:
    """A run of `tester`, or one that another run starts."""
    made = replace(begin(run, MODULE), rights=rights, **more)
    return made if parent is None else replace(made, root=parent.root, parent=parent.id, depth=parent.depth + 1)


def refused(tokens: BiscuitTokens, token: Token, run: str | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        tokens.check(token, run)
    return caught.value


def appended(tokens: BiscuitTokens, token: Token, source: str) -> Token:
    """A token with a block more, as whoever holds it can make."""
    chain = biscuit_auth.Biscuit.from_bytes(token.data, tokens._root.public_key)
    return replace(token, data=bytes(chain.append(biscuit_auth.BlockBuilder(source)).to_bytes()))


def test_a_token_proves_the_rights_of_its_run_and_nothing_else(tokens: BiscuitTokens) -> None:
    """What a request may use comes back as it was signed; without a list it is whatever is granted."""
    token = tokens.mint(request(rights=KV), 60)
    tokens.check(token, "r1")
    assert tokens.rights(token) == KV
    assert tokens.rights(tokens.mint(request("r2", rights=None), 60)) is None
    assert tokens.rights(tokens.mint(request("r3", rights={}), 60)) == {}


def test_rights_that_are_changed_afterwards_are_not_the_tokens(tokens: BiscuitTokens) -> None:
    """What was signed at first counts, not an object that somebody still holds."""
    rights: dict[str, Any] = {"kv.get": {"prefixes": ["a/"]}}
    token = tokens.mint(request(rights=rights), 60)
    tokens.check(token)
    rights["kv.get"]["prefixes"].append("b/")
    rights["kv.set"] = {}
    assert tokens.rights(token) == KV
    unseen = tokens.mint(request("r2", rights=rights), 60)
    rights["net.fetch"] = {}
    assert refused(tokens, unseen).code == "token.forged"


@pytest.mark.parametrize("text", ['"); right("x', "\\", "\n\r\t\0", "\u2028\u202e", "a" * 5000, "{run}", "$r", "☃"])
def test_texts_of_any_kind_are_signed_as_they_are(tokens: BiscuitTokens, text: str) -> None:
    """Nothing that a module or a person named can end a fact and begin another."""
    rights = {"kv.get": {"prefixes": [text]}}
    token = tokens.mint(request(text, rights=rights, agent=text), 60)
    assert tokens.rights(token) == rights


def test_a_forged_token_is_refused(tokens: BiscuitTokens, clock: Clock) -> None:
    """Other bytes, another run, another principal, a later expiry, another process's keys: none of them holds."""
    token = tokens.mint(request(), 60)
    other = tokens.mint(request("r2"), 60)
    changed = bytearray(token.data)
    changed[len(changed) // 2] ^= 1
    forged = [
        replace(token, data=bytes(changed)),
        replace(token, data=b""),
        replace(token, data=os.urandom(200)),
        replace(token, run="r2"),
        replace(token, data=other.data),
        replace(token, principal="owner"),
        replace(token, expires=token.expires + 1),
        BiscuitTokens(clock).mint(request(), 60),
    ]
    assert [refused(tokens, one).code for one in forged] == ["token.forged"] * len(forged)
    tokens.check(token)


def test_the_token_of_another_run_is_refused(tokens: BiscuitTokens) -> None:
    """Though it is a good one."""
    token = tokens.mint(request(), 60)
    tokens.mint(request("r2"), 60)
    tokens.check(token, "r1")
    refusal = refused(tokens, token, "r2")
    assert refusal.code == "token.forged"
    assert "of run r1" in refusal.message


def test_a_token_expires(tokens: BiscuitTokens, clock: Clock) -> None:
    """At its second, also where it was checked before."""
    token = tokens.mint(request(), 60)
    tokens.check(token)
    clock.now += 59.9
    tokens.check(token)
    clock.now += 0.1
    assert refused(tokens, token).code == "token.expired"
    assert refused(tokens, replace(token)).code == "token.expired"


def test_a_revoked_run_has_no_token_from_the_next_call_on(tokens: BiscuitTokens) -> None:
    """Others go on; the run gets a new one if it is begun again, and the old one stays worthless."""
    token, other = tokens.mint(request(), 60), tokens.mint(request("r2"), 60)
    tokens.check(token)
    tokens.revoke("r1")
    refusal = refused(tokens, token)
    assert (refusal.code, "stopped" in refusal.message) == ("token.revoked", True)
    tokens.check(other)
    again = tokens.mint(request(), 60)
    tokens.check(again)
    assert refused(tokens, token).code == "token.revoked"


def test_all_tokens_are_revoked_at_once(tokens: BiscuitTokens) -> None:
    """By one step of the generation, with those that were derived from them; what begins later has new ones."""
    parent = request()
    held = [tokens.mint(parent, 60), tokens.mint(request("c", parent), 60), tokens.mint(request("r2", rights=None), 60)]
    tokens.check(held[0])
    tokens.revoke_all()
    for token in held:
        refusal = refused(tokens, token)
        assert (refusal.code, "all execution tokens" in refusal.message) == ("token.revoked", True)
    with pytest.raises(Refusal, match="all execution tokens"):
        tokens.mint(request("c2", parent), 60)
    tokens.check(tokens.mint(request("r3"), 60))


def test_the_token_of_a_run_that_has_ended_is_worth_nothing(tokens: BiscuitTokens) -> None:
    """Nothing of it is kept."""
    token = tokens.mint(request(), 60)
    tokens.check(token)
    tokens.revoke("r1")
    tokens.forget("r1")
    assert refused(tokens, token).code == "token.revoked"
    assert not tokens._minted
    assert not tokens._known
    assert not tokens._floors


def test_only_the_newest_token_of_a_run_counts(tokens: BiscuitTokens) -> None:
    """A run that goes on after a stop has one token, not two."""
    first = tokens.mint(request(), 60)
    tokens.check(first)
    tokens.check(tokens.mint(request(), 60))
    assert refused(tokens, first).code == "token.revoked"


def test_a_run_that_another_starts_has_a_token_from_the_same_chain(tokens: BiscuitTokens) -> None:
    """Its own rights, the same root, no later expiry; the parent's token has the first block of both."""
    parent = request(rights=ASKING)
    first = tokens.mint(parent, 60)
    child = request("c", parent, {"net.fetch": {"hosts": ["api.example.org"]}})
    token = tokens.mint(child, 3600)
    tokens.check(token, "c")
    assert token.expires == first.expires
    assert tokens.rights(token) == {"net.fetch": {"hosts": ["api.example.org"]}}
    chain = biscuit_auth.Biscuit.from_bytes(token.data, tokens._root.public_key)
    own = biscuit_auth.Biscuit.from_bytes(first.data, tokens._root.public_key)
    assert (chain.block_count(), chain.block_source(0)) == (2, own.block_source(0))
    tokens.check(first, "r1")


def test_a_chain_of_runs_holds_at_every_link(tokens: BiscuitTokens, clock: Clock) -> None:
    """Each link has its own rights, and each expires with the first at the latest."""
    above = request(rights=ASKING)
    tokens.mint(above, 60)
    for depth in range(2, 9):
        clock.now += 1
        below = request(f"c{depth}", above, {**ASKING, f"x.c{depth}": {}})
        token = tokens.mint(below, 3600)
        assert tokens.rights(token) == below.rights
        assert token.expires == 1_795_000_060.0
        above = below


def test_a_run_without_the_right_to_ask_starts_no_others(tokens: BiscuitTokens) -> None:
    """The refusal says which right that would be."""
    parent = request(rights=KV)
    token = tokens.mint(parent, 60)
    with pytest.raises(Refusal) as caught:
        tokens.mint(request("c", parent), 60)
    assert caught.value.code == "token.rights"
    assert all(name in (caught.value.remedy or "") for name in DELEGATING)
    tokens.check(token)


def test_a_run_whose_parent_is_gone_gets_a_token_of_its_own(tokens: BiscuitTokens) -> None:
    """With the rights of its request, and no more: after a restart, or where a message outlives its sender."""
    parent = request()
    tokens.mint(parent, 60)
    tokens.forget("r1")
    token = tokens.mint(request("c", parent, KV), 3600)
    tokens.check(token, "c")
    assert tokens.rights(token) == KV


def test_nothing_is_derived_from_a_token_that_does_not_hold(tokens: BiscuitTokens, clock: Clock) -> None:
    """Neither of a revoked one, nor of an expired one, nor of a forged one."""
    parent = request()
    token = tokens.mint(parent, 60)
    with pytest.raises(Refusal, match="signed"):
        tokens.attenuate(replace(token, expires=token.expires + 9), request("c", parent), 60)
    tokens.revoke("r1")
    with pytest.raises(Refusal, match="stopped"):
        tokens.attenuate(token, request("c", parent), 60)
    fresh = tokens.mint(parent, 60)
    clock.now += 61
    with pytest.raises(Refusal, match="expired"):
        tokens.attenuate(fresh, request("c", parent), 60)


WIDER = (
    'run("r1", "r1", "tester", "agent:tester", "x", "null"); bounds("r1", "r1", 9000000000000000, 9, 9, 9);',
    'under("r1", "r2"); run("r2", "r1", "tester", "agent:tester", "x", "null"); bounds("r2", "r1", 1, 1, 1, 1);',
    'acting("r2"); acting("r1");',
    'run($r, "r1", "tester", "agent:tester", "x", "null") <- acting($r);',
)


@pytest.mark.parametrize("block", WIDER)
def test_a_block_that_somebody_adds_widens_nothing(tokens: BiscuitTokens, block: str) -> None:
    """What it states is believed by nobody: the run keeps its rights, and another run gets none by it."""
    token = tokens.mint(request(), 60)
    tokens.mint(request("r2", rights=KV), 60)
    longer = appended(tokens, token, block)
    tokens.check(longer, "r1")
    assert tokens.rights(longer) == ASKING
    assert refused(tokens, replace(longer, run="r2")).code == "token.forged"
    assert refused(tokens, replace(longer, expires=longer.expires + 1)).code == "token.forged"


@pytest.mark.parametrize("block", WIDER)
def test_a_block_that_another_key_signed_widens_nothing(tokens: BiscuitTokens, block: str) -> None:
    """Only the key of delegation can say that a run was started by another."""
    tokens.mint(request("r2", rights=KV), 60)
    token, stranger = tokens.mint(request(), 60), biscuit_auth.KeyPair()
    chain = biscuit_auth.Biscuit.from_bytes(token.data, tokens._root.public_key)
    signed = chain.third_party_request().create_block(stranger.private_key, biscuit_auth.BlockBuilder(block))
    longer = replace(token, data=bytes(chain.append_third_party(stranger.public_key, signed).to_bytes()))
    assert tokens.rights(longer) == ASKING
    assert refused(tokens, replace(longer, run="r2")).code == "token.forged"


def test_a_block_that_somebody_adds_can_take_away(tokens: BiscuitTokens) -> None:
    """That is what attenuation is for: whoever holds a token can make one that is worth less."""
    token = tokens.mint(request(), 60)
    assert refused(tokens, appended(tokens, token, 'check if acting("nobody");')).code == "token.forged"
    tokens.check(token)


_NAMES = st.sampled_from(["kv.get", "kv.set", "net.fetch", "fs.read", *DELEGATING])
_TEXTS = st.lists(st.sampled_from(["a/", "b/", "a/b/", ""]), min_size=1, max_size=3)
_RIGHTS = st.none() | st.dictionaries(_NAMES, st.dictionaries(st.just("prefixes"), _TEXTS, max_size=1), max_size=4)
_LIMITS = st.builds(Limits, tokens=st.integers(0, 10**8), money=st.floats(0, 10_000))
_LINK = st.tuples(_RIGHTS, _LIMITS, st.floats(-10, 10_000), st.sampled_from(["", *WIDER, 'check if acting("r0");']))


@settings(max_examples=60, deadline=None)
@given(st.lists(_LINK, min_size=1, max_size=5))
def test_no_chain_allows_what_its_first_block_did_not(links: list[Any]) -> None:
    """Whatever rights, budgets, expiries and blocks are put on top.

    A token that holds belongs to the first one's root, expires no later, has at most its budget, has exactly the rights
    of its own request, and exists only where every run above it may start others.
    """
    tokens = BiscuitTokens(Clock())
    chain: list[tuple[RunRequest, Token]] = []
    for number, (rights, limits, lifetime_s, block) in enumerate(links):
        above = chain[-1][0] if chain else None
        asked = replace(request(f"r{number}", above, rights), module=replace(MODULE, limits=limits))
        code = _code(lambda asked=asked, lifetime_s=lifetime_s: tokens.mint(asked, lifetime_s))
        if code is not None:
            assert above is not None
            alone = above.rights is not None and set(above.rights).isdisjoint(DELEGATING)
            assert code == "token.expired" or (code, alone) == ("token.rights", True)
            return
        chain.append((asked, tokens._minted[asked.id].token))
        _holds(tokens, chain, block)


@settings(max_examples=60, deadline=None)
@given(_RIGHTS, _LIMITS, st.floats(-10, 10_000), st.text(max_size=20).filter(lambda text: text.isprintable()))
def test_what_mint_signed_is_what_verifying_would_find(
    rights: Any, limits: Limits, lifetime_s: float, agent: str
) -> None:
    """The object that `mint` gave is taken by what was signed; an equal one is verified, and says the very same."""
    tokens = BiscuitTokens(Clock())
    asked = request(rights=rights, agent=agent, module=replace(MODULE, limits=limits))
    token = tokens.mint(asked, lifetime_s)
    taken, verified = tokens._verified(token), tokens._verified(replace(token))
    assert taken.token is token
    assert verified.token is not token
    assert (taken.rights, taken.generation) == (verified.rights, verified.generation)
    said = tokens._minted["r1"].said or {}
    assert tokens._signed(token, running=True) == {name: said[name] for name in _SAID}


def _code(action: Callable[[], Any]) -> str | None:
    """The code of what an action is refused with."""
    try:
        action()
    except Refusal as refusal:
        return refusal.code
    return None


def _holds(tokens: BiscuitTokens, chain: list[tuple[RunRequest, Token]], block: str) -> None:
    """Check the last link of a chain: its token, and the same with a block that somebody added."""
    (asked, token), (_, first) = chain[-1], chain[0]
    for one in (token, appended(tokens, token, block) if block else token):
        code = _code(lambda one=one: tokens.check(one, asked.id))
        if code is not None:
            assert code == "token.expired" or "check" in block
            continue
        assert one.expires <= first.expires
        assert tokens.rights(one) == asked.rights
        signed = biscuit_auth.Biscuit.from_bytes(one.data, tokens._root.public_key)
        bounds = {fact.terms[0]: fact.terms[1:] for fact in tokens._evaluated(signed, asked.id, tokens._above)}
        assert all(bounds[asked.id][place] <= bounds["r0"][place] for place in (0, 1))


def test_a_grant_that_is_widened_later_does_not_widen_a_run(tmp_path: Path) -> None:
    """Grant and token must both allow a call; the token has what was granted when the run began."""
    rig = Rig(tmp_path)
    asked = replace(begin("r1", rig.module("tester", "kv.get", "kv.set")), rights=KV)
    rig.journal.also(rig.database.run_started(asked, None))
    run = RunState(asked, "{}", rig.tokens.mint(asked, 3600), b"s" * 32, ("owner",))
    rig.counter.call(run, "kv.get", '{"key":"a/1"}')
    for name, args in (("kv.set", '{"key":"a/1","value":1}'), ("kv.get", '{"key":"b/1"}')):
        with pytest.raises(Refusal) as caught:
            rig.counter.call(run, name, args)
        assert caught.value.code == "token.rights"
    assert [row.meta.get("error") for row in rig.rows("r1")] == [None, "token.rights", "token.rights"]
    rig.close()


def test_the_counter_refuses_the_token_of_another_run(tmp_path: Path) -> None:
    """A run that shows somebody else's token is refused at its first call, and that is journaled."""
    rig = Rig(tmp_path)
    module = rig.module("tester", "kv.get")
    first, second = rig.run(module), rig.run(module, "r2")
    second.token = first.token
    with pytest.raises(Refusal) as caught:
        rig.counter.call(second, "kv.get", '{"key":"a"}')
    assert caught.value.code == "token.forged"
    assert [row.meta["error"] for row in rig.rows("r2")] == ["token.forged"]
    rig.close()


def test_a_run_that_goes_on_after_a_restart_has_a_new_token_and_no_more_rights(tmp_path: Path) -> None:
    """The token of the process before is not one of ours; the rights come from the journal."""
    waits = capability("gate.wait", waits=True, timeout_s=30)

    def body(call: Any, _args: dict[str, Any]) -> Any:
        call("gate.wait")
        return call("kv.set", key="a/1", value=1)

    async def wait(_call: Call) -> Answer:
        await gate.wait()
        return Answer({})

    def opened() -> EngineRig:
        providers = (Values().provider(), Handlers(gate__wait=wait))
        return EngineRig(tmp_path, *providers, scripts={"tester": Script(body)}, more=(waits,))

    async def before() -> Token:
        rig = opened()
        await rig.engine.submit(rig.request("tester", "r1", rights={"gate.wait": {}, **KV}))
        run = rig.engine.unfinished()["r1"]
        while run.status is not RunStatus.WAITING:  # noqa: ASYNC110 - the engine's state has no event
            await asyncio.sleep(0.002)
        token = run.token
        await rig.engine.close()
        rig.close()
        return token

    async def after(token: Token) -> None:
        rig = opened()
        gate.set()
        assert rig.engine.resume(rig.database.unfinished()) == 1
        assert refused(rig.tokens, token, "r1").code == "token.forged"
        ending = await rig.engine.result("r1")
        assert (ending.error or {})["code"] == "token.rights"
        await rig.engine.close()
        rig.close()

    gate = asyncio.Event()
    token = asyncio.run(before())
    gate = asyncio.Event()
    asyncio.run(after(token))
