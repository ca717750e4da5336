"""A made-up user base at work: events of many sessions, in the order they happen, as bytes, the same for a seed.

Of every twenty events nine change the context, seven are steps, two dispatch a task and two are results. A task depends
on its session's conversation and on one day of the calendar, as they stand when it is dispatched; both change now and
then, while most of the context (views, documents) is nothing any task depends on. A few tasks write to their day
themselves, some steps read it again. So part of the results come back stale, and most do not.

Bodies are put together by hand, about 240 bytes each: models would take longer than the gate does.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final, NamedTuple

from aiokafka.partitioner import murmur2

from schemas.fields import Lane
from schemas.topics import Role

DAYS: Final = 3
SLOTS: Final = "DCSCSCSCRCSDCSCSCSCR"
"""Context, step, dispatch, result: 45 %, 35 %, 10 %, 10 %."""

_VIEWS: Final = ("calendar/week", "calendar/day", "inbox", "search", "settings", "report/quarter")
_TASK_TYPES: Final = ("flight_search", "summary", "reschedule", "draft_reply")
_TOOLS: Final = ("calendar.read", "flights.search", "mail.search", "llm.chat")


class Record(NamedTuple):
    """One event: where it belongs, and its bytes. `task_id` is None for context events."""

    role: Role
    partition: int
    key: bytes
    value: bytes
    task_id: str | None


class Task(NamedTuple):
    """A dispatched task: its session's number, its id and the day it depends on."""

    session: int
    task_id: str
    day: int


def partition_of(key: bytes, partitions: int) -> int:
    """The partition every producer of the contract must choose: murmur2 of the session id."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class Workload:
    """An endless source of events; `records` continues where the last call ended.

    `open_tasks` is how many tasks run at a time: about two events of a session fall into one task's time by default.
    `slots` is the order of kinds, over and over, `lane` the lane of every task.
    """

    def __init__(
        self,
        *,
        sessions: int,
        partitions: int,
        seed: int = 1,
        name: str = "bench",
        open_tasks: int | None = None,
        slots: str = SLOTS,
        lane: Lane = "hot",
    ) -> None:
        self.session_ids = [f"{name}/{seed:x}/user-{number:06d}" for number in range(sessions)]
        self.keys = [session_id.encode() for session_id in self.session_ids]
        self.partitions = [partition_of(key, partitions) for key in self.keys]
        self.open_tasks = max(1, sessions // 5) if open_tasks is None else open_tasks
        self.results = 0
        self.dispatches = 0
        self._slots = slots
        self._steps_role: Role = "steps" if lane == "hot" else "steps.cold"
        self._results_role: Role = "results" if lane == "hot" else "results.cold"
        self._lane = "" if lane == "hot" else f'"lane":"{lane}",'
        self._random = Random(seed)
        self._id = f"{seed & 0xFFFFFFFF:08x}-7a1d-4c3e-9b52-"
        self._number = 0
        self._days: list[list[int]] = [[0] * DAYS for _ in range(sessions)]
        self._conversations = [0] * sessions
        self._tasks: list[Task] = []
        self._oldest = 0

    @property
    def running(self) -> int:
        """Tasks dispatched whose result has not come."""
        return len(self._tasks) - self._oldest

    def records(self, count: int, *, finish: bool = True) -> Iterator[Record]:
        """`count` events. With `finish` the last of them are the results of every task still running."""
        emitted, slot = 0, 0
        while emitted < count:
            running = self.running
            if finish and count - emitted <= running:
                yield self._result()
                emitted += 1
                continue
            kind = self._slots[slot % len(self._slots)]
            slot += 1
            if kind == "C":
                yield self._context()
            elif kind == "S" and running:
                yield self._step()
            elif kind in {"D", "S"}:
                yield self._dispatch()
            elif running > self.open_tasks:
                yield self._result()
            else:
                continue  # comes at the end: there are as many results as dispatches
            emitted += 1

    def opening(self) -> Iterator[Record]:
        """One context event per session that sets what tasks depend on, so that no facet is unknown."""
        for session in range(len(self.keys)):
            facets = ",".join(f'"calendar/{day}":"{_version(0)}"' for day in range(DAYS))
            body = f'"set":{{"conversation":"{_conversation(0)}",{facets}}}'
            yield self._record("context", session, f'{{"type":"context.changed","source":"web",{body},', None)

    def _context(self) -> Record:
        random = self._random
        session = int(random.random() * len(self.keys))
        draw = random.random()
        cause = ""
        if draw < 0.42:
            view = _VIEWS[int(random.random() * len(_VIEWS))]
            facet, value = "view/tab-1", f"{view}?at={self._number:08x}"
        elif draw < 0.88:
            facet, value = f"doc/{int(random.random() * 3)}", f"sha256:{self._number:08x}{random.getrandbits(64):016x}"
        elif draw < 0.90:
            facet, value = "presence/tab-1", "present"
        elif draw < 0.92:
            self._conversations[session] += 1
            facet, value = "conversation", _conversation(self._conversations[session])
        else:
            day = int(random.random() * DAYS)
            if draw > 0.98 and self.running:
                task = self._any_task()
                session, day = task.session, task.day
                cause = f'"cause":{{"task_id":"{task.task_id}"}},'
            self._days[session][day] += 1
            facet, value = f"calendar/{day}", _version(self._days[session][day])
        body = f'{{"type":"context.changed","source":"web","set":{{"{facet}":"{value}"}},{cause}'
        return self._record("context", session, body, None)

    def _dispatch(self) -> Record:
        random = self._random
        session, day = int(random.random() * len(self.keys)), int(random.random() * DAYS)
        task = Task(session, f"task-{self._number:08x}", day)
        self._tasks.append(task)
        self.dispatches += 1
        kind = _TASK_TYPES[int(random.random() * len(_TASK_TYPES))]
        conversation, version = _conversation(self._conversations[session]), _version(self._days[session][day])
        annotate = '"on_stale":"annotate",' if random.random() < 0.1 else ""
        body = (
            f'{{"type":"task.dispatched","source":"planner","task_id":"{task.task_id}","task_type":"{kind}",'
            f'"snapshot":{{"conversation":"{conversation}","calendar/{day}":"{version}"}},{annotate}{self._lane}'
        )
        return self._record(self._steps_role, session, body, task.task_id)

    def _step(self) -> Record:
        task, draw = self._any_task(), self._random.random()
        number = int(draw * 4)
        reads = ""
        if draw > 0.9:
            version = _version(self._days[task.session][task.day])
            reads = f'"reads":{{"calendar/{task.day}":"{version}"}},'
        body = (
            f'{{"type":"task.step","source":"agent","task_id":"{task.task_id}","step_id":"{number}","kind":"tool_call",'
            f'"name":"{_TOOLS[number]}","status":"completed",{reads}'
        )
        return self._record(self._steps_role, task.session, body, task.task_id)

    def _result(self) -> Record:
        task = self._tasks[self._oldest]
        self._oldest += 1
        self.results += 1
        if self._oldest > 100_000:
            del self._tasks[: self._oldest]
            self._oldest = 0
        outcome = "failed" if self._random.random() < 0.03 else "completed"
        body = (
            f'{{"type":"task.result","source":"agent","task_id":"{task.task_id}","outcome":"{outcome}",'
            f'"parts":[{{"part_id":"answer","kind":"show",'
            f'"payload":{{"text":"The answer, number {self._number:08d}."}}}}],'
        )
        return self._record(self._results_role, task.session, body, task.task_id)

    def _any_task(self) -> Task:
        return self._tasks[self._oldest + int(self._random.random() * self.running)]

    def _record(self, role: Role, session: int, body: str, task_id: str | None) -> Record:
        number = self._number
        self._number += 1
        second = number // 1000
        value = (
            f'{body}"event_id":"{self._id}{number:012x}","session_id":"{self.session_ids[session]}",'
            f'"occurred_at":"2025-06-02T{second // 3600 % 24:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"}}'
        ).encode()
        return Record(role, self.partitions[session], self.keys[session], value, task_id)


def _version(number: int) -> str:
    return f"etag-{number:06x}"


def _conversation(number: int) -> str:
    return f"conv-{number:06x}"
