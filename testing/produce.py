"""Many records onto topics in little time: batches built by hand, partitions computed once for each session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer

from schemas.topics import Role, topic_name
from testing.workload import Record

BATCH_BYTES = 256 * 1024
IN_FLIGHT = 16


def bulk_producer(**kafka: Any) -> AIOKafkaProducer:
    """A producer for `write`: idempotent, so that a retry repeats nothing; patient enough for a broker's restart."""
    return AIOKafkaProducer(
        **kafka,
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=BATCH_BYTES,
        request_timeout_ms=120_000,
        retry_backoff_ms=20,
    )


async def write(
    producer: AIOKafkaProducer, prefix: str, records: Iterable[Record], *, first_timestamp_ms: int | None = None
) -> int:
    """Write `records` to the topics under `prefix`, in order for each partition of a topic; returns how many.

    With `first_timestamp_ms` each record is one millisecond after the one before it, over all topics: kept only by
    topics whose `message.timestamp.type` is `CreateTime`.
    Returns when every one is acknowledged. Raises `KafkaError`. Cancelled, it leaves an unknown part of them written.
    """
    names: dict[Role, str] = {}
    builders: dict[tuple[Role, int], Any] = {}
    sent: set[asyncio.Future[Any]] = set()
    count = 0

    async def send(role: Role, partition: int) -> None:
        builder = builders.pop((role, partition))
        if len(sent) >= IN_FLIGHT:
            done, _ = await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
            sent.difference_update(done)
        topic = names.get(role) or names.setdefault(role, topic_name(role, prefix))
        sent.add(await producer.send_batch(builder, topic, partition=partition))

    for role, partition, key, value, _task_id in records:
        timestamp = None if first_timestamp_ms is None else first_timestamp_ms + count
        count += 1
        builder = builders.get((role, partition))
        if builder is None:
            builder = builders[role, partition] = producer.create_batch()
        if builder.append(key=key, value=value, timestamp=timestamp) is None:
            await send(role, partition)
            builder = builders[role, partition] = producer.create_batch()
            builder.append(key=key, value=value, timestamp=timestamp)
    for role, partition in list(builders):
        await send(role, partition)
    await asyncio.gather(*sent)
    return count
