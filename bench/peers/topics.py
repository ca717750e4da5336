"""The topics of a comparison: inputs filled once in a known order of time, outputs made anew for every engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from schemas.topics import topic_name, topics
from testing.produce import bulk_producer, write
from testing.watching import FOLDED
from testing.workload import Record
from tidegate.settings import Settings
from tidegate.topics import create_topics

COMPACTED = {"cleanup.policy": "compact"}


async def fill(settings: Settings, records: Sequence[Record]) -> None:
    """Make the inputs and write `records`, a millisecond between each and the next, the last of them now."""
    inputs = [topic_name(role, settings.topic_prefix) for role in FOLDED]
    # The contract has the broker's time. One after the other at this pace, the broker's would be a few big steps.
    await create(settings, inputs, {"message.timestamp.type": "CreateTime"})
    async with bulk_producer(**settings.kafka_kwargs()) as producer:
        first_ms = int(time.time() * 1000) - len(records)
        await write(producer, settings.topic_prefix, records, first_timestamp_ms=first_ms)


async def create(settings: Settings, names: Iterable[str], config: dict[str, str] | None = None) -> None:
    """Make topics and wait until all their partitions are led. Raises `RuntimeError` where the broker refuses one."""
    wanted = set(names)
    async with _admin(settings) as admin:
        new = [NewTopic(name, settings.partitions, 1, topic_configs=config or {}) for name in wanted]
        _refuse(await admin.create_topics(new))
        while True:
            led = {
                topic["topic"]
                for topic in await admin.describe_topics()
                if all(partition["leader"] >= 0 for partition in topic["partitions"])
            }
            if wanted <= led:
                return
            await asyncio.sleep(0.05)


async def remake_gate_outputs(settings: Settings) -> None:
    """Give the gate empty outputs and an empty changelog under the inputs' prefix, as a new gate has them."""
    inputs = {topic_name(role, settings.topic_prefix) for role in FOLDED}
    gate_topics = {topic.name for topic in topics(settings.topic_prefix)} - inputs
    await delete(settings, gate_topics)
    await create_topics(settings)


async def delete(settings: Settings, names: Iterable[str] = (), *, containing: str | None = None) -> None:
    """Delete those topics of `names`, and those with `containing` in their names, that exist."""
    wanted = set(names)
    async with _admin(settings) as admin:
        while True:
            topics_there = await admin.list_topics()
            there = [name for name in topics_there if name in wanted or (containing and containing in name)]
            if not there:
                return
            await admin.delete_topics(there)
            await asyncio.sleep(0.1)


def _refuse(answer: Any) -> None:
    refused = [f"{name}: {message or for_code(code).__name__}" for name, code, message in answer.topic_errors if code]
    if refused:
        raise RuntimeError("the broker refused to create " + "; ".join(refused))


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**settings.kafka_kwargs())
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
