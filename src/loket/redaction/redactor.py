"""Everything that leaves passes here: what must not leave is replaced by a mark, and a canary is reported."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from loket.contracts import BadInput, Json
from loket.redaction import national, personal, phones, tokens
from loket.redaction.canary import canary
from loket.redaction.found import BARRIER, KINDS, MARK, Found, Redacted, mark
from loket.redaction.needles import Needles
from loket.redaction.settings import checked
from loket.redaction.shape import number_windows
from loket.redaction.stream import Stream
from loket.redaction.tokens import Span

_CANARY = "canary "
_VAULT = "vault"
_NEVER = ("vault", "canary")
"""What may not leave even where the owner named it."""

_NUMBERS = frozenset({"card", "iban", "national-id"})

_DEPTH = 200
"""Levels of a JSON value that is looked through."""

_LEAST_NUMBER = 10**8
"""A smaller number in JSON is nobody's card or account."""


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch to replace: the union of findings that overlap, with the kind of the first."""

    kind: str
    start: int
    end: int
    agent: str | None = None


def _nothing() -> tuple[str, ...]:
    return ()


class Redactor:
    """Redacts for one kind of reader.

    `kinds` are those of `KINDS` that are switched on; `vault_values` gives the vault's values at the time of a call;
    `canary_key` is the key that the agents' canaries are made with, and `agents` gives the agents that have one;
    `regions` are the countries (ISO 3166, `NL`) whose telephone numbers count without a country's code.
    Raises BadInput for an unknown kind or region. A redactor may be used by several threads.
    """

    def __init__(
        self,
        kinds: Collection[str] = KINDS,
        vault_values: Callable[[], Sequence[str]] = _nothing,
        canary_key: bytes = b"",
        agents: Callable[[], Sequence[str]] = _nothing,
        regions: Sequence[str] = (),
    ) -> None:
        self.kinds, self._regions = checked(kinds, regions)
        self._vault_values = vault_values
        self._canary_key = canary_key
        self._agents = agents
        self._known: tuple[tuple[tuple[str, ...], tuple[str, ...]], Needles] = ((), ()), Needles(())

    def text(self, text: str, allowed: Collection[str] = ()) -> Redacted:
        """The text with marks; `allowed` are values that the owner named in this request, which may leave.

        The vault's values and canaries never may. Without a finding the very same text comes back.
        """
        return self.one(text, self.needles(), plain_all(allowed), "")

    def json(self, value: Json, allowed: Collection[str] = ()) -> Redacted:
        """The value with marks in its strings, in the names of its members, and in the place of numbers of cards."""
        walk = _Walk(self, self.needles(), plain_all(allowed))
        redacted = walk.value(value, "", "")
        return Redacted(redacted if walk.found else value, tuple(walk.found), walk.canary)

    def stream(self, allowed: Collection[str] = ()) -> Stream:
        """A stream that gives, in pieces, what `text` gives for the whole."""
        needles, plain = self.needles(), plain_all(allowed)
        return Stream(lambda text: self.regions(text, needles, plain), needles.held)

    def needles(self) -> Needles:
        """The values that are looked for by value, as they are now."""
        values = tuple(self._vault_values()) if _VAULT in self.kinds else ()
        agents = tuple(self._agents()) if "canary" in self.kinds else ()
        known, needles = self._known
        if known != (values, agents):
            codes = [(_CANARY + agent, canary(self._canary_key, agent)) for agent in agents]
            bare = [(name, code.replace("-", "")) for name, code in codes]
            needles = Needles([*codes, *bare, *((_VAULT, value) for value in values)])
            self._known = (values, agents), needles
        return needles

    def one(self, text: str, needles: Needles, allowed: frozenset[str], path: str) -> Redacted:
        """One string, at its place in a value."""
        regions = self.regions(text, needles, allowed)
        if not regions:
            return Redacted(text)
        pieces: list[str] = []
        position = 0
        for region in regions:
            pieces += (text[position : region.start], mark(region.kind))
            position = region.end
        found = tuple(Found(region.kind, region.start, region.end, path) for region in regions)
        agent = next((region.agent for region in regions if region.agent), None)
        return Redacted("".join([*pieces, text[position:]]), found, agent)

    def is_secret_member(self, name: str, text: str, allowed: frozenset[str]) -> bool:
        """Whether a member of a JSON object is a secret by its name."""
        return (
            bool(name)
            and "secret" in self.kinds
            and tokens.names_secret(name)
            and tokens.looks_secret(text)
            and _plain(text) not in allowed
        )

    def regions(self, text: str, needles: Needles, allowed: frozenset[str]) -> list[Region]:
        """What to replace, in order and apart from each other. Marks in the text stay as they are.

        Each layer sees a barrier in the place of what the ones before it have found, and all are asked again until they
        find nothing more: so a redacted text has nothing left to find.
        """
        masked = MARK.sub(lambda match: BARRIER * len(match[0]), text) if "[redacted: " in text else text
        regions: list[Region] = []
        seen = -1
        while seen < len(regions):
            seen = len(regions)
            for layer in (self._by_value, self._keys, self._tokens, self._numbers, self._phones):
                here = _joined(layer(masked, needles))
                regions += [one for one in here if one.kind in _NEVER or not _named(text, one, allowed)]
                masked = _masked(masked, here)
        return sorted(regions, key=lambda region: region.start)

    def _by_value(self, text: str, needles: Needles) -> Iterator[Region]:
        for hit in needles.find(text):
            agent = hit.name.removeprefix(_CANARY) if hit.name.startswith(_CANARY) else None
            yield Region("canary" if agent else _VAULT, hit.start, hit.end, agent)

    def _keys(self, text: str, _: Needles) -> Iterator[Region]:
        return self._switched("secret", tokens.private_keys, text)

    def _tokens(self, text: str, _: Needles) -> Iterator[Region]:
        return self._switched("secret", tokens.tokens, text)

    def _numbers(self, text: str, _: Needles) -> Iterator[Region]:
        yield from self._switched("email", personal.emails, text)
        for window in number_windows(text) if not self.kinds.isdisjoint(_NUMBERS) else ():
            yield from self._switched("card", personal.cards, text, window)
            yield from self._switched("iban", personal.ibans, text, window)
            yield from self._switched("national-id", national.national_ids, text, window)

    def _phones(self, text: str, _: Needles) -> Iterator[Region]:
        for window in number_windows(text) if "phone" in self.kinds else ():
            yield from self._switched("phone", phones.phones, text, window, self._regions)

    def _switched(self, kind: str, find: Callable[..., Iterator[Span]], *given: Any) -> Iterator[Region]:
        return (Region(*span) for span in find(*given)) if kind in self.kinds else iter(())


def _joined(found: Iterator[Region]) -> list[Region]:
    """Findings in order, those that overlap as one with the kind of the first and the agent of any."""
    joined: list[Region] = []
    for one in sorted(found, key=lambda region: (region.start, -region.end)):
        last = joined[-1] if joined else None
        if last is not None and one.start < last.end:
            joined[-1] = replace(last, end=max(last.end, one.end), agent=last.agent or one.agent)
        else:
            joined.append(one)
    return joined


def _masked(text: str, regions: list[Region]) -> str:
    pieces: list[str] = []
    position = 0
    for region in regions:
        pieces += (text[position : region.start], BARRIER * (region.end - region.start))
        position = region.end
    return "".join([*pieces, text[position:]])


def _plain(value: str) -> str:
    return "".join(filter(str.isalnum, value)).casefold()


class Plain(frozenset[str]):
    """Values that may leave, by their letters and digits; made by `plain_all`."""


def plain_all(allowed: Collection[str]) -> Plain:
    """Values that may leave, as they are compared. What was made so already stays."""
    return allowed if isinstance(allowed, Plain) else Plain(map(_plain, allowed))


def _named(text: str, region: Region, allowed: frozenset[str]) -> bool:
    return bool(allowed) and _plain(text[region.start : region.end]) in allowed


class _Walk:
    """One way through a JSON value, with what it has found."""

    def __init__(self, redactor: Redactor, needles: Needles, allowed: frozenset[str]) -> None:
        self._redactor, self._needles, self._allowed = redactor, needles, allowed
        self.found: list[Found] = []
        self.canary: str | None = None

    def value(self, value: Json, path: str, name: str) -> Json:
        if isinstance(value, str):
            return self._string(value, path, name)
        if isinstance(value, Mapping):
            return self._members(value, path)
        if isinstance(value, list | tuple):
            self._check_depth(path)
            return [self.value(one, f"{path}/{at}", name) for at, one in enumerate(value)]
        if isinstance(value, int) and abs(value) >= _LEAST_NUMBER:
            return self._number(value, path)
        return value

    def _check_depth(self, path: str) -> None:
        if path.count("/") > _DEPTH:
            raise BadInput(
                "redaction.depth",
                f"a value that leaves is nested deeper than {_DEPTH} levels",
                "put the inner values side by side, or send them apart",
                blame="module",
            )

    def _members(self, members: Mapping[str, Json], path: str) -> dict[str, Json]:
        self._check_depth(path)
        redacted: dict[str, Json] = {}
        for name, value in members.items():
            mine = len(self.found)
            shown = self._string(name, path, "")
            inner = f"{path}/{shown.replace('~', '~0').replace('/', '~1')}"
            self.found[mine:] = [replace(one, path=inner) for one in self.found[mine:]]
            redacted[_free(shown, redacted)] = self.value(value, inner, name)
        return redacted

    def _string(self, text: str, path: str, name: str) -> str:
        result = self._redactor.one(text, self._needles, self._allowed, path)
        if not result.found and self._redactor.is_secret_member(name, text, self._allowed):
            result = Redacted(mark("secret.assigned"), (Found("secret.assigned", 0, len(text), path),))
        self._take(result)
        return str(result.value)

    def _number(self, number: int, path: str) -> Json:
        result = self._redactor.one(str(number), self._needles, self._allowed, path)
        self._take(result)
        return result.value if result.found else number

    def _take(self, result: Redacted) -> None:
        self.found += result.found
        self.canary = self.canary or result.canary


def _free(name: str, taken: Mapping[str, Json]) -> str:
    """The name, or with a number where two names became the same mark."""
    if name not in taken:
        return name
    return next(free for at in count(2) if (free := f"{name} ({at})") not in taken)
