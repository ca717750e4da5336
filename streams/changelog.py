"""The changelog: rows, parked results, and for each partition one progress row that says how far they reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import orjson
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.config import EngineConfig
from streams.failure import Failure
from streams.interfaces import Layout, Progress, Restored

_log = structlog.get_logger(__name__)

PROGRESS_KEY: Final = b"p"
RETRY_KEY: Final = b"r"
"""Of a record with which an operator asks that a partition marked as failed be tried again."""
FAILED: Final = "failed"
TOPIC_IDS: Final = "topic_ids"
PARTITION_COUNT: Final = "partition_count"
TELL_SECONDS: Final = 5.0


def progress_to_bytes(progress: Progress, layout: Layout, failure: Failure | None = None) -> bytes:
    """The progress row's value. With a failure, nobody works on the partition until an operator asks for it."""
    row: dict[str, Any] = {PARTITION_COUNT: layout.partition_count, TOPIC_IDS: layout.topic_ids}
    row.update(progress.items())
    if failure is not None:
        row[FAILED] = failure.to_json()
    return orjson.dumps(row)


class ChangelogReader:
    """What a partition's changelog says, record by record: `take` gets every record but those about progress."""

    def __init__(self, take: Callable[[bytes, bytes | None], None]) -> None:
        self._take = take
        self._progress: Progress | None = None
        self._failure: Failure | None = None
        self._layout: Layout | None = None
        self._records = 0

    def read(self, key: bytes, value: bytes | None) -> None:
        """One more record, in the order of the log."""
        self._records += 1
        if key == PROGRESS_KEY:
            row = orjson.loads(value) if value is not None else {}
            failed, count, ids = row.pop(FAILED, None), row.pop(PARTITION_COUNT, None), row.pop(TOPIC_IDS, None)
            self._progress = row or None
            self._failure = Failure.from_json(failed) if failed is not None else None
            self._layout = Layout(count, ids) if count is not None and ids is not None else None
        elif key == RETRY_KEY:
            self._failure = None
        else:
            self._take(key, value)

    def restored(self) -> Restored:
        """What was read so far."""
        return Restored(self._progress, self._failure, self._records, self._layout)


class KafkaChangelog:
    """Reads partitions of the changelog topic, each with a consumer of its own."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config

    async def read(self, partition: int, end: int, take: Callable[[bytes, bytes | None], None]) -> Restored:
        """Give every committed record of the partition below `end` but those about progress to `take`.

        `end` is the high watermark: the markers of the last owner's transactions may not be written yet, and the last
        stable offset would leave out what they commit. So this waits for every transaction below `end`.

        Raises `KafkaError`. Cancelled, it closes its connection; `take` has then seen a part.
        """
        config = self._config
        consumer = AIOKafkaConsumer(
            **config.kafka,
            client_id=f"{config.group_id}-restore-{partition}",
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=20,  # it waits for markers only, and they wake nobody
            max_partition_fetch_bytes=4 * 1024 * 1024,
            request_timeout_ms=int(config.request_timeout_seconds * 1000),
            retry_backoff_ms=20,
        )
        await consumer.start()
        try:
            reader = ChangelogReader(take)
            await _read(consumer, TopicPartition(config.topic("sessions.changelog"), partition), end, reader)
            return reader.restored()
        finally:
            await consumer.stop()


async def _read(consumer: AIOKafkaConsumer, tp: TopicPartition, end: int, reader: ChangelogReader) -> None:
    consumer.assign([tp])
    begin = (await consumer.beginning_offsets([tp]))[tp]
    # an explicit place: seek_to_beginning races the reset policy and now and then restores nothing
    consumer.seek(tp, begin)
    told = time.monotonic()
    while (position := await consumer.position(tp)) < end:
        for record in (await consumer.getmany(tp, timeout_ms=200)).get(tp, ()):
            reader.read(record.key, record.value)
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            _log.info("restoring", partition=tp.partition, position=position, begin=begin, end=end)
