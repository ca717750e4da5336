"""What a partition has done since its last transaction began, to be counted once that work is committed."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import NoneType

from projections.changes import Changes
from schemas.decode import Batch, Refusal
from schemas.fields import Lane
from schemas.topics import Role
from schemas.wire import event_type
from streams.config import COLD_ROLES
from streams.metrics import Metrics, Stage


class Tally:
    """Counts of one transaction. Dropped with it where it fails: the work is then done again."""

    def __init__(self) -> None:
        self.records = 0
        self.cold_records = 0
        self.refusals: list[Refusal] = []
        self.barrier_waits: list[tuple[Lane, float]] = []
        self._events: dict[Role, Counter[type]] = {}
        self._cpu_seconds: dict[Stage, float] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Count the CPU of the block to a stage."""
        began = time.thread_time()
        yield
        self._cpu_seconds[stage] = self._cpu_seconds.get(stage, 0.0) + time.thread_time() - began

    def decoded(self, batch: Batch, refusals: list[Refusal]) -> None:
        """Count a batch that was decoded, with what was refused of it."""
        self.records += len(batch)
        if batch.role in COLD_ROLES:
            self.cold_records += len(batch)
        self.refusals += refusals
        counts = self._events.get(batch.role)
        if counts is None:
            counts = self._events[batch.role] = Counter()
        counts.update(map(type, batch.events))

    def tell(self, metrics: Metrics, topics: Mapping[Role, str], changes: Changes) -> None:
        """Tell everything, and `changes`, to the metrics: a transaction has committed it."""
        now_ms = time.time_ns() // 1_000_000
        for role, counts in self._events.items():
            metrics.events(topics[role], {event_type(kind): n for kind, n in counts.items() if kind is not NoneType})
        metrics.duplicates(changes.duplicates)
        metrics.acknowledged(changes.acknowledged)
        metrics.endings(changes.endings)
        if changes.verdicts:
            metrics.judged(changes.verdicts, now_ms)
        for refusal in changes.refusals:
            metrics.dlq(refusal.error)
        for batch, _index in changes.misrouted:
            metrics.misrouted(topics[batch.role])
        for lane, wait in self.barrier_waits:
            metrics.barrier_wait(lane, wait)
        for stage, cpu_seconds in self._cpu_seconds.items():
            metrics.cpu(stage, cpu_seconds)
