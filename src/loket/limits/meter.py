"""The meter of a home: counts each call for all whose bounds hold for it, before it is performed and after.

A call is admitted for all of them or for none, under one lock: what it may use at most is held, and what it did use is
counted in its place when it is settled. A run makes one call at a time, so what its last call still holds when it asks
again, or ends, was refused behind the meter, and is given back then.

Sums are those of a day (UTC), read from the journal at the first call of the day, after a restart, and where the clock
is set to another day. Rates are counted in memory, and start anew with the process.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loket.contracts import Capability, Json, Principal, RunRequest, RunView, Usage
from loket.limits import words
from loket.limits.bounds import MB, Held, Holder, Table
from loket.limits.loops import refuse_loop
from loket.limits.sums import DAILY, Account, Sums, nano
from loket.store.usage import DAY_S, RunUse

_MEMO: Final = "limits"
_NOTE_S: Final = 60.0
_REMEMBERED: Final = 4096
"""Runs of which it is remembered who asked for them."""


def _no_roles(_principal: Principal) -> Collection[str]:
    return ()


def _no_note(_facts: Mapping[str, Json]) -> None:
    """Nobody keeps it."""


def _unknown(_capability: str, _tokens: int) -> float | None:
    return None


@dataclass(slots=True)
class _RunUse:
    """What an unfinished run has used, and what its call in flight holds."""

    accounts: tuple[Account, ...]
    bounded: tuple[Account, ...]
    """Those of them that have a bound for calls, or for a day."""
    direct: bool
    size: int
    most_size: tuple[int, Held] | None
    most_cpu: tuple[float, Held] | None
    cpu_ms: float = 0.0
    in_flight: Sums | None = None
    args: int = 0
    """Of those, the size of its arguments."""


class HomeMeter:
    """A `Meter` over the bounds of `[limits]`. Thread-safe.

    `used_on` says what runs used on a day (in days since 1970) by the journal; `principal_of` who asked for a run that
    began it all, None where nobody can read that any more; `cost_of` the most US dollars that a call of a capability
    with so many tokens can cost (None: nobody knows). `note` writes public facts of a refused run into the journal.

    What the owner does without an agent's module counts in the sums of tokens and money, and in nothing else.
    """

    def __init__(
        self,
        table: Table,
        *,
        used_on: Callable[[int], Iterable[RunUse]],
        principal_of: Callable[[str], Principal | None],
        now: Callable[[], float],
        repeats: int = 5,
        roles_of: Callable[[Principal], Collection[str]] = _no_roles,
        cost_of: Callable[[str, int], float | None] = _unknown,
        note: Callable[[Mapping[str, Json]], object] = _no_note,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._used_on = used_on
        self._principal_of = principal_of
        self._now = now
        self._repeats = repeats
        self._roles_of = roles_of
        self._cost_of = cost_of
        self._note = note
        self._monotonic = monotonic
        self._noted: dict[Holder, float] = {}
        self._lock = threading.RLock()
        self._accounts: dict[Holder, Account] = {}
        self._day = -1
        self._used: dict[Holder, Sums] = {}
        self._roots: OrderedDict[str, Principal] = OrderedDict()

    # Calls

    def begin(self, run: RunView, capability: str, args: str) -> None:
        """Look at a call before anything is done about it. Raises `RunEnded` (`limit.loop`, `limit.cpu`)."""
        use = self._of(run)
        if use.most_cpu is not None and use.cpu_ms > use.most_cpu[0]:
            raise words.ended(use.most_cpu[1], "run_cpu_s", use.cpu_ms / 1000)
        if run.history and run.history[-1].error is not None:
            refuse_loop(run.history, capability, args, self._repeats)

    def admit(self, run: RunView, capability: Capability, args: str, size: int, tokens: int) -> None:
        """Hold what a call may use: its arguments, its longest answer, and `tokens` of a model.

        `args` is canonical JSON as the module sent it, `size` its characters with references resolved. Raises
        `Refusal` that names the bound, `RunEnded` where it is the run's own.
        """
        use = self._of(run)
        size += bytes_of(args) - len(args)
        need = Sums(1, tokens, self._cost(capability.id, tokens), size + (capability.answer_kb << 10), 1)
        if use.direct:
            need = Sums(tokens=tokens, money=need.money)
        elif use.most_size is not None and use.size + need.size > use.most_size[0]:
            raise words.ended(use.most_size[1], "run_mb", (use.size + need.size) / MB)
        with self._lock:
            self._give_back(use)
            self._roll()
            windowed = self._monotonic() if not use.direct else None
            for account in use.bounded:
                self._check(account, need, windowed)
            for account in use.bounded:
                account.in_flight.add(need)
                if windowed is not None:
                    for _setting, _bound, window in account.windows:
                        window.add()
            use.in_flight, use.args = need, size

    def settle(self, run: RunView, usage: Usage, answer: str) -> None:
        """Count what the call in flight has used, in the place of what was held for it; before it is journaled."""
        use = self._of(run)
        with self._lock:
            self._give_back(use)
            self._roll()
            used = Sums() if use.direct else Sums(1, size=use.args + bytes_of(answer))
            use.args = 0
            if not usage.counted:
                used.tokens, used.money = usage.tokens, nano(usage.money)
            use.size += used.size
            self._count(use, used)

    def computed(self, run: RunView, cpu_ms: float) -> None:
        """Count what a segment of a run has computed; too much of it ends the run at its next call."""
        use = self._of(run)
        use.cpu_ms += cpu_ms
        with self._lock:
            self._roll()
            self._count(use, Sums(cpu_ms=math.ceil(cpu_ms)))

    def ended(self, run: RunView) -> Mapping[str, Json]:
        """A run is over: what it holds is given back. What its last row says of it, for the sums of the day."""
        use = self._of(run)
        with self._lock:
            self._give_back(use)
        return {"cpu_ms": round(use.cpu_ms, 3)} if use.cpu_ms else {}

    def _check(self, account: Account, need: Sums, windowed: float | None) -> None:
        """Raises `Refusal` where a call does not fit."""
        if windowed is not None:
            for setting, bound, window in account.windows:
                used = window.count(windowed)
                if used >= bound:
                    resets = self._now() + window.free_in(windowed, bound)
                    raise words.over(account.held, setting, used, 0, 1, resets)
        if account.daily:
            sums, flying = self._used.get(account.held.holder, _NOTHING), account.in_flight
            for name, most in account.daily:
                wanted = getattr(need, name)
                if wanted and getattr(sums, name) + getattr(flying, name) + wanted > most:
                    setting, unit = DAILY[name]
                    used, held, more = (getattr(part, name) / unit for part in (sums, flying, need))
                    raise words.over(account.held, setting, used, held, more, (self._day + 1) * DAY_S)

    def _count(self, use: _RunUse, used: Sums) -> None:
        for account in use.accounts:
            holder = account.held.holder
            sums = self._used.get(holder)
            if sums is None:
                sums = self._used[holder] = Sums()
            sums.add(used)

    @staticmethod
    def _give_back(use: _RunUse) -> None:
        if use.in_flight is not None:
            for account in use.bounded:
                account.in_flight.take(use.in_flight)
            use.in_flight = None

    def _cost(self, capability: str, tokens: int) -> int:
        """The most that a call can cost; where nobody knows, as little as there is, so that the bound is looked at."""
        if not tokens:
            return 0
        cost = self._cost_of(capability, tokens)
        return 1 if cost is None else nano(cost)

    def _roll(self) -> None:
        """Take the journal's word for what was used, where the day is another one than at the last call."""
        day = int(self._now() // DAY_S)
        if day == self._day:
            return
        used: dict[Holder, Sums] = {}
        for one in self._used_on(day):
            sums = Sums(one.calls, one.tokens, nano(one.money), one.size, math.ceil(one.cpu_ms))
            for held in self._holders(one.agent, self._root_principal(one.root)):
                used.setdefault(held.holder, Sums()).add(sums)
        self._used, self._day = used, day

    # Runs

    def accept(self, request: RunRequest, unfinished: Mapping[str, RunView]) -> None:
        """Look at a run before it is accepted. Raises `Refusal` (`limit.runs`) that says whose runs are too many."""
        if _direct(request):
            return
        for held in self._holders(request.agent, self._asker(request)):
            bound = held.bounds.runs
            if bound is None or len(unfinished) < bound:
                continue
            count = sum(self._belongs(run.request, held.holder) for run in unfinished.values())
            if count >= bound:
                self._note_once(held, request)
                raise words.over(held, "runs", count, 0, 1, None)

    def _note_once(self, held: Held, request: RunRequest) -> None:
        """A run that is not accepted has no rows: a note says it, at most one a minute and holder."""
        now = self._monotonic()
        if now - self._noted.get(held.holder, -math.inf) < _NOTE_S:
            return
        self._noted[held.holder] = now
        self._note(
            {
                "what": words.CODES["runs"],
                "holder": held.holder.kind,
                "bound": held.bounds.runs,
                "agent": request.agent,
                "principal": request.principal.public,
            }
        )

    @property
    def bounds_time(self) -> bool:
        """Whether the time of any run is bounded."""
        return self._table.wall

    def wall_of(self, request: RunRequest) -> tuple[float, Held] | None:
        """How many seconds a run may take from its start to its end, and who says so."""
        if _direct(request):
            return None
        return _least(self._holders(request.agent, self._asker(request)), "run_wall_s")

    def _belongs(self, request: RunRequest, holder: Holder) -> bool:
        """Whether a run counts for a holder."""
        if _direct(request):
            return False
        if holder.kind == "agent":
            return request.agent == holder.name
        if holder.kind == "principal":
            return str(self._asker(request)) == holder.name
        return holder.kind == "owner" or holder.name in self._roles_of(self._asker(request))

    def _of(self, run: RunView) -> _RunUse:
        """What is kept with a run; of one that an earlier process began, what its history shows."""
        use: _RunUse | None = run.memo.get(_MEMO)
        if use is None:
            held = self._holders(run.request.agent, self._asker(run.request))
            with self._lock:
                accounts = tuple(self._account(one) for one in held)
            size, cpu = _least(held, "run_mb"), _least(held, "run_cpu_s")
            use = run.memo[_MEMO] = _RunUse(
                accounts,
                tuple(account for account in accounts if account.daily or account.windows),
                _direct(run.request),
                sum(bytes_of(one.args) + bytes_of(one.answer or "") for one in run.history),
                (int(size[0] * MB), size[1]) if size is not None else None,
                (cpu[0] * 1000, cpu[1]) if cpu is not None else None,
            )
        return use

    def _account(self, held: Held) -> Account:
        account = self._accounts.get(held.holder)
        if account is None:
            account = self._accounts[held.holder] = Account.of(held)
        return account

    def _holders(self, agent: str, asker: Principal | None) -> tuple[Held, ...]:
        roles = self._roles_of(asker) if asker is not None and self._table.roles else ()
        return self._table.holders(agent, asker, roles)

    def _asker(self, request: RunRequest) -> Principal:
        """Who began it all: what agents ask of each other counts for whoever asked the first."""
        if request.root == request.id or not (self._table.principals or self._table.roles):
            return request.principal
        return self._root_principal(request.root) or request.principal

    def _root_principal(self, root: str) -> Principal | None:
        if not (self._table.principals or self._table.roles):
            return None
        with self._lock:
            known = self._roots.get(root) or self._principal_of(root)
            if known is not None:
                self._roots[root] = known
                if len(self._roots) > _REMEMBERED:
                    self._roots.popitem(last=False)
            return known

    # Showing

    def shown(self, agent: str | None, unfinished: Mapping[str, RunView]) -> list[dict[str, Any]]:
        """Every bound, of one agent or of all, with what is used of it now; and what is used without a bound.

        `holder`, `name`, `setting`, `bound` (None: there is none), `used`, `in_flight` (kept where a bound is;
        both None for the bounds of a single run), `resets` (seconds since 1970, or None), `table` (of config.toml);
        numbers in the setting's unit.
        """
        with self._lock:
            self._roll()
            return [
                row
                for held in self._known()
                if agent is None or held.holder.kind != "agent" or held.holder.name == agent
                for row in self._rows(self._account(held), unfinished)
            ]

    def _known(self) -> list[Held]:
        """Holders that the settings name, or that have used something today."""
        found = {held.holder: held for held in self._table.named()}
        for holder in self._used:
            found.setdefault(holder, self._table.of(holder))
        return sorted(found.values(), key=lambda held: (_ORDER.index(held.holder.kind), held.holder.name))

    def _rows(self, account: Account, unfinished: Mapping[str, RunView]) -> list[dict[str, Any]]:
        given, holder, rows = account.held.bounds.given(), account.held.holder, []
        monotonic, sums = self._monotonic(), self._used.get(holder, _NOTHING)
        for setting, bound, window in account.windows:
            free = self._now() + window.free_in(monotonic, bound) if window.count(monotonic) >= bound else None
            rows.append(_row(account.held, setting, window.count(monotonic), 0, free))
        for name, (setting, unit) in DAILY.items():
            used, flying = getattr(sums, name) / unit, getattr(account.in_flight, name) / unit
            rows.append(_row(account.held, setting, used, flying, (self._day + 1) * DAY_S))
        count = sum(self._belongs(run.request, holder) for run in unfinished.values())
        rows.append(_row(account.held, "runs", count, 0, None))
        singles = [one for one in ("run_wall_s", "run_cpu_s", "run_mb") if one in given]
        return rows + [_row(account.held, setting, None, None, None) for setting in singles]


_NOTHING: Final = Sums()
_ORDER: Final = ("owner", "agent", "principal", "role")


def _row(held: Held, setting: str, used: float | None, in_flight: float | None, resets: float | None) -> dict[str, Any]:
    return {
        "holder": held.holder.kind,
        "name": held.holder.name,
        "setting": setting,
        "bound": held.bounds.given().get(setting),
        "used": used,
        "in_flight": in_flight,
        "resets": resets,
        "table": held.table,
    }


def _least(held: Iterable[Held], setting: str) -> tuple[float, Held] | None:
    """The smallest bound of several holders, and whose it is."""
    found = [(one.bounds.given()[setting], one) for one in held if setting in one.bounds.given()]
    return min(found, key=lambda pair: pair[0], default=None)


def _direct(request: RunRequest) -> bool:
    """Whether the owner, or Loket itself, makes one call without a module."""
    return request.module is None and request.principal.kind in ("owner", "host")


def bytes_of(text: str) -> int:
    """The size of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
