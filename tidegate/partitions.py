"""`tidegate partitions`: which partitions are marked as failed, and asking their owners to try one again.

The mark is in the partition's progress row, the last one of its changelog. A request to try again is a record behind
it; the owner looks for one every few seconds, and a new owner finds it when it restores the partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.topics import topic_name
from streams.changelog import PROGRESS_KEY, RETRY_KEY, ChangelogReader
from streams.failure import Failure
from streams.interfaces import Restored
from tidegate.errors import TidegateError
from tidegate.refusals import unanswered
from tidegate.settings import Settings

WINDOW: Final = 2000
"""How far before the end of a changelog to look for the last progress row: every transaction ends with one."""


async def failures(settings: Settings) -> dict[int, Failure | None]:
    """The failure that each partition is marked with; None for one that is not.

    Raises `TidegateError` where the broker does not answer, or the topic is missing.
    """
    return {number: restored.failure for number, restored in (await progress(settings)).items()}


async def progress(settings: Settings) -> dict[int, Restored]:
    """What the last progress row of each partition says.

    Raises `TidegateError` where the broker does not answer, or the topic is missing.
    """
    async with _consumer(settings) as consumer:
        topic = topic_name("sessions.changelog", settings.topic_prefix)
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise TidegateError(f"There is no topic {topic}.", "Create the topics: tidegate topics create")
        return await _read(consumer, [TopicPartition(topic, number) for number in sorted(numbers)])


async def retry(settings: Settings, number: int) -> Failure:
    """Ask for a failed partition to be tried again. Returns what it was marked with.

    Raises `TidegateError` where it is not marked, or the broker does not answer.
    """
    marked = await failures(settings)
    failure = marked.get(number)
    if failure is None:
        state = "is not marked as failed" if number in marked else "does not exist"
        raise TidegateError(f"Partition {number} {state}.", "tidegate partitions list shows those that are marked.")
    topic = topic_name("sessions.changelog", settings.topic_prefix)
    producer = AIOKafkaProducer(**settings.kafka_kwargs(), acks="all", enable_idempotence=True)
    try:
        await producer.start()
        asked = orjson.dumps({"asked_at": datetime.now(UTC).isoformat(timespec="seconds")})
        await producer.send_and_wait(topic, asked, key=RETRY_KEY, partition=number)
    except (KafkaError, TimeoutError) as error:
        raise unanswered(settings, error) from error
    finally:
        await producer.stop()
    return failure


async def _read(consumer: Any, tps: list[TopicPartition]) -> dict[int, Restored]:
    """What the last progress row of each says: near the end of the changelog, or else anywhere in it."""
    begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    found: dict[int, Restored] = {}
    consumer.assign(tps)  # once: aiokafka does not stop reliably after several
    for window in (WINDOW, max(ends.values(), default=0)):
        left = {tp: ends[tp] for tp in tps if tp.partition not in found}
        readers = {tp: ChangelogReader(_drop) for tp in left}
        for tp, end in left.items():
            consumer.seek(tp, max(begins[tp], end - window))
        while left:
            for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    if tp in left and record.key in {PROGRESS_KEY, RETRY_KEY}:
                        readers[tp].read(record.key, record.value)
                        if record.key == PROGRESS_KEY:
                            found[tp.partition] = readers[tp].restored()
            for tp in list(left):
                if await consumer.position(tp) >= left[tp]:
                    if tp.partition in found:
                        found[tp.partition] = readers[tp].restored()  # with a request behind it
                    del left[tp]
    return {tp.partition: found.get(tp.partition, Restored(None, None, 0)) for tp in tps}


def _drop(_key: bytes, _value: bytes | None) -> None:
    return


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(
        **settings.kafka_kwargs(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        request_timeout_ms=int(settings.request_timeout_seconds * 1000),
    )
    try:
        await consumer.start()
        async with asyncio.timeout(settings.request_timeout_seconds * 3):
            await consumer._client.force_metadata_update()
            await consumer.topics()
            yield consumer
    except (KafkaError, TimeoutError) as error:
        raise unanswered(settings, error) from error
    finally:
        await consumer.stop()
