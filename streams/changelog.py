"""The changelog of one partition: its rows, its parked results, and one progress row that says how far they reach."""

import time
from collections.abc import Callable
from typing import Final

import orjson
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.topics import Role
from streams.config import EngineConfig

_log = structlog.get_logger(__name__)

PROGRESS_KEY: Final = b"p"
TELL_SECONDS: Final = 5.0

Progress = dict[Role, int]
"""The position folded up to, by the role of the input topic."""


def progress_to_bytes(progress: Progress) -> bytes:
    """The progress row's value."""
    return orjson.dumps(progress)


async def restore(
    config: EngineConfig, partition: int, take: Callable[[bytes, bytes | None], None]
) -> tuple[Progress | None, int]:
    """Read the partition's changelog from its beginning to its end, giving every record but the progress row to `take`.

    Returns the last progress row (None where there is none) and the number of records read. The caller has fenced the
    last owner, so nothing is added meanwhile and no transaction is open. Raises `KafkaError`. Cancelled, it closes its
    connection; `take` has then seen a part.
    """
    tp = TopicPartition(config.topic("sessions.changelog"), partition)
    consumer = AIOKafkaConsumer(
        **config.kafka,
        client_id=f"{config.group_id}-restore-{partition}",
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=4 * 1024 * 1024,
        request_timeout_ms=int(config.request_timeout_seconds * 1000),
        retry_backoff_ms=20,
    )
    await consumer.start()
    try:
        return await _read(consumer, tp, take)
    finally:
        await consumer.stop()


async def _read(
    consumer: AIOKafkaConsumer, tp: TopicPartition, take: Callable[[bytes, bytes | None], None]
) -> tuple[Progress | None, int]:
    consumer.assign([tp])
    begin = (await consumer.beginning_offsets([tp]))[tp]
    end = (await consumer.end_offsets([tp]))[tp]
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
