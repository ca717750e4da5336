"""The changelog: rows, parked results, and for each partition one progress row that says how far they reach."""

import time
from collections.abc import Callable
from typing import Final

import orjson
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.config import EngineConfig
from streams.interfaces import Progress

_log = structlog.get_logger(__name__)

PROGRESS_KEY: Final = b"p"
TELL_SECONDS: Final = 5.0


def progress_to_bytes(progress: Progress) -> bytes:
    """The progress row's value."""
    return orjson.dumps(dict(progress))


class KafkaChangelog:
    """Reads partitions of the changelog topic, each with a consumer of its own."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config

    async def read(
        self, partition: int, end: int, take: Callable[[bytes, bytes | None], None]
    ) -> tuple[Progress | None, int]:
        """Give every committed record of the partition below `end` but the progress row to `take`.

        `end` is the high watermark: the markers of the last owner's transactions may not be written yet, and the last
        stable offset would leave out what they commit. So this waits for every transaction below `end`.

        Returns the last progress row (None where there is none) and the number of records read. Raises `KafkaError`.
        Cancelled, it closes its connection; `take` has then seen a part.
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
            return await _read(consumer, TopicPartition(config.topic("sessions.changelog"), partition), end, take)
        finally:
            await consumer.stop()


async def _read(
    consumer: AIOKafkaConsumer, tp: TopicPartition, end: int, take: Callable[[bytes, bytes | None], None]
) -> tuple[Progress | None, int]:
    consumer.assign([tp])
    begin = (await consumer.beginning_offsets([tp]))[tp]
    # an explicit place: seek_to_beginning races the reset policy and now and then restores nothing
    consumer.seek(tp, begin)
    progress: Progress | None = None
    count, told = 0, time.monotonic()
    while (position := await consumer.position(tp)) < end:
        records = (await consumer.getmany(tp, timeout_ms=200)).get(tp, ())
        for record in records:
            if record.key == PROGRESS_KEY:
                progress = orjson.loads(record.value) if record.value is not None else None
            else:
                take(record.key, record.value)
        count += len(records)
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            _log.info("restoring", partition=tp.partition, position=position, begin=begin, end=end)
    return progress, count
