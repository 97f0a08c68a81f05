"""Execution tokens as Biscuits: signed, attenuable, and readable by nobody but Loket, since no module ever sees one.

A run's token is a chain of blocks (the Biscuit format 3.3, https://www.biscuitsec.org). The first block is signed with
a key that lives as long as this process: it says which run of which request this is, who acts, on which module's bytes,
with which rights, until when, and bounds whatever is derived from it. A run that another one starts gets the chain of
that one and a block more. What such a block says is believed only where the key of delegation signed it: whoever holds
a token can add blocks, and by that take rights away, never add any.

A block's facts are `run(id, root, agent, principal, digest, rights)`, `bounds(id, root, expires, tokens, money,
generation)` and `under(run, descendant)`; times are microseconds since 1970, money is millionths of a US dollar, rights
are canonical JSON.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from biscuit_auth import (
    AuthorizationError,
    AuthorizerBuilder,
    Biscuit,
    BiscuitBuilder,
    BiscuitValidationError,
    BlockBuilder,
    Fact,
    KeyPair,
    Rule,
)

from loket.contracts import Json, Limits, Refusal, RunRequest, Token
from loket.contracts.catalogue import BY_ID

Rights = Mapping[str, Mapping[str, Json]] | None
"""Capability to constraints; None: whatever is granted."""

DELEGATING = ("agent.ask", "message.send", "message.publish", "plan.make", "plan.run")
"""Capabilities by which a run starts others: a token without them has no descendants."""

_MILLION = 1_000_000
_LARGEST = (1 << 63) - 1
_PATIENCE = timedelta(seconds=5)
"""For the evaluation of one chain, which takes about 50 microseconds: the library's 1 ms is short on a busy machine."""

_STATED = """
run({run}, {root}, {agent}, {principal}, {digest}, {rights});
bounds({run}, {root}, {expires}, {tokens}, {money}, {generation});
reject if under({run}, $r), bounds($r, $o, $e, $t, $m, $g), $o != {root} || $e > {expires} || $g < {generation}
    trusting authority, {delegation};
"""
_BUDGET = """
reject if under({run}, $r), bounds($r, $o, $e, $t, $m, $g), $t > {tokens} || $m > {money}
    trusting authority, {delegation};
"""
_ALONE = "check if acting({run});"
_WITH_OTHERS = "check if acting({run}) or acting($c), under({run}, $c) trusting authority, {delegation};"
_READ = """
said($o, $a, $p, $d, $j, $e, $g)
    <- acting($r), run($r, $o, $a, $p, $d, $j), bounds($r, $o, $e, $t, $m, $g) trusting authority, {delegation}
"""
_SAID = ("root", "agent", "principal", "digest", "rights", "expires", "generation")
"""The terms of `said`."""
_ABOVE = "above($r, $t, $m) <- bounds($r, $o, $e, $t, $m, $g) trusting authority, {delegation}"


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was verified."""

    token: Token
    rights: Rights
    generation: int


@dataclass(frozen=True, slots=True)
class _Minted:
    """The token of a run that has not ended. `said` is what its own block says, where it is the first of its chain."""

    request: RunRequest
    token: Token
    said: Mapping[str, str | int] | None


class BiscuitTokens:
    """Mints, checks and attenuates execution tokens; `now` in seconds since 1970. Thread-safe.

    Tokens live in memory and so do their keys: after a restart every run that goes on gets a new one, with the rights
    that the journal has of its request. Revocation is by generation: a token counts only while no later generation
    has been asked for, of its run (`revoke`) or of all (`revoke_all`).
    """

    def __init__(self, now: Callable[[], float], *, delegating: Collection[str] = DELEGATING) -> None:
        self._now = now
        self._delegating = frozenset(delegating)
        self._root = KeyPair()
        self._delegation = KeyPair()
        self._keys = {"delegation": self._delegation.public_key}
        self._read = Rule(_READ, None, self._keys)
        self._above = Rule(_ABOVE, None, self._keys)
        self._generation = 0
        self._floor = 0
        self._floors: dict[str, int] = {}
        """The generation that a stopped run's token would need."""
        self._minted: dict[str, _Minted] = {}
        """Runs that have not ended."""
        self._known: dict[str, _Known] = {}

    # Making

    def mint(self, request: RunRequest, lifetime_s: float) -> Token:
        """The token of a run, attenuated from its parent's where that has not ended.

        Raises `Refusal` where the parent's token does not hold any more, or does not let its run start others.
        """
        parent = self._minted.get(request.parent) if request.parent is not None else None
        if parent is not None and parent.request.root == request.root:
            return self.attenuate(parent.token, request, lifetime_s)
        expires = self._now() + lifetime_s
        budget = _budget(request)
        said = self._said(request, expires, budget)
        source = _STATED + _BUDGET + (_WITH_OTHERS if self._delegates(request.rights) else _ALONE)
        biscuit = BiscuitBuilder(source, said, self._keys).build(self._root.private_key)
        return self._given(request, expires, biscuit, said)

    def attenuate(self, parent: Token, request: RunRequest, lifetime_s: float) -> Token:
        """The token of a run that another one starts: its own rights, and nothing beyond the first block of the chain.

        It expires no later than the parent's, belongs to the same root, and its budget is at most the first block's.
        Raises `Refusal` where the parent's token does not hold, or does not let its run start others.
        """
        self.check(parent)
        if not self._delegates(self.rights(parent)):
            raise Refusal(
                "token.rights",
                f"the execution token of run {parent.run} does not let it start other runs",
                f"it would need one of: {', '.join(sorted(self._delegating))}",
            )
        chain = Biscuit.from_bytes(parent.data, self._root.public_key)
        above = {fact.terms[0]: fact.terms[1:] for fact in self._evaluated(chain, parent.run, self._above)}
        tokens, money = _budget(request)
        budget = (min(tokens, *(held[0] for held in above.values())), min(money, *(held[1] for held in above.values())))
        expires = min(self._now() + lifetime_s, parent.expires)
        source = _STATED + (_WITH_OTHERS if self._delegates(request.rights) else _ALONE)
        block = BlockBuilder(source, self._said(request, expires, budget), self._keys)
        for run in above:
            block.add_fact(Fact("under({run}, {descendant})", {"run": run, "descendant": request.id}))
        signed = chain.third_party_request().create_block(self._delegation.private_key, block)
        return self._given(request, expires, chain.append_third_party(self._delegation.public_key, signed))

    def _delegates(self, rights: Rights) -> bool:
        """Whether rights let a run start others: an operation of a module, which no catalogue has, is a run too."""
        return rights is None or any(name in self._delegating or name not in BY_ID for name in rights)

    def _said(self, request: RunRequest, expires: float, budget: tuple[int, int]) -> dict[str, str | int]:
        """What a block of a run says; the token that the run had until now is worth nothing any more."""
        if request.id in self._minted:
            self.revoke(request.id)
        tokens, money = budget
        bounds: dict[str, str | int] = {
            "expires": _micros(expires),
            "tokens": tokens,
            "money": money,
            "generation": self._generation,
        }
        return {**_identity(request), "run": request.id, **bounds}

    def _given(
        self, request: RunRequest, expires: float, biscuit: Biscuit, said: Mapping[str, str | int] | None = None
    ) -> Token:
        token = Token(request.id, str(request.principal), expires, bytes(biscuit.to_bytes()))
        self._minted[request.id] = _Minted(request, token, said)
        return token

    # Checking

    def check(self, token: Token, run: str | None = None) -> None:
        """Raises `Refusal`: forged (or not the token of `run`), revoked or expired.

        The signatures are verified and the chain is evaluated when a token is seen for the first time; after that it
        takes a look into two dictionaries and at the clock. The very object that `mint` made of one block, which cannot
        change, is taken by what `mint` signed: there is nobody above it, and its signature was made here.
        """
        known = self._known.get(token.run)
        if known is None or known.token is not token:
            known = self._verified(token)
        if run is not None and run != token.run:
            raise _forged(f"it is the token of run {token.run}, not of this run")
        if known.generation < self._floor:
            raise _revoked("all execution tokens were revoked")
        if known.generation < self._floors.get(token.run, 0):
            raise _revoked("the run was stopped")
        if self._now() >= token.expires:
            raise Refusal("token.expired", "the run's execution token has expired", "start a new run")

    def rights(self, token: Token) -> Rights:
        """The rights that the token proves. Raises `Refusal` as `check` for a token that it has not seen."""
        known = self._known.get(token.run)
        return (known if known is not None and known.token is token else self._verified(token)).rights

    def _verified(self, token: Token) -> _Known:
        """A token whose chain is ours, holds now, and says what the run's request says. Raises `Refusal`."""
        minted = self._minted.get(token.run)
        if minted is not None and minted.token is token and minted.said is not None:
            said = minted.said
        else:
            said = self._signed(token, running=minted is not None)
        if minted is None:
            raise _revoked("the run has ended")
        identity = _identity(minted.request)
        if {name: said[name] for name in identity} != identity or not _fits(token, said):
            raise _forged("it does not say what was signed")
        known = _Known(token, json.loads(str(said["rights"])), int(said["generation"]))
        self._known[token.run] = known
        return known

    def _signed(self, token: Token, *, running: bool) -> Mapping[str, str | int]:
        """What a chain says of the token's run, where it is ours and holds. Raises `Refusal`."""
        try:
            chain = Biscuit.from_bytes(token.data, self._root.public_key)
        except BiscuitValidationError:
            raise _forged("it was not signed by this process") from None
        if not running:
            raise _revoked("the run has ended")
        found = self._evaluated(chain, token.run, self._read)
        if len(found) != 1:
            raise _forged(f"nothing in it says what run {token.run} may do")
        return dict(zip(_SAID, found[0].terms, strict=True))

    def _evaluated(self, chain: Biscuit, run: str, rule: Rule) -> list[Fact]:
        """The facts of a rule in a chain whose checks hold for this run. Raises `Refusal`."""
        builder = AuthorizerBuilder("acting({run}); allow if true;", {"run": run})
        limits = builder.limits()  # type: ignore[attr-defined]  # the stubs of 0.4.0 leave it out
        limits.max_time = _PATIENCE
        builder.set_limits(limits)  # type: ignore[attr-defined]  # the same
        authorizer = builder.build(chain)
        try:
            authorizer.authorize()
        except AuthorizationError:
            raise _forged(f"its chain does not allow run {run}") from None
        return authorizer.query(rule)

    # Revoking

    def revoke(self, run: str) -> None:
        """From now on the tokens that this run has are refused."""
        self._generation += 1
        self._floors[run] = self._generation

    def revoke_all(self) -> None:
        """From now on every token that there is is refused; runs that begin later get new ones."""
        self._generation += 1
        self._floor = self._generation
        self._floors.clear()

    def forget(self, run: str) -> None:
        """The run has ended: its token is worth nothing any more."""
        self._minted.pop(run, None)
        self._known.pop(run, None)
        self._floors.pop(run, None)


def _identity(request: RunRequest) -> dict[str, str]:
    """What a token says of who acts, as the facts have it."""
    return {
        "root": request.root,
        "agent": request.agent,
        "principal": str(request.principal),
        "digest": request.module.digest if request.module is not None else "",
        "rights": json.dumps(request.rights, sort_keys=True, ensure_ascii=False),
    }


def _fits(token: Token, said: Mapping[str, str | int]) -> bool:
    """Whether a token says beside its chain what is signed in it."""
    return token.principal == said["principal"] and _micros(token.expires) == said["expires"]


def _budget(request: RunRequest) -> tuple[int, int]:
    """Model tokens, and money in millionths of a US dollar."""
    limits = request.module.limits if request.module is not None else Limits()
    return min(limits.tokens, _LARGEST), min(int(limits.money * _MILLION), _LARGEST)


def _micros(seconds: float) -> int:
    return min(int(seconds * _MILLION), _LARGEST)


def _forged(why: str) -> Refusal:
    return Refusal("token.forged", f"the run's execution token does not hold: {why}", "start the run again")


def _revoked(why: str) -> Refusal:
    return Refusal("token.revoked", f"the run's execution token was revoked: {why}", "start a new run")
