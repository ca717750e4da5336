"""End offsets of logs, for barriers and restores, on a connection of their own.

The high watermark, not the last stable offset: an open producer transaction must not hide context that was
acknowledged before it. Behind the fetching connection's long poll the answer would take up to 1.5 s.
"""

import asyncio
import itertools
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streams.config import EngineConfig

_log = structlog.get_logger(__name__)
RETRY_SECONDS = 0.1
MOST_RETRY_SECONDS = 2.0


class SharedEndOffsets:
    """Answers end offsets. Questions asked while one is under way share the next request."""

    def __init__(self, config: EngineConfig) -> None:
        self._consumer = AIOKafkaConsumer(
            **config.kafka,
            client_id=f"{config.group_id}-barrier",
            isolation_level="read_uncommitted",
            request_timeout_ms=int(config.request_timeout_seconds * 1000),
            retry_backoff_ms=20,
        )
        self._asked: dict[TopicPartition, None] = {}
        self._answer: asyncio.Future[dict[TopicPartition, int]] | None = None
        self._asking = asyncio.Lock()
        self._request: asyncio.Task[None] | None = None  # held, or it could be collected as garbage

    async def start(self) -> None:
        """Connect. Raises `KafkaConnectionError` where no broker answers."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Close the connection."""
        await self._consumer.stop()

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The high watermarks, read after this call was made, of those partitions that have a leader.

        A question about one without a leader would keep the answers about the others waiting. Waits for the broker as
        long as it takes. Cancelled, it leaves the request to the others that share it.
        """
        wanted = dict.fromkeys(partitions)
        self._asked |= wanted
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            self._request = asyncio.get_running_loop().create_task(self._ask(self._answer))
            self._request.add_done_callback(partial(_pass_on, self._answer))
        offsets = await asyncio.shield(self._answer)
        return {tp: offsets[tp] for tp in wanted if tp in offsets}

    async def _led(self, asked: Collection[TopicPartition]) -> list[TopicPartition]:
        """The partitions that have a leader, as far as the brokers say."""
        client: Any = self._consumer._client
        tracked = [client.add_topic(topic) for topic in {tp.topic for tp in asked}]
        await asyncio.gather(*tracked)
        led = [tp for tp in asked if _has_leader(client, tp)]
        if len(led) < len(asked):
            await client.force_metadata_update()
            led = [tp for tp in asked if _has_leader(client, tp)]
        return led

    async def _ask(self, answer: asyncio.Future[dict[TopicPartition, int]]) -> None:
        async with self._asking:
            asked, self._asked, self._answer = self._asked, {}, None
            for failures in itertools.count():
                try:
                    offsets = await self._consumer.end_offsets(await self._led(asked))
                except KafkaError as error:
                    delay = min(MOST_RETRY_SECONDS, RETRY_SECONDS * 2 ** min(failures, 5))
                    _log.warning("barrier_unanswered", error=repr(error), retry_seconds=delay)
                    await asyncio.sleep(delay)
                else:
                    answer.set_result(offsets)
                    return


def _has_leader(client: Any, tp: TopicPartition) -> bool:
    return client.cluster.leader_for_partition(tp) not in {None, -1}


def _pass_on(answer: asyncio.Future[dict[TopicPartition, int]], request: asyncio.Task[None]) -> None:
    """Whoever waits for the answer hears of what no retry helps."""
    if not answer.done():
        if request.cancelled():
            answer.cancel()
        elif (error := request.exception()) is not None:
            answer.set_exception(error)
