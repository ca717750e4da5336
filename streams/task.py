"""One owned partition: its queues and positions, what has been folded, and what it waits for before it judges.

Does no I/O. The worker's cycle decides what it works on and when that is written; what events mean is decided in
`projections`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import structlog
from aiokafka import TopicPartition

from projections.changes import Changes
from projections.log_position import LogPosition
from projections.partition import Partition
from schemas.decode import Batch
from schemas.fields import Lane
from schemas.topics import Role
from streams.barrier import PendingBarrier
from streams.config import FOLDED_ROLES, HOT_ROLES, RESULTS, STEPS
from streams.context import WorkerContext
from streams.handover import TakenOver
from streams.metrics import LANES, State
from streams.staging import StagedBatches, Stager
from streams.tally import Tally

_log = structlog.get_logger(__name__)

SWEEP_SECONDS: Final = 1.0
SWEPT_AT_ONCE: Final = 5_000

Timers = Literal["hot", "all"]
"""Timers that no record of the cold lane can keep from falling due, or all of them."""

_BARRIER_OF_TIMERS: Final[dict[Timers, tuple[Role, ...]]] = {"hot": HOT_ROLES, "all": FOLDED_ROLES}


@dataclass(frozen=True, slots=True)
class StagedWork:
    """A partition's part of a transaction: what it writes, and what is true once that is committed."""

    task: PartitionTask
    partition: Partition
    batches: StagedBatches
    offsets: dict[TopicPartition, int]
    applied: dict[Role, int]
    changes: Changes
    tally: Tally


@dataclass(frozen=True, slots=True)
class Suspended:
    """A partition as it was last committed, and its part of the transaction after that, whose outcome is unknown."""

    taken: TakenOver
    staged: StagedWork | None


class PartitionTask:
    """The life of one partition on this worker: as Kafka Streams' `StreamTask`."""

    def __init__(self, number: int, context: WorkerContext) -> None:
        self.number = number
        self._config = context.config
        self._context = context
        self._clock = context.clock
        self._inputs = {role: TopicPartition(self._config.topic(role), number) for role in FOLDED_ROLES}
        self._stager = Stager(self._config, number, context.partition_count)
        self._queues: dict[Role, deque[Batch]] = {role: deque() for role in FOLDED_ROLES}
        self._forget()
        self.set_state("starting")

    def _forget(self) -> None:
        self._partition: Partition | None = None
        self._suspended: Suspended | None = None
        self._staged: StagedWork | None = None
        self._next: dict[Role, int] = {}
        self._applied: dict[Role, int] = {}
        self._written: dict[Role, int] = {}
        """The positions that the committed rows reach."""
        self._committed: dict[Role, int] = {}
        """The same, of the topics of which the group has a committed offset."""
        self._barriers: dict[Lane, PendingBarrier] = {}
        self._timer_barriers: dict[Timers, PendingBarrier] = {}
        self._last_commit = 0.0
        self._last_sweep = self._clock.monotonic()
        self._has_judged = False
        self._tally = Tally()

    # Its life

    def begin(self, taken: TakenOver) -> None:
        """The partition has been taken over: work begins."""
        self._partition, self._suspended = taken.partition, None
        self._applied, self._next, self._written = dict(taken.applied), dict(taken.applied), dict(taken.applied)
        self._committed = dict(taken.committed)
        self.seek()
        self._context.fetches.joined.add(self.number)
        self.set_state("running")
        self._context.wake()

    def seek(self) -> None:
        """Have the consumers read on where this partition's queues end."""
        for role, position in self._next.items():
            self._context.fetches.seek(self._inputs[role].topic, self.number, position)

    def discard(self) -> None:
        """Forget everything; what is committed has to be taken over again."""
        self._stop()
        self._forget()
        self.set_state("restoring")

    def suspend(self) -> None:
        """Forget what is not committed, and stop. `resume` goes on if the last transaction was aborted."""
        partition, staged, written, committed = self._partition, self._staged, self._written, self._committed
        if partition is None:
            return  # it is being taken over, or suspended already
        partition.roll_back()
        self.discard()
        self._suspended = Suspended(TakenOver(partition, written, committed), staged)

    def resume(self, stable: Mapping[TopicPartition, int]) -> bool:
        """Go on from what was committed before it was suspended, if the stable offsets show that this is still so.

        The transaction it was suspended in must have ended. One that moved no offset cannot be told by them: its rows
        are then read again, as those of one that was committed after all.
        """
        suspended = self._suspended
        if suspended is None:
            return False
        if suspended.staged is not None:
            before = {self._inputs[role]: at for role, at in suspended.taken.committed.items()}
            moved = [tp for tp, at in suspended.staged.offsets.items() if at != before.get(tp)]
            if not moved or any(stable.get(tp) != before.get(tp) for tp in moved):
                return False
        self.begin(suspended.taken)
        return True

    @property
    def is_suspended(self) -> bool:
        """Whether it may be able to go on without being taken over again."""
        return self._suspended is not None

    def _stop(self) -> None:
        self._context.fetches.joined.discard(self.number)
        for role, queue in self._queues.items():
            self._queue_changed(role, -sum(batch.size_bytes for batch in queue))
            queue.clear()

    @property
    def is_running(self) -> bool:
        """Whether it has been taken over."""
        return self._partition is not None

    def set_state(self, state: State) -> None:
        """Tell where it stands."""
        self.state: State = state
        self._context.metrics.state(self.number, state)

    # Intake

    def offer(self, batch: Batch) -> None:
        """Queue a fetched batch if it continues what is queued; drop what was there before, seek back over a hole."""
        if not self.is_running:
            return
        role = batch.role
        expected = self._next[role]
        if batch.end <= expected:
            return
        if batch.start > expected:
            _log.info("hole_sought_back", topic=self._inputs[role].topic, partition=self.number, expected=expected)
            self._context.fetches.seek(self._inputs[role].topic, self.number, expected)
            return
        if batch.start < expected:
            batch = batch.since(expected)
        self._queues[role].append(batch)
        self._next[role] = batch.end
        self._queue_changed(role, batch.size_bytes)

    def has_queued(self, *roles: Role) -> bool:
        """Whether batches of one of these topics wait to be folded or judged."""
        return any(self._queues[role] for role in roles)

    @property
    def has_hot_results(self) -> bool:
        """Whether hot results wait to be judged, and not for an open transaction of a producer."""
        barrier = self._barriers.get("hot")
        return bool(self._queues["results"]) and not (barrier is not None and barrier.is_blocked(self._applied))

    # Folding

    def fold(self, role: Role, limit: int) -> int:
        """Fold queued batches of a topic until there are `limit` records. Returns how much that was."""
        queue, folded = self._queues[role], 0
        while queue and folded < limit:
            batch = queue.popleft()
            self._queue_changed(role, -batch.size_bytes)
            self._tally.count(batch)
            with self._tally.stage("fold"):
                if role == "context":
                    self._known.fold_context(batch, self._clock.now_ms())
                else:
                    self._known.fold_steps(batch, self._clock.now_ms())
            self._applied[role] = batch.end
            folded += max(len(batch), 1)
        return folded

    # Barriers

    def new_barriers(self) -> Iterator[PendingBarrier]:
        """Barriers that are needed and have not been asked for yet: for results, ready ones, proposals and timers."""
        if not self.is_running:
            return
        known = self._known
        for lane in LANES:
            if lane not in self._barriers and (
                self._queues[RESULTS[lane]] or known.has_proposals(STEPS[lane]) or (lane == "hot" and known.has_ready)
            ):
                barrier = self._barriers[lane] = self._new_barrier(lane, ("context", STEPS[lane]))
                yield barrier
        for timers, roles in _BARRIER_OF_TIMERS.items():
            due = known.next_due_ms(hot_only=timers == "hot")
            is_due = due is not None and due <= self._clock.now_ms()
            if timers not in self._timer_barriers and (is_due or (timers == "all" and known.has_idle)):
                barrier = self._timer_barriers[timers] = self._new_barrier("hot", roles)
                yield barrier

    def _new_barrier(self, lane: Lane, roles: tuple[Role, ...]) -> PendingBarrier:
        covers, folded = self._next[RESULTS[lane]], self._applied[STEPS[lane]]
        return PendingBarrier(roles, covers, folded, self._clock.now_ms(), self._clock.monotonic())

    def input(self, role: Role) -> TopicPartition:
        """The topic partition of a role."""
        return self._inputs[role]

    @property
    def waits_for_hot_barrier(self) -> bool:
        """Whether verdicts of the hot lane are about to be written."""
        return "hot" in self._barriers

    # Judging

    def judge(self, lane: Lane, limit: int) -> int | None:
        """Judge up to about `limit` results of a lane. Returns how many; None where its barrier is not reached."""
        barrier = self._barriers.get(lane)
        if barrier is None or not barrier.is_reached(self._applied):
            return None
        if not barrier.is_told:
            barrier.is_told = True
            self._tally.barrier_waits.append((lane, self._clock.monotonic() - barrier.asked_at))
        role = RESULTS[lane]
        position, queue, judged = self._position(lane, barrier), self._queues[role], 0
        while queue and queue[0].start < barrier.covers and judged < limit:
            batch = queue.popleft()
            self._queue_changed(role, -batch.size_bytes)
            self._tally.count(batch)
            with self._tally.stage("judge"):
                self._known.judge(batch, position, self._clock.now_ms())
            self._applied[role] = batch.end
            judged += len(batch)
        if not (queue and queue[0].start < barrier.covers):
            self._known.judge_ready(position, self._clock.now_ms())
            del self._barriers[lane]
        if lane == "hot":
            self._has_judged = True  # nobody waits for cold verdicts: they may wait for more of them
        return judged

    def _position(self, lane: Lane, barrier: PendingBarrier) -> LogPosition:
        role = STEPS[lane]
        return LogPosition(self.number, self._applied["context"], self._applied[role], role, barrier.folded)

    def act_on_time(self) -> bool:
        """Act on timers past a barrier on the input topics, results included: the hot lane's, where that is enough.

        Forget idle sessions past one on all of them. Returns whether a barrier was reached.
        """
        now = self._clock.monotonic()
        if "all" not in self._timer_barriers and now - self._last_sweep >= SWEEP_SECONDS:
            self._last_sweep = now
            self._known.find_idle(self._clock.now_ms(), SWEPT_AT_ONCE)
        reached = [each for each in self._timer_barriers.items() if each[1].is_reached(self._applied)]
        for timers, barrier in reached:
            self._known.act_on_due(self._position("hot", barrier), barrier.asked_ms, hot_only=timers == "hot")
            if timers == "all":
                self._known.drop_idle()
            del self._timer_barriers[timers]
            self._has_judged = True
        return bool(reached)

    # Committing

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to write or to commit."""
        return self.is_running and (self._applied != self._committed or self._known.has_changes)

    @property
    def uncommitted_records(self) -> int:
        """Input records folded or judged since the last transaction."""
        return self._tally.records

    @property
    def uncommitted_cold_records(self) -> int:
        """Those of the cold lane."""
        return self._tally.cold_records

    def wants_commit(self, now: float) -> bool:
        """Whether its changes should wait no longer."""
        return self.has_changes and (self._has_judged or now >= self._last_commit + self._commit_pause)

    def may_join_commit(self, now: float) -> bool:
        """Whether to write its changes along with those of another partition: it would ask for a commit soon."""
        return self.has_changes and (self._has_judged or now >= self._last_commit + self._commit_pause / 2)

    @property
    def _commit_pause(self) -> float:
        """How long folding may go on between two transactions.

        Behind a backlog nobody waits for what it writes, and a row that is written once for many events costs less.
        """
        barrier = self._barriers.get("hot")
        behind = (barrier is not None and barrier.is_blocked(self._applied)) or self.has_queued("context", "steps")
        return self._config.backlog_commit_seconds if behind else self._config.lazy_commit_seconds

    def stage(self) -> StagedWork:
        """Everything that has changed since the last transaction, to be written in the next one.

        Offsets are committed also where none has moved: a transaction is fenced for the partitions whose offsets are
        pending in it.
        """
        tally, self._tally = self._tally, Tally()
        self._has_judged = False
        with tally.stage("commit"):
            changes = self._known.take(self._clock.now_ms())
            applied = dict(self._applied)
            batches = self._stager.batches(changes, applied)
        moved = {role: at for role, at in applied.items() if at != self._committed.get(role)}
        moved = moved or {"context": applied["context"]}
        offsets = {self._inputs[role]: at for role, at in moved.items()}
        self._staged = StagedWork(self, self._known, batches, offsets, applied, changes, tally)
        return self._staged

    def committed(self, staged: StagedWork) -> None:
        """The transaction with this work has been committed."""
        topics = {role: tp.topic for role, tp in self._inputs.items()}
        staged.tally.tell(self._context.metrics, topics, staged.changes)
        if self._partition is not staged.partition:
            return  # given up, or being taken over again: its positions are read from the broker
        self._known.committed()
        self._staged = None
        self._written = self._committed = staged.applied
        self._last_commit = self._clock.monotonic()
        store, queued = self._known.store, self._context.fetches.queued_bytes
        self._context.metrics.partition(
            self.number,
            sessions=store.session_count,
            row_bytes=store.row_bytes,
            ended_task_bytes=store.ended_bytes,
            waiting_bytes=store.waiting_bytes,
            parked_results=store.waiting_count,
            queued_bytes=sum(queued.get((topic, self.number), 0) for topic in topics.values()),
        )

    # Waiting

    def seconds_to_next(self, now: float) -> float:
        """How long nothing has to be done here, unless something comes in."""
        swept = self._last_sweep + SWEEP_SECONDS - now
        waits = [swept if "all" not in self._timer_barriers else SWEEP_SECONDS]
        if self.has_changes:
            waits.append(self._last_commit + self._commit_pause - now)
        for timers in _BARRIER_OF_TIMERS:
            due = self._known.next_due_ms(hot_only=timers == "hot")
            if due is not None and timers not in self._timer_barriers:
                waits.append((due - self._clock.now_ms()) / 1000)
        return max(0.0, min(waits))

    @property
    def positions(self) -> dict[str, int]:
        """The position folded up to, by topic."""
        return {self._inputs[role].topic: position for role, position in self._applied.items()}

    @property
    def _known(self) -> Partition:
        if self._partition is None:
            raise RuntimeError(f"partition {self.number} has not been taken over")
        return self._partition

    def _queue_changed(self, role: Role, size_bytes: int) -> None:
        fetches = self._context.fetches
        name = self._inputs[role].topic, self.number
        fetches.queued_bytes[name] = fetches.queued_bytes.get(name, 0) + size_bytes
        if role in {"context", "steps"}:
            fetches.hot_bytes += size_bytes
