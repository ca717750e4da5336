"""Partitions that cannot be written with the others: each has a cycle and a producer of its own until it can be.

One topic partition without a leader keeps a whole transaction from being written, and its marker keeps the producer
from beginning another one. The other partitions of the worker must not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog
from aiokafka import TopicPartition

from streams.assignment import Assignment
from streams.context import WorkerContext
from streams.cycle import WorkerCycle
from streams.interfaces import TransactionLog
from streams.task import PartitionTask

_log = structlog.get_logger(__name__)


class Apart:
    """The partitions of one worker that are written apart. `supervise` runs work whose failure nobody awaits."""

    def __init__(
        self,
        context: WorkerContext,
        assignment: Assignment,
        new_log: Callable[[], TransactionLog],
        supervise: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._context = context
        self._assignment = assignment
        self._new_log = new_log
        self._supervise = supervise
        self._cycles: dict[PartitionTask, WorkerCycle] = {}

    def take(self, tasks: Iterable[PartitionTask], stuck: frozenset[TopicPartition]) -> None:
        """Write these partitions apart from now on, each until it has written to all that is stuck of its own.

        Any other success says nothing: back with the others it would keep them waiting again.
        """
        for task in tasks:
            task.set_apart(yes=True)
            own = {tp for tp in stuck if tp.partition == task.number}
            self._supervise(self._write(task, own or set(stuck)))

    def wake(self) -> None:
        """Something has come in, or has changed: look again."""
        for cycle in self._cycles.values():
            cycle.wake()

    async def finished(self) -> None:
        """Wait until no transaction is being written, for a bounded time."""
        await asyncio.gather(*(cycle.finished() for cycle in self._cycles.values()))

    async def _write(self, task: PartitionTask, stuck: set[TopicPartition]) -> None:
        log = self._new_log()
        self._cycles[task] = cycle = WorkerCycle(self._context, self._assignment, log, only=task, stuck=stuck)
        _log.warning("partition_written_apart", partition=task.number)
        try:
            await cycle.run_apart()
            _log.info("partition_written_with_others", partition=task.number)
        finally:
            del self._cycles[task]
            task.set_apart(yes=False)
            await log.close()
            self._context.wake()
