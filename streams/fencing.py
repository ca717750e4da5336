"""Transactions that dead or replaced workers have left open: found by what they hold up, and ended.

A worker that was killed before it committed its offsets leaves them stable at once, but its records keep readers of the
changelog from going on until the transaction times out, and up to 10 s more. Nobody knows its transactional id; the
partition's leader knows its producer id, and a coordinator which id that belongs to. Ending it takes 100 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from typing import Any, Final

import structlog
from aiokafka import TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    LeaderNotAvailableError,
    NotCoordinatorError,
    for_code,
)
from aiokafka.protocol.transaction import InitProducerIdRequest

from streams.config import EngineConfig
from streams.kafka_protocol import NO_TAGS, DescribeProducersRequest, ListTransactionsRequest

_log = structlog.get_logger(__name__)

ONGOING: Final = "Ongoing"
"""The only state that needs help: in the others the outcome is decided and the markers are on their way."""
RETRY_SECONDS: Final = 0.01
_SOON: Final = (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
)


class TransactionFence:
    """Ends transactions of others. `client` is a connected `AIOKafkaClient`; those of `own_ids` are never touched."""

    def __init__(self, config: EngineConfig, client: Callable[[], Any], own_ids: Container[str]) -> None:
        self._config = config
        self._client = client
        self._own_ids = own_ids

    async def fence(self, transactional_id: str) -> None:
        """Abort the open transaction of this id, if there is one, and make the next one of its owner fail.

        Returns when it has ended. Raises `KafkaError` where the broker does not answer or refuses.
        """
        timeout_ms = int(self._config.transaction_timeout_seconds * 1000)
        async with asyncio.timeout(self._config.request_timeout_seconds):
            while True:
                node_id = await self._client().coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
                answer = await self._client().send(node_id, InitProducerIdRequest(transactional_id, timeout_ms))
                error = for_code(answer.error_code)
                if answer.error_code == 0:
                    return
                if error not in _SOON:
                    raise error(transactional_id)
                await asyncio.sleep(RETRY_SECONDS)

    async def end_those_on(self, partition: TopicPartition) -> None:
        """Abort every ongoing transaction with records on the partition, but this process's own.

        Raises `KafkaError` where a broker does not answer or refuses.
        """
        for transactional_id in await self._ongoing_on(partition):
            if transactional_id in self._own_ids:
                continue
            _log.warning(
                "open_transaction_ended",
                topic=partition.topic,
                partition=partition.partition,
                transactional_id=transactional_id,
            )
            await self.fence(transactional_id)

    async def _ongoing_on(self, partition: TopicPartition) -> list[str]:
        producer_ids = await self._producers_with_open_transactions(partition)
        if not producer_ids:
            return []
        client = self._client()
        found = []
        for broker in client.cluster.brokers():  # each coordinates its part of the transactional ids
            answer = await client.send(broker.nodeId, ListTransactionsRequest([ONGOING], producer_ids))
            if answer.error_code:
                raise for_code(answer.error_code)("open transactions cannot be listed")
            found += [transactional_id for transactional_id, _producer_id, _state, _tags in answer.transactions]
        return found

    async def _producers_with_open_transactions(self, partition: TopicPartition) -> list[int]:
        client = self._client()
        await client.add_topic(partition.topic)
        leader = client.cluster.leader_for_partition(partition)
        if leader is None or leader == -1:
            await client.force_metadata_update()
            raise LeaderNotAvailableError(partition.topic)
        asked = [(partition.topic, [partition.partition], NO_TAGS)]
        answer = await client.send(leader, DescribeProducersRequest(asked))
        producer_ids = set()
        for _topic, partitions, _tags in answer.topics:
            for _number, error_code, message, producers, _more in partitions:
                if error_code:
                    client.force_metadata_update()  # perhaps the leader has moved
                    raise for_code(error_code)(f"{partition.topic}, partition {partition.partition}: {message}")
                producer_ids |= {producer[0] for producer in producers if producer[5] >= 0}
        return sorted(producer_ids)
