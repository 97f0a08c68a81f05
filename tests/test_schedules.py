"""Tests of schedules: due times on a virtual clock, firings on a real store, and what a crash leaves of them."""

import asyncio
import base64
import contextlib
import datetime as dt
import itertools
import json
import re
import tempfile
import zoneinfo
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loket.contracts import BadInput, Call, Failed, Json, Principal, Refusal, Sender
from loket.providers.schedule import ScheduleProvider
from loket.schedules import Runner, Schedules, System, files, hooks, sign
from loket.schedules.times import Cron, Every, Once, checked, newest, times_of
from loket.store.schedules import Firing, Schedule, ScheduleStore

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
NOW = 1_795_000_000.0
"""2026-11-18T11:06:40Z."""


def at(text: str, zone: str = "UTC") -> float:
    """A local time of a zone in seconds since 1970 UTC."""
    return dt.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone)).timestamp()


def shown(times: list[float], zone: str) -> list[str]:
    return [dt.datetime.fromtimestamp(one, zoneinfo.ZoneInfo(zone)).isoformat() for one in times]


def following(times: Cron | Every | Once, start: float, count: int) -> list[float]:
    """So many due times after a start."""
    found: list[float] = []
    due: float | None = start
    while len(found) < count and (due := times.after(due)) is not None:
        found.append(due)
    return found


CHANGES = {
    BERLIN: ("2026-03-29", "2026-10-25", "+01:00", "+02:00"),
    NEW_YORK: ("2026-03-08", "2026-11-01", "-05:00", "-04:00"),
}
"""By zone: the days of 2026 on which clocks go on and back, and the offsets in winter and summer."""

HOUR_OF_CHANGE = {BERLIN: 2, NEW_YORK: 2}


@pytest.mark.parametrize("zone", CHANGES)
def test_a_time_that_clocks_skip_comes_an_hour_later_on_that_day(zone: str) -> None:
    """02:30 is 03:30 on the day on which there is no 02:30, and 02:30 on the days around it."""
    spring, _, winter, summer = CHANGES[zone]
    day = dt.date.fromisoformat(spring)
    before, after = day - dt.timedelta(1), day + dt.timedelta(1)
    found = following(Cron("30 2 * * *", zone), at(f"{before}T00:00", zone), 3)
    assert shown(found, zone) == [
        f"{before}T02:30:00{winter}",
        f"{spring}T03:30:00{summer}",
        f"{after}T02:30:00{summer}",
    ]


@pytest.mark.parametrize("zone", CHANGES)
def test_a_time_that_happens_twice_counts_the_first_time(zone: str) -> None:
    """In Berlin there are two 02:30 on the last Sunday of October, in New York two 01:30 on the first of November."""
    _, autumn, winter, summer = CHANGES[zone]
    hour = "02" if zone == BERLIN else "01"
    day = dt.date.fromisoformat(autumn)
    before, after = day - dt.timedelta(1), day + dt.timedelta(1)
    found = following(Cron(f"30 {hour} * * *", zone), at(f"{before}T00:00", zone), 3)
    assert shown(found, zone) == [
        f"{before}T{hour}:30:00{summer}",
        f"{autumn}T{hour}:30:00{summer}",
        f"{after}T{hour}:30:00{winter}",
    ]


@pytest.mark.parametrize("zone", CHANGES)
def test_half_past_two_comes_once_on_the_day_when_clocks_go_back(zone: str) -> None:
    """02:30 comes once in New York too, where it is the hour after the doubled one."""
    _, autumn, _, _ = CHANGES[zone]
    start = at(f"{autumn}T00:00", zone)
    assert len([due for due in following(Cron("30 2 * * *", zone), start, 3) if due < start + 25 * 3600]) == 1


@pytest.mark.parametrize("zone", CHANGES)
def test_an_expression_for_every_hour_goes_on_through_the_changes(zone: str) -> None:
    """Each quarter of an hour is a quarter of an hour, on a day of 23 hours and on one of 25."""
    spring, autumn, _, _ = CHANGES[zone]
    for day in (spring, autumn):
        found = following(Cron("*/15 * * * *", zone), at(f"{day}T00:00", zone), 110)
        assert {b - a for a, b in itertools.pairwise(found)} == {900.0}


@pytest.mark.parametrize("zone", CHANGES)
def test_an_interval_knows_no_change_of_clocks(zone: str) -> None:
    """A day is 86,400 seconds, whatever the clocks on the wall say."""
    spring, autumn, _, _ = CHANGES[zone]
    for day in (spring, autumn):
        start = at(f"{day}T00:00", zone) - 86_400
        found = following(Every(86_400, int(start)), start, 4)
        assert found == [start + 86_400 * n for n in range(1, 5)]


def test_a_zone_that_skipped_a_day_runs_once_for_it() -> None:
    """Samoa had no 30 December 2011: the run of that day falls together with that of the next."""
    found = following(Cron("0 8 * * *", "Pacific/Apia"), at("2011-12-29T00:00", "Pacific/Apia"), 3)
    assert [text[:16] for text in shown(found, "Pacific/Apia")] == [
        "2011-12-29T08:00",
        "2011-12-31T08:00",
        "2012-01-01T08:00",
    ]


def field(low: int, high: int, *others: str) -> st.SearchStrategy[str]:
    """A field of a cron expression: a star, something special, a number or a list."""
    numbers = st.lists(st.integers(low, high), min_size=1, max_size=3).map(lambda found: ",".join(map(str, found)))
    return st.one_of(st.just("*"), *map(st.just, others), numbers)


EXPRESSIONS = st.builds(
    "{} {} {} * {}".format, field(0, 59, "*/7"), field(0, 4, "*/2"), field(1, 31), field(0, 6, "sun", "mon-fri")
)
ZONES = st.sampled_from([BERLIN, NEW_YORK, "Australia/Lord_Howe", "Asia/Kolkata", "UTC"])
CHANGED = st.sampled_from([at(day, zone) for zone, days in CHANGES.items() for day in days[:2]])
AROUND = st.builds(lambda day, more: day + more, CHANGED, st.integers(-100_000, 100_000).map(float))
TIMES = st.one_of(
    st.builds(Cron, EXPRESSIONS, ZONES),
    st.builds(Every, st.integers(1, 200_000), st.integers(0, 2_000_000_000)),
    st.builds(Once, AROUND),
)


@settings(max_examples=150, deadline=None)
@given(TIMES, AROUND, st.integers(1, 12))
def test_due_times_strictly_increase(times: Cron | Every | Once, start: float, count: int) -> None:
    """The next time is later than the one before, around changes of clocks too."""
    found = [start, *following(times, start, count)]
    assert all(earlier < later for earlier, later in itertools.pairwise(found))


@settings(max_examples=150, deadline=None)
@given(TIMES, AROUND, st.lists(st.integers(0, 9_000), min_size=1, max_size=12))
def test_whoever_looks_at_any_moments_sees_every_due_time_once(
    times: Cron | Every | Once, start: float, steps: list[int]
) -> None:
    """Looking now and then, at whatever moments, finds the same times as going from one to the next."""
    now, seen = start, []
    due = times.after(start)
    for step in steps:
        now += step
        while due is not None and due <= now:
            seen.append(due)
            due = times.after(due)
        assert due is None or times.after(now) == due
    if seen:
        assert newest(times, seen[0], now, 100) == seen[-100:]


@pytest.mark.parametrize(
    ("trigger", "code"),
    [
        ({}, "schedule.when"),
        ({"cron": "* * * * *", "every_s": 5}, "schedule.when"),
        ({"cron": "R * * * *"}, "schedule.cron"),
        ({"cron": "* * * * * *"}, "schedule.cron"),
        ({"cron": "61 * * * *"}, "schedule.cron"),
        ({"cron": "@reboot"}, "schedule.cron"),
        ({"cron": "0 0 30 2 *"}, "schedule.never"),
        ({"cron": "0 8 * * *", "timezone": "Mars/Olympus"}, "schedule.timezone"),
        ({"cron": "0 8 * * *", "timezone": "../../etc/passwd"}, "schedule.timezone"),
        ({"every_s": 0}, "schedule.seconds"),
        ({"every_s": True}, "schedule.seconds"),
        ({"every_s": float("inf")}, "schedule.seconds"),
        ({"idle_s": float("nan")}, "schedule.seconds"),
        ({"at": "9999-12-31T23:59:59-23:00"}, "schedule.at"),
        ({"at": "9999-12-31T23:59:59Z", "timezone": "Pacific/Auckland"}, "schedule.at"),
        ({"at": "tomorrow"}, "schedule.at"),
        ({"at": "2020-01-01T00:00:00Z"}, "schedule.past"),
        ({"file": "../other"}, "schedule.file"),
        ({"webhook": False}, "schedule.when"),
        ({"every_s": 5, "timezone": "UTC"}, "schedule.when"),
    ],
)
def test_a_trigger_that_means_nothing_is_refused(trigger: dict[str, object], code: str) -> None:
    """What could not be kept to is an error when it is said, with an example of what can."""
    with pytest.raises(BadInput) as refused:
        checked(trigger, NOW, "UTC")
    assert refused.value.code == code
    assert refused.value.remedy


def test_a_time_without_an_offset_is_of_the_zone_that_is_named() -> None:
    """Eight o'clock in Berlin in winter is seven o'clock UTC."""
    kept = checked({"at": "2026-12-01T08:00", "timezone": BERLIN}, NOW, "UTC")
    assert times_of(kept, 0) == Once(at("2026-12-01T07:00"))


# Firings


class Clock:
    """A virtual clock: what the wall shows, and the time that has passed."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.passed = 0.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.passed

    def on(self, seconds: float) -> None:
        self.now += seconds
        self.passed += seconds


class Killed(BaseException):
    """The process ends here."""


class Rows:
    """Secrets and an agents' store without rows."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    def put(self, name: str, value: str) -> None:
        self.values[name] = value

    def names(self) -> list[str]:
        return sorted(self.values)

    def delete(self, name: str) -> bool:
        return self.values.pop(name, None) is not None


class Machine:
    """A home with schedules whose process can be killed and started again; runs are accepted once for a message."""

    def __init__(self, home: Path, clock: Clock | None = None) -> None:
        self.home = home
        self.clock = clock or Clock()
        self.vault = Rows()
        self.runs: dict[str, dict[str, Any]] = {}
        """By message id: the accepted runs, in order."""
        self.kill: str | None = None
        """Where the process ends: `before` or `after` a run was accepted."""
        self.refused: Failed | None = None
        self.backups: list[Path] = []
        self.agents = ["main"]
        self.written: dict[str, files.Written] = {}
        self.start()

    def start(self) -> None:
        self.store = ScheduleStore(self.home / "schedules.db")
        self.table = Schedules(
            self.store,
            self.vault,
            folder=self.home / "files",
            home=self.home,
            now=self.clock,
            zone=lambda: "UTC",
        )
        self.runner = Runner(self.table, self._system(), self.clock, self.clock.monotonic)

    def restart(self) -> None:
        """As after `kill -9`: nothing is told to what was there."""
        self.kill = None
        self.store.close()
        self.start()

    def _system(self) -> System:
        return System(
            send=self.send,
            act=self.act,
            ending=lambda run: next((one for one in self.runs.values() if one["id"] == run), None),
            unfinished=lambda: {one["id"] for one in self.runs.values() if one["ended"] is None},
            recent=lambda agent: [
                (one["id"], one["accepted"], one["ended"]) for one in self.runs.values() if one["agent"] == agent
            ],
            take=self.take,
            seal=lambda: b"s" * 32,
            installed=lambda: self.agents,
            stores=self,  # type: ignore[arg-type] - it answers the one question that is asked
            folder=self.home / "files",
        )

    @contextlib.contextmanager
    def open(self, _agent: str, _limit_s: float | None = None) -> Iterator["Machine"]:
        yield self

    def execute(self, _sql: str) -> "Machine":
        return self

    def fetchall(self) -> list[tuple[Any, ...]]:
        return [(path, *(one.look or (None, None)), json.dumps(one.labels), "[]") for path, one in self.written.items()]

    async def send(
        self,
        agent: str,
        text: str,
        *,
        conversation: str = "main",
        message: str | None = None,
        sender: Sender | None = None,
    ) -> str:
        assert message is not None
        return self.accept(agent, message, {"text": text, "conversation": conversation, "sender": sender})

    async def act(self, agent: str, name: str, args: Mapping[str, Json], conversation: str, message: str) -> str:
        return self.accept(agent, message, {"call": name, "args": args, "conversation": conversation})

    def accept(self, agent: str, message: str, facts: dict[str, Any]) -> str:
        if self.refused is not None:
            raise self.refused
        if self.kill == "before":
            raise Killed
        if message not in self.runs:
            run = {"id": f"run{len(self.runs)}", "agent": agent, "accepted": self.clock(), "ended": None}
            self.runs[message] = {**run, "status": "done", "error": None, **facts}
        if self.kill == "after":
            raise Killed
        return str(self.runs[message]["id"])

    def take(self, target: Path, _what: Mapping[str, Json]) -> Mapping[str, Any]:
        self.backups.append(target)
        return {}

    def turn(self) -> float:
        return asyncio.run(self.runner.turn())

    def end_runs(self) -> None:
        for run in self.runs.values():
            run["ended"] = run["ended"] or self.clock()

    def on(self, seconds: float, *, ends: bool = True) -> list[dict[str, Any]]:
        """Let time pass, take a turn, have all runs end; what was accepted meanwhile."""
        before = len(self.runs)
        self.clock.on(seconds)
        self.turn()
        if ends:
            self.end_runs()
            self.turn()
        return list(self.runs.values())[before:]

    def add(self, trigger: Mapping[str, Json], text: str = "What is new?", **more: Any) -> Schedule:
        return self.table.add("main", what={"text": text}, trigger=trigger, **more)

    def last(self, schedule: Schedule) -> Firing:
        found = self.table.last(schedule)
        assert found is not None
        return found

    def due_keys(self) -> list[float]:
        """The due times of the accepted runs, in the order in which they were accepted."""
        return [float(message.rpartition(":")[2]) for message in self.runs if ":at:" in message]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.store.close()


def test_a_schedule_comes_due_once_for_each_of_its_times(machine: Machine) -> None:
    """Each minute one run, however often anybody looks."""
    machine.add({"cron": "* * * * *"})
    for _ in range(30):
        machine.on(10)
    assert machine.due_keys() == [NOW + 20 + 60 * n for n in range(5)]


def test_the_timer_goes_to_the_next_due_time(machine: Machine) -> None:
    """Nothing is looked at each second: the turn says when to come again, a minute later at most."""
    machine.add({"every_s": 25})
    assert machine.turn() == pytest.approx(25)
    machine.add({"every_s": 7_200})
    machine.clock.on(25)
    assert machine.turn() == pytest.approx(25)
    for one in machine.store.all():
        machine.table.remove(one.id)
    assert machine.turn() == pytest.approx(60)


def test_turns_that_come_late_make_no_times_late(machine: Machine) -> None:
    """Times stay on the grid that began when the schedule was made."""
    schedule = machine.add({"every_s": 10})
    for delay in (10.4, 10.9, 12.1, 9.8):
        machine.on(delay)
    assert machine.due_keys() == [schedule.anchor + 10 * n for n in range(1, 5)]


@pytest.mark.parametrize(("missed", "runs"), [("once", 1), ("skip", 0), ("all", 24)])
def test_what_was_missed_is_made_up_for_by_the_rule(machine: Machine, missed: str, runs: int) -> None:
    """After a night without Loket: one run for all hours, none, or one for each, in their order."""
    schedule = machine.add({"every_s": 3_600}, missed=missed, most=100)
    machine.clock.on(24 * 3_600 + 300)
    machine.restart()
    machine.turn()
    assert len(machine.runs) == runs
    assert machine.due_keys() == sorted(machine.due_keys())
    machine.end_runs()
    machine.on(3_300)
    assert machine.due_keys()[-1] == schedule.anchor + 25 * 3_600
    assert len(machine.runs) == runs + 1


def test_of_many_missed_times_the_last_hundred_count(machine: Machine) -> None:
    """A month without Loket starts a hundred runs, and not forty thousand; they come one after the other."""
    schedule = machine.add({"cron": "* * * * *"}, missed="all")
    machine.clock.on(30 * 86_400)
    machine.restart()
    for _ in range(150):
        machine.on(0)
    assert len(machine.runs) == 100
    last = schedule.next + 60 * ((machine.clock() - schedule.next) // 60) if schedule.next else 0
    assert machine.due_keys() == [last - 60 * n for n in reversed(range(100))]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("missed", ["once", "skip", "all"])
def test_a_process_that_is_killed_around_a_firing_has_done_it_once(machine: Machine, when: str, missed: str) -> None:
    """Killed before or after the run is accepted, and started again later: one run for that time, by every rule."""
    schedule = machine.add({"every_s": 600}, missed=missed, most=10)
    machine.kill = when
    machine.clock.on(600)
    with pytest.raises(Killed):
        machine.turn()
    machine.restart()
    machine.on(500)
    assert machine.due_keys() == [schedule.anchor + 600]
    machine.on(100)
    assert machine.due_keys() == [schedule.anchor + 600, schedule.anchor + 1_200]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(["", "", "before", "after", "restart", "back"])), max_size=25
    ),
    st.sampled_from([{"every_s": 60}, {"cron": "*/2 * * * *"}, {"cron": "30 2 * * *"}]),
)
def test_whatever_happens_every_due_time_runs_once(steps: list[tuple[int, str]], trigger: dict[str, Json]) -> None:
    """Kills around firings, restarts and small jumps back of the clock: each due time has one run, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(at("2026-10-25T00:00"))
        machine = Machine(Path(folder), clock)
        schedule = machine.add(trigger, missed="all", most=100)
        latest = clock.now
        for seconds, event in steps:
            machine.kill = event if event in ("before", "after") else None
            clock.on(-seconds if event == "back" else seconds)
            latest = max(latest, clock.now)
            with contextlib.suppress(Killed):
                machine.turn()
            machine.end_runs()
            if event not in ("", "back"):
                machine.restart()
        machine.kill = None
        clock.now = latest
        machine.turn()
        times = times_of(schedule.trigger, schedule.anchor)
        assert times is not None
        wanted = following_until(times, schedule.made, latest)
        assert sorted(machine.due_keys()) == wanted
        machine.store.close()


def following_until(times: Any, start: float, end: float) -> list[float]:
    found, due = [], times.after(start)
    while due is not None and due <= end:
        found.append(due)
        due = times.after(due)
    return found


def test_a_clock_that_is_set_back_a_little_repeats_nothing(machine: Machine) -> None:
    """An hour that comes twice on the wall has its runs once."""
    machine.add({"every_s": 600})
    machine.on(1_800)
    seen = len(machine.runs)
    machine.clock.now -= 3_600
    for _ in range(6):
        machine.on(600)
    assert len(machine.runs) == seen
    machine.on(600)
    assert len(machine.runs) == seen + 1


def test_a_clock_that_was_wrong_by_years_does_not_stop_a_schedule_for_years(machine: Machine) -> None:
    """Once it is put right, the next time is the next one of today."""
    schedule = machine.add({"cron": "0 * * * *"})
    machine.clock.now += 12 * 365 * 86_400
    machine.on(0)
    machine.clock.now = NOW + 60
    machine.turn()
    again = machine.store.find(schedule.id)
    assert again is not None
    assert again.next == at("2026-11-18T12:00")


def test_a_paused_schedule_comes_to_nothing_and_goes_on_from_now(machine: Machine) -> None:
    """What was due while it was paused is not made up for."""
    schedule = machine.add({"every_s": 60}, missed="all", most=100)
    machine.table.pause(schedule.id, paused=True)
    assert machine.on(3_600) == []
    machine.table.pause(schedule.id, paused=False)
    assert machine.on(0) == []
    assert len(machine.on(60)) == 1


def test_a_schedule_has_at_most_so_many_unfinished_runs(machine: Machine) -> None:
    """With one at a time, `once` waits with one for all that came meanwhile, `skip` lets them go, `all` has each."""
    made = {rule: machine.add({"every_s": 60}, rule, missed=rule) for rule in ("once", "skip", "all")}
    for _ in range(5):
        machine.on(60, ends=False)
    assert sorted(run["text"] for run in machine.runs.values()) == ["all", "once", "skip"]
    for _ in range(8):
        machine.end_runs()
        machine.turn()
    counts = {rule: sum(run["text"] == rule for run in machine.runs.values()) for rule in made}
    assert counts == {"once": 2, "skip": 1, "all": 5}


def test_what_is_to_happen_once_happens_once_and_stays_over(machine: Machine) -> None:
    """Pausing it and letting it go on, and a clock that goes back, do not bring it again."""
    schedule = machine.add({"at": dt.datetime.fromtimestamp(NOW + 100, dt.UTC).isoformat()})
    assert len(machine.on(200)) == 1
    machine.table.pause(schedule.id, paused=True)
    machine.table.pause(schedule.id, paused=False)
    machine.clock.now -= 86_400
    machine.turn()
    assert machine.on(2 * 86_400) == []


def test_a_run_that_cannot_be_started_is_the_schedules_result(machine: Machine) -> None:
    """Why it failed stands there, and the next time comes as ever."""
    schedule = machine.add({"every_s": 60})
    machine.refused = Failed("agent.unknown", "there is no agent main", "loket agents")
    machine.on(60)
    last = machine.last(schedule)
    assert last.result is not None
    assert (last.state, last.result["code"]) == ("done", "agent.unknown")
    machine.refused = None
    assert len(machine.on(60)) == 1


def test_how_a_run_ended_stands_on_its_schedule(machine: Machine) -> None:
    """Status and error of the last run, and no word of its answer."""
    schedule = machine.add({"every_s": 60})
    machine.on(60, ends=False)
    assert machine.last(schedule).state == "sent"
    run = next(iter(machine.runs.values()))
    run |= {"status": "failed", "error": {"code": "run.limit", "message": "no"}, "answer": {"text": "a secret"}}
    machine.end_runs()
    machine.turn()
    assert machine.last(schedule).result == {"status": "failed", "code": "run.limit", "message": "no"}


# Whose words


def test_the_owners_text_is_the_owners_words_and_an_agents_is_nobodys(machine: Machine) -> None:
    """An agent's schedule brings the labels that it was made with; approved, it speaks for the owner and keeps them."""
    machine.add({"every_s": 60}, "pay ana@example.org")
    made = machine.table.create(_call("schedule.create", {"text": "pay eve@example.org", "when": {"every_s": 60}}))
    own, others = (run["sender"] for run in sorted(machine.on(60), key=lambda run: str(run["text"])))
    assert (own.words, own.labels) == ("pay ana@example.org", ("owner",))
    assert (others.words, others.labels) == ("", ("agent:main", "host:example.org", "owner"))
    machine.table.approve(made["id"])
    approved = next(run["sender"] for run in machine.on(60) if "eve" in run["text"])
    assert (approved.words, approved.labels) == ("pay eve@example.org", ("agent:main", "host:example.org", "owner"))


def _call(name: str, args: dict[str, Json], ordinal: int = 1, agent: str = "main", **more: Any) -> Call:
    labels = more.pop("labels", ("host:example.org", "owner"))
    who = more.pop("principal", Principal("agent", agent))
    return Call("run-of-agent", ordinal, agent, "main", who, name, args, labels, **more)


def test_a_call_that_is_made_again_after_a_crash_makes_one_schedule(machine: Machine) -> None:
    """The answer is the one of the first time."""
    call = _call("schedule.create", {"text": "hello", "when": {"every_s": 60}})
    assert machine.table.create(call) == machine.table.create(call)
    assert len(machine.store.all()) == 1


def test_an_agent_changes_only_what_it_made(machine: Machine) -> None:
    """Neither the owner's schedules nor those of others."""
    owners = machine.add({"every_s": 60})
    mine = machine.table.create(_call("schedule.create", {"text": "hello", "when": {"every_s": 60}}))
    for identity, agent, code in (
        (owners.id, "main", "schedule.owner"),
        (mine["id"], "other", "schedule.unknown"),
        ("0" * 10, "main", "schedule.unknown"),
    ):
        with pytest.raises(Refusal) as refused:
            machine.table.remove_by(_call("schedule.remove", {"id": identity}, 2, agent))
        assert refused.value.code == code
    paused = machine.table.pause_by(_call("schedule.pause", {"id": mine["id"]}, 3))
    assert paused == {"id": mine["id"], "paused": True, "next": None} or paused["paused"]
    assert machine.table.remove_by(_call("schedule.remove", {"id": mine["id"]}, 4))["text"] == "hello"
    assert [one.id for one in machine.store.all()] == [owners.id]


@pytest.mark.parametrize(
    ("when", "code"),
    [({"webhook": True}, "schedule.owner"), ({"every_s": 5}, "schedule.often"), ({"cron": "x"}, "schedule.cron")],
)
def test_an_agent_gets_no_webhooks_and_no_rapid_fire(machine: Machine, when: dict[str, Json], code: str) -> None:
    """What only an owner may make is refused, as is what means nothing."""
    with pytest.raises(Refusal) as refused:
        machine.table.create(_call("schedule.create", {"text": "hello", "when": when}))
    assert refused.value.code == code


def test_erasing_a_run_takes_the_schedule_that_it_made(machine: Machine) -> None:
    """And nothing of the owner's."""
    owners = machine.add({"every_s": 60})
    made = machine.table.create(_call("schedule.create", {"text": "a private thing", "when": {"every_s": 60}}))
    assert machine.store.erase("main", ["run-of-agent"]) == [made["id"]]
    assert [one.id for one in machine.store.all()] == [owners.id]
    assert b"a private thing" not in (machine.home / "schedules.db").read_bytes()
    assert b"a private thing" not in (machine.home / "schedules.db-wal").read_bytes()


def test_the_schedules_of_a_removed_agent_go_with_it(machine: Machine) -> None:
    """Their secrets too; backups belong to no agent."""
    hook = machine.add({"webhook": True})
    machine.table.secret(hook.id)
    kept = machine.table.add("", what={"backup": {"folder": "/backups"}}, trigger={"every_s": 86_400})
    assert machine.table.keep_agents(["other"]) == [hook.id]
    assert [one.id for one in machine.store.all()] == [kept.id]
    assert machine.vault.names() == []


# Quiet agents


def test_an_idle_agent_is_woken_once_until_it_does_something_again(machine: Machine) -> None:
    """Its own waking counts for nothing; a message of the owner begins a new quiet time."""
    machine.add({"idle_s": 600})
    machine.on(300)
    machine.accept("main", "owner:1", {"text": "hello", "conversation": "main"})
    machine.end_runs()
    assert machine.on(400) == []
    assert [run["text"] for run in machine.on(300)] == ["What is new?"]
    for _ in range(5):
        assert machine.on(600) == []
    machine.accept("main", "owner:2", {"text": "again", "conversation": "main"})
    assert machine.on(900, ends=False) == []
    machine.end_runs()
    machine.restart()
    assert len(machine.on(600)) == 1


# Watched folders


def write(machine: Machine, name: str, text: str) -> None:
    path = machine.home / "files" / "main" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_new_file_wakes_once_it_is_quiet(machine: Machine) -> None:
    """What was there before, what has another name and what is still being written wakes nobody."""
    write(machine, "inbox/old.txt", "old")
    machine.add({"file": "inbox/*.txt"})
    write(machine, "inbox/new.txt", "half")
    write(machine, "inbox/.hidden.txt", "x")
    write(machine, "other.txt", "x")
    assert machine.on(2) == []
    write(machine, "inbox/new.txt", "whole now")
    assert machine.on(2) == []
    (run,) = machine.on(2)
    assert run["sender"].arguments["payload"] == {"files": [{"path": "inbox/new.txt", "size": 9}]}
    assert run["sender"].words == "What is new?"
    assert "inbox/new.txt" in run["text"]
    assert machine.on(2) == machine.on(2) == []


_NAME = st.sampled_from(["a", "b", "ab"])
_PART = st.sampled_from(["a", "b", "*", "?", "a*", "**"])


@given(st.lists(_NAME, min_size=1, max_size=4), st.lists(_PART, min_size=1, max_size=5))
def test_a_pattern_fits_what_its_expression_fits(path: list[str], pattern: list[str]) -> None:
    """Parts stay within a name, and `**` stands for any folders: the same as a regular expression says."""
    told = {"**": "(?:[^/]+/)*", "*": "[^/]*/", "?": "[^/]/", "a*": "a[^/]*/", "a": "a/", "b": "b/"}
    expected = re.fullmatch("".join(told[part] for part in pattern), "/".join(path) + "/") is not None
    assert bool(files.matching({"/".join(path): (1, 1)}, "/".join(pattern))) is expected


def test_a_pattern_of_many_folders_is_soon_gone_through() -> None:
    """As long as an agent may write one, over paths as deep as are looked at; by trying all ways it would not end."""
    deep = {f"{'a/' * 16}{number}": (1, 1) for number in range(50)}
    assert files.matching(deep, "/".join(["**"] * 66)) == deep
    assert files.matching(deep, "/".join(["**", "a"] * 33) + "/x") == {}


def test_a_file_that_was_only_touched_wakes_nobody(machine: Machine) -> None:
    """Contents count, not times."""
    machine.add({"file": "*"})
    write(machine, "list.txt", "milk")
    machine.on(2)
    assert len(machine.on(2)) == 1
    write(machine, "list.txt", "milk")
    assert machine.on(2) == machine.on(2) == []
    write(machine, "list.txt", "bread")
    machine.on(2)
    assert len(machine.on(2)) == 1


def test_what_an_agent_wrote_itself_does_not_wake_it(machine: Machine) -> None:
    """Else it would wake itself for ever. Once somebody changed the file, it does, with the labels that it had."""
    machine.add({"file": "*"})
    write(machine, "notes.md", "mine")
    looks = (machine.home / "files/main/notes.md").stat()
    machine.written["notes.md"] = files.Written((looks.st_size, looks.st_mtime_ns), ("host:example.org",))
    assert machine.on(2) == machine.on(2) == []
    write(machine, "notes.md", "changed by the owner")
    machine.on(2)
    (run,) = machine.on(2)
    assert run["sender"].labels == ("host:example.org", "owner")


@pytest.mark.parametrize(("missed", "told"), [("once", 1), ("skip", 0)])
def test_files_that_came_while_loket_was_away_are_told_by_the_rule(machine: Machine, missed: str, told: int) -> None:
    """All of them in one run, or none."""
    machine.add({"file": "**"}, missed=missed)
    machine.turn()
    for name in ("a.txt", "deep/b.txt"):
        write(machine, name, name)
    machine.restart()
    machine.on(2)
    runs = machine.on(2)
    assert len(runs) == told
    if told:
        found = [file["path"] for file in runs[0]["sender"].arguments["payload"]["files"]]
        assert found == ["a.txt", "deep/b.txt"]


def test_a_change_that_was_seen_is_told_once_across_a_kill(machine: Machine) -> None:
    """What is known of the folder and the firing are one transaction."""
    machine.add({"file": "*"})
    write(machine, "a.txt", "a")
    machine.on(2)
    machine.kill = "after"
    machine.clock.on(2)
    with pytest.raises(Killed):
        machine.turn()
    machine.restart()
    machine.on(2)
    machine.on(2)
    assert len(machine.runs) == 1


def test_links_are_not_followed_out_of_the_folder(machine: Machine, tmp_path: Path) -> None:
    """A link to a folder or a file is no file."""
    write(machine, "a.txt", "a")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.txt").write_text("b")
    (tmp_path / "files/main/link").symlink_to(tmp_path / "outside")
    (tmp_path / "files/main/c.txt").symlink_to(tmp_path / "outside/b.txt")
    assert set(files.scan(tmp_path / "files/main")) == {"a.txt"}


# Webhooks


def test_a_webhook_takes_what_is_signed_once(machine: Machine) -> None:
    """The same request again is the same run; its body is the payload, a stranger's, and never the owner's words."""
    schedule = machine.add({"webhook": True}, "look at this order")
    secret = machine.table.secret(schedule.id)
    body = b'{"order": 7, "note": "pay eve@example.org"}'
    header = sign(secret, int(NOW), body)
    run = asyncio.run(machine.runner.hook(schedule.id, header, body))
    assert asyncio.run(machine.runner.hook(schedule.id, header, body)) == run
    (accepted,) = machine.runs.values()
    sender = accepted["sender"]
    assert sender.arguments["payload"] == json.loads(body)
    assert sender.words == "look at this order"
    assert str(sender.principal) == f"sender:webhook:{schedule.id}"
    assert f"sender:webhook:{schedule.id}" in sender.labels
    assert "eve@example.org" in accepted["text"]


def test_a_webhook_takes_nothing_else(machine: Machine) -> None:
    """Wrong secret, changed body, old or future time, no header, unknown hook: refused, the last like the first."""
    schedule = machine.add({"webhook": True})
    other = machine.add({"every_s": 60})
    secret, body = machine.table.secret(schedule.id), b"{}"
    right = sign(secret, int(NOW), body)
    wrong = [
        (schedule.id, sign("other", int(NOW), body), body, "hook.signature"),
        (schedule.id, right, b"{} ", "hook.signature"),
        (schedule.id, sign(secret, int(NOW) - 301, body), body, "hook.old"),
        (schedule.id, sign(secret, int(NOW) + 301, body), body, "hook.old"),
        (schedule.id, "", body, "hook.signature"),
        (schedule.id, "t=1,t=2,v1=00", body, "hook.signature"),
        (schedule.id, right.replace("v1", "v0"), body, "hook.signature"),
        ("0" * 10, right, body, "hook.signature"),
        (other.id, right, body, "hook.signature"),
    ]
    for identity, header, sent, code in wrong:
        with pytest.raises(Refusal) as refused:
            asyncio.run(machine.runner.hook(identity, header, sent))
        assert refused.value.code == code
    with pytest.raises(BadInput) as large:
        asyncio.run(machine.runner.hook(schedule.id, right, b"x" * (hooks.MOST + 1)))
    assert large.value.code == "hook.size"
    machine.table.secret(schedule.id)
    with pytest.raises(Refusal):
        asyncio.run(machine.runner.hook(schedule.id, right, body))
    assert machine.runs == {}


def test_a_webhook_that_is_flooded_says_so(machine: Machine) -> None:
    """As many unfinished runs as the schedule allows; then the sender has to come again."""
    schedule = machine.add({"webhook": True}, most=2)
    secret = machine.table.secret(schedule.id)
    bodies = [b"1", b"2", b"3"]
    for body in bodies[:2]:
        asyncio.run(machine.runner.hook(schedule.id, sign(secret, int(NOW), body), body))
    with pytest.raises(Refusal) as busy:
        asyncio.run(machine.runner.hook(schedule.id, sign(secret, int(NOW), bodies[2]), bodies[2]))
    assert busy.value.code == "schedule.busy"
    machine.end_runs()
    asyncio.run(machine.runner.hook(schedule.id, sign(secret, int(NOW), bodies[2]), bodies[2]))
    assert len(machine.runs) == 3


@given(st.binary(max_size=200) | st.sampled_from([b"1e999", b'{"a": [-1e999]}', b"NaN"]))
def test_any_body_is_a_value(body: bytes) -> None:
    """JSON, a text, or bytes in base64: what a module gets can be written as JSON."""
    value = hooks.payload_of(body)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    if isinstance(value, dict) and set(value) == {"base64"}:
        with contextlib.suppress(UnicodeDecodeError):
            assert body.decode()
            return
        assert base64.b64decode(value["base64"]) == body


# Sleeping


def test_a_sleep_that_is_interrupted_sleeps_what_is_left(machine: Machine) -> None:
    """The time to wake is kept; whoever makes the call again after it has come waits no more."""
    clock, slept = machine.clock, []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.on(seconds)
        if len(slept) == 2:
            raise Killed

    async def perform(provider: ScheduleProvider) -> Any:
        return (await provider.sleep(_call("clock.sleep", {"seconds": 150}))).value["until"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", sleep)
        with pytest.raises(Killed):
            asyncio.run(perform(ScheduleProvider(machine.table, machine.store, clock, clock.monotonic)))
        machine.restart()
        clock.on(10)
        until = asyncio.run(perform(ScheduleProvider(machine.table, machine.store, clock, clock.monotonic)))
    assert slept == [60, 60, 20]
    assert dt.datetime.fromisoformat(until).timestamp() == NOW + 150


def test_a_sleep_until_a_time_that_is_too_far_is_refused(machine: Machine) -> None:
    """Thirty days; beyond that a schedule is the way."""
    provider = ScheduleProvider(machine.table, machine.store, machine.clock)
    call = _call("clock.sleep", {"until": "2027-11-18T11:06:40+00:00"})
    with pytest.raises(Refusal) as refused:
        asyncio.run(provider.sleep(call))
    assert refused.value.code == "clock.long"
