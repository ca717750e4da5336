"""The gate in memory: one partition, fed as the engine feeds it, under a clock that the case sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from projections.changes import Changes
from projections.decode import Batch
from projections.log_position import LogPosition
from projections.merge import LogQueue, next_run
from projections.partition import Partition
from projections.rules import Rules
from schemas.topics import Role
from tests.scenarios.case import EVENT_SECONDS, RULES, Away, Case, Later, Moment, Together, moments
from tests.scenarios.events import session_of, value_of
from tests.scenarios.told import Told, lines_of

MAX_TIMERS: Final = 100
BEGAN: Final = datetime(2025, 6, 2, 12, tzinfo=UTC)


@dataclass(slots=True)
class Run:
    """What came of a case. `changelog` is what a restart would find; `told_after` the lines told up to each step."""

    told: list[Told] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    duplicates: Counter[str] = field(default_factory=Counter)
    changelog: dict[bytes, bytes] = field(default_factory=dict)
    told_after: list[int] = field(default_factory=list)


def run(case: Case, *, lane: str = "hot", restarts: bool = False, rules: Rules = RULES) -> Run:
    """Run a case. `restarts`: after every step the partition is taken over anew, from its changelog."""
    gate = _Gate(case, lane, rules)
    ahead = moments(case)
    for step in case.steps:
        if isinstance(step, Away | Together):
            gate.away(step.steps if isinstance(step, Away) else step.events, ahead)
        elif isinstance(step, Later):
            gate.later(step.seconds)
        else:
            gate.say(next(ahead))
            gate.work()
        gate.run.told_after.append(sum(map(len, gate.run.lines.values())))
        if restarts:
            gate.restart()
    gate.sweep()
    return gate.run


class _Gate:
    def __init__(self, case: Case, lane: str, rules: Rules) -> None:
        self.run = Run()
        self._session_id = session_of(case.name)
        self._lane = lane
        self._rules = rules
        self._partition = Partition(0, rules)
        self._ends: Counter[str] = Counter()
        self._queued: dict[str, list[Batch]] = {"context": []}
        self._logs = {"steps": LogQueue(), "results": LogQueue()}
        self._now_ms = round(BEGAN.timestamp() * 1000)
        self._position = 0
        self._waits: dict[str, str] = {}

    def say(self, moment: Moment) -> None:
        """Put an event on its topic."""
        self._now_ms += round(EVENT_SECONDS * 1000)
        kind, key = moment.said.role, self._session_id.encode()
        role: Role = kind if self._lane == "hot" or kind == "context" else f"{kind}.cold"  # type: ignore[assignment]
        value = value_of(moment, self._session_id, BEGAN, self._lane)
        offset = self._ends[kind]
        self._ends[kind] += 1
        self._position += 1
        batch = Batch(role, 0, offset, offset + 1, [offset], [self._now_ms], [key], [value], [()], len(value))
        if kind == "context":
            self._queued[kind].append(batch)
        else:
            self._logs[kind].append(batch)

    def work(self) -> None:
        """One cycle: context, steps, results past their barrier, timers past theirs, one transaction."""
        for batch in self._queued["context"]:
            self._partition.fold_context(batch, self._now_ms)
        self._queued["context"].clear()
        position = LogPosition(0, self._ends["context"], self._ends["steps"], self._ends["results"])
        steps, results = self._logs["steps"], self._logs["results"]
        while (run := next_run(steps, results, steps.end, results.end, 100)) is not None:
            if run.batch.role.startswith("steps"):
                self._partition.fold_steps(run.batch, position, self._now_ms, run.start, run.stop)
                steps.take(run.stop)
            else:
                self._partition.judge(run.batch, position, self._now_ms, run.start, run.stop)
                results.take(run.stop)
        self._partition.has_folded(self._now_ms)
        self._partition.judge_ready(position, self._now_ms)
        self._write(self._partition.take(self._now_ms))
        for _ in range(MAX_TIMERS):
            due = self._partition.next_due_ms()
            if due is None or due > self._now_ms:
                return
            self._partition.act_on_due(position, self._now_ms)
            self._write(self._partition.take(self._now_ms))
        raise AssertionError(f"timers that stay due: {self._session_id}")

    def later(self, seconds: float) -> None:
        """Time passes: each timer acts when it is due, as nothing keeps the worker."""
        until = self._now_ms + round(seconds * 1000)
        while (due := self._partition.next_due_ms()) is not None and due <= until:
            self._now_ms = max(due, self._now_ms)
            self.work()
        self._now_ms = until

    def away(self, steps: Iterable[Any], ahead: Iterable[Moment]) -> None:
        """All this happens before the gate looks again."""
        following = iter(ahead)
        for step in steps:
            if isinstance(step, Later):
                self._now_ms += round(step.seconds * 1000)
            else:
                self.say(next(following))
        self.work()

    def restart(self) -> None:
        """Another worker takes the partition over."""
        partition = Partition(0, self._rules)
        for key, value in self.run.changelog.items():
            partition.restore(key, value)
        partition.settle()
        self._partition = partition
        self.work()

    def sweep(self) -> None:
        """Look for idle sessions, all of them."""
        for _ in range(2):
            self._partition.find_idle(self._now_ms, 1_000)
            self._partition.drop_idle()
            self._write(self._partition.take(self._now_ms))

    def _write(self, changes: Changes) -> None:
        self._partition.committed()
        for key, value in changes.rows.items():
            self.run.changelog.pop(key, None)
            if value is not None:
                self.run.changelog[key] = value
        invalid = [refusal.detail for refusal in changes.refusals if refusal.error == "invalid_event"]
        assert invalid == []
        self.run.refused += [refusal.error for refusal in changes.refusals]
        self.run.duplicates += changes.duplicates
        for output in changes.outputs:
            body = orjson.loads(output.value) if output.value is not None else None
            task_id = body["task_id"] if body is not None else orjson.loads(output.key)[1]
            told = Told(self._position, self._now_ms / 1000 - BEGAN.timestamp(), output.role, task_id, body)
            self.run.told.append(told)
            self.run.lines.setdefault(task_id, []).extend(lines_of(told, self._waits))
