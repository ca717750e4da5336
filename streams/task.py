"""The work on one partition: what is folded and judged, and what it waits for before it judges.

Does no I/O. The worker's cycle decides what it works on and when that is written; what events mean is decided in
`projections`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import structlog
from aiokafka import TopicPartition

from projections.changes import Changes
from projections.log_position import LogPosition
from schemas.decode import Batch
from schemas.fields import Lane
from schemas.topics import Role
from streams.barrier import TIMERS, PendingBarrier
from streams.config import LANE, RESULTS, STEPS
from streams.life import PartitionLife
from streams.probing import Work
from streams.tally import Tally, tell_kept
from streams.unreadable import refused_if_unreadable
from streams.work import StagedWork

_log = structlog.get_logger(__name__)

SWEEP_SECONDS: Final = 1.0
SWEPT_AT_ONCE: Final = 5_000


class PartitionTask(PartitionLife):
    """The work on one partition: as Kafka Streams' `StreamTask`."""

    # Intake

    def offer(self, batch: Batch) -> None:
        """Queue a fetched batch if it continues what is queued."""
        self._intake.offer(batch)

    @property
    def has_hot_results(self) -> bool:
        """Whether hot results wait to be judged, and not for an open transaction of a producer."""
        barrier = self._barriers.of_lane.get("hot")
        is_blocked = barrier is not None and barrier.is_blocked(self._applied)
        return self._intake.has("results") and not (is_blocked or self.is_apart)

    def _take(self, role: Role) -> Batch:
        limit = self._search.limit
        batch = self._intake.take(role, self._pace.records if limit is None else min(limit, self._pace.records))
        self._tally.count(batch)
        self._reached[role] = batch.end
        return self._search.took(refused_if_unreadable(batch, self._refusals), self._refusals)

    def _may_take(self, lane: Lane) -> bool:
        """Whether another record may be worked on before the next transaction."""
        if not self._search.is_on:
            return True
        is_alone = not self._has_attempted and self._barriers.is_work_reached(lane, self._applied)
        return self._search.limit != 0 and not is_alone

    @property
    def _has_attempted(self) -> bool:
        """Whether anything was done since the last transaction."""
        return self._tally.records > 0 or self._known.has_changes

    def _may_do_alone(self, work: Work) -> bool:
        """Whether work that takes no record may be done now."""
        self._doing = work
        if self._search.is_on and self._has_attempted:
            self._search.end_piece()  # the next transaction comes first
            return False
        return True

    def _done_alone(self, work: Work) -> None:
        self._search.done(work)
        if self._search.is_on and self.has_changes:
            self._search.end_piece()
            self._has_judged = True

    # Folding

    def fold(self, role: Role, limit: int) -> int:
        """Fold queued batches of a topic until there are `limit` records. Returns how much that was."""
        folded = 0
        while folded < limit and self._intake.has(role) and self._may_take(LANE[role]):
            self._doing = "fold"
            batch = self._take(role)
            with self._tally.stage("fold"), self._pace.measured(batch):
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
        if self.is_running and self._failure is None:
            yield from self._barriers.new(self._known, self._intake, self._applied)

    def input(self, role: Role) -> TopicPartition:
        """The topic partition of a role."""
        return self._inputs[role]

    @property
    def waits_for_hot_barrier(self) -> bool:
        """Whether verdicts of the hot lane are about to be written."""
        return "hot" in self._barriers.of_lane

    # Judging

    def judge(self, lane: Lane, limit: int) -> int | None:
        """Judge up to about `limit` results of a lane. Returns how many; None where its barrier is not reached."""
        barrier = self._barriers.of_lane.get(lane)
        if barrier is None or not barrier.is_reached(self._applied):
            return None
        if not barrier.is_told:
            barrier.is_told = True
            self._tally.barrier_waits.append((lane, self._clock.monotonic() - barrier.asked_at))
        role, position, judged = RESULTS[lane], self._position(lane, barrier), 0
        if self._search.is_on and not barrier.is_answered:
            if not self._may_do_alone("ready"):
                return None
            self._known.judge_ready(position, self._clock.now_ms())
            barrier.is_answered = True
            self._done_alone("ready")
        while self._intake.begins_below(role, barrier.covers) and judged < limit and self._may_take(lane):
            self._doing = "judge"
            batch = self._take(role)
            with self._tally.stage("judge"), self._pace.measured(batch):
                self._known.judge(batch, position, self._clock.now_ms())
            self._applied[role] = batch.end
            judged += len(batch)
        if not self._intake.begins_below(role, barrier.covers):
            if not barrier.is_answered:
                self._doing = "ready"
                self._known.judge_ready(position, self._clock.now_ms())
            del self._barriers.of_lane[lane]
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
        reached = [each for each in self._barriers.of_timers.items() if each[1].is_reached(self._applied)]
        must_sweep = "all" not in self._barriers.of_timers and now - self._last_sweep >= SWEEP_SECONDS
        if self._failure is not None or not (reached or must_sweep) or not self._may_do_alone("time"):
            return False
        if must_sweep:
            self._last_sweep = now
            self._known.find_idle(self._clock.now_ms(), SWEPT_AT_ONCE)
        for timers, barrier in reached:
            self._known.act_on_due(self._position("hot", barrier), barrier.asked_ms, hot_only=timers == "hot")
            if timers == "all":
                self._known.drop_idle()
            del self._barriers.of_timers[timers]
            self._has_judged = True
        if reached:
            self._done_alone("time")
        return bool(reached)

    # Committing

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to write or to commit."""
        has_mark = self._failure is not None
        return self.is_running and (has_mark or self._applied != self._committed or self._known.has_changes)

    @property
    def uncommitted_records(self) -> int:
        """Input records folded or judged since the last transaction."""
        return self._tally.records

    @property
    def uncommitted_cpu_seconds(self) -> float:
        """What they have cost."""
        return self._tally.cpu_seconds

    @property
    def uncommitted_cold_records(self) -> int:
        """Those of the cold lane."""
        return self._tally.cold_records

    def wants_commit(self, now: float) -> bool:
        """Whether its changes should wait no longer."""
        is_complete = self._has_judged or self._failure is not None or self._search.limit == 0
        return self.has_changes and (is_complete or now >= self._last_commit + self._commit_pause)

    def may_join_commit(self, now: float) -> bool:
        """Whether to write its changes along with those of another partition: it would ask for a commit soon."""
        return self.has_changes and (self._has_judged or now >= self._last_commit + self._commit_pause / 2)

    @property
    def _commit_pause(self) -> float:
        """How long folding may go on between two transactions.

        Behind a backlog nobody waits for what it writes, and a row that is written once for many events costs less.
        """
        barrier = self._barriers.of_lane.get("hot")
        behind = (barrier is not None and barrier.is_blocked(self._applied)) or self._intake.has("context", "steps")
        return self._config.backlog_commit_seconds if behind else self._config.lazy_commit_seconds

    def stage(self) -> StagedWork:
        """Everything that has changed since the last transaction, to be written in the next one.

        Offsets are committed also where none has moved: a transaction is fenced for the partitions whose offsets are
        pending in it.
        """
        self._doing, applied = "commit", dict(self._applied)
        with self._tally.stage("commit"):
            if self._failure is not None:
                changes, batches = Changes(), self._stager.mark(applied, self._failure)
            else:
                changes = self._known.take(self._clock.now_ms())
                changes.refusals += self._refusals
                batches = self._stager.batches(changes, applied)
        moved = {role: at for role, at in applied.items() if at != self._committed.get(role)}
        moved = moved or {"context": applied["context"]}
        offsets = {self._inputs[role]: at for role, at in moved.items()}
        self._staged = StagedWork(self, self._known, batches, offsets, applied, changes, self._tally)
        self._tally, self._refusals, self._has_judged = Tally(), [], False
        return self._staged

    def committed(self, staged: StagedWork) -> None:
        """The transaction with this work has been committed."""
        topics = {role: tp.topic for role, tp in self._inputs.items()}
        staged.tally.tell(self._context.metrics, topics, staged.changes)
        if self._partition is not staged.partition:
            return  # given up, or being taken over again: its positions are read from the broker
        if self._failure is not None:
            self._stay_failed(self._failure)
            return
        self._known.committed()
        self._staged = None
        self._written = self._committed = staged.applied
        self._search.committed(staged.applied)
        self._last_commit = self._clock.monotonic()
        tell_kept(self._context.metrics, self.number, self._known.store, self._intake.size_bytes)

    # Waiting

    @property
    def oldest_decision(self) -> tuple[str, float] | None:
        """What the oldest decision that waits is waiting for, and when its barrier was asked for."""
        return self._barriers.oldest(self._applied)

    def seconds_to_next(self, now: float) -> float:
        """How long nothing has to be done here, unless something comes in."""
        swept = self._last_sweep + SWEEP_SECONDS - now
        waits = [swept if "all" not in self._barriers.of_timers else SWEEP_SECONDS]
        if self.has_changes:
            waits.append(self._last_commit + self._commit_pause - now)
        for timers in TIMERS:
            due = self._known.next_due_ms(hot_only=timers == "hot")
            if due is not None and timers not in self._barriers.of_timers:
                waits.append((due - self._clock.now_ms()) / 1000)
        return max(0.0, min(waits))

    @property
    def positions(self) -> dict[str, int]:
        """The position folded up to, by topic."""
        return {self._inputs[role].topic: position for role, position in self._applied.items()}
