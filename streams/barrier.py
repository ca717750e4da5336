"""The barrier: how far the logs reached when a batch of results was about to be judged.

The high watermark, not the last stable offset: an open producer transaction must not hide context that was
acknowledged before it. Asked on a connection of its own, because behind the fetching connection's long poll the answer
takes up to 1.5 s.
"""

import asyncio
from collections.abc import Iterable

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streams.config import EngineConfig

_log = structlog.get_logger(__name__)
RETRY_SECONDS = 0.25


class Barrier:
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

    async def start(self) -> None:
        """Connect. Raises `KafkaConnectionError` where no broker answers."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Close the connection."""
        await self._consumer.stop()

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The high watermarks, read after this call was made. Waits for the broker as long as it takes.

        Cancelled, it leaves the request to the others that share it.
        """
        wanted = dict.fromkeys(partitions)
        self._asked |= wanted
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().create_task(self._ask(self._answer))
        offsets = await asyncio.shield(self._answer)
        return {tp: offsets[tp] for tp in wanted}

    async def _ask(self, answer: asyncio.Future[dict[TopicPartition, int]]) -> None:
        async with self._asking:
            asked, self._asked, self._answer = self._asked, {}, None
            while True:
                try:
                    offsets = await self._consumer.end_offsets(list(asked))
                except KafkaError as error:
                    _log.warning("barrier_unanswered", error=repr(error), retry_seconds=RETRY_SECONDS)
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    answer.set_result(offsets)
                    return
