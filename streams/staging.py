"""The records of one partition's part of a transaction, made of what its events led to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog
from aiokafka import TopicPartition

from projections.changes import Changes
from schemas.decode import Batch, Decoder, Refusal
from schemas.envelope import FORWARDED_FROM
from schemas.topics import Role, topics
from streams.batches import (
    NO_HEADERS,
    ROWS,
    UNTOUCHED,
    BatchWriter,
    EnvelopeEncoder,
    Headers,
    RecordBatch,
    header_block,
)
from streams.changelog import PROGRESS_KEY, progress_to_bytes
from streams.config import EngineConfig
from streams.failure import Failure
from streams.home import partition_of
from streams.interfaces import Progress

_log = structlog.get_logger(__name__)

HINT: Final = "producers must partition by murmur2 of the session id (librdkafka: partitioner=murmur2_random)"

StagedBatches = dict[TopicPartition, list[RecordBatch]]


class Stager:
    """Builds the record batches of one partition's transactions."""

    def __init__(self, config: EngineConfig, number: int, partition_count: int) -> None:
        self._config = config
        self._partition_count = partition_count
        self._outputs: dict[Role, TopicPartition] = {
            topic.role: TopicPartition(topic.name, number) for topic in topics(config.topic_prefix)
        }
        self._envelopes = EnvelopeEncoder()
        self._decoders: dict[Role, Decoder] = {}

    def batches(self, changes: Changes, progress: Progress) -> StagedBatches:
        """Changed rows and the progress row, outputs, dead letters, and misrouted records on their way home."""
        writers: dict[TopicPartition, BatchWriter] = {}
        rows = writers[self._outputs["sessions.changelog"]] = BatchWriter(ROWS)
        for key, value in changes.rows.items():
            rows.add(key, value, NO_HEADERS)
        rows.add(PROGRESS_KEY, progress_to_bytes(progress), NO_HEADERS)
        by_role: dict[Role, BatchWriter] = {}
        for output in changes.outputs:
            writer = by_role.get(output.role)
            if writer is None:
                writer = by_role[output.role] = BatchWriter(self._config.output_compression)
                writers[self._outputs[output.role]] = writer
            envelope = output.envelope
            writer.add(output.key, output.value, NO_HEADERS if envelope is None else self._envelopes.encode(envelope))
        if changes.refusals:
            dead_letters = writers[self._outputs["dlq"]] = BatchWriter(UNTOUCHED)
            for refusal in changes.refusals:
                batch, index = refusal.batch, refusal.index
                headers = header_block(dead_letter_headers(self._config, refusal))
                dead_letters.add(batch.keys[index], batch.values[index], headers)
            _log_dead_letters(self._config, changes.refusals)
        if changes.misrouted:
            for batch, index in changes.misrouted:
                self._forward(writers, batch, index)
            _log_misrouted(self._config, changes.misrouted)
        return {tp: writer.batches() for tp, writer in writers.items()}

    def mark(self, progress: Progress, failure: Failure) -> StagedBatches:
        """The progress row of a partition that has failed."""
        rows = BatchWriter(ROWS)
        rows.add(PROGRESS_KEY, progress_to_bytes(progress, failure), NO_HEADERS)
        return {self._outputs["sessions.changelog"]: rows.batches()}

    def _forward(self, writers: dict[TopicPartition, BatchWriter], batch: Batch, index: int) -> None:
        """A misrouted record goes home in the transaction that commits its offset: exactly once."""
        topic, session_id = self._config.topic(batch.role), self._session_of(batch, index)
        origin = f"{topic}/{batch.partition}/{batch.offsets[index]}"
        home = TopicPartition(topic, partition_of(session_id, self._partition_count))
        writer = writers.get(home)
        if writer is None:
            writer = writers[home] = BatchWriter(UNTOUCHED)
        headers = header_block([*batch.headers[index], (FORWARDED_FROM, origin.encode())])
        writer.add(session_id.encode(), batch.values[index], headers)

    def _session_of(self, batch: Batch, index: int) -> str:
        """The session of a record that was decoded before: its key, if it has one, is the same."""
        key = batch.keys[index]
        if key is not None:
            return key.decode()
        decoder = self._decoders.get(batch.role)
        if decoder is None:
            decoder = self._decoders[batch.role] = Decoder(batch.role)
        session_id: str = decoder.event_of(batch.values[index] or b"", batch.headers[index]).session_id
        return session_id


def dead_letter_headers(config: EngineConfig, refusal: Refusal) -> Headers:
    """The headers of a refused record as they came, the reason, and its origin."""
    batch, index = refusal.batch, refusal.index
    return [
        *batch.headers[index],
        ("tidegate_error", refusal.error.encode()),
        ("tidegate_error_detail", refusal.detail.encode()),
        ("tidegate_origin_topic", config.topic(batch.role).encode()),
        ("tidegate_origin_partition", str(batch.partition).encode()),
        ("tidegate_origin_offset", str(batch.offsets[index]).encode()),
        ("tidegate_origin_timestamp", str(batch.timestamps[index]).encode()),
    ]


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
