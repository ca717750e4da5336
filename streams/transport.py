"""Record batches out of Faust's consumer: one message for everything that one fetch brought.

Stock Faust makes a message, an event and an acknowledgement of every record, at 60 to 80 µs each. Here a message's
value is a list of `Batch`es, one for each partition, with the consumer's positions before and after it. Of Faust's
consumer only the thread, group membership and rebalancing are used. Its pause, its set of active partitions, its gap
tracking and its own seeking and committing are not, because each loses records.

Leans on internals of faust-streaming 0.15.3 and aiokafka 0.14.0, which are pinned for that reason.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from projections.decode import Batch
from streams.fetching import Flow, fetch_batches
from streams.member import GroupMember

FETCH_TIMEOUT_SECONDS = 1.0


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
        """The batches that have arrived, as `fetch_batches` tells. Runs in this thread's loop."""
        return await fetch_batches(self._ensure_consumer(), self.app.flow, timeout_seconds)


class MemberListener(driver.ConsumerRebalanceListener):
    """Faust's listener, which also captures as whom partitions were assigned. Runs in the consumer's thread.

    Here generation and member id belong to the assignment. Later they may have been reset, to values with which a
    broker takes offsets from anyone.
    """

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Partitions were assigned."""
        coordinator = self._thread._ensure_consumer()._coordinator
        config = self._thread.app.flow.config
        self._thread.app.member = GroupMember(
            config.group_id, coordinator.generation, coordinator.member_id, config.instance_id
        )
        await super().on_partitions_assigned(assigned)


class BatchConsumer(driver.Consumer):
    """Faust's consumer, passing batches to the streams and leaving positions and commits to the engine."""

    RebalanceListener = MemberListener
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
            if batches:
                await self.wait_first(self.callback(self._message(batches)), self.suspend_flow.wait())

    async def _fetch(self) -> list[Batch]:
        thread = self._thread
        future = asyncio.run_coroutine_threadsafe(thread.fetch(FETCH_TIMEOUT_SECONDS), thread.thread_loop)
        return await asyncio.wrap_future(future)

    def _message(self, batches: list[Batch]) -> ConsumerMessage:
        """A message of the first batch's topic: it is the agent's, as all of them are."""
        first = batches[0]
        topic = self.app.flow.config.topic(first.role)
        return ConsumerMessage(
            topic,
            first.partition,
            first.start,
            0.0,
            0,
            [],
            None,
            batches,
            None,
            tp=TP(topic, first.partition),
            generation_id=self.app.consumer_generation_id,  # the streams drop messages of another generation
        )


class BatchTransport(driver.Transport):
    """Faust's Kafka transport with the consumer above."""

    Consumer = BatchConsumer
