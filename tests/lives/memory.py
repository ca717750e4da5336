"""Lives in memory: one partition fed as the engine feeds it, under a clock that is moved, with crashes and outages.

What is taken and not written is lost with a crash; what is written is what `audit` reads afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NamedTuple

from audit.case import Terms
from audit.check import PartitionCheck
from audit.collect import OUTPUT_ROLES, PartitionLogs
from audit.findings import Findings
from audit.logs import Bounds
from projections.decode import Batch, Refusal
from projections.log_position import LogPosition
from projections.merge import LogQueue, next_run
from projections.partition import Partition
from projections.rules import Rules
from schemas.topics import INPUT_ROLES, Role, topic_name
from tests.lives.people import Lives
from tests.lives.policies import SETTINGS
from tests.lives.told import Told
from tests.scenarios.case import SHADOWED
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
LANES: Final[dict[bool, tuple[Role, Role]]] = {False: ("steps", "results"), True: ("steps.cold", "results.cold")}
"""The topics of steps and results, by whether they are the cold lane's."""


class Rec(NamedTuple):
    """A record as a consumer gets it, in the broker's time."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_type: int = 1


@dataclass(slots=True)
class Cut:
    """Where the topics ended when they were asked for, and when that was."""

    ends: dict[Role, int]
    asked_ms: int
    context_fetched: int


@dataclass(slots=True)
class Worker:
    """The owner of the partition: what it has fetched and decided, and the cuts that it works below, by lane."""

    partition: Partition
    context_offset: int
    logs: dict[Role, LogQueue]
    cuts: dict[bool, Cut] = field(default_factory=dict)

    def applied(self, role: Role) -> int:
        """Every record of the topic below this offset has been folded or decided."""
        return self.context_offset if role == "context" else self.logs[role].position


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
        logs = {role: LogQueue(self._committed[role]) for lane in LANES.values() for role in lane}
        return Worker(partition, self._committed["context"], logs)

    def _work(self) -> None:
        """A cycle that now and then leaves a topic for later, or does not write what it has done."""
        worker, random = self._worker, self._random
        for cold, roles in LANES.items():
            if cold not in worker.cuts and self._needs_cut(cold=cold):
                asked = INPUT_ROLES if cold else HOT_ROLES
                ends = {role: len(self.topics[role]) for role in asked}
                worker.cuts[cold] = Cut(ends, self.now_ms, worker.context_offset)
            for role in roles:
                self._fetch_log(role)
        self._fold_context()
        is_reached = [self._decide(cold=cold) for cold in LANES]
        if any(is_reached) or random.random() < 0.2:
            self._write()

    def _needs_cut(self, *, cold: bool) -> bool:
        partition = self._worker.partition
        due = partition.next_due_ms(hot_only=not cold)
        is_due = due is not None and due <= self.now_ms
        waits = partition.has_cancels(cold=cold) or (not cold and partition.has_ready)
        return is_due or waits or any(self._worker.applied(role) < len(self.topics[role]) for role in LANES[cold])

    def _fold_context(self) -> None:
        batch = None if self._random.random() < 0.15 else self._fetch("context", self._worker.context_offset)
        if batch is not None:
            self._worker.partition.fold_context(batch, self.now_ms)
            self._worker.context_offset = batch.end

    def _fetch_log(self, role: Role) -> None:
        log = self._worker.logs[role]
        batch = None if self._random.random() < 0.15 else self._fetch(role, log.end)
        if batch is not None:
            log.append(batch)

    def _decide(self, *, cold: bool) -> bool:
        """Decide what lies below the lane's cut, or a part of it. Returns whether the cut was reached."""
        worker = self._worker
        cut = worker.cuts.get(cold)
        if cut is None or worker.context_offset < cut.ends["context"]:
            return False
        steps_role, results_role = LANES[cold]
        if cold and any(worker.applied(role) < cut.ends[role] for role in LANES[False]):
            return False
        steps, results = worker.logs[steps_role], worker.logs[results_role]
        ends = cut.ends[steps_role], cut.ends[results_role]
        position = LogPosition(0, worker.context_offset, steps.position, results.position, is_cold=cold)
        if cold and worker.partition.has_ready:
            worker.partition.decide_waiting(self._hot_position(), self.now_ms)
        while (run := next_run(steps, results, *ends, self._random.choice((1, 3, 100)))) is not None:
            if run.batch.role == steps_role:
                worker.partition.fold_steps(run.batch, position, self.now_ms, run.start, run.stop)
                steps.take(run.stop)
            else:
                worker.partition.judge(run.batch, position, self.now_ms, run.start, run.stop)
                results.take(run.stop)
            if self._random.random() < 0.1:
                return False
        if steps.position < ends[0] or results.position < ends[1]:
            return False
        position = LogPosition(0, worker.context_offset, steps.position, results.position, is_cold=cold)
        due_ms, fetched = cut.asked_ms - 1, cut.context_fetched
        worker.partition.act_on_due(self._hot_position(), due_ms, hot_only=True, context_fetched=fetched)
        if cold:
            worker.partition.act_on_due(position, due_ms, cold_only=True, context_fetched=fetched)
        del worker.cuts[cold]
        return True

    def _hot_position(self) -> LogPosition:
        logs = self._worker.logs
        return LogPosition(0, self._worker.context_offset, logs["steps"].position, logs["results"].position)

    def _fetch(self, role: Role, begin: int) -> Batch | None:
        """The next records of a topic, some or all of them; None if there is none."""
        end = len(self.topics[role])
        if begin >= end:
            return None
        if self._random.random() < 0.2:
            end = self._random.randint(begin + 1, end)
        records = self.topics[role][begin:end]
        return Batch(
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

    def _write(self) -> None:
        """One transaction, and who reads it hears of it."""
        changes = self._worker.partition.take(self.now_ms)
        for key, value in changes.rows.items():
            self._changelog.pop(key, None)
            if value is not None:
                self._changelog[key] = value
        self._committed = Counter({role: self._worker.applied(role) for role in INPUT_ROLES})
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
