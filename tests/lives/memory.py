"""Lives in memory: one partition fed as the engine feeds it, under a clock that is moved, with crashes and outages.

What is taken and not written is lost with a crash; what is written is what `audit` reads afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NamedTuple

from projections.log_position import LogPosition
from projections.partition import Partition
from projections.rules import Rules
from schemas.decode import Batch, Refusal
from schemas.topics import INPUT_ROLES, Role, topic_name
from tests.lives.people import Lives
from tests.lives.policies import SETTINGS
from tests.lives.told import Told
from tests.scenarios.case import SHADOWED
from tidegate.audit.case import Terms
from tidegate.audit.check import PartitionCheck
from tidegate.audit.collect import OUTPUT_ROLES, PartitionLogs
from tidegate.audit.findings import Findings
from tidegate.audit.logs import Bounds
from tidegate.orphans import Limits, OpenState, orphans_in

BEGAN_MS: Final = 1_764_000_000_000
TICK_MS: Final = 10
DRAIN_MS: Final = 60_000
RULES: Final = Rules(
    unknown_task_grace_ms=round(float(str(SETTINGS["unknown_task_grace_seconds"])) * 1000),
    scope_grace_ms=round(float(str(SETTINGS["scope_grace_seconds"])) * 1000),
    hold_ttl_ms=round(float(str(SETTINGS["hold_ttl_seconds"])) * 1000),
    shadow_task_types=frozenset({SHADOWED}),
)
HOT_ROLES: Final[tuple[Role, ...]] = ("context", "steps", "results")
LANES: Final[tuple[tuple[Role, Role], ...]] = (("steps", "results"), ("steps.cold", "results.cold"))


class Rec(NamedTuple):
    """A record as a consumer gets it, in the broker's time."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_type: int = 1


@dataclass(slots=True)
class Barrier:
    """What has to be folded, which results it covers, how far steps were folded when it was asked for, and when."""

    ends: dict[Role, int]
    covers: int
    folded: int
    asked_ms: int


@dataclass(slots=True)
class Worker:
    """The owner of the partition: what it has applied, and what it waits for."""

    partition: Partition
    applied: Counter[Role]
    barriers: dict[Role, Barrier] = field(default_factory=dict)
    time_barriers: dict[bool, Barrier] = field(default_factory=dict)


class Memory:
    """The topics of one partition, and the worker on it."""

    def __init__(self, lives: Lives, seed: int, crashes_per_second: float) -> None:
        self.now_ms = BEGAN_MS
        self.told = Told()
        self.crashes = 0
        self._lives = lives
        self._random = Random(seed)
        self._chance = crashes_per_second * TICK_MS / 1000
        self.topics: dict[Role, list[Rec]] = {role: [] for role in (*INPUT_ROLES, *OUTPUT_ROLES)}
        self._changelog: dict[bytes, bytes] = {}
        self._committed: Counter[Role] = Counter()
        self._away_until = 0
        self._worker = self._take_over()

    def run(self, seconds: float) -> None:
        """Live for so long, then let everything come to its end."""
        end_ms = self.now_ms + round(seconds * 1000)
        while self.now_ms < end_ms or not self._is_drained():
            self.now_ms += TICK_MS
            if self.now_ms >= end_ms:
                self._lives.stop()
            assert self.now_ms < end_ms + DRAIN_MS, self.told.open_tasks(self._lives) or "not drained"
            for record in self._lives.due(self.now_ms / 1000):
                self._append(record.role, record.key, record.value)
            if self.now_ms < self._away_until:
                continue
            if self.now_ms < end_ms and self._random.random() < self._chance:
                self.crashes += 1
                self._away_until = self.now_ms + self._random.choice((10, 500, 2_500))
                self._worker = self._take_over()
            else:
                self._work()

    # ---- what is asked of it afterwards

    def audit(self) -> Findings:
        """What the audit finds in the topics."""
        findings = Findings()
        bounds = {
            role: Bounds(0, len(log), self._committed[role] if role in INPUT_ROLES else None, settled=len(log))
            for role, log in self.topics.items()
        }
        logs = PartitionLogs(0, 1, bounds, findings, "tidegate")
        for role in (*OUTPUT_ROLES, *INPUT_ROLES):
            logs.add(role, self.topics[role])
        terms = Terms(
            now_ms=self.now_ms,
            grace_ms=RULES.unknown_task_grace_ms,
            scope_grace_ms=RULES.scope_grace_ms,
            hold_ttl_ms=RULES.hold_ttl_ms,
            require_drained=True,
        )
        PartitionCheck(logs, terms).run()
        return findings

    def orphans(self) -> list[Any]:
        """What is orphaned in the rows, a while later."""
        state = OpenState(0, RULES)
        for key, value in self._changelog.items():
            state.take(key, value)
        return list(orphans_in(state, state.decoded(), Limits(self.now_ms + DRAIN_MS, 0, RULES)))

    # ---- the worker

    def _take_over(self) -> Worker:
        partition = Partition(0, RULES)
        for key, value in self._changelog.items():
            partition.restore(key, value)
        partition.settle()
        return Worker(partition, Counter(self._committed))

    def _work(self) -> None:
        """A cycle that now and then leaves a topic for later, or does not write what it has done."""
        worker, random = self._worker, self._random
        for steps, results in LANES:
            needs = worker.applied[results] < len(self.topics[results]) or worker.partition.has_proposals(steps)
            if steps not in worker.barriers and (needs or (steps == "steps" and worker.partition.has_ready)):
                worker.barriers[steps] = self._ask(steps, results, ("context", steps))
        for hot_only, roles in ((True, HOT_ROLES), (False, INPUT_ROLES)):
            due = worker.partition.next_due_ms(hot_only=hot_only)
            if hot_only not in worker.time_barriers and due is not None and due <= self.now_ms:
                worker.time_barriers[hot_only] = self._ask("steps", "results", roles)
        judged = False
        for role in ("context", "steps"):
            self._fold(role)
        for steps, results in LANES:
            if steps == "steps.cold":
                self._fold(steps)
            judged = self._judge(steps, results) or judged
        judged = self._act_on_time() or judged
        if judged or random.random() < 0.2:
            self._write()

    def _ask(self, steps: Role, results: Role, roles: Sequence[Role]) -> Barrier:
        ends = {role: len(self.topics[role]) for role in roles}
        return Barrier(ends, len(self.topics[results]), self._worker.applied[steps], self.now_ms)

    def _fold(self, role: Role) -> None:
        batch = None if self._random.random() < 0.15 else self._fetch(role, len(self.topics[role]))
        if batch is not None and role == "context":
            self._worker.partition.fold_context(batch, self.now_ms)
        elif batch is not None:
            self._worker.partition.fold_steps(batch, self.now_ms)

    def _is_reached(self, barrier: Barrier) -> bool:
        return all(self._worker.applied[role] >= end for role, end in barrier.ends.items())

    def _judge(self, steps: Role, results: Role) -> bool:
        worker = self._worker
        barrier = worker.barriers.get(steps)
        if barrier is None or not self._is_reached(barrier):
            return False
        position = LogPosition(0, worker.applied["context"], worker.applied[steps], steps, barrier.folded)
        batch = self._fetch(results, barrier.covers)
        if batch is not None:
            worker.partition.judge(batch, position, self.now_ms)
        if worker.applied[results] >= barrier.covers:
            worker.partition.judge_ready(position, self.now_ms)
            del worker.barriers[steps]
        return True

    def _act_on_time(self) -> bool:
        worker = self._worker
        reached = [each for each in worker.time_barriers.items() if self._is_reached(each[1])]
        for hot_only, barrier in reached:
            position = LogPosition(0, worker.applied["context"], worker.applied["steps"], "steps", barrier.folded)
            worker.partition.act_on_due(position, barrier.asked_ms, hot_only=hot_only)
            del worker.time_barriers[hot_only]
        return bool(reached)

    def _fetch(self, role: Role, end: int) -> Batch | None:
        """The next records of a topic below `end`, some or all of them; None where there is none."""
        begin = self._worker.applied[role]
        if begin >= end:
            return None
        if self._random.random() < 0.2:
            end = self._random.randint(begin + 1, end)
        records = self.topics[role][begin:end]
        batch = Batch(
            role,
            0,
            begin,
            end,
            [record.offset for record in records],
            [record.timestamp for record in records],
            [record.key for record in records],
            [record.value for record in records],
            [() for _ in records],
            0,
        )
        self._worker.applied[role] = end
        return batch

    def _write(self) -> None:
        """One transaction, and who reads it hears of it."""
        changes = self._worker.partition.take(self.now_ms)
        for key, value in changes.rows.items():
            self._changelog.pop(key, None)
            if value is not None:
                self._changelog[key] = value
        self._committed = Counter(self._worker.applied)
        for output in changes.outputs:
            self._append(output.role, output.key, output.value)
            body = self.told.take(output.role, output.value, {})
            if body is not None:
                self._lives.hear(body)
        for refusal in changes.refusals:
            self._refuse(refusal)
        self._worker.partition.committed()

    def _refuse(self, refusal: Refusal) -> None:
        batch, index = refusal.batch, refusal.index
        headers = {
            "tidegate_error": refusal.error,
            "tidegate_origin_topic": topic_name(batch.role),
            "tidegate_origin_partition": "0",
            "tidegate_origin_offset": str(batch.offsets[index]),
        }
        raw = {name: value.encode() for name, value in headers.items()}
        self._append("dlq", batch.keys[index], batch.values[index], list(raw.items()))
        self.told.take("dlq", batch.values[index], raw)

    def _append(
        self, role: Role, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        log = self.topics[role]
        log.append(Rec(len(log), self.now_ms, key, value, headers))

    def _is_drained(self) -> bool:
        if not self._lives.is_over or self.told.open_tasks(self._lives) or self.told.undecided(self._lives):
            return False
        if any(self._committed[role] < len(self.topics[role]) for role in INPUT_ROLES):
            return False
        # What is kept of a task that takes its result late falls due after a day.
        dues = [self._worker.partition.next_due_ms(hot_only=hot_only) for hot_only in (True, False)]
        return all(due is None or due > self.now_ms + DRAIN_MS for due in dues)
