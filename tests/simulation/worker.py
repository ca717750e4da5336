"""A simulated worker: the real cycle, partitions and hand-overs, on simulated connections."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from random import Random
from typing import Any

from aiokafka.errors import KafkaError

from streams.apart import Apart
from streams.assignment import Assignment
from streams.config import FOLDED_ROLES, EngineConfig
from streams.context import WorkerContext
from streams.cycle import WorkerCycle
from streams.interfaces import Layout
from streams.member import GroupMember
from streams.metrics import Metrics
from tests.simulation.broker import Broker
from tests.simulation.client import Network, SimulatedCluster, SimulatedFetches, SimulatedLog


class SimulatedWorker:
    """One process. `name` is never used again."""

    def __init__(self, name: str, config: EngineConfig, broker: Broker, random: Random, partition_count: int) -> None:
        self.name = name
        self.network = Network(broker, random)
        self.failure: BaseException | None = None
        """What ended it by itself, which nothing may."""
        self._metrics = Metrics()
        self._fetches = SimulatedFetches(config, self.network)
        own_ids: set[str] = set()
        self._log = SimulatedLog(self.network, f"worker-{name}", own_ids, config.transaction_timeout_seconds)
        cluster = SimulatedCluster(config, self.network, own_ids)
        numbers = itertools.count(1)
        context = WorkerContext(
            config=config,
            fetches=self._fetches,
            end_offsets=cluster,
            committed_offsets=cluster,
            open_transactions=cluster,
            changelog=cluster,
            clock=broker.clock,
            metrics=self._metrics,
            layout=Layout(partition_count, dict.fromkeys(FOLDED_ROLES, "id")),
            wake=self._wake,
        )
        self.assignment = Assignment(context, self._failed)
        self.apart = Apart(
            context,
            self.assignment,
            lambda: SimulatedLog(
                self.network, f"worker-{name}-{next(numbers)}", own_ids, config.transaction_timeout_seconds
            ),
            self._supervise,
        )
        self.cycle = WorkerCycle(context, self.assignment, self._log, set_apart=self.apart.take)
        self._tasks = [self._start(work) for work in (self._run(), self._fetch(), self.assignment.watch_failed())]

    def kill(self) -> None:
        """End it: no request arrives any more."""
        self.network.is_dead = True
        for task in self._tasks:
            task.cancel()
        for number in list(self.assignment.tasks):
            self.assignment._drop(number)

    def freeze(self) -> None:
        """Stop it: its requests wait."""
        self.network.thawed.clear()

    def thaw(self) -> None:
        """Let it go on, unaware of what has happened meanwhile."""
        self.network.thawed.set()

    @property
    def failed_transactions(self) -> int:
        """As it counts them itself."""
        (family,) = self._metrics.transaction_failures_total.collect()
        return round(sum(sample.value for sample in family.samples if sample.name.endswith("_total")))

    @property
    def is_frozen(self) -> bool:
        return not self.network.thawed.is_set()

    async def revoke(self) -> None:
        """As Faust calls it before the worker joins the group again."""
        await self.network.ask(lambda: None, retriable=True)
        self.assignment.revoke()
        await self.cycle.finished()
        await self.apart.finished()
        await self.network.ask(lambda: None, retriable=True)

    def assign(self, partitions: set[int], member: GroupMember) -> None:
        """As Faust calls it after a rebalance."""
        self.assignment.assign(partitions, member)

    async def _run(self) -> None:
        while True:
            try:
                await self._log.open()
            except KafkaError:
                await asyncio.sleep(0.1)
            else:
                break
        await self.cycle.run()

    async def _fetch(self) -> None:
        while True:
            await asyncio.sleep(self.network.random.uniform(0.001, 0.02))
            for batch in await self._fetches.fetch():
                task = self.assignment.tasks.get(batch.partition)
                if task is not None:
                    task.offer(batch)
            await self.cycle.fold()

    def _wake(self) -> None:
        self.cycle.wake()
        self.apart.wake()

    def _supervise(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self._start(work))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if self.failure is None and not self.network.is_dead:
            self.failure = error
