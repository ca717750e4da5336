"""Record batches out of Faust's consumer: one message for each partition's fetched records.

Stock Faust makes a message, an event and an acknowledgement of every record, at 60 to 80 µs each. Here a message's
value is a whole `Batch`, with the consumer's position before and after it. Of Faust's consumer are left: its thread,
group membership and rebalancing. Not used, because each loses records: its pause, its set of active partitions, its gap
tracking, its own seeking and committing.

Leans on internals of faust-streaming 0.15.3 and aiokafka 0.14.0, which are pinned for that reason.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from schemas.decode import Batch
from schemas.topics import Role
from streams.config import FOLDED_ROLES, EngineConfig
from streams.errors import LostInputError

FETCH_TIMEOUT_SECONDS = 1.0
PAUSED_FETCH_TIMEOUT_SECONDS = 0.02

RECORD_BYTES = 256
"""What a fetched record takes in memory beside its key and value: their objects, and its places in five lists."""


class Flow:
    """What the engine and the fetching thread tell each other: who has joined, and how much is queued.

    Written by the engine's thread, read by the fetching one; single assignments only.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.roles: dict[str, Role] = {config.topic(role): role for role in FOLDED_ROLES}
        self.joined: set[int] = set()
        self.queued_bytes: dict[tuple[str, int], int] = {}
        self._seeks: dict[TopicPartition, int] = {}
        self._sought: dict[TopicPartition, int] = {}
        self._budget_bytes = config.queue_budget_bytes // len(FOLDED_ROLES)

    def is_over_budget(self, topic: str, partition: int) -> bool:
        """Whether to stop fetching: more than the budget is queued."""
        return self.queued_bytes.get((topic, partition), 0) > self._budget_bytes

    def has_room(self, topic: str, partition: int) -> bool:
        """Whether to fetch again: the queue is at most half full."""
        return self.queued_bytes.get((topic, partition), 0) <= self._budget_bytes // 2

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Ask for the partition to be read from `offset`. Carried out before the next fetch is looked at."""
        self._seeks[TopicPartition(topic, partition)] = offset
        self._sought[TopicPartition(topic, partition)] = offset

    def seek_again(self, tp: TopicPartition) -> None:
        """Ask for the last place again: it got lost in a rebalance.

        What was folded since then is dropped on arrival.
        """
        self._seeks[tp] = self._sought[tp]

    def take_seeks(self) -> dict[TopicPartition, int]:
        """The seeks asked for since the last call."""
        seeks = self._seeks
        if seeks:
            self._seeks = {}
        return seeks


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread with a consumer of our own settings, fetching batches."""

    def _create_worker_consumer(self, _transport: driver.Transport) -> AIOKafkaConsumer:
        flow: Flow = self.app.flow
        config = flow.config
        self._assignor = self.app.assignor
        return AIOKafkaConsumer(
            **config.kafka,
            client_id=self.app.conf.broker_client_id,
            group_id=config.group_id,
            group_instance_id=config.instance_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=1024 * 1024,
            fetch_max_wait_ms=500,
            request_timeout_ms=int(config.request_timeout_seconds * 1000),
            max_poll_interval_ms=24
            * 3600
            * 1000,  # heartbeats come from this thread, and a watchdog looks after the loop
            session_timeout_ms=int(config.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(config.heartbeat_interval_seconds * 1000),
            rebalance_timeout_ms=int(config.rebalance_timeout_seconds * 1000),
            retry_backoff_ms=20,
            metadata_max_age_ms=60_000,
        )

    async def fetch(self, timeout_seconds: float) -> list[Batch]:
        """The batches that have arrived; waits up to the timeout for some. Runs in this thread's loop.

        Raises `LostInputError` where a joined partition's position is no longer on the broker, and what the group
        coordination failed with. Cancellation loses nothing: a batch not returned has not moved the position.
        """
        consumer = self._ensure_consumer()
        fetcher, subscriptions = consumer._fetcher, consumer._subscription
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        flow: Flow = self.app.flow
        with subscriptions.fetch_context():
            if subscriptions.reassignment_in_progress:
                waiter = subscriptions.wait_for_assignment()
                await asyncio.wait([waiter], timeout=timeout_seconds)
                if waiter.done():
                    waiter.result()
                return []
            for tp, offset in flow.take_seeks().items():
                if subscriptions.is_assigned(tp):
                    fetcher.seek_to(tp, offset)
            paused = self._hold_back(consumer, flow)
            batches = self._drain(fetcher, flow)
            if batches:
                return batches
            waiter = fetcher._create_fetch_waiter()
            timeout_seconds = PAUSED_FETCH_TIMEOUT_SECONDS if paused else timeout_seconds
            await asyncio.wait([waiter], timeout=timeout_seconds)
            if waiter.done():
                waiter.result()
                return self._drain(fetcher, flow)
            waiter.cancel()
            return []

    def _hold_back(self, consumer: AIOKafkaConsumer, flow: Flow) -> bool:
        """Pause what is over its budget, resume what has room. aiokafka's pause leaves the position where it is."""
        subscriptions = consumer._subscription
        held = False
        for tp in subscriptions.assigned_partitions():
            paused = subscriptions._assigned_state(tp).paused
            if not paused and flow.is_over_budget(tp.topic, tp.partition):
                subscriptions.pause(tp)
                held = True
            elif paused and flow.has_room(tp.topic, tp.partition):
                subscriptions.resume(tp)
            else:
                held = held or paused
        return held

    def _drain(self, fetcher: Any, flow: Flow) -> list[Batch]:
        batches = []
        for tp, result in list(fetcher._records.items()):
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
            if type(result) is not FetchResult:
                self._check(tp, result._error, flow)
                continue
            if not result.check_assignment(tp) or not result.has_more():
                continue
            state = result._assignment.state_value(tp)
            start = state.position
            records = _unpacked(result._partition_records)
            result._update_position()
            if tp.partition in flow.joined and state.position > start:
                batches.append(_batch(flow.roles[tp.topic], tp.partition, start, state.position, records))
        return batches

    def _check(self, tp: TopicPartition, error: Exception, flow: Flow) -> None:
        if isinstance(error, NoOffsetForPartitionError):
            if tp.partition in flow.joined:
                flow.seek_again(tp)
            return  # else its hand-over is about to seek the place to start from
        if isinstance(error, OffsetOutOfRangeError):
            if tp.partition not in flow.joined:
                return
            raise LostInputError(
                f"{tp.topic}, partition {tp.partition}: the next record to fold is no longer on the broker"
                f" ({error}). Its retention is too short for this worker's lag. Events were lost before they were"
                f" folded;"
                f" docs/operations.md tells how to go on."
            ) from error
        raise error


def _unpacked(fetched: Any) -> list[Any]:
    """The records of a fetch, without those of aborted transactions and without markers.

    What aiokafka's `PartitionRecords` does one record at a time, making a ConsumerRecord of each.
    """
    records: list[Any] = []
    while fetched._records.has_next():
        batch = fetched._records.next_batch()
        if fetched._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {fetched._tp}")
        aborted = False
        if batch.producer_id is not None:
            fetched._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and fetched._contains_abort_marker(batch):
                fetched._aborted_producers.discard(batch.producer_id)
            aborted = batch.is_transactional and batch.producer_id in fetched._aborted_producers
        if not batch.is_control_batch and not aborted:
            if batch.base_offset >= fetched.next_fetch_offset:
                records.extend(batch)
            else:  # the broker answers with whole batches, from before the position asked for
                records.extend(record for record in batch if record.offset >= fetched.next_fetch_offset)
        fetched.next_fetch_offset = batch.next_offset
    return records


def _batch(role: Role, partition: int, start: int, end: int, records: list[Any]) -> Batch:
    keys = [record.key for record in records]
    values = [record.value for record in records]
    return Batch(
        role,
        partition,
        start,
        end,
        [record.offset for record in records],
        [record.timestamp for record in records],
        keys,
        values,
        [record.headers for record in records],
        sum(map(len, filter(None, values))) + sum(map(len, filter(None, keys))) + RECORD_BYTES * len(records),
    )


class BatchConsumer(driver.Consumer):
    """Faust's consumer, passing batches to the streams and leaving positions and commits to the engine."""

    _thread: BatchConsumerThread

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Nothing: each partition seeks for itself once it is restored."""

    async def _commit(self, _offsets: Mapping[TP, int]) -> bool:
        """Nothing: offsets are committed in the transactions."""
        return False

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust would compare its own acknowledgements, which there are none of."""

    async def _drain_messages(self, fetcher: Any) -> None:
        """Fetch batches and hand them to the streams, until stopped."""
        while not (self.should_stop or fetcher.should_stop):
            if not self.flow_active:
                await self.wait(self.can_resume_flow)
                continue
            try:
                batches = await self._fetch()
            except (ConsumerStoppedError, asyncio.CancelledError):
                if self.app.should_stop:
                    return
                raise
            for batch in batches:
                await self.wait_first(self.callback(self._message(batch)), self.suspend_flow.wait())

    async def _fetch(self) -> list[Batch]:
        thread = self._thread
        future = asyncio.run_coroutine_threadsafe(thread.fetch(FETCH_TIMEOUT_SECONDS), thread.thread_loop)
        return await asyncio.wrap_future(future)

    def _message(self, batch: Batch) -> ConsumerMessage:
        topic = self.app.flow.config.topic(batch.role)
        return ConsumerMessage(
            topic,
            batch.partition,
            batch.start,
            0.0,
            0,
            [],
            None,
            batch,
            None,
            tp=TP(topic, batch.partition),
            generation_id=self.app.consumer_generation_id,  # the streams drop messages of another generation
        )


class BatchTransport(driver.Transport):
    """Faust's Kafka transport with the consumer above."""

    Consumer = BatchConsumer
