"""The transactional producer of a worker: rows, outputs and input offsets of all its partitions in one transaction.

Its transactional id is the process's own. Zombies are fenced by the group's generation (KIP-447), not by the id; the id
only lets a new producer of the same process end what the last one left open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError

from streams.batches import RecordBatch
from streams.config import EngineConfig
from streams.interfaces import UnwritableError
from streams.member import GroupMember
from streams.sender import TransactionSender

_log = structlog.get_logger(__name__)

STOP_SECONDS: Final = 2.0
MARKERS_SECONDS: Final = 3.0
"""How long a new producer waits for the markers of the last one's transaction."""

MARKER_RETRY_MS: Final = 2
"""Right after a commit the broker refuses the next transaction's first requests until the markers are written. aiokafka
waits for 100 ms; 5 ms cost a third of a round more than this."""


def new_transactional_id(config: EngineConfig) -> str:
    """An id that no other process has or had."""
    return f"{config.group_id}-worker-{uuid4().hex}"


class KafkaTransactionLog:
    """Writes whole transactions, one at a time. After any error it has to be opened again, with a new producer."""

    def __init__(self, config: EngineConfig, own_ids: set[str]) -> None:
        self._transactional_id = new_transactional_id(config)
        self._own_ids = own_ids
        self._config = config
        self._producer: AIOKafkaProducer | None = None
        self._begun_at: float | None = None
        self._touched: set[TopicPartition] = set()
        self._ended: set[TopicPartition] = set()
        """The partitions of the last transaction, and of the one before."""
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Discard the producer there is and start one.

        Its first request ends what the last one left open, and waits until that has ended. If the markers stay pending,
        because a partition has no leader, it goes on with another id: the outcome is decided then, and whoever needs to
        know it asks for stable offsets. Raises `KafkaError` where the broker does not answer or refuses.
        """
        self._discard()
        try:
            async with asyncio.timeout(MARKERS_SECONDS):
                await self._start()
        except TimeoutError:
            _log.warning("transaction_still_pending", transactional_id=self._transactional_id)
            self._transactional_id = new_transactional_id(self._config)
            await self._start()

    async def _start(self) -> None:
        producer = AIOKafkaProducer(
            **self._config.kafka,
            client_id=self._transactional_id,
            transactional_id=self._transactional_id,
            transaction_timeout_ms=int(self._config.transaction_timeout_seconds * 1000),
            request_timeout_ms=int(self._config.request_timeout_seconds * 1000),
            retry_backoff_ms=MARKER_RETRY_MS,
            linger_ms=0,
            max_request_size=64 * 1024 * 1024,
            acks="all",
        )
        TransactionSender.of(producer)
        try:
            await producer.start()
        except BaseException:
            self._in_background(_closed(producer))
            raise
        self._producer = producer
        self._own_ids.add(self._transactional_id)

    def begin(self, partitions: Iterable[TopicPartition]) -> None:
        """Begin a transaction, if none was begun, and add these partitions: what `write` will need is then done.

        Takes two round trips off `write`, while its caller waits for something else. To be followed by `write` or
        `abandon` before the transaction times out: see `is_overdue`.
        """
        sender = self._sender
        if self._begun_at is None:
            sender.begin(self._config.group_id)
            self._begun_at = time.monotonic()
            self._ended, self._touched = self._touched, set()
        added = set(partitions)
        self._touched |= added
        sender.add(added)

    @property
    def is_overdue(self) -> bool:
        """Whether a transaction was begun a third of its timeout ago and not written yet."""
        timeout = self._config.transaction_timeout_seconds
        return self._begun_at is not None and time.monotonic() - self._begun_at > timeout / 3

    async def abandon(self) -> None:
        """Abort a transaction that was begun and has nothing to write. Raises `KafkaError`."""
        if self._begun_at is not None:
            self._begun_at = None
            await self._sender.added()
            await self._opened.abort_transaction()

    async def write(
        self,
        batches: Mapping[TopicPartition, Sequence[RecordBatch]],
        offsets: Mapping[TopicPartition, int],
        member: GroupMember,
    ) -> None:
        """Write `batches` and commit `offsets` as `member`, all or nothing.

        Raises `KafkaError`; whether the transaction was committed is then unknown until `open` has returned. Cancelled,
        it leaves a transaction that `open` ends, or whoever takes the partitions over.
        """
        if not member.is_known:
            raise ValueError(f"without a generation and a member id the broker fences nobody: {member}")
        sender, producer = self._sender, self._opened
        self.begin(batches)
        sender.member = member
        try:
            async with asyncio.timeout(MARKERS_SECONDS):
                await sender.added()
        except TimeoutError:
            raise self._pending() from None
        await self._send(producer, batches)
        await producer.send_offsets_to_transaction(dict(offsets), member.group_id)
        await producer.commit_transaction()
        self._begun_at = None

    def _pending(self) -> KafkaError:
        """What keeps a transaction from beginning: mostly the last one's markers, on partitions without a leader."""
        cluster: Any = self._opened.client.cluster
        stuck = [tp for tp in self._ended | self._touched if cluster.leader_for_partition(tp) in {None, -1}]
        return UnwritableError(stuck) if stuck else KafkaTimeoutError("the transaction does not begin")

    async def _send(self, producer: AIOKafkaProducer, batches: Mapping[TopicPartition, Sequence[RecordBatch]]) -> None:
        """Send batches and wait until every one is acknowledged: a commit succeeds even where one was refused.

        Raises `UnwritableError` where some partitions take none for half a transaction's time, and others do.
        """
        sent: dict[asyncio.Future[Any], TopicPartition] = {}
        limit = self._config.transaction_timeout_seconds / 2
        began = time.monotonic()
        at: TopicPartition | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                for at, of_partition in batches.items():
                    for batch in of_partition:  # waits only for another batch of the same partition
                        sent[await producer.send_batch(batch, at.topic, partition=at.partition)] = at
                at = None
        if not sent:
            raise KafkaTimeoutError("no partition takes a record")
        left = max(0.1, began + limit - time.monotonic())
        done, pending = await asyncio.wait(sent, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
        for future in done:
            future.result()
        stuck = {sent[future] for future in pending} | ({at} if at is not None else set())
        if stuck:
            raise UnwritableError(stuck) if done else KafkaTimeoutError("no partition takes a record")

    async def close(self) -> None:
        """Close the connections, in a bounded time, whatever state they are in."""
        self._discard()
        if self._closing:
            await asyncio.gather(*self._closing)

    @property
    def _opened(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the transaction log is not open")
        return self._producer

    @property
    def _sender(self) -> TransactionSender:
        sender: TransactionSender = self._opened._sender
        return sender

    def _discard(self) -> None:
        producer, self._producer, self._begun_at = self._producer, None, None
        self._own_ids.discard(self._transactional_id)
        if producer is not None:
            self._in_background(_closed(producer))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _closed(producer: AIOKafkaProducer) -> None:
    try:
        await asyncio.wait_for(producer.stop(), STOP_SECONDS)
    except (KafkaError, TimeoutError, RuntimeError, AssertionError):
        if producer._sender.sender_task is not None:
            producer._sender.sender_task.cancel()  # it would go on retrying
        await producer.client.close()
