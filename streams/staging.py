"""The records of one partition's part of a transaction, made of what its events led to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import structlog
from aiokafka import TopicPartition

from projections.changes import Changes
from schemas.decode import Batch, Refusal
from schemas.envelope import FORWARDED_FROM
from streams.batches import Record
from streams.changelog import PROGRESS_KEY, progress_to_bytes
from streams.config import EngineConfig
from streams.home import partition_of
from streams.interfaces import Progress

_log = structlog.get_logger(__name__)

HINT: Final = "producers must partition by murmur2 of the session id (librdkafka: partitioner=murmur2_random)"

StagedRecords = dict[TopicPartition, list[Record]]


def staged_records(
    config: EngineConfig, number: int, changes: Changes, progress: Progress, partition_count: int
) -> StagedRecords:
    """Changed rows and the progress row, outputs, dead letters, and misrouted records on their way home."""
    staged: defaultdict[TopicPartition, list[Record]] = defaultdict(list)
    rows = staged[TopicPartition(config.topic("sessions.changelog"), number)]
    rows += [(key, value, []) for key, value in changes.rows.items()]
    rows.append((PROGRESS_KEY, progress_to_bytes(progress), []))
    for output in changes.outputs:
        staged[TopicPartition(config.topic(output[0]), number)].append(output[1:])
    if changes.refusals:
        letters = [dead_letter(config, refusal) for refusal in changes.refusals]
        staged[TopicPartition(config.topic("dlq"), number)] += letters
        _log_dead_letters(config, changes.refusals)
    if changes.misrouted:
        for batch, index in changes.misrouted:
            _forward(config, staged, batch, index, partition_count)
        _log_misrouted(config, changes.misrouted)
    return dict(staged)


def dead_letter(config: EngineConfig, refusal: Refusal) -> Record:
    """A refused record as it came, with the reason and its origin in headers."""
    batch, index = refusal.batch, refusal.index
    topic = config.topic(batch.role)
    headers = [
        *batch.headers[index],
        ("tidegate_error", refusal.error.encode()),
        ("tidegate_error_detail", refusal.detail.encode()),
        ("tidegate_origin_topic", topic.encode()),
        ("tidegate_origin_partition", str(batch.partition).encode()),
        ("tidegate_origin_offset", str(batch.offsets[index]).encode()),
        ("tidegate_origin_timestamp", str(batch.timestamps[index]).encode()),
    ]
    return batch.keys[index], batch.values[index], headers


def _forward(config: EngineConfig, staged: StagedRecords, batch: Batch, index: int, partition_count: int) -> None:
    """A misrouted record goes home in the transaction that commits its offset: exactly once."""
    event = batch.events[index]
    if event is None:
        return
    topic, session_id = config.topic(batch.role), event.session_id
    origin = f"{topic}/{batch.partition}/{batch.offsets[index]}"
    headers = [*batch.headers[index], (FORWARDED_FROM, origin.encode())]
    home = TopicPartition(topic, partition_of(session_id, partition_count))
    staged.setdefault(home, []).append((session_id.encode(), batch.values[index], headers))


def _log_misrouted(config: EngineConfig, misrouted: Sequence[tuple[Batch, int]]) -> None:
    first, index = misrouted[0]
    _log.warning(
        "misrouted_records_forwarded",
        count=len(misrouted),
        topic=config.topic(first.role),
        partition=first.partition,
        first_offset=first.offsets[index],
        hint=HINT,
    )


def _log_dead_letters(config: EngineConfig, refusals: Sequence[Refusal]) -> None:
    first: dict[str, Refusal] = {}
    for refusal in refusals:
        first.setdefault(refusal.error, refusal)
    for error, refusal in first.items():
        batch, index = refusal.batch, refusal.index
        _log.warning(
            "records_dead_lettered",
            error=error,
            count=sum(each.error == error for each in refusals),
            first_topic=config.topic(batch.role),
            partition=batch.partition,
            first_offset=batch.offsets[index],
            first_detail=refusal.detail,
        )
