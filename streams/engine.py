"""Which partitions this worker owns, and what they share. Batches come in here and go to their partition's cycle."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from projections.partition import Partition
from schemas.decode import Batch
from schemas.topics import Role
from streams.barrier import Barrier
from streams.cold import ColdConsumer
from streams.config import FOLDED_ROLES, EngineConfig
from streams.control import Control
from streams.cycle import Cycle
from streams.errors import NOT_ALLOWED, not_allowed
from streams.fetching import Flow
from streams.forward import Forwarder
from streams.handover import Surroundings
from streams.metrics import Metrics

_log = structlog.get_logger(__name__)

LAG_SECONDS = 5.0
STOP_SECONDS = 3.0


class Engine:
    """The partitions of one worker."""

    def __init__(self, config: EngineConfig, metrics: Metrics) -> None:
        self.flow = Flow(config)
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._config = config
        self._metrics = metrics
        self._control = Control(config)
        self._barrier = Barrier(config)
        self._cold = ColdConsumer(config, self.flow, self.offer)
        self._forwarder: Forwarder | None = None
        self._around: Surroundings | None = None
        self._cycles: dict[int, Cycle] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._telling: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._assigned = False

    async def start(self) -> None:
        """Connect, and check the topics.

        Raises `KafkaError` where no broker answers, and may then be called again; `FatalError` where the topics are not
        what they have to be, or the user may not use them.
        """
        try:
            await self._connect()
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, NOT_ALLOWED):
                raise not_allowed(error) from error
            self._control, self._barrier = Control(self._config), Barrier(self._config)
            self._cold = ColdConsumer(self._config, self.flow, self.offer)
            raise
        self._telling = asyncio.get_running_loop().create_task(self._tell_lag())
        self._fetching = asyncio.get_running_loop().create_task(self._cold.run())
        self._fetching.add_done_callback(self._ended)
        self._metrics.worker("starting")

    async def _connect(self) -> None:
        await self._control.start()
        await self._barrier.start()
        await self._cold.start()
        partition_count = await self._control.partition_count()
        self._forwarder = forwarder = Forwarder(self._config, partition_count)
        await forwarder.start()
        self._around = Surroundings(
            self.flow, self._barrier, self._control, forwarder, self._metrics, partition_count, self._in_background
        )

    async def _disconnect(self) -> None:
        closing = [self._cold.stop(), self._barrier.stop(), self._control.stop()]
        if self._forwarder is not None:
            closing.append(self._forwarder.stop())
        await asyncio.gather(*(_within(STOP_SECONDS, each) for each in closing))

    async def stop(self) -> None:
        """Finish the transactions under way, give every partition up, and disconnect. Bounded in time."""
        self._metrics.worker("stopping")
        await self.on_revoked()
        for number in list(self._cycles):
            self._drop(number)
        for task in (self._telling, self._fetching):
            if task is not None:
                task.cancel()
        background = list(self._background)
        if background:
            _, late = await asyncio.wait(background, timeout=STOP_SECONDS)
            for each in late:
                each.cancel()
        await self._disconnect()

    # What Faust tells

    def offer(self, batch: Batch) -> None:
        """Hand a batch to its partition; one that is not ours (any more) is dropped, its position was not committed."""
        cycle = self._cycles.get(batch.partition)
        if cycle is not None:
            cycle.offer(batch)

    async def on_revoked(self) -> None:
        """Let every transaction finish and start no other: the partitions may get other owners."""
        self._metrics.rebalance()
        await asyncio.gather(*(cycle.suspend() for cycle in self._cycles.values()))

    def on_assigned(self, partitions: set[int]) -> None:
        """Keep what stays, drop what went, take over what is new (in the background)."""
        for number in self._cycles.keys() - partitions:
            self._drop(number)
        self._cold.assign(partitions)
        for cycle in self._cycles.values():
            cycle.resume()
        for number in sorted(partitions - self._cycles.keys()):
            self._own(number)
        self._assigned = True
        self._tell_state()
        _log.info("partitions_assigned", partitions=sorted(partitions))

    def _own(self, number: int) -> None:
        if self._around is None:
            raise RuntimeError("the engine has not been started")
        cycle = self._cycles[number] = Cycle(self._config, number, self._around)
        task = self._running[number] = asyncio.get_running_loop().create_task(cycle.run(), name=f"cycle-{number}")
        task.add_done_callback(self._ended)

    def _drop(self, number: int) -> None:
        del self._cycles[number]
        task = self._running.pop(number)
        task.cancel()
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        self._metrics.forget_partition(number)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self.fatal.done():
            self.fatal.set_exception(error)

    # What the worker tells

    def owned(self, number: int) -> tuple[Partition, Mapping[Role, int]] | None:
        """A partition that is running here, with the positions its committed rows reach; None if it is not."""
        cycle = self._cycles.get(number)
        return None if cycle is None else cycle.committed

    def healthy(self) -> tuple[bool, str]:
        """Whether nothing fatal has happened, and what has."""
        if self.fatal.done():
            return False, repr(self.fatal.exception())
        return True, "ok"

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether the group has assigned partitions (perhaps none) and all of them are running."""
        states = {str(number): cycle.state for number, cycle in sorted(self._cycles.items())}
        ready = self._assigned and all(state == "running" for state in states.values())
        return ready, {"assigned": self._assigned, "partitions": states}

    def _tell_state(self) -> None:
        ready, _ = self.ready()
        self._metrics.worker("running" if ready else "restoring")

    async def _tell_lag(self) -> None:
        while not self.fatal.done():
            await asyncio.sleep(LAG_SECONDS)
            self._tell_state()
            partitions = [
                TopicPartition(self._config.topic(role), number) for number in self._cycles for role in FOLDED_ROLES
            ]
            if not partitions:
                continue
            try:
                ends = await self._control.end_offsets(partitions)
            except KafkaError as error:
                _log.warning("lag_unknown", error=repr(error))
                continue
            for number, cycle in self._cycles.items():
                for topic, position in cycle.positions.items():
                    end = ends.get(TopicPartition(topic, number))
                    if end is not None:
                        self._metrics.lag(topic, number, max(0, end - position))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Do the work if it can be done in time: without a broker, clients wait for answers that do not come."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        _log.warning("not_closed_in_time", seconds=seconds)
