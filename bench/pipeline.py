"""CPU per event of decode, fold, judge and encode on bytes in memory: the part of the drain that is the project's own.

Cycles of the worker's size, one partition after the other; results are judged at the end of each cycle, as a gate that
keeps up would.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka.producer.message_accumulator import BatchBuilder

from bench.watching import FOLDED
from bench.workload import Record, Workload
from projections.changes import Changes
from projections.gate import Place
from projections.partition import Partition
from projections.rules import Rules
from schemas.decode import Batch, Decoder
from schemas.topics import Role

FETCHED = 4096
"""Records of 1 MiB, the most that one fetch brings of a partition."""
BATCH_BYTES = 512 * 1024


def pipeline(
    *, events: int, sessions: int, partitions: int, seed: int, cycle_records: int, profile: bool
) -> dict[str, Any]:
    """Run `events` through the stages; returns CPU microseconds per event, by stage and in all."""
    records = list(Workload(sessions=sessions, partitions=partitions, seed=seed).records(events))
    logs = [
        _cycles(number, [record for record in records if record.partition == number], cycle_records)
        for number in range(partitions)
    ]
    profiler = cProfile.Profile(time.process_time) if profile else None
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        if profiler is not None:
            profiler.enable()
        cpu, counts = _run(logs)
        if profiler is not None:
            profiler.disable()
    finally:
        gc.enable()
        gc.unfreeze()
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
    total = sum(cpu.values())
    return {
        **{f"{stage}_us_per_event": round(seconds / events * 1e6, 2) for stage, seconds in cpu.items()},
        "cpu_us_per_event": round(total / events * 1e6, 2),
        "events_per_cpu_second": round(events / total),
        "events": events,
        **counts,
    }


def _cycles(partition: int, records: list[Record], cycle_records: int) -> list[list[Batch]]:
    """The records as batches, by cycle; in a cycle the topics in the order in which the engine works on them."""
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


def _batch(role: Any, partition: int, start: int, records: list[Record]) -> Batch:
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


class Stopwatch:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.cpu_seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's CPU time to a stage."""
        began = time.process_time()
        yield
        self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + time.process_time() - began


def _run(logs: list[list[list[Batch]]]) -> tuple[dict[str, float], dict[str, Any]]:
    decoders: dict[str, Decoder] = {role: Decoder(role) for role in FOLDED}
    watch = Stopwatch()
    counts: Counter[str] = Counter(rows_written=0, row_bytes=0, refused=0)
    for number, cycles in enumerate(logs):
        partition = Partition(number, Rules())
        for batches in cycles:
            _cycle(partition, batches, decoders, watch, counts)
        counts["row_bytes"] += partition.store.row_bytes
    return watch.cpu_seconds, dict(counts)


def _cycle(
    partition: Partition, batches: list[Batch], decoders: dict[str, Decoder], watch: Stopwatch, counts: Counter[str]
) -> None:
    now_ms = max(batch.timestamps[-1] for batch in batches)
    place = Place(partition.number, 0, 0)
    for batch in batches:
        with watch.stage("decode"):
            counts["refused"] += len(decoders[batch.role].decode(batch))
        with watch.stage("judge" if batch.role == "results" else "fold"):
            if batch.role == "context":
                partition.fold_context(batch, now_ms)
            elif batch.role == "steps":
                partition.fold_steps(batch, now_ms)
            else:
                partition.judge(batch, place, now_ms)
    with watch.stage("encode"):
        changes = partition.take(now_ms)
    with watch.stage("batch"):
        _as_record_batches(changes)
    counts["rows_written"] += len(changes.rows)
    counts.update(f"{verdict.decision}_{verdict.reason}" for verdict in changes.verdicts)


def _as_record_batches(changes: Changes) -> None:
    """What the producer does with it before it is sent: Kafka's record batches, by topic."""
    builders: dict[str, Any] = {}
    for key, value in changes.rows.items():
        _append(builders, "rows", key, value, [])
    for output in changes.outputs:
        _append(builders, output.role, output.key, output.value, output.headers)
    for builder in builders.values():
        builder._build()


def _append(builders: dict[str, Any], topic: str, key: bytes | None, value: bytes | None, headers: Any) -> None:
    builder = builders.get(topic)
    if builder is None:
        builder = builders[topic] = BatchBuilder(BATCH_BYTES, 0, is_transactional=1)
    if builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
        builder._build()
        builder = builders[topic] = BatchBuilder(BATCH_BYTES, 0, is_transactional=1)
        builder.append(timestamp=None, key=key, value=value, headers=headers)
