"""A simulated consumer group: members that fall silent are removed, and every change makes a new generation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from streams.assignor import shares
from streams.member import GroupMember
from tests.simulation.broker import Broker
from tests.simulation.worker import SimulatedWorker

SESSION_SECONDS = 2.0
POLL_SECONDS = 0.1


class Group:
    """The coordinator, and what the workers' consumers do about it."""

    def __init__(self, broker: Broker, random: Random, partition_count: int) -> None:
        self.workers: list[SimulatedWorker] = []
        self._broker = broker
        self._random = random
        self._partition_count = partition_count
        self._held: dict[str, set[int]] = {}
        """By member id: what the group has assigned to it."""
        self._ids: dict[SimulatedWorker, str] = {}
        self._silent_since: dict[SimulatedWorker, float] = {}
        self._joins = 0
        self._is_rebalancing = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Coordinate until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self._broker.end_overdue()
            if self._has_changed():
                self._is_rebalancing = True
                await self._rebalance()

    def _has_changed(self) -> bool:
        now, changed = self._broker.clock.monotonic(), False
        for worker in list(self._ids):
            if not (worker.network.is_dead or worker.is_frozen):
                self._silent_since.pop(worker, None)
            elif now - self._silent_since.setdefault(worker, now) > SESSION_SECONDS:
                self._remove(worker)
                changed = True
        return changed or any(self._can_join(worker) for worker in self.workers)

    def _can_join(self, worker: SimulatedWorker) -> bool:
        return worker not in self._ids and not worker.network.is_dead and not worker.is_frozen

    def _remove(self, worker: SimulatedWorker) -> None:
        member_id = self._ids.pop(worker)
        self._held.pop(member_id, None)
        self._broker.members.discard(member_id)
        self._silent_since.pop(worker, None)

    async def _rebalance(self) -> None:
        here = [worker for worker in self.workers if worker in self._ids or self._can_join(worker)]
        prepared = [asyncio.get_running_loop().create_task(worker.revoke()) for worker in here]
        if prepared:
            await asyncio.wait(prepared, timeout=SESSION_SECONDS)
        for worker, revoked in zip(here, prepared, strict=True):
            if not revoked.done():  # too slow, frozen or dead: the group goes on without it
                revoked.cancel()
                if worker in self._ids:
                    self._remove(worker)
            elif worker not in self._ids:
                self._joins += 1
                self._ids[worker] = f"{worker.name}-{self._joins}"
                self._held[self._ids[worker]] = set()
        self._is_rebalancing = False
        if not self._ids:
            return
        self._broker.generation += 1
        self._broker.members = set(self._ids.values())
        self._held = shares(self._held, self._partition_count)
        for worker, member_id in self._ids.items():
            member = GroupMember("group", self._broker.generation, member_id)
            self._in_background(self._assign(worker, set(self._held[member_id]), member))

    async def _assign(self, worker: SimulatedWorker, partitions: set[int], member: GroupMember) -> None:
        await asyncio.sleep(self._random.uniform(0.0, 0.3))
        await worker.network.ask(lambda: None, retriable=True)
        is_member = self._ids.get(worker) == member.member_id
        if is_member and self._broker.generation == member.generation and not self._is_rebalancing:
            worker.assign(partitions, member)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
