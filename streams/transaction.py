"""The transactional producer of one partition: rows, outputs and input offsets in one transaction.

Its transactional id names the group and the partition, so a new owner's first act fences the old one. Any error makes
it unusable; the caller throws it away together with the rows, which were changed already.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from streams.batches import RecordBatch
from streams.config import EngineConfig
from streams.sender import TransactionSender

STOP_SECONDS = 2.0


class TransactionWriter:
    """Writes whole transactions, one at a time."""

    def __init__(self, config: EngineConfig, partition: int) -> None:
        self._config = config
        self._partition = partition
        self._producer = AIOKafkaProducer(
            **config.kafka,
            client_id=f"{config.group_id}-{partition}",
            transactional_id=f"{config.group_id}-{partition}",
            transaction_timeout_ms=int(config.transaction_timeout_seconds * 1000),
            request_timeout_ms=int(config.request_timeout_seconds * 1000),
            # Right after a commit the broker answers NOT_ENOUGH_REPLICAS until the markers are written: wait 5 ms,
            # not 100.
            retry_backoff_ms=5,
            linger_ms=0,
            max_request_size=64 * 1024 * 1024,
            acks="all",
        )
        self._sender = TransactionSender.of(self._producer)
        self._begun_at: float | None = None

    async def fence(self) -> None:
        """Become the only writer: end any transaction of the last owner, and make its next one fail.

        Raises `KafkaError` where the broker does not answer or refuses.
        """
        await self._producer.start()

    def begin(self, topics: Iterable[str]) -> None:
        """Begin the next transaction, if it has not been: what `write` will need of these topics is then done.

        Takes two round trips off `write`, while its caller waits for something else. To be followed by `write` before
        the transaction times out: see `is_waiting`.
        """
        if self._begun_at is None:
            self._sender.begin(self._config.group_id)
            self._begun_at = time.monotonic()
        self._sender.add(TopicPartition(topic, self._partition) for topic in topics)

    @property
    def is_waiting(self) -> bool:
        """Whether a transaction was begun a third of its timeout ago and not written yet."""
        timeout = self._config.transaction_timeout_seconds
        return self._begun_at is not None and time.monotonic() - self._begun_at > timeout / 3

    async def write(self, batches: Mapping[str, Sequence[RecordBatch]], offsets: Mapping[str, int]) -> None:
        """Write `batches` (by topic) and commit `offsets` (by input topic), all or nothing.

        Raises `KafkaError`; whether the transaction was committed is then unknown until the next fence. Cancelled, it
        leaves a transaction that the broker aborts after its timeout, or the next fence before.
        """
        producer, partition = self._producer, self._partition
        self.begin(batches)
        await self._sender.added()
        sent = [
            await producer.send_batch(batch, topic, partition=partition)
            for topic, topic_batches in batches.items()
            for batch in topic_batches
        ]
        # commit_transaction succeeds even where a batch was refused, so every batch is awaited before it
        await asyncio.gather(*sent)
        if offsets:  # a timer writes without having read anything
            committed = {TopicPartition(topic, partition): offset for topic, offset in offsets.items()}
            await producer.send_offsets_to_transaction(committed, self._config.group_id)
        await producer.commit_transaction()
        self._begun_at = None

    async def stop(self) -> None:
        """Close the connections, in a bounded time, whatever state they are in."""
        try:
            await asyncio.wait_for(self._producer.stop(), STOP_SECONDS)
        except (KafkaError, TimeoutError, RuntimeError, AssertionError):
            await self._producer.client.close()
