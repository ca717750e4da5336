"""One worker's engine: its connections, and who is told what of Faust's callbacks and fetched batches."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from projections.decode import Batch
from projections.partition import Partition
from schemas.topics import Role
from streams.apart import Apart
from streams.assignment import Assignment
from streams.changelog import KafkaChangelog
from streams.cold import ColdConsumer
from streams.config import FOLDED_ROLES, EngineConfig
from streams.context import WorkerContext
from streams.control import Control
from streams.cycle import WorkerCycle
from streams.end_offsets import SharedEndOffsets
from streams.errors import NOT_ALLOWED, FatalError, LostInputError, not_allowed
from streams.fencing import TransactionFence
from streams.fetching import Flow
from streams.interfaces import Layout, SystemClock
from streams.member import GroupMember
from streams.metrics import Metrics
from streams.transaction import KafkaTransactionLog

_log = structlog.get_logger(__name__)

LAG_SECONDS: Final = 5.0
TOPICS_SECONDS: Final = 10.0
STOP_SECONDS: Final = 3.0


class Engine:
    """What a worker does with its partitions, on Kafka."""

    def __init__(self, config: EngineConfig, metrics: Metrics) -> None:
        self.flow = Flow(config)
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._config = config
        self._metrics = metrics
        self._new_connections()
        self._assignment: Assignment | None = None
        self._cycle: WorkerCycle | None = None
        self._apart: Apart | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _new_connections(self) -> None:
        self._control = Control(self._config)
        self._end_offsets = SharedEndOffsets(self._config)
        self._cold = ColdConsumer(self._config, self.flow, self.offer)
        self._own_ids: set[str] = set()
        self._transactions = KafkaTransactionLog(self._config, self._own_ids)

    async def start(self) -> None:
        """Connect, and check the topics.

        Raises `KafkaError` where no broker answers, and may then be called again; `FatalError` where the topics are not
        what they have to be, or the user may not use them.
        """
        try:
            layout = await self._connect()
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, NOT_ALLOWED):
                raise not_allowed(error) from error
            self._new_connections()
            raise
        context = WorkerContext(
            config=self._config,
            fetches=self.flow,
            end_offsets=self._end_offsets,
            committed_offsets=self._control,
            open_transactions=TransactionFence(self._config, lambda: self._control.client, self._own_ids),
            changelog=KafkaChangelog(self._config),
            clock=SystemClock(),
            metrics=self._metrics,
            layout=layout,
            wake=self._wake,
        )
        self._assignment = Assignment(context, self._failed)
        self._apart = Apart(
            context, self._assignment, lambda: KafkaTransactionLog(self._config, self._own_ids), self._supervise
        )
        self._cycle = WorkerCycle(context, self._assignment, self._transactions, set_apart=self._apart.take)
        self._supervise_endless(
            self._cycle.run(),
            self._cold.run(),
            self._assignment.watch_failed(),
            self._watch_topics(layout),
            self._tell_lag(self._assignment),
        )
        self._metrics.worker("starting")

    async def _connect(self) -> Layout:
        await self._control.start()
        layout = await self._control.layout()  # before a consumer can have a broker create topics
        await self._end_offsets.start()
        await self._cold.start()
        await self._transactions.open()
        return layout

    async def _disconnect(self) -> None:
        closing = (self._cold.stop(), self._end_offsets.stop(), self._transactions.close(), self._control.stop())
        await asyncio.gather(*(_within(STOP_SECONDS, each) for each in closing))

    async def stop(self) -> None:
        """Finish the transaction under way, give every partition up, and disconnect. Bounded in time."""
        self._metrics.worker("stopping")
        await self.on_revoked()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        if self._assignment is not None:
            await _within(STOP_SECONDS, self._assignment.close())
        await self._disconnect()

    def _supervise(self, *work: Coroutine[Any, Any, None]) -> None:
        for each in work:
            task = asyncio.get_running_loop().create_task(each)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    def _supervise_endless(self, *work: Coroutine[Any, Any, None]) -> None:
        self._supervise(*(_without_end(each) for each in work))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if not self.fatal.done():
            self.fatal.set_exception(error)

    def _wake(self) -> None:
        if self._cycle is not None:
            self._cycle.wake()
        if self._apart is not None:
            self._apart.wake()

    # What Faust and the cold consumer tell

    def offer(self, batch: Batch) -> None:
        """Hand a batch to its partition; one that is not ours (any more) is dropped, its position was not committed."""
        task = None if self._assignment is None else self._assignment.tasks.get(batch.partition)
        if task is not None:
            task.offer(batch)
            self._wake()

    async def fold(self) -> None:
        """Fold what was offered, as far as no transaction is being written."""
        if self._cycle is not None:
            await self._cycle.fold()

    async def on_revoked(self) -> None:
        """Let the running transaction finish and begin no other: the partitions may get other owners."""
        if self._assignment is not None and self._cycle is not None and self._apart is not None:
            self._assignment.revoke()
            await asyncio.gather(self._cycle.finished(), self._apart.finished())

    def on_assigned(self, partitions: set[int], member: GroupMember) -> None:
        """Keep what stays, drop what went, take over what is new (in the background)."""
        if self._assignment is None:
            raise RuntimeError("the engine has not been started")
        if member != self._assignment.member:
            self._metrics.rebalance()
        self._cold.assign(partitions)
        self._assignment.assign(partitions, member)
        self._tell_state()
        _log.info("partitions_assigned", partitions=sorted(partitions), generation=member.generation)

    # What the worker tells

    def owned(self, number: int) -> tuple[Partition, Mapping[Role, int]] | None:
        """A partition that is running here, with the positions its committed rows reach; None if it is not."""
        task = self._assignment.tasks.get(number) if self._assignment is not None else None
        return None if task is None else task.committed_state

    def healthy(self) -> tuple[bool, str]:
        """Whether nothing fatal has happened, and what has."""
        if self.fatal.done():
            return False, repr(self.fatal.exception())
        return True, "ok"

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether the group has assigned partitions (perhaps none) and all of them are running, or marked as failed.

        A failed partition is told by a metric and an alert; it must not hold up a rollout.
        """
        tasks = self._assignment.tasks if self._assignment is not None else {}
        states = {str(number): task.state for number, task in sorted(tasks.items())}
        is_known = self._assignment is not None and self._assignment.is_known
        ready = is_known and all(state in {"running", "failed"} for state in states.values())
        return ready, {"assigned": is_known, "partitions": states}

    def _tell_state(self) -> None:
        ready, _ = self.ready()
        self._metrics.worker("running" if ready else "restoring")

    async def _watch_topics(self, layout: Layout) -> None:
        """Raise `FatalError` where an input was deleted and created again while this worker read it."""
        while True:
            await asyncio.sleep(TOPICS_SECONDS)
            try:
                found = await self._control.topic_ids()
            except (KafkaError, OSError) as error:
                _log.warning("topics_not_described", error=repr(error))
                continue
            for role, topic_id in found.items():
                if topic_id != layout.topic_ids[role]:
                    raise LostInputError(
                        f"{self._config.topic(role)} was deleted and created again while this worker read it. What was"
                        " not folded is lost, and new records would be skipped; docs/operations.md tells how to go on."
                    )

    async def _tell_lag(self, assignment: Assignment) -> None:
        while True:
            await asyncio.sleep(LAG_SECONDS)
            self._tell_state()
            now = time.monotonic()
            for number, task in assignment.tasks.items():
                waits_for, since = task.oldest_decision or (None, now)
                self._metrics.oldest_decision(number, waits_for, now - since)
            partitions = [
                TopicPartition(self._config.topic(role), number) for number in assignment.tasks for role in FOLDED_ROLES
            ]
            if not partitions:
                continue
            try:
                ends = await self._control.end_offsets(partitions)
            except KafkaError as error:
                _log.warning("lag_unknown", error=repr(error))
                continue
            for number, task in assignment.tasks.items():
                for topic, position in task.positions.items():
                    end = ends.get(TopicPartition(topic, number))
                    if end is not None:
                        self._metrics.lag(topic, number, max(0, end - position))


async def _without_end(work: Coroutine[Any, Any, None]) -> None:
    """Raise `FatalError` if the work ends: whatever it did for the worker is not done any more."""
    await work
    raise FatalError(f"{getattr(work, '__qualname__', work)} has ended; restart the worker")


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Do the work if it can be done in time: without a broker, clients wait for answers that do not come."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        _log.warning("not_closed_in_time", seconds=seconds)
