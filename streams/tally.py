"""What a partition has done since its last transaction began, to be counted once that work is committed."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from projections.changes import Changes
from projections.decode import Batch
from projections.store import Store
from schemas.fields import Lane
from schemas.topics import Role
from schemas.wire import event_type
from streams.config import COLD_ROLES
from streams.metrics import Metrics, Stage


def tell_kept(metrics: Metrics, partition: int, store: Store, queued_bytes: int) -> None:
    """Tell the metrics what is kept of a partition, and what waits."""
    metrics.partition(
        partition,
        sessions=store.session_count,
        row_bytes=store.row_bytes,
        ended_task_bytes=store.ended_bytes,
        waiting_bytes=store.waiting_bytes,
        parked_results=store.waiting_count,
        queued_bytes=queued_bytes,
    )


class Tally:
    """Counts of one transaction. Dropped with it where it fails: the work is then done again."""

    def __init__(self) -> None:
        self.records = 0
        self.cold_records = 0
        self.cut_waits: list[tuple[Lane, float]] = []
        self._cpu_seconds: dict[Stage, float] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Count the CPU of the block to a stage."""
        began = time.thread_time()
        yield
        self._cpu_seconds[stage] = self._cpu_seconds.get(stage, 0.0) + time.thread_time() - began

    @property
    def cpu_seconds(self) -> float:
        """The CPU of all stages."""
        return sum(self._cpu_seconds.values())

    def count(self, batch: Batch) -> None:
        """Count the records of a batch that is folded or decided."""
        self.count_some(batch.role, len(batch))

    def count_some(self, role: Role, records: int) -> None:
        """Count records of a topic."""
        self.records += records
        if role in COLD_ROLES:
            self.cold_records += records

    def tell(self, metrics: Metrics, topics: Mapping[Role, str], changes: Changes) -> None:
        """Tell everything, and `changes`, to the metrics: a transaction has committed it."""
        now_ms = time.time_ns() // 1_000_000
        for role, counts in changes.events.items():
            metrics.events(topics[role], {event_type(kind): count for kind, count in counts.items()})
        metrics.duplicates(changes.duplicates)
        metrics.ignored(changes.ignored)
        metrics.acknowledged(changes.acknowledged)
        metrics.endings(changes.endings)
        if changes.verdicts:
            metrics.judged(changes.verdicts, now_ms)
        for refusal in changes.refusals:
            metrics.dlq(refusal.error)
            if refusal.error == "processing_failed":
                metrics.quarantined(topics[refusal.batch.role])
        for batch, _index in changes.misrouted:
            metrics.misrouted(topics[batch.role])
        for lane, wait in self.cut_waits:
            metrics.barrier_wait(lane, wait)
        for stage, cpu_seconds in self._cpu_seconds.items():
            metrics.cpu(stage, cpu_seconds)
