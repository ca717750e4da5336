"""The records of one partition's part of a transaction, made of what its events led to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog
from aiokafka import TopicPartition

from projections.changes import Changes
from projections.decode import Batch, Decoder, Refusal
from schemas.envelope import FORWARDED_FROM, producers_headers
from schemas.topics import Role, topics
from streams.batches import (
    NO_HEADERS,
    ROWS,
    UNTOUCHED,
    BatchWriter,
    EnvelopeEncoder,
    RecordBatch,
    header_block,
    writers_of,
)
from streams.changelog import PROGRESS_KEY, progress_to_bytes
from streams.config import EngineConfig
from streams.failure import Failure
from streams.home import partition_of
from streams.interfaces import Layout, Progress
from streams.measuring import excess, limits

_log = structlog.get_logger(__name__)

LEFT_OUT: Final = "tidegate_left_out"
"""Names what of a refused record is not in its dead letter, because the topic would not take it."""
HINT: Final = "producers must partition by murmur2 of the session id (librdkafka: partitioner=murmur2_random)"

StagedBatches = dict[TopicPartition, list[RecordBatch]]


class Stager:
    """Builds the record batches of one partition's transactions."""

    def __init__(self, config: EngineConfig, number: int, layout: Layout) -> None:
        self._config = config
        self._layout = layout
        self._outputs: dict[Role, TopicPartition] = {
            topic.role: TopicPartition(topic.name, number) for topic in topics(config.topic_prefix)
        }
        self._limits = limits(config)
        self._envelopes = EnvelopeEncoder()
        self._decoders: dict[Role, Decoder] = {}

    def batches(self, changes: Changes, progress: Progress) -> StagedBatches:
        """Changed rows and the progress row, outputs, dead letters, and misrouted records on their way home."""
        by_role = writers_of(changes, self._config.output_compression, self._envelopes)
        by_role["sessions.changelog"].add(PROGRESS_KEY, progress_to_bytes(progress, self._layout), NO_HEADERS)
        # Rows are sent first: an owner to come ends what a dead worker has left open, and finds it by the changelog.
        rows = self._outputs["sessions.changelog"]
        writers = {rows: by_role.pop("sessions.changelog")}
        writers |= {self._outputs[role]: writer for role, writer in by_role.items()}
        if changes.misrouted:
            self._forward_all(writers, changes)
        if changes.refusals:
            dead_letters = writers[self._outputs["dlq"]] = BatchWriter(UNTOUCHED)
            for refusal in changes.refusals:
                self._bury(dead_letters, refusal)
            _log_dead_letters(self._config, changes.refusals)
        return {tp: batches for tp, writer in writers.items() if (batches := writer.batches())}

    def mark(self, progress: Progress, failure: Failure) -> StagedBatches:
        """The progress row of a partition that has failed."""
        rows = BatchWriter(ROWS)
        rows.add(PROGRESS_KEY, progress_to_bytes(progress, self._layout, failure), NO_HEADERS)
        return {self._outputs["sessions.changelog"]: rows.batches()}

    def _bury(self, dead_letters: BatchWriter, refusal: Refusal) -> None:
        """Add a dead letter. What its topic does not take is left out, and a header says so."""
        key, value = refusal.batch.keys[refusal.index], refusal.batch.values[refusal.index]
        said = dead_letter_headers(self._config, refusal)
        own, limit = producers_headers(refusal.batch.headers[refusal.index]), self._limits["dlq"]
        headers = [*own, *said]
        if excess(key, value, headers, limit):
            headers = [(LEFT_OUT, b"headers"), *said]
            if excess(key, value, headers, limit):
                value, headers = None, [(LEFT_OUT, b"headers, value"), *said]
            if excess(key, value, headers, limit):
                key, headers = None, [(LEFT_OUT, b"headers, value, key"), *said]
        dead_letters.add(key, value, header_block(headers))

    def _forward_all(self, writers: dict[TopicPartition, BatchWriter], changes: Changes) -> None:
        """Misrouted records go home in the transaction that commits their offsets: exactly once."""
        forwarded = []
        for batch, index in changes.misrouted:
            too_much = self._forward(writers, batch, index)
            if too_much:
                detail = f"on the wrong partition, and {too_much:,} bytes too large to be sent on; {HINT}"
                changes.refusals.append(Refusal(batch, index, "forward_too_large", detail))
            else:
                forwarded.append((batch, index))
        changes.misrouted = forwarded
        if forwarded:
            _log_misrouted(self._config, forwarded)

    def _forward(self, writers: dict[TopicPartition, BatchWriter], batch: Batch, index: int) -> int:
        """Send a record home. Returns how many bytes it has too many for that; 0 where it is sent."""
        topic, session_id = self._config.topic(batch.role), self._session_of(batch, index)
        origin = f"{topic}/{batch.partition}/{batch.offsets[index]}"
        home = TopicPartition(topic, partition_of(session_id, self._layout.partition_count))
        writer = writers.get(home)
        if writer is None:
            writer = writers[home] = BatchWriter(UNTOUCHED)
        key, headers = (
            session_id.encode(),
            [*producers_headers(batch.headers[index]), (FORWARDED_FROM, origin.encode())],
        )
        too_much = excess(key, batch.values[index], headers, self._limits[batch.role])
        if not too_much:
            writer.add(key, batch.values[index], header_block(headers))
        return too_much

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


def dead_letter_headers(config: EngineConfig, refusal: Refusal) -> list[tuple[str, bytes]]:
    """What the gate adds to the headers of a refused record: the reason, and its origin."""
    batch, index = refusal.batch, refusal.index
    judged = [("tidegate_judged", refusal.judged.encode())] if refusal.judged else []
    return [
        ("tidegate_error", refusal.error.encode()),
        ("tidegate_error_detail", refusal.detail.encode()),
        ("tidegate_origin_topic", config.topic(batch.role).encode()),
        ("tidegate_origin_partition", str(batch.partition).encode()),
        ("tidegate_origin_offset", str(batch.offsets[index]).encode()),
        ("tidegate_origin_timestamp", str(batch.timestamps[index]).encode()),
        *judged,
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
