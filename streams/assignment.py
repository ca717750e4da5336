"""Which partitions this worker owns, as which member of the group, and the hand-overs of those it has just got."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from streams.context import WorkerContext
from streams.errors import NOT_ALLOWED, not_allowed
from streams.handover import stable_offsets, take_over
from streams.member import GroupMember
from streams.task import PartitionTask

_log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 5.0
"""Between two looks at the changelogs of partitions that are marked as failed."""
RETRY_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)


def retry_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row."""
    return RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]


class Assignment:
    """The partitions of one worker. `failed` is told what no retry can help."""

    def __init__(self, context: WorkerContext, failed: Callable[[BaseException], None]) -> None:
        self.tasks: dict[int, PartitionTask] = {}
        self.member: GroupMember | None = None
        """As whom to commit; None before the first assignment."""
        self.may_write = asyncio.Event()
        """Clear while the group rebalances: no transaction may begin then."""
        self.is_known = False
        """Whether the group has assigned partitions, perhaps none."""
        self._changed = asyncio.Event()
        self._context = context
        self._failed = failed
        self._handovers: dict[int, asyncio.Task[None]] = {}
        self._dropped: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> list[PartitionTask]:
        """The partitions that have been taken over."""
        return [task for task in self.tasks.values() if task.is_running]

    async def watch_failed(self) -> None:
        """Take partitions that are marked as failed over again, once their changelog says something new.

        Runs until cancelled.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            failed = {self._changelog(task.number): task for task in self.tasks.values() if task.state == "failed"}
            if not failed:
                continue
            ends = await self._context.end_offsets.end_offsets(failed)
            for tp, task in failed.items():
                handover = self._handovers.get(task.number)
                is_here = self.tasks.get(task.number) is task and task.state == "failed" and tp in ends
                if is_here and ends[tp] != task.known_end and (handover is None or handover.done()):
                    self._take_over(task.number)

    def _changelog(self, number: int) -> TopicPartition:
        return TopicPartition(self._context.config.topic("sessions.changelog"), number)

    def revoke(self) -> None:
        """The group rebalances: begin no transaction until partitions are assigned."""
        self.may_write.clear()

    def assign(self, partitions: set[int], member: GroupMember) -> None:
        """Keep what stays, drop what went, take over what is new (in the background).

        Partitions that seem to stay are taken over again where somebody else may have owned them meanwhile.
        """
        is_continuous = member.continues(self.member)
        self.member = member
        for number in self.tasks.keys() - partitions:
            self._drop(number)
        if not is_continuous and self.tasks:
            _log.info("membership_interrupted", generation=member.generation, partitions=sorted(self.tasks))
            self.restart(list(self.tasks.values()))
        for task in self.tasks.values():
            task.seek()  # the consumer's position was reset
        for number in sorted(partitions - self.tasks.keys()):
            self.tasks[number] = PartitionTask(number, self._context)
            self._take_over(number)
        self.is_known = True
        self._changed.set()
        self._changed = asyncio.Event()
        self.may_write.set()
        self._context.wake()

    async def changed(self, member: GroupMember | None, seconds: float) -> None:
        """Wait until somebody else than `member` was assigned partitions, for a bounded time.

        Those of a fenced member may have new owners, whom a hand-over would disturb. The group's heartbeats find out as
        well, within a session timeout.
        """
        try:
            async with asyncio.timeout(seconds):
                while self.member == member:
                    await self._changed.wait()
        except TimeoutError:
            _log.info("no_new_assignment", seconds=seconds)

    def restart(self, tasks: Iterable[PartitionTask]) -> None:
        """Discard the rows of these partitions, and take them over again."""
        for task in tasks:
            if self.tasks.get(task.number) is task:
                self._cancel_handover(task.number)
                task.discard()
                self._take_over(task.number)

    def suspend(self, tasks: Iterable[PartitionTask]) -> None:
        """Have these partitions stop and go back to what they have committed; `resume` or `restart` goes on from there.

        Hand-overs go on: what they read is committed, or waits until it is known.
        """
        for task in tasks:
            task.suspend()

    def resume(self, tasks: Iterable[PartitionTask]) -> None:
        """Go on with these partitions; take those over again whose rows may not be what is committed."""
        for task in tasks:
            handover = self._handovers.get(task.number)
            is_idle = not (task.is_running or task.state == "failed") and (handover is None or handover.done())
            if is_idle and self.tasks.get(task.number) is task:
                self._take_over(task.number)

    async def close(self) -> None:
        """Give every partition up."""
        self.may_write.clear()
        for number in list(self.tasks):
            self._drop(number)
        if self._dropped:
            await asyncio.wait(self._dropped)

    def _drop(self, number: int) -> None:
        self._cancel_handover(number)
        task = self.tasks.pop(number)
        task.discard()
        self._context.metrics.forget_partition(number)

    def _take_over(self, number: int) -> None:
        handover = asyncio.get_running_loop().create_task(
            self._hand_over(self.tasks[number]), name=f"handover-{number}"
        )
        self._handovers[number] = handover
        handover.add_done_callback(self._ended)

    def _cancel_handover(self, number: int) -> None:
        handover = self._handovers.pop(number, None)
        if handover is not None and not handover.done():
            handover.cancel()
            self._dropped.add(handover)
            handover.add_done_callback(self._dropped.discard)

    async def _hand_over(self, task: PartitionTask) -> None:
        task.set_state("restoring")
        failures = 0
        while True:
            try:
                if task.is_suspended:
                    stable = await stable_offsets(self._context, task.number)
                    await self.may_write.wait()
                    if task.resume(stable):
                        return
                    task.discard()
                taken = await take_over(self._context, task.number)
            except NOT_ALLOWED as error:
                raise not_allowed(error) from error
            except (KafkaError, OSError) as error:  # TimeoutError is an OSError
                delay = retry_seconds(failures)
                failures += 1
                _log.warning("handover_failed", partition=task.number, error=repr(error), retry_seconds=delay)
                await asyncio.sleep(delay)
            else:
                break
        await self.may_write.wait()
        task.begin(taken)
        if task.is_running:
            self._context.metrics.handover()

    def _ended(self, handover: asyncio.Task[None]) -> None:
        if not handover.cancelled() and (error := handover.exception()) is not None:
            self._failed(error)
