"""Batches out of an aiokafka consumer: positions, back-pressure and unpacking. Used by both consumers of a worker.

Leans on internals of aiokafka 0.14.0, which is pinned for that reason.
"""

import asyncio
from collections import deque
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    InconsistentGroupProtocolError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from projections.decode import Batch
from schemas.topics import Role
from streams.config import COLD_ROLES, FOLDED_ROLES, EngineConfig
from streams.errors import LostInputError
from streams.unpacking import UnreadableBatchError, records_of
from streams.unreadable import unreadable

PAUSED_FETCH_TIMEOUT_SECONDS: Final = 0.02

RECORD_BYTES: Final = 256
"""What a fetched record takes in memory beside its key and value: their objects, and its places in five lists."""
HEADER_BYTES: Final = 150
"""The same of a header beside its name and value."""
UNPACKED_BYTES: Final = 4 * 1024 * 1024
"""Of one topic partition at a time; a batch that is larger by itself is unpacked whole."""


class Flow:
    """What the engine and a fetching consumer tell each other: who has joined, where to read, how much is queued.

    Written by the engine's thread, read by the group consumer's; deques and single assignments only.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.roles: dict[str, Role] = {config.topic(role): role for role in FOLDED_ROLES}
        self.joined: set[int] = set()
        self.queued_bytes: dict[tuple[str, int], int] = {}
        """What is queued of the context and the hot steps of all partitions: cold work waits for it."""
        self._cold_topics = frozenset(config.topic(role) for role in COLD_ROLES)
        self._seeks: dict[bool, deque[tuple[TopicPartition, int]]] = {False: deque(), True: deque()}
        self._sought: dict[TopicPartition, int] = {}
        hot, cold = config.queue_budget_bytes * 3 // 10, config.queue_budget_bytes // 20
        self._budget_bytes = {topic: cold if topic in self._cold_topics else hot for topic in self.roles}

    def is_over_budget(self, tp: TopicPartition) -> bool:
        """Whether to stop fetching: more than the topic's share of the budget is queued."""
        return self.queued_bytes.get((tp.topic, tp.partition), 0) > self._budget_bytes[tp.topic]

    def has_room(self, tp: TopicPartition) -> bool:
        """Whether to fetch again: the queue is at most half full."""
        return self.queued_bytes.get((tp.topic, tp.partition), 0) <= self._budget_bytes[tp.topic] // 2

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Ask for the partition to be read from `offset`. Carried out before the next fetch is looked at."""
        tp = TopicPartition(topic, partition)
        self._sought[tp] = offset
        self._seeks[topic in self._cold_topics].append((tp, offset))

    def seek_again(self, tp: TopicPartition) -> None:
        """Ask for the last place again: it got lost in a rebalance. What was folded since is dropped on arrival."""
        self.seek(tp.topic, tp.partition, self._sought[tp])

    def take_seeks(self, *, cold: bool) -> dict[TopicPartition, int]:
        """The seeks asked for since the last call, for one of the consumers."""
        asked, seeks = self._seeks[cold], {}
        while asked:
            tp, offset = asked.popleft()
            seeks[tp] = offset
        return seeks


async def fetch_batches(
    consumer: AIOKafkaConsumer, flow: Flow, timeout_seconds: float, *, cold: bool = False
) -> list[Batch]:
    """The batches that have arrived; waits up to the timeout for some. Runs in the consumer's loop.

    Raises `LostInputError` where a joined partition's position is no longer on the broker, and what the group
    coordination failed with. Cancellation loses nothing: a batch not returned is fetched again.
    """
    fetcher, subscriptions = consumer._fetcher, consumer._subscription
    if consumer._closed or fetcher._closed:
        raise ConsumerStoppedError
    with subscriptions.fetch_context():
        if subscriptions.reassignment_in_progress:
            waiter = subscriptions.wait_for_assignment()
            await asyncio.wait([waiter], timeout=timeout_seconds)
            if waiter.done() and not isinstance(waiter.exception(), InconsistentGroupProtocolError):
                waiter.result()  # the watchdog looks after workers of an older version
            return []
        for tp, offset in flow.take_seeks(cold=cold).items():
            if subscriptions.is_assigned(tp):
                fetcher.seek_to(tp, offset)
        paused = _hold_back(consumer, flow)
        batches = _drain(fetcher, flow)
        if batches:
            return batches
        waiter = fetcher._create_fetch_waiter()
        await asyncio.wait([waiter], timeout=PAUSED_FETCH_TIMEOUT_SECONDS if paused else timeout_seconds)
        if waiter.done():
            waiter.result()
            return _drain(fetcher, flow)
        waiter.cancel()
        return []


def _hold_back(consumer: AIOKafkaConsumer, flow: Flow) -> bool:
    """Pause what has not joined or is over its budget, resume what has room. Returns whether anything is paused.

    aiokafka's pause leaves the position where it is. A partition that is still being restored gets a place to stand on:
    without one the fetcher asks for its committed offset over and over.
    """
    subscriptions = consumer._subscription
    held = False
    for tp in subscriptions.assigned_partitions():
        state = subscriptions._assigned_state(tp)
        if tp.partition not in flow.joined:
            if not state.paused:
                consumer._fetcher.seek_to(tp, 0)
                subscriptions.pause(tp)
            held = True
        elif not state.paused and flow.is_over_budget(tp):
            subscriptions.pause(tp)
            held = True
        elif state.paused and flow.has_room(tp):
            subscriptions.resume(tp)
        else:
            held = held or state.paused
    return held


def _drain(fetcher: Any, flow: Flow) -> list[Batch]:
    batches: list[Batch] = []
    for tp, result in list(fetcher._records.items()):
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)
        if type(result) is not FetchResult:
            _check(tp, result._error, flow)
            continue
        fetched = result._partition_records
        # An iterator that is never run holds its buffer in a cycle: a leak of every fetch while nobody collects those.
        fetched._records_iterator = None
        if not result.check_assignment(tp) or not result.has_more():
            continue
        found = _unpacked(fetched, flow.roles[tp.topic], tp.partition)
        result._update_position()
        if fetched._records.has_next():
            fetcher._records[tp] = result  # what has been unpacked is enough for now
        if tp.partition in flow.joined:
            batches += found
    return batches


def _check(tp: TopicPartition, error: Exception, flow: Flow) -> None:
    if isinstance(error, NoOffsetForPartitionError):
        if tp.partition in flow.joined:
            flow.seek_again(tp)
        return  # else its hand-over is about to seek the place to start from
    if isinstance(error, OffsetOutOfRangeError):
        if tp.partition not in flow.joined:
            return
        raise LostInputError(
            f"{tp.topic}, partition {tp.partition}: the next record to fold is no longer on the broker ({error})."
            " Its retention is too short for this worker's lag. Events were lost before they were folded;"
            " docs/operations.md tells how to go on."
        ) from error
    raise error


def _unpacked(fetched: Any, role: Role, partition: int) -> list[Batch]:
    """The records of a fetch, without those of aborted transactions and without markers.

    What aiokafka's `PartitionRecords` does one record at a time, making a ConsumerRecord of each. A packed batch that
    cannot be unpacked is a batch of its own. Stops early where much was unpacked; the caller asks for the rest later.
    """
    batches: list[Batch] = []
    records: list[Any] = []
    start, size_bytes = fetched.next_fetch_offset, 0
    while fetched._records.has_next() and size_bytes <= UNPACKED_BYTES:
        batch = fetched._records.next_batch()
        raw = fetched._records.raw
        if fetched._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")
        aborted = False
        if batch.producer_id is not None:
            fetched._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and fetched._contains_abort_marker(batch):
                fetched._aborted_producers.discard(batch.producer_id)
            aborted = batch.is_transactional and batch.producer_id in fetched._aborted_producers
        if not batch.is_control_batch and not aborted:
            try:
                found = records_of(batch, raw)
            except UnreadableBatchError as error:
                before = fetched.next_fetch_offset
                if before > start:
                    batches.append(_batch(role, partition, start, before, records))
                batches.append(unreadable(role, partition, before, batch, raw, str(error)))
                start, records = batch.next_offset, []
                found = []
                size_bytes += len(raw)
            if batch.base_offset < fetched.next_fetch_offset:
                # the broker answers with whole batches, from before the position asked for
                found = [record for record in found if record.offset >= fetched.next_fetch_offset]
            records += found
            size_bytes += len(raw) if not batch.compression_type else _size(found)
        fetched.next_fetch_offset = batch.next_offset
    if fetched.next_fetch_offset > start:
        batches.append(_batch(role, partition, start, fetched.next_fetch_offset, records))
    return batches


def _size(records: list[Any]) -> int:
    """What unpacked records take, about."""
    size = 0
    for record in records:
        size += RECORD_BYTES + len(record.value or b"") + (_headers_size(record.headers) if record.headers else 0)
    return size


def _batch(role: Role, partition: int, start: int, end: int, records: list[Any]) -> Batch:
    keys = [record.key for record in records]
    values = [record.value for record in records]
    headers = [record.headers for record in records]
    return Batch(
        role,
        partition,
        start,
        end,
        [record.offset for record in records],
        [record.timestamp for record in records],
        keys,
        values,
        headers,
        sum(map(len, filter(None, values)))
        + sum(map(len, filter(None, keys)))
        + sum(map(_headers_size, filter(None, headers)))
        + RECORD_BYTES * len(records),
    )


def _headers_size(headers: Any) -> int:
    return sum(HEADER_BYTES + len(name) + (0 if value is None else len(value)) for name, value in headers)
