"""The table of schedules: made, listed, paused and removed, by the owner and by agents for themselves.

Whose words a schedule says is settled when it is made. What the owner typed is the owner's words in each of its runs.
What an agent wrote keeps the labels that it was made with, and names nothing for the owner, unless the owner approved
exactly that call, or says so later (`approve`).
"""

import contextlib
import datetime as dt
import secrets
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from loket.contracts import OWNER, BadInput, Call, Json, Labels, Refusal, Secrets, command, join_labels
from loket.schedules import backups, files
from loket.schedules.times import checked, machine_zone, times_of
from loket.store.schedules import Firing, Known, Schedule, ScheduleStore

RULES = ("once", "skip", "all")
"""What is done about due times that were missed: one run for all of them, none, or one for each (the last hundred)."""

MOST = 100
"""Schedules that an agent may make for itself."""
MOST_RUNS = 100
"""Unfinished runs of one schedule, at most."""
LEAST_S = 60
"""Seconds of the shortest interval, and of the shortest idle time, that an agent may choose."""

_LONGEST_TEXT = 20_000
_OWNERS: Labels = (str(OWNER),)


class Vault(Secrets, Protocol):
    """Secrets that can be removed."""

    def delete(self, name: str) -> bool: ...


class Schedules:
    """Makes and changes schedules. Thread-safe.

    `folder` holds the agents' folders, `home` is no place for backups. `approved` says whether the owner approved a
    call (run and number). `now` gives seconds since 1970 UTC, `zone` the name of this machine's time zone.
    """

    def __init__(
        self,
        store: ScheduleStore,
        vault: Vault,
        *,
        folder: Path,
        home: Path,
        now: Callable[[], float],
        approved: Callable[[str, int], bool] = lambda _run, _ordinal: False,
        zone: Callable[[], str] = machine_zone,
    ) -> None:
        self.store = store
        self._vault = vault
        self._folder = folder
        self._home = home
        self._now = now
        self._approved = approved
        self._zone = zone
        self.changed: Callable[[], None] = _unheard
        """Called, on any thread, when the next due time may be another one."""

    # By calls

    def create(self, call: Call) -> dict[str, Any]:
        """Make a schedule by a call: `id`, `next` (ISO 8601 or None). Raises `Refusal`."""
        with _as_refusal():
            made = self.store.once(call.run, call.ordinal, lambda: self._made(call))
        self.changed()
        return made

    def _made(self, call: Call) -> dict[str, Any]:
        owners = _is_owners(call)
        by = str(OWNER) if owners else f"agent:{call.agent}"
        labels = _OWNERS if owners else join_labels(call.labels_of(), (f"agent:{call.agent}",))
        if not owners:
            self._refuse_more(call)
        made = self.add(
            call.agent,
            what={"text": call.args["text"]},
            trigger=call.args["when"],
            conversation=call.args.get("conversation", "main"),
            missed=call.args.get("missed", "once"),
            most=call.args.get("most", 1),
            by=by,
            run="" if owners else call.run,
            labels=labels,
            approved=owners or self._approved(call.run, call.ordinal),
        )
        return {"id": made.id, "next": iso(made.next)}

    def _refuse_more(self, call: Call) -> None:
        """Raises `Refusal` for what only an owner may make."""
        when = call.args["when"]
        own = [one for one in self.store.all(call.agent) if one.by != str(OWNER)]
        if len(own) >= MOST:
            raise Refusal("schedule.many", f"{call.agent} has made {len(own)} schedules", "schedule.remove some first")
        if "webhook" in when:
            remedy = command("schedule", "add", call.agent, "TEXT", "--webhook")
            raise Refusal("schedule.owner", "a webhook has a secret, which only the owner can hand out", remedy)
        short = [name for name in ("every_s", "idle_s") if name in when and when[name] < LEAST_S]
        if short:
            remedy = f'{{"{short[0]}": {LEAST_S}}}'
            raise Refusal("schedule.often", f"{short[0]} is less than {LEAST_S} seconds", remedy)

    def listed(self, call: Call) -> tuple[list[dict[str, Any]], Labels]:
        """The schedules of the call's agent, and where their texts came from."""
        found = self.store.all(call.agent)
        seen = [seen_by_module(one, self.last(one)) for one in found]
        return seen, join_labels((), *(one.labels for one in found))

    def pause_by(self, call: Call) -> dict[str, Any]:
        """Pause a schedule by a call, or let it go on. Raises `Refusal`."""
        paused = bool(call.args.get("paused", True))

        def change() -> dict[str, Any]:
            one = self.pause(self._own(call).id, paused=paused)
            return {"id": one.id, "paused": one.paused, "next": iso(one.next)}

        with _as_refusal():
            return self.store.once(call.run, call.ordinal, change)

    def remove_by(self, call: Call) -> dict[str, Any]:
        """Remove a schedule by a call. Raises `Refusal`."""

        def change() -> dict[str, Any]:
            one = self._own(call)
            self.remove(one.id)
            return {"id": one.id, "text": one.what.get("text", "")}

        with _as_refusal():
            return self.store.once(call.run, call.ordinal, change)

    def _own(self, call: Call) -> Schedule:
        """The schedule that a call names. Raises `Refusal` for one that is none of the caller's to change."""
        one = self.store.find(call.args["id"])
        if one is None or one.agent != call.agent:
            raise Refusal("schedule.unknown", f"{call.agent} has no schedule {call.args['id'][:80]!r}", "schedule.list")
        if not _is_owners(call) and one.by == str(OWNER):
            raise Refusal(
                "schedule.owner",
                f"the owner made the schedule {one.id}, and only the owner changes it",
                command("schedule", "pause", one.id),
            )
        return one

    # By the owner, or for somebody

    def add(
        self,
        agent: str,
        *,
        what: Mapping[str, Json],
        trigger: Mapping[str, Json],
        conversation: str = "main",
        missed: str = "once",
        most: int = 1,
        by: str = str(OWNER),
        run: str = "",
        labels: Labels = _OWNERS,
        approved: bool = True,
    ) -> Schedule:
        """Make a schedule. `what` is `{"text"}`, `{"call", "args"}` or `{"backup": {...}}`. Raises `BadInput`."""
        now = self._now()
        when = checked(trigger, now, self._zone())
        _check(conversation, missed, most)
        anchor = float(int(now))
        times = times_of(when, anchor)
        one = Schedule(
            id=secrets.token_hex(5),
            agent=agent,
            by=by,
            run=run,
            what=self._what(agent, what),
            trigger=when,
            conversation=conversation,
            missed=missed,
            most=most,
            labels=labels,
            approved=approved,
            paused=False,
            made=now,
            anchor=anchor,
            next=times.after(now) if times is not None else None,
            reckoned=now,
        )
        self.store.add(one, self._there(one))
        self.changed()
        return one

    def _what(self, agent: str, what: Mapping[str, Json]) -> dict[str, Json]:
        if "backup" in what:
            return {"backup": backups.checked(what["backup"], self._home)}
        if "call" in what:
            return {"call": str(what["call"]), "args": dict(what.get("args") or {})}
        text = what.get("text")
        if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST_TEXT or not agent:
            raise BadInput(
                "schedule.text",
                f"a schedule says something to an agent, in at most {_LONGEST_TEXT:,} characters",
                'loket schedule add main "What is new?" --every 1h',
            )
        return {"text": text}

    def _there(self, one: Schedule) -> dict[str, Known] | None:
        return files.baseline(self._folder / one.agent, one.trigger["file"]) if "file" in one.trigger else None

    def pause(self, identity: str, *, paused: bool) -> Schedule:
        """Pause a schedule, or let it go on: then from its next time on, what was due meanwhile is not made up for.

        What changed in a watched folder meanwhile is not told either. Raises `BadInput` for an unknown one.
        """
        one, now = self.store.one(identity), self._now()
        if one.paused and not paused and (there := self._there(one)) is not None:
            gone = dict.fromkeys(self.store.files(one.id).keys() - there.keys())
            self.store.note_files(one.id, {**gone, **there})
        times = times_of(one.trigger, one.anchor)
        over = one.next is None or times is None  # what happens once and is over stays over
        following = None if over or times is None else times.after(now)
        self.store.pause(one.id, paused=paused, following=following, now=now)
        self.changed()
        return self.store.one(one.id)

    def approve(self, identity: str) -> Schedule:
        """The owner's word that an agent's schedule says what the owner wants. Raises `BadInput`."""
        one = self.store.one(identity)
        self.store.approve(one.id)
        return self.store.one(one.id)

    def remove(self, identity: str) -> Schedule:
        """Remove a schedule with its secret. Raises `BadInput` for an unknown one."""
        one = self.store.one(identity)
        self.store.remove(one.id)
        self._vault.delete(secret_name(one.id))
        self.changed()
        return one

    def keep_agents(self, agents: Collection[str]) -> list[str]:
        """Remove the schedules of all other agents than these: theirs were removed. The schedules' ids."""
        return self.remove_agents({one.agent for one in self.store.all()} - {"", *agents})

    def remove_agents(self, agents: Collection[str]) -> list[str]:
        """Remove the schedules of these agents, with their secrets; their ids."""
        removed = self.store.remove_agents(agents)
        for identity in removed:
            self._vault.delete(secret_name(identity))
        if removed:
            self.changed()
        return removed

    def secret(self, identity: str) -> str:
        """Make a new secret for a webhook, in the place of the one before. Raises `BadInput`."""
        one = self.store.one(identity)
        if "webhook" not in one.trigger:
            raise BadInput("schedule.secret", f"the schedule {one.id} has no webhook", "loket schedule list")
        fresh = secrets.token_hex(32)
        self._vault.put(secret_name(one.id), fresh)
        return fresh

    def secret_of(self, identity: str) -> str | None:
        return self._vault.get(secret_name(identity))

    def last(self, one: Schedule) -> Firing | None:
        """The newest firing of a schedule that was not dropped."""
        return next((firing for firing in self.store.firings(one.id) if firing.state != "dropped"), None)


def _is_owners(call: Call) -> bool:
    """Whether the owner makes a call, with nothing in it that came from elsewhere (a plan's steps may carry that)."""
    return call.principal == OWNER and set(call.labels_of()) <= {str(OWNER)}


def secret_name(identity: str) -> str:
    """Where the vault has the secret of a webhook."""
    return f"schedule-{identity}"


def _check(conversation: str, missed: str, most: int) -> None:
    if missed not in RULES:
        raise BadInput("schedule.missed", f"there is no rule {missed[:80]!r} for missed times", ", ".join(RULES))
    if not 1 <= most <= MOST_RUNS:
        raise BadInput("schedule.most", f"{most} runs at a time are not from 1 to {MOST_RUNS}", "1")
    if not conversation.isprintable() or not 0 < len(conversation) <= 200:  # noqa: PLR2004 - as messages have it
        raise BadInput("arguments.conversation", "the conversation's name is empty, too long, or no line", "main")


@contextlib.contextmanager
def _as_refusal() -> Any:
    """What is wrong with a call's arguments is told to the module that made it."""
    try:
        yield
    except BadInput as error:
        raise Refusal(error.code, error.message, error.remedy) from None


def iso(at: float | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    return None if at is None else dt.datetime.fromtimestamp(at, dt.UTC).isoformat()


def seen_by_module(one: Schedule, last: Firing | None) -> dict[str, Any]:
    """A schedule as modules see it: `id`, `text`, `when`, `next`, `paused`, `by`, `last`."""
    return {
        "id": one.id,
        "text": one.what.get("text", ""),
        "when": {name: value for name, value in one.trigger.items() if name != "at_s"},
        "conversation": one.conversation,
        "missed": one.missed,
        "paused": one.paused,
        "by": one.by,
        "next": iso(one.next),
        "last": {"at": iso(last.at), "status": status_of(last)} if last is not None else None,
    }


def shown(one: Schedule, last: Firing | None) -> dict[str, Any]:
    """A schedule as the owner sees it; times in seconds since 1970 UTC."""
    return {
        "id": one.id,
        "agent": one.agent,
        "by": one.by,
        "what": dict(one.what),
        "when": dict(one.trigger),
        "conversation": one.conversation,
        "missed": one.missed,
        "most": one.most,
        "labels": list(one.labels),
        "approved": one.approved,
        "paused": one.paused,
        "made": one.made,
        "next": None if one.paused else one.next,
        "last": fired(last) if last is not None else None,
    }


def fired(one: Firing) -> dict[str, Any]:
    """A firing as the owner sees it."""
    times = {"due": one.due, "at": one.at, "ended": one.ended}
    return {**times, "run": one.run, "status": status_of(one), "result": dict(one.result or {})}


def status_of(one: Firing) -> str:
    """How a firing stands, in a word: that of its run where there is one that has ended."""
    return str((one.result or {}).get("status", one.state))


def _unheard() -> None:
    """Nobody waits."""
