"""Errors become lessons: what was refused or failed in a run is remembered, with its cause and its remedy.

After a run of a module ends, each refusal and failure in it becomes a memory of the kind `lesson` in the agent's own
brain, about the capability. The same thing (capability, code, and what it was about) is one lesson, which counts:
a new occurrence supersedes the old row, so nothing is deleted. It goes through the counter as a run of Loket itself
(`host:lessons`) whose parent is the run that failed, so erasing that run erases its lessons; and it carries that run's
labels, because an error may quote what the run had read.

It never delays an answer: the work is done behind it, one run after the other. A crash loses nothing, because a failed
run without such a child is found at the next start. Runs without a module (the owner's own calls, and these) teach
nothing, so there are no loops.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from loket.contracts import (
    Capability,
    Ending,
    Grant,
    Labels,
    LoketError,
    Principal,
    Recorded,
    Row,
    RowKind,
    RunRequest,
    from_dict,
    join_labels,
)
from loket.kernel.journal import Journal
from loket.kernel.state import RunState, recorded_from
from loket.lesson_words import Lesson, Told, advice, allows, lessons_of, resolved_by, rule_line, told
from loket.store.kernel import request_of
from loket.store.proposals import Proposals

HOST = Principal("host", "lessons")

OVERLAP_S = 60.0
"""A run's end is written before anyone hears of it; ends of so many seconds are looked at again after a start."""

RECURRING = 3
"""Occurrences of lessons with one capability and code from which they are consolidated."""

_SETTLE_S = 30.0
"""Seconds that an erasure waits for what is being drawn from runs: it takes milliseconds where nothing is wrong."""

_ALL = 200
"""Memories that one search answers at most."""

_TAUGHT = f'"source":"{HOST}"'

Perform = Callable[[RunRequest], Awaitable[Ending]]
"""Submits a run and waits for its end."""


class Lessons:
    """Draws lessons from runs, and consolidates them when their agent is idle. Used on the event loop.

    `rows` gives the journal's rows of a run, `unlearned` the failed runs of modules that ended since a time and have
    no lesson, `unfinished` the unfinished runs, `is_erased` whether a run was erased. `capability` raises `LoketError`
    for an unknown one. `secrets` gives the values that no lesson may hold. With `idle_s`, an agent without a run for so
    many seconds is consolidated.
    """

    def __init__(
        self,
        *,
        perform: Perform,
        journal: Journal,
        unlearned: Callable[[float], Sequence[str]],
        unfinished: Callable[[], Mapping[str, RunState]],
        is_erased: Callable[[str], bool],
        capability: Callable[[str], Capability],
        secrets: Callable[[], Iterable[str]],
        proposals: Proposals,
        new_id: Callable[[float], str],
        now: Callable[[], float],
        idle_s: float | None = None,
    ) -> None:
        self._perform = perform
        self._journal = journal
        self._unlearned = unlearned
        self._unfinished = unfinished
        self._is_erased = is_erased
        self._drawing: set[object] = set()
        """One for each thing that is being drawn from runs at this moment."""
        self._drawn = threading.Condition()
        self._capability = capability
        self._secrets = secrets
        self._proposals = proposals
        self._new_id = new_id
        self._now = now
        self._idle_s = idle_s
        self._todo: deque[str | Grant] = deque()
        self._work: asyncio.Task[None] | None = None
        self._idle: asyncio.Task[None] | None = None
        self._heard: set[str] = set()
        """Runs that teach something: whatever says so twice, they teach once."""
        self._last: dict[str, float] = {}
        """When an agent's last run ended."""
        self._started = False
        self._stuck = False
        """Whether a lesson could not be written: the next start looks for it again."""

    async def start(self) -> None:
        """Find the runs that a crash kept from teaching. After unfinished runs have begun to go on."""
        since = await asyncio.to_thread(self._proposals.drawn)
        found = await asyncio.to_thread(self._unlearned, since)
        self._todo.extend(run for run in found if run not in self._heard)
        self._heard.update(found)
        self._started = True
        self._wake()
        if self._idle_s is not None:
            self._idle = asyncio.create_task(self._look_after(self._idle_s), name="lessons-idle")

    def ended(self, run: RunState, ending: Ending) -> None:
        """The engine's word that a run has ended; on the event loop, after its answer was given."""
        if run.request.module is None:
            return
        self._last[run.request.agent] = ending.at
        name = run.request.id
        if name in self._heard:
            return
        if ending.error is not None or any(call.error is not None for call in run.history) or _resolves(run.history):
            self._heard.add(name)
            self._todo.append(name)
            self._wake()

    def allowed(self, grant: Grant) -> None:
        """The owner has granted something: lessons that it settles are superseded. On the event loop."""
        self._todo.append(grant)
        self._wake()

    async def settled(self) -> None:
        """Wait until every run that has ended has taught what it had to."""
        while self._work is not None and not self._work.done():
            await asyncio.wait([self._work])

    def settle(self) -> None:
        """Wait until all that is being drawn from runs at this moment is written, at most half a minute.

        For an erasure, in a thread of its own, after it has destroyed keys: what is drawn later sees that.
        """
        with self._drawn:
            begun = set(self._drawing)
            self._drawn.wait_for(lambda: not begun & self._drawing, _SETTLE_S if _in_thread() else 0.0)

    @contextlib.contextmanager
    def _draws(self) -> Iterator[None]:
        """What is done in here reads runs and writes what it made of them; an erasure of these runs waits for it."""
        mark = object()
        with self._drawn:
            self._drawing.add(mark)
        try:
            yield
        finally:
            with self._drawn:
                self._drawing.remove(mark)
                self._drawn.notify_all()

    async def close(self) -> None:
        """Finish what is begun, and keep for the next start what cannot be finished."""
        if self._idle is not None:
            self._idle.cancel()
            await asyncio.gather(self._idle, return_exceptions=True)
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)
        elif self._started:
            await self._mark()

    def _wake(self) -> None:
        if self._todo and (self._work is None or self._work.done()):
            self._work = asyncio.create_task(self._draw(), name="lessons")

    async def _draw(self) -> None:
        while self._todo:
            thing = self._todo.popleft()
            try:
                with self._draws():
                    await (self._learn(thing) if isinstance(thing, str) else self._settle(thing))
            except LoketError:
                self._stuck = True
            if self._started and isinstance(thing, str):
                self._heard.discard(thing)
        await self._mark()

    async def _mark(self) -> None:
        """Note how far lessons are drawn, where that is known: not before the start, nor where one is missing."""
        if self._started and not self._stuck and not self._todo:
            await asyncio.to_thread(self._proposals.draw, self._now() - OVERLAP_S)

    # From a run

    async def _learn(self, run: str) -> None:
        rows = await asyncio.to_thread(lambda: list(self._journal.rows(run)))
        if not rows or any(row.erased for row in rows):
            return
        found, settled, labels = await asyncio.to_thread(self._read, rows)
        request = request_of(rows[0])[0]
        items = [await self._item(request.agent, lesson) for lesson in found]
        items += [_settled(memory, "it worked again since") for memory in settled]
        if items:
            await self._add(request.agent, items, labels, parent=request)
            await asyncio.to_thread(self._proposals.set_due, request.agent, due=True)

    def _read(self, rows: Sequence[Row]) -> tuple[list[Lesson], list[Told], Labels]:
        """What a run teaches, the lessons that it found to hold no longer, and what its errors may quote."""
        history, _opened, end = recorded_from(rows)
        request = request_of(rows[0])[0]
        secrets = [secret for secret in self._secrets() if secret]
        found = lessons_of(request.operation, history, end.error if end else None, self._known, secrets)
        failed = {(lesson.subject, lesson.key) for lesson in found}
        settled = [one for one in resolved_by(history, str(HOST), self._known) if (one.subject, one.key) not in failed]
        return found, settled, end.labels if end else ()

    def _known(self, name: str) -> Capability | None:
        with contextlib.suppress(LoketError):
            return self._capability(name)
        return None

    async def _item(self, agent: str, lesson: Lesson) -> dict[str, Any]:
        """The memory that a lesson makes, with the occurrences before it counted."""
        _run, held, _labels = await self._about(agent, lesson.subject)
        known = {memory.key: memory for memory in held}
        before = known.get(lesson.key)
        summary = getattr(self._known(lesson.subject), "summary", None)
        return {
            "text": lesson.text((before.seen if before else 0) + lesson.times, self._now()),
            "kind": "lesson",
            "subject": lesson.subject,
            "key": lesson.key,
            **({"gist": summary} if summary else {}),
        }

    async def _about(self, agent: str, subject: str) -> tuple[RunRequest, list[Told], Labels]:
        """The lessons about a capability that Loket has drawn and that hold, as `_search` answers them."""
        return await self._search(agent, {"subject": subject, "kinds": ["lesson"]})

    async def _settle(self, grant: Grant) -> None:
        """Supersede the lessons that a grant makes obsolete, so that the agent tries again."""
        run, held, labels = await self._about(grant.module, grant.capability)
        capability = self._known(grant.capability)
        items = [
            _settled(memory, "the owner has allowed it since")
            for memory in held
            if allows(grant.constraints, memory, capability)
        ]
        if items:
            await self._add(grant.module, items, labels, parent=run)

    # When idle

    async def _look_after(self, idle_s: float) -> None:
        while True:
            await asyncio.sleep(idle_s)
            for agent in await asyncio.to_thread(self._proposals.due):
                if self._is_idle(agent, idle_s):
                    with contextlib.suppress(LoketError):
                        await self.consolidate(agent)
            if self._work is None or self._work.done():
                await self._mark()

    def _is_idle(self, agent: str, idle_s: float) -> bool:
        busy = {state.request.agent for state in self._unfinished().values()}
        return agent not in busy and self._now() - self._last.get(agent, 0.0) >= idle_s

    async def consolidate(self, agent: str) -> dict[str, Any]:
        """Make one `procedure` of each group of recurring lessons, and propose rules.

        Answers `procedures` (ids of the new memories) and `proposed` (how many proposals are new or changed). The
        lessons stay as they are, and each procedure cites them by id.
        """
        with self._draws():
            return await self._consolidate(agent)

    async def _consolidate(self, agent: str) -> dict[str, Any]:
        await asyncio.to_thread(self._proposals.set_due, agent, due=False)
        run, memories, labels = await self._search(agent, {"kinds": ["lesson", "procedure"]})
        held = {(one.subject, one.key): one.text for one in memories if one.kind == "procedure"}
        groups = list(_recurring(memories))
        items = [item for item in map(advice, groups) if held.get((item["subject"], item["key"])) != item["text"]]
        ids = await self._add(agent, items, labels, parent=run) if items else []
        proposed = [await asyncio.to_thread(self._propose, agent, group) for group in groups]
        return {"procedures": ids, "proposed": sum(proposed)}

    def _propose(self, agent: str, group: Sequence[Told]) -> bool:
        """Propose a rule where something is refused again and again; what merely fails may work tomorrow."""
        if not group[0].refused or any(self._is_erased(one.run) for one in group):
            return False
        ids, runs = [one.id for one in group], {one.run for one in group}
        topic = f"{group[0].subject} {group[0].code}"
        return self._proposals.propose(agent, topic, rule_line(group), ids, runs, self._now())

    def decide(self, identity: int, *, accept: bool) -> dict[str, Any]:
        """The owner's decision on a proposal, or another one than before; journaled first. Raises `BadInput`."""
        proposal = self._proposals.one(identity)
        facts = {
            "what": "proposal.accept" if accept else "proposal.reject",
            "principal": "owner",
            "agent": proposal["agent"],
            "proposal": identity,
        }
        self._journal.append("", 0, RowKind.NOTE, facts, "{}")
        self._journal.sync()
        self._proposals.decide(identity, accept=accept, at=self._now())
        return self._proposals.one(identity)

    # Through the counter

    async def _search(self, agent: str, args: dict[str, Any]) -> tuple[RunRequest, list[Told], Labels]:
        """Lessons and procedures of Loket's own: the run that read them, what it found, and the labels of that."""
        request = self._request(agent, "brain.search", {"query": "", "limit": _ALL, **args}, (), None)
        ending = await self._done(request)
        memories = (ending.answer or {})["memories"]
        return request, [told(one) for one in memories if one["source"] == str(HOST)], ending.labels

    async def _add(
        self, agent: str, items: Sequence[Mapping[str, Any]], labels: Labels, parent: RunRequest
    ) -> list[int]:
        """Store memories that were drawn from a run; nothing where that run has been erased meanwhile."""
        if await asyncio.to_thread(self._is_erased, parent.id):
            return []
        ending = await self._done(self._request(agent, "brain.add", {"items": list(items)}, labels, parent))
        return list((ending.answer or {})["ids"])

    async def _done(self, request: RunRequest) -> Ending:
        """Have a run of our own done. Raises the error that it ended with."""
        ending = await self._perform(request)
        if ending.answer is None:
            raise from_dict(ending.error or {"code": "lessons.run", "message": "the run gave no answer"})
        return ending

    def _request(
        self, agent: str, operation: str, args: dict[str, Any], labels: Labels, parent: RunRequest | None
    ) -> RunRequest:
        now = self._now()
        run = self._new_id(now)
        return RunRequest(
            id=run,
            root=parent.root if parent else run,
            agent=agent,
            principal=HOST,
            module=None,
            conversation="",
            operation=operation,
            args=args,
            labels=join_labels((str(HOST),), labels),
            accepted=now,
            parent=parent.id if parent else None,
        )


def _in_thread() -> bool:
    """Whether this thread runs no event loop: one that does would wait for itself."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        return False
    return True


def _resolves(history: Sequence[Recorded]) -> bool:
    """Whether a run may have done with success what a lesson that it recalled warns of. For every run, so quick."""
    worked = [call for call in history if call.answer is not None]
    shown = [call.answer or "" for call in worked if call.capability == "brain.search"]
    taught = [answer for answer in shown if _TAUGHT in answer]
    return bool(taught) and any(f'"subject":"{call.capability}"' in answer for answer in taught for call in worked)


def _settled(memory: Told, why: str) -> dict[str, Any]:
    """What takes the place of a lesson that holds no longer: no lesson, so it stops nobody."""
    what = f" for {memory.what}" if memory.what else ""
    text = f"{memory.subject}{what} may be tried: {why}."
    return {"text": text, "kind": "episode", "subject": memory.subject, "key": memory.key}


def _recurring(memories: Iterable[Told]) -> Iterator[list[Told]]:
    """Lessons by capability and code, where they occurred often enough."""
    groups: dict[tuple[str, str], list[Told]] = {}
    for memory in sorted(memories, key=lambda one: one.id):
        if memory.kind == "lesson":
            groups.setdefault((memory.subject, memory.code), []).append(memory)
    yield from (group for group in groups.values() if sum(one.seen for one in group) >= RECURRING)
