"""The first half of a transaction: adding its partitions and its group, at once, and before there is anything to write.

Stock aiokafka adds partitions when the first batch is sent; then the group, while it produces; then commits the
offsets, while it may still produce. But before a broker takes a batch, or offsets, it asks the transaction's
coordinator whether their partition was added, and that question fails while anything else is being added or asked: one
produce in 25 on an idle machine, one in ten on a busy one, was refused (NOT_ENOUGH_REPLICAS) and sent again; and
offsets sent along with the batches one time in four. So everything is added first, and nothing is sent meanwhile.

Leans on internals of aiokafka 0.14.0, which is pinned for that reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.producer.sender import AddPartitionsToTxnHandler, Sender
from aiokafka.util import create_task


class TransactionSender(Sender):
    """The sender of a transactional producer, which can begin a transaction early."""

    _group_to_add: str | None = None
    _added: asyncio.Future[None] | None = None

    @classmethod
    def of(cls, producer: AIOKafkaProducer) -> TransactionSender:
        """Take the place of the sender of a producer that has not been started."""
        stock = producer._sender
        producer._sender = sender = cls(
            stock.client,
            acks=stock._acks,
            txn_manager=stock._txn_manager,
            message_accumulator=stock._message_accumulator,
            retry_backoff_ms=stock._retry_backoff * 1000,
            request_timeout_ms=stock._request_timeout_ms,
        )
        return sender

    def begin(self, group_id: str) -> None:
        """Begin a transaction and add the group to it; returns at once."""
        self._txn_manager.begin_transaction()
        self._group_to_add = group_id
        self._txn_manager.notify_task_waiter()

    def add(self, partitions: Iterable[TopicPartition]) -> None:
        """Add partitions to the transaction, unless it has failed; returns at once."""
        if self._txn_manager.is_in_transaction():
            for partition in partitions:
                self._txn_manager.maybe_add_partition_to_txn(partition)

    async def added(self) -> None:
        """Wait until the broker knows of everything that was added. Raises `KafkaError` where the transaction fails."""
        failed = self._txn_manager.wait_for_transaction_end()
        if self._is_adding:
            self._added = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._added, failed], return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()

    @property
    def _is_adding(self) -> bool:
        return self._group_to_add is not None or bool(self._txn_manager.partitions_to_add())

    def _maybe_do_transactional_request(self) -> Any:
        if self._is_adding:
            return create_task(self._add_all())
        return super()._maybe_do_transactional_request()

    async def _add_all(self) -> None:
        requests: list[Awaitable[object]] = []
        if partitions := self._txn_manager.partitions_to_add():
            requests.append(self._do_add_partitions_to_txn(partitions))
        if self._group_to_add is not None:
            requests.append(self._do_add_group(self._group_to_add))
        # On one connection the broker answers one request after the other: they do not get into each other's way.
        await asyncio.gather(*requests)
        if self._added is not None and not self._added.done() and not self._is_adding:
            self._added.set_result(None)

    async def _do_add_group(self, group_id: str) -> None:
        if await self._do_add_offsets_to_txn(group_id):
            self._group_to_add = None

    async def _do_add_partitions_to_txn(self, tps: Any) -> bool:
        node_id = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        done: bool = await _AddPartitions(self, tps).do(node_id)
        return done


class _AddPartitions(AddPartitionsToTxnHandler):
    """Waits no longer than `retry_backoff_ms` for the last transaction's markers; aiokafka takes 20 ms."""

    def handle_response(self, resp: Any) -> float | None:
        backoff: float | None = super().handle_response(resp)
        return None if backoff is None else min(backoff, self._default_backoff)
