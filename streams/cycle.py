"""The worker's cycle: fold the context of all partitions, decide below one cut, write one transaction.

Responsible for the order of these, for keeping the lanes apart, and for starting afresh when a transaction fails. What
one partition does is `streams.task`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from schemas.fields import Lane
from schemas.topics import Role
from streams.assignment import Assignment
from streams.batches import RecordBatch
from streams.config import DELIVERED_ROLES
from streams.context import WorkerContext
from streams.cut import PendingCut
from streams.failure import Failure
from streams.interfaces import TransactionLog
from streams.member import GroupMember
from streams.questions import Asked, Questions
from streams.recovery import Recovery, SetApart
from streams.task import PartitionTask
from streams.work import StagedWork

_log = structlog.get_logger(__name__)
T = TypeVar("T")

FOLDED_AT_ONCE: Final = 128
"""Records of one topic partition, rounded up to whole batches, before the next one has its turn. Dividing the large
batches of a backlog, too, cost 4 % of the throughput."""
DECIDED_AT_ONCE: Final = 512
"""Hot steps and results of one partition before the next one has its turn, and the event loop."""
TURN_SECONDS: Final = 0.005
"""How long to work before the event loop has a turn: answers to cuts and fetches wait meanwhile."""
CPU_SECONDS: Final = 2.0
"""Of work in one transaction: far below its timeout."""
NOT_EARLY_SECONDS: Final = 30.0
"""After a failed transaction none is begun early."""
IDLE_SECONDS: Final = 1.0
OPEN_RETRY_SECONDS: Final = 2.0


class WorkerCycle:
    """Works on all partitions of a worker that have been taken over and are written together.

    With `only`, on that one, until it has written to all of `stuck`. `set_apart` is told of partitions that cannot be
    written with the others.
    """

    def __init__(
        self,
        context: WorkerContext,
        assignment: Assignment,
        log: TransactionLog,
        *,
        only: PartitionTask | None = None,
        stuck: set[TopicPartition] | None = None,
        set_apart: SetApart | None = None,
    ) -> None:
        self._only = only
        self._stuck = stuck or set()
        self._context = context
        self._config = context.config
        self._clock = context.clock
        self._assignment = assignment
        self._log = log
        self._wake = asyncio.Event()
        self._questions = Questions(context.end_offsets, self.wake)
        self._recovery = Recovery(context, assignment, log, set_apart)
        self._not_writing = asyncio.Event()
        self._not_writing.set()
        self._early_again_at = 0.0
        self._turn_began = 0.0
        self._turns = 0
        self._committed_as: GroupMember | None = None
        self._staged: Sequence[StagedWork] = ()

    # What the engine asks of it

    async def run(self) -> None:
        """Work until cancelled; after a failed transaction, go on from what was committed. The log it has is open.

        Raises `FatalError` where waiting cannot help. Cancelled, it leaves at most an open transaction, which the
        partitions' next owners end.
        """
        while not self._is_over:
            try:
                await self._work()
            except (KafkaError, OSError) as error:
                self._early_again_at = self._clock.monotonic() + NOT_EARLY_SECONDS
                self._questions.cancel()
                await self._recovery.start_afresh(error, self._tasks, self._staged, self._committed_as)

    async def run_apart(self) -> None:
        """The same for the only partition it has, which is suspended; until that can be written, or is given up."""
        await self._recovery.open()
        self._assignment.resume(self._tasks)
        await self.run()

    @property
    def _is_over(self) -> bool:
        only = self._only
        return only is not None and (not self._stuck or self._assignment.tasks.get(only.number) is not only)

    @property
    def _tasks(self) -> list[PartitionTask]:
        """The partitions that this cycle writes, running or not."""
        if self._only is not None:
            return [self._only]
        return [task for task in self._assignment.tasks.values() if not task.is_apart]

    @property
    def _running(self) -> list[PartitionTask]:
        return [task for task in self._tasks if task.is_running]

    def wake(self) -> None:
        """Something has come in, or has changed: look again."""
        self._wake.set()

    async def fold(self) -> None:
        """Fold what has just been fetched, as far as no transaction is being written.

        The agent does this, so that its stream waits while there is much to fold. What comes in while a transaction is
        written is folded by the cycle, and only then are cuts asked for: one that was asked for earlier would not
        cover the results that come in until the transaction is through, and those would wait for another one.
        """
        if self._not_writing.is_set():
            self._ask_for_cuts()
        self.wake()
        while await self._fold_hot():
            await self._turn()

    async def finished(self) -> None:
        """Wait until no transaction is being written. Bounded by half the session timeout."""
        try:
            async with asyncio.timeout(self._config.session_timeout_seconds / 2):
                await self._not_writing.wait()
        except TimeoutError:
            _log.warning("transaction_still_running")

    # What one partition's work raises

    def _isolated(self, task: PartitionTask, work: Callable[[], T], otherwise: T) -> T:
        """What the work returns. If it raises, only this partition goes back to what it has committed."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop the other partitions
            task.isolate(Failure.of(error))
            return otherwise

    # Working

    async def _work(self) -> None:
        while not self._is_over:
            await self._until_stable()
            self._wake.clear()
            if self._questions.broken is not None:
                raise self._questions.broken
            self._turn_began = self._clock.monotonic()
            for task in self._assignment.running:
                self._isolated(task, task.look_for_idle, None)
            self._ask_for_cuts()
            self._begin_early()
            worked = await self._fold_hot()
            worked = await self._decide_hot() or worked
            worked = await self._work_cold() or worked
            if due := self._due():
                await self._commit(due)
            elif self._log.is_overdue:
                await self._log.abandon()
            elif worked:
                await asyncio.sleep(0)
            else:
                await self._wait()

    async def _until_stable(self) -> None:
        """Wait while the group rebalances. A transaction begun early is not left to time out meanwhile."""
        while not self._assignment.may_write.is_set():
            if self._log.is_overdue:
                await self._log.abandon()
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._assignment.may_write.wait()
            except TimeoutError:
                continue

    async def _wait(self) -> None:
        now = self._clock.monotonic()
        seconds = min((task.seconds_to_next(now) for task in self._running), default=IDLE_SECONDS)
        try:
            async with asyncio.timeout(min(seconds, IDLE_SECONDS) + 0.001):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _turn(self) -> None:
        """Let the event loop have a turn, if it has not had one for a while."""
        if self._clock.monotonic() - self._turn_began > TURN_SECONDS:
            await asyncio.sleep(0)
            self._turn_began = self._clock.monotonic()

    # Folding

    async def _fold_hot(self) -> bool:
        """Fold a piece of each partition's context. Returns whether there was anything.

        Not while a transaction is written: what it writes is all that has been folded.
        """
        folded = 0
        for task in self._in_turn():
            if not self._not_writing.is_set():
                break
            if task.is_running:  # it may have been given up while others had their turn
                folded += self._isolated(task, partial(task.fold_context, FOLDED_AT_ONCE), 1)
            await self._turn()
        return folded > 0

    def _in_turn(self) -> list[PartitionTask]:
        """The partitions that have been taken over, each time another one first: none is always last."""
        running = self._running
        self._turns += 1
        first = self._turns % len(running) if running else 0
        return running[first:] + running[:first]

    @property
    def _hot_waits(self) -> bool:
        """Whether hot work is there to be done, in any partition: they share a core."""
        return any(task.has_hot_work for task in self._running)

    async def _work_cold(self) -> bool:
        """Fold and judge a piece of each partition's cold lane, while no hot work waits: one commit's at most.

        A hot result that arrives waits for one piece, and for one transaction of so many cold records.
        """
        left = self._config.cold_commit_records
        left -= sum(task.uncommitted_cold_records for task in self._running)
        worked = 0
        for task in self._in_turn():
            if self._hot_waits or left <= 0:
                break
            if task.is_running:
                piece = min(self._config.cold_max_records, left)
                done = self._isolated(task, partial(task.decide, "cold", piece), 1)
                left -= done
                worked += done
            await self._turn()
        return worked > 0

    # Cuts and decisions

    def _ask_for_cuts(self) -> None:
        """Ask for every cut that is needed, in one question for all partitions of a lane."""
        asked: dict[Lane, list[Asked]] = {}
        for task in self._running:
            nothing: list[PendingCut] = []
            for cut in self._isolated(task, partial(_new_cuts, task), nothing):
                asked.setdefault(cut.lane, []).append((cut, {role: task.input(role) for role in cut.roles}))
        for of_lane in asked.values():
            self._questions.ask(of_lane)

    def _begin_early(self) -> None:
        """Begin the transaction of the verdicts while their cut is asked for.

        Where it then delivers nothing, its marker is all that the topic of deliveries gets.
        """
        roles: tuple[Role, ...] = ("sessions.changelog", "tasks", DELIVERED_ROLES["hot"])
        waiting = [task.number for task in self._running if task.waits_for_hot_cut]
        if self._clock.monotonic() < self._early_again_at:
            return  # a marker on a partition that takes none would keep the next transaction from beginning
        if waiting and self._assignment.may_write.is_set() and not self._log.is_overdue:
            topics = [self._config.topic(role) for role in roles]
            self._log.begin([TopicPartition(topic, number) for number in waiting for topic in topics])

    async def _decide_hot(self) -> bool:
        """Decide hot steps and results, a piece of each partition's after the other. Returns whether there were any.

        Goes on behind a backlog: a row that is written once for many events costs less.
        """
        until = self._clock.monotonic() + self._config.backlog_commit_seconds
        decided, is_done = 0, False
        while not (is_done or self._is_full or self._clock.monotonic() >= until):
            before = decided
            for task in self._in_turn():
                if task.is_running:
                    decided += self._isolated(task, partial(task.decide, "hot", DECIDED_AT_ONCE), 1)
                await self._turn()
            is_done = decided == before
        return decided > 0

    # Committing

    @property
    def _is_full(self) -> bool:
        """Whether the next transaction has all that one may have."""
        running = self._running
        records = sum(task.uncommitted_records for task in running)
        seconds = sum(task.uncommitted_cpu_seconds for task in running)
        return records >= self._config.cycle_max_records or seconds >= CPU_SECONDS

    def _due(self) -> list[PartitionTask]:
        """The partitions whose changes are to be written now; none while the group rebalances."""
        if not self._assignment.may_write.is_set():
            return []
        now, running = self._clock.monotonic(), self._running
        cold_records = sum(task.uncommitted_cold_records for task in running)
        if self._is_full or cold_records >= self._config.cold_commit_records:
            return [task for task in running if task.has_changes]
        if any(task.wants_commit(now) for task in running):
            return [task for task in running if task.may_join_commit(now)]
        return []

    async def _commit(self, due: Sequence[PartitionTask]) -> None:
        """Write one transaction for these partitions."""
        member = self._assignment.member
        if member is None:
            raise RuntimeError("there is work for a worker that was assigned nothing")
        self._committed_as = member
        self._not_writing.clear()
        try:
            began = self._clock.monotonic()
            staged = [work for task in due if (work := self._isolated(task, task.stage, None)) is not None]
            if not staged:
                return
            self._staged = staged
            batches, offsets = _merged(staged)
            await self._log.write(batches, offsets, member)
            for work in staged:
                work.task.committed(work)
        finally:
            self._not_writing.set()
        self._recovery.succeeded()
        self._stuck -= batches.keys()
        seconds = self._clock.monotonic() - began
        self._context.metrics.transaction(seconds, sum(work.tally.records for work in staged))


def _new_cuts(task: PartitionTask) -> list[PendingCut]:
    return list(task.new_cuts())


def _merged(
    staged: Sequence[StagedWork],
) -> tuple[dict[TopicPartition, list[RecordBatch]], dict[TopicPartition, int]]:
    """The batches and offsets of all partitions: several may forward records to the same one."""
    batches: dict[TopicPartition, list[RecordBatch]] = {}
    offsets: dict[TopicPartition, int] = {}
    for work in staged:
        if not work.offsets:
            raise RuntimeError(f"partition {work.task.number} would not be fenced")
        offsets |= work.offsets
        for tp, of_partition in work.batches.items():
            if tp in batches:
                batches[tp] += of_partition
            else:
                batches[tp] = of_partition
    return batches, offsets
