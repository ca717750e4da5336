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
from projections.decode import Batch
from projections.log_position import LogPosition
from projections.merge import Run
from schemas.fields import Lane
from schemas.topics import Role
from streams.config import HOT_ROLES, RESULTS, STEPS
from streams.cut import PendingCut
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
    def has_hot_work(self) -> bool:
        """Whether hot records wait that can be worked on, and not for an open transaction of a producer."""
        if self.is_apart:
            return False
        if self._intake.has("context"):
            return True
        cut = self._cuts.of_lane["hot"].working
        is_blocked = cut is not None and cut.ends is not None and cut.waits_for(self._applied) == "context"
        return not is_blocked and self._intake.has("steps", "results")

    @property
    def _piece(self) -> int:
        """How many records to work on at a time."""
        limit = self._search.limit
        return self._pace.records if limit is None else min(limit, self._pace.records)

    def _took(self, batch: Batch) -> Batch:
        """A batch is about to be folded or decided. Returns it without what is refused at once."""
        self._tally.count(batch)
        self._reached[batch.role] = batch.end
        return self._search.took(refused_if_unreadable(batch, self._refusals), self._refusals)

    @property
    def _may_take(self) -> bool:
        """Whether another record may be worked on before the next transaction."""
        if not self._search.is_on:
            return True
        is_alone = not self._has_attempted and any(
            cuts.reached(self._applied) is not None for cuts in self._cuts.of_lane.values()
        )
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

    def fold_context(self, limit: int) -> int:
        """Fold queued batches of context until there are `limit` records. Returns how much that was."""
        folded = 0
        while folded < limit and self._intake.has("context") and self._may_take:
            self._doing = "fold"
            batch = self._took(self._intake.take(self._piece))
            with self._tally.stage("fold"), self._pace.measured(len(batch)):
                self._known.fold_context(batch, self._clock.now_ms())
            self._applied["context"] = batch.end
            folded += max(len(batch), 1)
        return folded

    # Cuts

    def new_cuts(self) -> Iterator[PendingCut]:
        """Cuts that are needed and have not been asked for yet."""
        if self.is_running and self._failure is None:
            yield from self._cuts.new(self._known, self._intake)

    def input(self, role: Role) -> TopicPartition:
        """The topic partition of a role."""
        return self._inputs[role]

    @property
    def waits_for_hot_cut(self) -> bool:
        """Whether verdicts of the hot lane are about to be written."""
        return bool(self._cuts.of_lane["hot"].pending) and self._intake.has("results")

    # Deciding

    def decide(self, lane: Lane, limit: int) -> int:
        """Decide steps and results of a lane below its cut, about `limit` of them. Returns how many.

        What waits for all records below a cut comes when they have been decided.
        """
        cuts, decided = self._cuts.of_lane[lane], 0
        while (cut := cuts.advance(self._applied)) is not None and decided < limit:
            done = self._decide_below(cut, limit - decided)
            if not done:
                break
            decided += done
        if self._finish(lane):
            decided += 1
        if lane == "hot" and self._known.has_outputs:
            self._has_judged = True  # nobody waits for cold verdicts: they may wait for more of them
        return decided

    def _decide_below(self, cut: PendingCut, limit: int) -> int:
        """Decide records that the cut covers, in the order of their merge. Returns how many."""
        if not cut.is_counted:
            cut.is_counted = True
            self._tally.cut_waits.append((cut.lane, self._clock.monotonic() - cut.asked_at))
        if self._search.is_on and self._known.has_ready and not self._decide_ready():
            return 0
        if cut.lane == "cold" and self._known.has_ready:
            self._doing = "ready"
            self._known.decide_waiting(self._position("hot"), self._clock.now_ms())
        decided, ends = 0, cut.ends or {}
        while decided < limit and cut.has_left(self._applied) and self._may_take:
            self._doing = "decide"
            run = self._intake.next_run(cut.lane, ends, min(limit - decided, self._piece))
            if run is None:
                break
            self._decide_run(cut.lane, run)
            role = run.batch.role
            self._applied[role] = self._intake.taken(run)
            decided += run.stop - run.start
        for role in cut.covers:  # past what holds no record
            self._applied[role] = self._intake.position(role)
        return decided

    def _decide_run(self, lane: Lane, run: Run) -> None:
        batch, start, stop = run
        if self._search.is_on or self._search.leaves_out or batch.unreadable:
            batch = self._took(batch.between(start, stop))
            start, stop = 0, len(batch)
        else:
            self._tally.count_some(batch.role, stop - start)
            self._reached[batch.role] = batch.offsets[stop - 1] + 1
        position, now_ms = self._position(lane), self._clock.now_ms()
        with self._tally.stage("judge" if batch.role == RESULTS[lane] else "fold"), self._pace.measured(stop - start):
            if batch.role == RESULTS[lane]:
                self._known.judge(batch, position, now_ms, start, stop)
            else:
                self._known.fold_steps(batch, position, now_ms, start, stop)

    def _decide_ready(self) -> bool:
        """While a record is sought, what waits is decided in a transaction of its own. Returns whether it was."""
        if not self._may_do_alone("ready"):
            return False
        self._known.decide_waiting(self._position("hot"), self._clock.now_ms())
        self._done_alone("ready")
        return True

    def _finish(self, lane: Lane) -> bool:
        """Do what waits for the oldest cut, if it has been reached: cancels, timers, idle sessions."""
        cuts = self._cuts.of_lane[lane]
        cut = cuts.reached(self._applied)
        if cut is None or self._failure is not None or not self._may_do_alone("time"):
            return False
        due_ms, fetched = cut.asked_ms - 1, cut.context_fetched
        self._known.act_on_due(self._position("hot"), due_ms, hot_only=True, context_fetched=fetched)
        if lane == "cold":
            self._known.act_on_due(self._position("cold"), due_ms, cold_only=True, context_fetched=fetched)
            if cut.asked_at >= self._last_sweep:
                self._known.drop_idle()
            self._known.has_folded(cut.newest_ms)
        cuts.done()
        self._done_alone("time")
        return True

    def _position(self, lane: Lane) -> LogPosition:
        applied = self._applied
        steps, results = applied[STEPS[lane]], applied[RESULTS[lane]]
        return LogPosition(self.number, applied["context"], steps, results, is_cold=lane == "cold")

    def look_for_idle(self) -> None:
        """Look at some sessions every second: those that are idle are forgotten past a cut of both lanes."""
        now = self._clock.monotonic()
        if self._failure is None and now - self._last_sweep >= SWEEP_SECONDS and not self._known.has_idle:
            self._last_sweep = now
            self._known.find_idle(self._clock.now_ms(), SWEPT_AT_ONCE)

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
        behind = self._intake.has(*HOT_ROLES)
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
        """What the oldest decision that waits is waiting for, and when its cut was asked for."""
        return self._cuts.oldest(self._applied)

    def seconds_to_next(self, now: float) -> float:
        """How long nothing has to be done here, unless something comes in."""
        waits = [max(0.0, self._last_sweep + SWEEP_SECONDS - now) or SWEEP_SECONDS]
        if self.has_changes:
            waits.append(self._last_commit + self._commit_pause - now)
        for lane, cuts in self._cuts.of_lane.items():
            due = self._known.next_due_ms(hot_only=lane == "hot")
            if due is not None and not cuts.pending:
                waits.append((due + 1 - self._clock.now_ms()) / 1000)
        return max(0.0, min(waits))

    @property
    def positions(self) -> dict[str, int]:
        """The position folded up to, by topic."""
        return {self._inputs[role].topic: position for role, position in self._applied.items()}
