"""The limit: decode, fold, judge, encode and build record batches on bytes in memory, without Kafka.

What a worker on one core could reach at most if fetching, writing and waiting cost nothing. Cycles of the worker's
size, one partition after the other; results are judged at the end of each cycle, as a gate that keeps up would.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from projections.changes import Changes
from projections.decode import Batch
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.rules import Rules
from schemas.topics import Role
from streams.batches import BatchWriter, EnvelopeEncoder, writers_of
from testing.watching import FOLDED
from testing.workload import Record, Workload

FETCHED: Final = 4096
"""Records of 1 MiB, the most that one fetch brings of a partition."""
STAGES: Final = ("fold", "judge", "encode", "batch")
"""Folding and judging decode each record when its turn comes."""

Log = list[list[Batch]]
"""What one partition is fed: its batches, by cycle."""


def pipeline(
    *, events: int, sessions: int, partitions: int, seed: int, cycle_records: int, profile: bool
) -> dict[str, Any]:
    """Run `events` through the stages; returns CPU microseconds per event, by stage and in all."""
    workload = Workload(sessions=sessions, partitions=partitions, seed=seed)
    logs = logs_of(workload.records(events), partitions, cycle_records)
    run = Run()
    profiler = cProfile.Profile(time.process_time) if profile else None
    with garbage_out_of_the_way():
        if profiler is not None:
            profiler.enable()
        for number, log in enumerate(logs):
            run.feed(Partition(number, Rules()), log)
        if profiler is not None:
            profiler.disable()
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
    total = sum(run.cpu_seconds.values())
    return {
        "events_per_second": round(events / total),
        "cpu_us_per_event": round(total / events * 1e6, 2),
        "stages_us_per_event": {stage: round(run.cpu_seconds[stage] / events * 1e6, 2) for stage in STAGES},
        "events": events,
        "sessions": sessions,
        "partitions": partitions,
        "cycle_records": cycle_records,
        **run.counts,
    }


@contextmanager
def garbage_out_of_the_way() -> Iterator[None]:
    """As in the worker: what is there is frozen, and nothing is collected meanwhile."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def logs_of(records: Iterable[Record], partitions: int, cycle_records: int) -> list[Log]:
    """The records by partition and cycle; in a cycle the topics in the order in which the engine works on them."""
    by_partition: list[list[Record]] = [[] for _ in range(partitions)]
    for record in records:
        by_partition[record.partition].append(record)
    return [_cycles(number, chosen, cycle_records) for number, chosen in enumerate(by_partition)]


def _cycles(partition: int, records: list[Record], cycle_records: int) -> Log:
    offsets: Counter[Role] = Counter()
    cycles = []
    for first in range(0, len(records), cycle_records):
        batches = []
        for role in FOLDED:
            chosen = [record for record in records[first : first + cycle_records] if record.role == role]
            for start in range(0, len(chosen), FETCHED):
                batches.append(_batch(role, partition, offsets[role], chosen[start : start + FETCHED]))
                offsets[role] += len(chosen[start : start + FETCHED])
        cycles.append(batches)
    return cycles


def _batch(role: Role, partition: int, start: int, records: list[Record]) -> Batch:
    end = start + len(records)
    return Batch(
        role,
        partition,
        start,
        end,
        list(range(start, end)),
        [1_750_000_000_000 + offset for offset in range(start, end)],
        [record.key for record in records],
        [record.value for record in records],
        [()] * len(records),
    )


class Run:
    """Feeds partitions, and keeps CPU seconds by stage and what came of the events."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.cpu_seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.counts: dict[str, int] = dict.fromkeys(
            ("rows_written", "row_bytes_written", "row_bytes_sent", "output_bytes", "refused"), 0
        )
        self._clock = clock

    def feed(self, partition: Partition, log: Log) -> None:
        """Every cycle of a partition's log."""
        for batches in log:
            self.cycle(partition, batches)

    def cycle(self, partition: Partition, batches: list[Batch]) -> None:
        """One cycle: fold and judge the batches, then build what one transaction would write."""
        now_ms = max((batch.timestamps[-1] for batch in batches), default=0)
        place = LogPosition(partition.number, 0, 0)
        for batch in batches:
            with self.stage("judge" if batch.role == "results" else "fold"):
                if batch.role == "context":
                    partition.fold_context(batch, now_ms)
                elif batch.role == "steps":
                    partition.fold_steps(batch, place, now_ms)
                else:
                    partition.judge(batch, place, now_ms)
        partition.has_folded(now_ms)
        with self.stage("encode"):
            changes = partition.take(now_ms)
        partition.committed()
        with self.stage("batch"):
            self.counts["row_bytes_sent"] += _as_record_batches(changes)
        self._count(changes)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the CPU of the block to a stage."""
        began = self._clock()
        yield
        self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + self._clock() - began

    def _count(self, changes: Changes) -> None:
        counts = self.counts
        counts["rows_written"] += len(changes.rows)
        counts["refused"] += len(changes.refusals)
        counts["row_bytes_written"] += sum(len(value) for value in changes.rows.values() if value is not None)
        counts["output_bytes"] += sum(len(output.value or b"") for output in changes.outputs)
        for verdict in changes.verdicts:
            name = f"{verdict.decision}_{verdict.reason}"
            counts[name] = counts.get(name, 0) + 1


def _as_record_batches(changes: Changes) -> int:
    """What the producer does with it before it is sent: Kafka's record batches, by topic. The bytes of rows in them."""
    writers = writers_of(changes, "none", EnvelopeEncoder())
    rows = writers.pop("sessions.changelog")
    for writer in writers.values():
        _built_bytes(writer)
    return _built_bytes(rows)


def _built_bytes(writer: BatchWriter) -> int:
    return sum(len(batch._build()) for batch in writer.batches())
