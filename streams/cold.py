"""The second consumer: the cold topics of the partitions this worker owns, in small fetches.

One consumer cannot keep lanes apart: its fetcher waits for every buffered partition of a broker, and a cold flood made
the hot p99 36 times as long. This one is assigned by hand; offsets are committed in the same transactions.

A fetch brings a producer's whole batch, however small it was asked to be, and a hot record that arrives waits for the
piece that is being worked on: so what is fetched is offered in pieces.
"""

import asyncio
from collections.abc import Callable

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from projections.decode import Batch
from streams.config import COLD_ROLES, EngineConfig
from streams.errors import FatalError
from streams.fetching import Flow, fetch_batches

_log = structlog.get_logger(__name__)

FETCH_BYTES = 64 * 1024
FETCH_TIMEOUT_SECONDS = 1.0
NOTHING_ASSIGNED_SECONDS = 0.2


class ColdConsumer:
    """Fetches from the cold topics of whatever partitions it was last given."""

    def __init__(self, config: EngineConfig, flow: Flow, offer: Callable[[Batch], None]) -> None:
        self._config = config
        self._flow = flow
        self._offer = offer
        self._consumer = AIOKafkaConsumer(
            **config.kafka,
            client_id=f"{config.group_id}-cold",
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=500,
            request_timeout_ms=int(config.request_timeout_seconds * 1000),
            retry_backoff_ms=20,
        )

    async def start(self) -> None:
        """Connect. Raises `KafkaConnectionError` where no broker answers."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Close the connection."""
        await self._consumer.stop()

    def assign(self, partitions: set[int]) -> None:
        """Read the cold topics of these partitions from now on; every partition has to be sought again."""
        topics = [self._config.topic(role) for role in COLD_ROLES]
        self._consumer.unsubscribe()
        if partitions:
            self._consumer.assign([TopicPartition(topic, number) for topic in topics for number in partitions])

    async def run(self) -> None:
        """Fetch and offer until cancelled.

        Raises `LostInputError`, as `fetch_batches` does, and `FatalError` where aiokafka's own fetching has ended.
        """
        while True:
            fetching = self._consumer._fetcher._fetch_task
            if fetching.done():
                error = None if fetching.cancelled() else fetching.exception()
                raise FatalError(f"the cold consumer's fetching task has ended: {error!r}; restart the worker")
            if not self._consumer.assignment():
                await asyncio.sleep(NOTHING_ASSIGNED_SECONDS)
                continue
            for batch in await fetch_batches(self._consumer, self._flow, FETCH_TIMEOUT_SECONDS, cold=True):
                for piece in batch.pieces(self._config.cold_max_records):
                    self._offer(piece)
            await asyncio.sleep(0)
