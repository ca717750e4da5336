"""The order of a transaction's requests: add partitions and group, produce, commit the offsets, end.

Stock aiokafka adds partitions when the first batch is sent; then the group, while it produces; then commits the
offsets, while it may still produce. But before a broker takes a batch, or offsets, it asks the transaction's
coordinator whether their partition was added, and that question fails while anything else is being added or asked: one
produce in 25 on an idle machine, one in ten on a busy one, was refused (NOT_ENOUGH_REPLICAS) and sent again; and
offsets sent along with the batches one time in four. So everything is added first, and nothing is sent meanwhile.

Offsets are committed as a member of the group's generation (KIP-447), which stock aiokafka cannot do.

Leans on internals of aiokafka 0.14.0, which is pinned for that reason.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    IllegalGenerationError,
    KafkaError,
    ProducerFenced,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.producer.sender import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    Sender,
    TxnOffsetCommitHandler,
)
from aiokafka.util import create_task

from streams.kafka_protocol import (
    NO_TAGS,
    BrokerProducerFencedError,
    FencedInstanceIdError,
    TransactionAbortableError,
    TxnOffsetCommitRequest,
)
from streams.member import GroupMember

CONNECTION_RETRY_SECONDS: Final = 0.1
"""Between two attempts to reach a coordinator that does not answer; the sender's own backoff is for markers."""

MEMBER_FENCED: Final = (IllegalGenerationError, UnknownMemberIdError, FencedInstanceIdError)
"""The coordinator does not take offsets from this member any more: its partitions may have other owners."""

_ENDS_THE_PRODUCER: Final = (*MEMBER_FENCED, TransactionAbortableError, BrokerProducerFencedError)


class TransactionSender(Sender):
    """The sender of a transactional producer, which can begin a transaction early."""

    member: GroupMember
    """As whom offsets are committed. Set for each transaction anew."""

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
        while self._is_adding and not failed.done():
            self._added = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._added, failed], return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()

    def fail(self, error: KafkaError) -> None:
        """Make the producer unusable, with this error for whoever waits for its transaction.

        Not `error_transaction`: that forgets the added partitions, so that no EndTxn is sent, and the next transaction
        of this producer commits what this one wrote.
        """
        self._txn_manager.fatal_error(error)
        self._txn_manager.wait_for_transaction_end().exception()  # retrieved, even where nobody waits

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
        node_id = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        if await _AddOffsets(self, group_id).do(node_id):
            self._group_to_add = None

    async def _do_add_partitions_to_txn(self, tps: Any) -> bool:
        node_id = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        done: bool = await _AddPartitions(self, tps).do(node_id)
        return done

    async def _do_txn_offset_commit(self, offsets: Any, group_id: str) -> None:
        if not offsets:
            return
        node_id = await self._find_coordinator(CoordinationType.GROUP, group_id)
        await _CommitOffsets(self, offsets, group_id).do(node_id)


class _AddPartitions(AddPartitionsToTxnHandler):
    """Waits no longer than `retry_backoff_ms` for the last transaction's markers; aiokafka takes 20 ms."""

    def handle_response(self, resp: Any) -> float | None:
        backoff: float | None = super().handle_response(resp)
        return None if backoff is None else min(backoff, self._default_backoff)

    def handle_error(self) -> float:
        super().handle_error()
        return CONNECTION_RETRY_SECONDS


class _AddOffsets(AddOffsetsToTxnHandler):
    def handle_error(self) -> float:
        super().handle_error()
        return CONNECTION_RETRY_SECONDS


class _CommitOffsets(TxnOffsetCommitHandler):
    """Commits offsets as a member of a generation; a broker that no longer knows it so refuses."""

    def create_request(self) -> TxnOffsetCommitRequest:
        sender: TransactionSender = self._sender
        member, transaction = sender.member, sender._txn_manager
        by_topic: defaultdict[str, list[Any]] = defaultdict(list)
        for tp, offset in sorted(self._offsets.items()):
            by_topic[tp.topic].append((tp.partition, offset.offset, -1, offset.metadata, NO_TAGS))
        return TxnOffsetCommitRequest(
            transaction.transactional_id,
            member.group_id,
            transaction.producer_id,
            transaction.producer_epoch,
            member.generation,
            member.member_id,
            member.instance_id,
            [(topic, partitions, NO_TAGS) for topic, partitions in by_topic.items()],
        )

    def handle_response(self, resp: Any) -> float | None:
        codes = {code for _topic, partitions, _tags in resp.errors for _partition, code, _more in partitions}
        for error in map(for_code, codes):
            if error in _ENDS_THE_PRODUCER:
                fenced = error is BrokerProducerFencedError
                self._sender.fail(ProducerFenced() if fenced else error())
                return None
            if error is ConcurrentTransactions:
                backoff: float = self._default_backoff
                return backoff
        resp.errors = [
            (topic, [(partition, code) for partition, code, _more in partitions])
            for topic, partitions, _tags in resp.errors
        ]
        return super().handle_response(resp)  # type: ignore[no-any-return]

    def handle_error(self) -> float:
        super().handle_error()
        return CONNECTION_RETRY_SECONDS
