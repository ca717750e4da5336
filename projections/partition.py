"""One partition: what its events make of it, in the order context, steps, results, timers.

Every record takes one path: it is decoded, a `decide` function says what it establishes, `publish` builds the records
that report this, and `evolve` applies it to the session. What follows from it (a waiting result may be decided, a task
that was opened is cancelled) is decided in the same way, one after the other, until nothing is left.

The engine feeds it batches and writes what `take` returns in one transaction; tests feed it without Kafka. It does no
I/O and reads no clock: times come in as arguments, in ms.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import Any, Final

from projections.attempts import is_revoked
from projections.changes import Changes
from projections.decide_context import decide_acknowledgement, decide_cancel, decide_change, decide_erasure
from projections.decide_dispatch import decide_after_opening, decide_dispatch, dispatch_digest, ended_at_once
from projections.decide_effects import decide_proposal_past_barrier
from projections.decide_results import decide_late, decide_open, decide_result, decide_stopped, unknown_task
from projections.decide_steps import decide_heartbeat, decide_proposal, decide_step
from projections.decide_time import decide_due
from projections.due_queue import DueQueue
from projections.evolve import evolve
from projections.facts import (
    AttemptCommanded,
    EventRefused,
    EventRepeated,
    Fact,
    ForwardedOnce,
    GraceExpired,
    ProposalParked,
    QuietFact,
    ResultDropped,
    ResultParked,
    SessionForgotten,
    TaskOpened,
    WaitingJudged,
)
from projections.log_position import LogPosition
from projections.publish import Publisher, TooLargeError
from projections.rules import Rules
from projections.session import Session
from projections.store import Store
from projections.timers import awaits_both_lanes, dues_of
from projections.waiting import Arrived, arrived, identity_of
from schemas.decode import Batch, Decoder, Refusal
from schemas.envelope import was_forwarded
from schemas.events import (
    ContextChanged,
    ResultAcknowledged,
    SessionErased,
    TaskCancelRequested,
    TaskDispatched,
    TaskEffectProposed,
    TaskHeartbeat,
    TaskStep,
)
from schemas.topics import Role
from schemas.wire import event_type, struct_of

_CHANGED: Final[Any] = struct_of(ContextChanged)
_CANCEL: Final[Any] = struct_of(TaskCancelRequested)
_ACKNOWLEDGED: Final[Any] = struct_of(ResultAcknowledged)
_ERASED: Final[Any] = struct_of(SessionErased)
_DISPATCHED: Final[Any] = struct_of(TaskDispatched)
_STEP: Final[Any] = struct_of(TaskStep)
_HEARTBEAT: Final[Any] = struct_of(TaskHeartbeat)
_PROPOSED: Final[Any] = struct_of(TaskEffectProposed)

_NOTHING: Final[list[Fact]] = []

Place = tuple[int, int, bool, str, str]
"""The order in which waiting results are looked at: by their dispatches."""


def _anywhere(_session_id: str) -> bool:
    return True


class Partition:
    """The sessions of one partition. `is_home` says whether a session that is not known yet belongs here."""

    def __init__(self, number: int, rules: Rules, is_home: Callable[[str], bool] = _anywhere) -> None:
        self.number = number
        self.store = Store(number)
        self._rules = rules
        self._is_home = is_home
        self._publisher = Publisher(rules.source)
        self._decoders = {role: Decoder(role, rules.topic_prefix) for role in ("context", "steps", "results")}
        self._changes = Changes()
        self._timers = DueQueue()
        """When sessions fall due, of tasks that no record of the cold lane can keep from it."""
        self._cold_timers = DueQueue()
        """The same of the other tasks."""
        self._unknown = DueQueue()
        """When the grace of results without a dispatch ends, by session and task."""
        self._proposals: dict[bytes, Arrived] = {}
        self._ready: dict[bytes, Arrived] = {}
        """Results whose dispatch has come."""
        self._stopped: dict[bytes, Arrived] = {}
        """Results that waited when their task was stopped."""
        self._pending: dict[tuple[str, str], None] = {}
        """Sessions and tasks whose waiting result may be decided at the next barrier."""
        self._round: list[Place] = []
        self._in_round: set[tuple[str, str]] = set()
        self._at: Place | None = None
        """Of the waiting result that is being looked at."""
        self._sweep: Iterator[str] = iter(())
        self._idle: list[tuple[str, bytes]] = []

    # What is there to do

    @property
    def has_ready(self) -> bool:
        """Whether results that waited can be judged at the next barrier."""
        return bool(self._ready or self._pending or self._stopped)

    @property
    def has_idle(self) -> bool:
        """Whether sessions were found idle, to be looked at again past a barrier."""
        return bool(self._idle)

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.store.changed) or not self._changes.is_empty

    def has_proposals(self, role: Role) -> bool:
        """Whether effects proposed on this steps topic wait for a barrier."""
        return any(proposal.role == role for proposal in self._proposals.values())

    # Restoring and writing

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take over one changelog record. Raises `UnknownFormatError`."""
        self.store.restore(key, value)

    def settle(self) -> None:
        """Everything is restored. Raises `ValueError` if the changelog is not whole."""
        self.store.settle()
        self._queue_what_waits()
        for session_id in self.store.session_ids_with_open_tasks():
            self._set_timers(self.store.session(session_id))
            self.store.let_go()

    def take(self, now_ms: int) -> Changes:
        """Everything changed since the last call, to be written in one transaction. Statuses have the time `now_ms`."""
        changes, self._changes = self._changes, Changes()
        publisher = self._publisher
        publisher.at(None, now_ms)
        for session in self.store.changed.values():
            if session.status_due is not None:
                tasks = session.tasks
                for task_id in session.status_due:
                    task = tasks.get(task_id)
                    if task is not None:
                        changes.outputs.append(publisher.open_status(session, task_id, task))
                session.status_due = None
            self._set_timers(session)
        self.store.write(changes.rows)
        return changes

    def committed(self) -> None:
        """What the last `take` returned is durable."""
        self.store.committed()

    def roll_back(self) -> None:
        """Go back to what was last committed: the transaction was aborted, or something raised while folding."""
        self._changes = Changes()
        for session_id in self.store.roll_back():
            session = self.store.known(session_id)
            if session is not None:
                self._set_timers(session)
            else:
                self._timers.set(session_id, None)
                self._cold_timers.set(session_id, None)
        self._unknown = DueQueue()
        self._idle = []
        self._queue_what_waits()

    def _queue_what_waits(self) -> None:
        self._proposals, self._ready, self._stopped, self._pending = {}, {}, {}, {}
        self._round, self._in_round, self._at = [], set(), None
        queued: list[Arrived] = []
        for session_id in self.store.sessions_with_waiting():
            kept = self.store.kept_of(session_id)
            if kept is None:
                continue
            queued += kept.queued.values()
            for task_id in kept.waiting:
                self._pending[session_id, task_id] = None
            for task_id, parked in kept.parked.items():
                due = parked.results[0].timestamp + self._rules.unknown_task_grace_ms
                self._unknown.set((session_id, task_id), due)
        queued.sort(key=_arrival)
        for event in queued:
            self._queue(event)

    def _queue(self, event: Arrived) -> None:
        key = event.kept_as or b""
        if event.is_proposal:
            self._proposals[key] = event
        elif event.undecided is not None:
            self._stopped[key] = event
        else:
            self._ready[key] = event

    # Folding

    def fold_context(self, batch: Batch, now_ms: int) -> None:
        """Decode and fold a batch of context events."""
        decoder, refusals, counts = self._decoders["context"], self._changes.refusals, self._counts(batch.role)
        self._publisher.at(None, now_ms)
        values, offsets, timestamps = batch.values, batch.offsets, batch.timestamps
        for index in range(len(values)):
            event = decoder.event(batch, index, refusals)
            if event is None:
                continue
            kind = type(event)
            counts[kind] = counts.get(kind, 0) + 1
            session = self._admit(batch, index, event)
            if session is None:
                continue
            timestamp = timestamps[index]
            if kind is _CHANGED:
                facts = decide_change(session, event, len(values[index] or b""), offsets[index], timestamp)
            elif kind is _CANCEL:
                facts = decide_cancel(session, event, timestamp)
            elif kind is _ACKNOWLEDGED:
                facts = decide_acknowledgement(session, event, offsets[index], timestamp)
            else:
                facts = decide_erasure(session, event, timestamp)
                if len(facts) > 1:  # it has not come before
                    self._unqueue(session)
            self._apply(session, facts, batch, index, _NOTHING)

    def fold_steps(self, batch: Batch, now_ms: int) -> None:
        """Decode and fold a batch of dispatches, steps, heartbeats and proposed effects, of one lane."""
        decoder, refusals, counts = self._decoders["steps"], self._changes.refusals, self._counts(batch.role)
        self._publisher.at(None, now_ms)
        values, timestamps = batch.values, batch.timestamps
        for index in range(len(values)):
            event = decoder.event(batch, index, refusals)
            if event is None:
                continue
            kind = type(event)
            counts[kind] = counts.get(kind, 0) + 1
            session = self._admit(batch, index, event)
            if session is None:
                continue
            if kind is _STEP:
                facts = decide_step(session, event, len(values[index] or b""), timestamps[index])
            elif kind is _DISPATCHED:
                self._fold_dispatch(session, event, batch, index)
                continue
            elif kind is _HEARTBEAT:
                facts = decide_heartbeat(session, event, timestamps[index])
            else:
                proposal = arrived(batch, index, event)
                facts = decide_proposal(session, proposal)
                self._apply(session, facts, batch, index, _NOTHING)
                if proposal.kept_as is not None:
                    self._proposals[proposal.kept_as] = proposal
                continue
            self._apply(session, facts, batch, index, _NOTHING)

    def _fold_dispatch(self, session: Session, event: TaskDispatched, batch: Batch, index: int) -> None:
        lane = "cold" if batch.role == "steps.cold" else "hot"
        offset, timestamp = batch.offsets[index], batch.timestamps[index]
        size, headers = len(batch.values[index] or b""), batch.headers[index]
        facts = decide_dispatch(session, event, size, offset, timestamp, headers, lane, self._rules)
        opened = facts[0]
        task_id: str = event.task_id
        cancelled = task_id in session.row.cancels or ("~" in task_id and is_revoked(session, task_id))
        self._apply(session, facts, batch, index, _NOTHING)
        if len(self._unknown) and event.task_id not in session.parked:
            self._unknown.set((session.id, event.task_id), None)
        if isinstance(opened, TaskOpened) and event.task_id in session.tasks:
            after = decide_after_opening(session, opened, cancelled=cancelled)
            if after:
                self._apply(session, after, batch, index, _NOTHING)

    def _counts(self, role: Role) -> dict[type, int]:
        counts = self._changes.events.get(role)
        if counts is None:
            counts = self._changes.events[role] = {}
        return counts

    # Applying

    def _home(self, batch: Batch, index: int, session_id: str) -> Session | None:
        """The session of a record; None if the record is on the wrong partition. A known session is at home."""
        session = self.store.known(session_id)
        if session is None:
            if not self._is_home(session_id):
                self._changes.misrouted.append((batch, index))
                return None
            session = self.store.session(session_id)
        return session

    def _admit(self, batch: Batch, index: int, event: Any) -> Session | None:
        """The session to fold a record into; None if it is on the wrong partition, or was sent on from one twice."""
        session = self._home(batch, index, event.session_id)
        headers = batch.headers[index]
        if session is None or not headers or not was_forwarded(headers):
            return session
        identity = identity_of(event)
        if identity in session.row.forwarded:
            self._apply(session, [EventRepeated(event_type(type(event)))], batch, index, _NOTHING)
            return None
        self._apply(session, [ForwardedOnce(identity)], batch, index, _NOTHING)
        return session

    def _apply(
        self, session: Session, facts: list[Fact], batch: Batch | None, index: int, if_too_large: list[Fact]
    ) -> None:
        """Publish the facts of one decision and apply them to the session, or refuse the record that led to them.

        A record is refused if what reports it would be too large for its topic; `if_too_large` are applied then.
        """
        if not facts:
            return
        if len(facts) == 1 and isinstance(facts[0], QuietFact):
            evolve(session, facts[0], self._rules)
            if not session.is_listed:
                self.store.to_write(session)
            if session.to_reconsider is not None:
                self._collect(session)
            return
        changes, publisher = self._changes, self._publisher
        outputs = changes.outputs
        published = len(outputs)
        try:
            for fact in facts:
                publisher.publish(session, fact, outputs)
        except TooLargeError as error:
            del outputs[published:]
            facts = [*self._too_large(session, error, facts, batch, index), *if_too_large]
        for fact in facts:
            if isinstance(fact, EventRefused):
                if batch is None:
                    raise ValueError(f"nothing can be refused here: {fact.detail}")
                changes.refusals.append(Refusal(batch, index, fact.error, fact.detail))
                continue
            changes.count(fact)
            if evolve(session, fact, self._rules) and not session.is_listed:
                self.store.to_write(session)
        if session.to_reconsider is not None or session.to_judge is not None:
            self._collect(session)

    def _too_large(
        self, session: Session, error: TooLargeError, facts: list[Fact], batch: Batch | None, index: int
    ) -> list[Fact]:
        first = facts[0]
        if isinstance(first, TaskOpened) and batch is not None:
            event = self._decoders["steps"].event_of(batch.values[index] or b"", batch.headers[index])
            detail = f"depends_on: {error}; depend on fewer facets, or on shorter values"
            content = dispatch_digest(event)
            fact: Fact = ended_at_once(
                session, event, content, "rejected", "session_full", detail, [], batch.timestamps[index]
            )
            self._publisher.publish(session, fact, self._changes.outputs)
            return [fact]
        remedy = "use payload_ref for large parts"
        if any(isinstance(each, AttemptCommanded) for each in facts) and error.what.startswith("the task.redispatch"):
            remedy = "let the task depend on fewer facets, or on shorter values"
        return [EventRefused("output_too_large", f"result: {error}; {remedy}")]

    def _collect(self, session: Session) -> None:
        """Queue what the session says is to be judged, or looked at again."""
        if session.to_judge is not None:
            for event in session.to_judge:
                self._queue(event)
            session.to_judge = None
        if session.to_reconsider is None:
            return
        tasks, at = session.tasks, self._at
        for task_id in session.to_reconsider:
            name = session.id, task_id
            task = tasks.get(task_id)
            if at is None or task is None:
                self._pending[name] = None
                continue
            place: Place = (task.dispatched_at, task.offset, task.is_cold, session.id, task_id)
            if place <= at:
                self._pending[name] = None
            elif name not in self._in_round:
                self._in_round.add(name)
                heapq.heappush(self._round, place)
        session.to_reconsider = None

    def _unqueue(self, session: Session) -> None:
        """The session is forgotten: nothing of it is judged any more."""
        for key in session.queued:
            self._proposals.pop(key, None)
            self._ready.pop(key, None)
            self._stopped.pop(key, None)
        for task_id in session.waiting:
            self._pending.pop((session.id, task_id), None)
        for task_id in session.parked:
            self._unknown.set((session.id, task_id), None)
        self._timers.set(session.id, None)
        self._cold_timers.set(session.id, None)

    # Judging

    def judge(self, batch: Batch, position: LogPosition, now_ms: int) -> None:
        """Decode and judge a batch of results. The caller has folded up to the barrier that `position` tells of.

        What waited comes first, and what a result frees comes before the next one, in whatever batches they arrive.
        """
        if self.has_ready or self._proposals:
            self.judge_ready(position, now_ms)
        decoder, refusals, counts = self._decoders["results"], self._changes.refusals, self._counts(batch.role)
        self._publisher.at(position, now_ms)
        for index in range(len(batch.values)):
            event = decoder.event(batch, index, refusals)
            if event is None:
                continue
            kind = type(event)
            counts[kind] = counts.get(kind, 0) + 1
            session = self._home(batch, index, event.session_id)
            if session is None:
                continue
            facts = decide_result(session, arrived(batch, index, event), self._rules)
            self._apply(session, facts, batch, index, _NOTHING)
            first = facts[0] if facts else None
            if isinstance(first, ResultParked):
                self._start_grace(session, event.task_id)
            if self._pending or self._stopped:
                self.judge_ready(position, now_ms)

    def judge_ready(self, position: LogPosition, now_ms: int) -> None:
        """Judge what waited and waits no more: for its dispatch, for other tasks, for the context, for its barrier."""
        self._publisher.at(position, now_ms)
        self._answer_proposals(position)
        while self.has_ready:
            ready, self._ready = sorted(self._ready.values(), key=_offset), {}
            for result in ready:
                session = self.store.session(result.event.session_id)
                self._apply(session, [WaitingJudged(result)], None, 0, _NOTHING)
                facts = decide_result(session, result, self._rules)
                self._apply(session, facts, result.as_batch(), 0, _NOTHING)
                if facts and isinstance(facts[0], ResultParked):
                    self._start_grace(session, result.event.task_id)
            self._reconsider()
            stopped, self._stopped = self._stopped, {}
            for result in stopped.values():
                session = self.store.session(result.event.session_id)
                self._apply(session, [WaitingJudged(result)], None, 0, _NOTHING)
                facts = decide_stopped(session, result)
                self._apply(session, facts, result.as_batch(), 0, facts[1:])

    def _reconsider(self) -> None:
        """Look at the waiting results that may be decided now, in the order of their dispatches.

        One that is freed meanwhile comes in this round if its dispatch is later, and in the next one if it is earlier:
        as if every waiting result of the session were looked at in every round.
        """
        pending, self._pending = self._pending, {}
        for session_id, task_id in pending:
            task = self.store.session(session_id).row.tasks.get(task_id)
            if task is not None:
                heapq.heappush(self._round, (task.dispatched_at, task.offset, task.is_cold, session_id, task_id))
                self._in_round.add((session_id, task_id))
        while self._round:
            self._at = heapq.heappop(self._round)
            session_id, task_id = self._at[3], self._at[4]
            self._in_round.discard((session_id, task_id))
            session = self.store.session(session_id)
            result, task = session.waiting.get(task_id), session.tasks.get(task_id)
            if result is not None and task is not None:
                facts = decide_open(session, result, task, task, self._rules, [])
                self._apply(session, facts, result.as_batch() if facts else None, 0, [ResultDropped(task_id)])
        self._at = None

    def _answer_proposals(self, position: LogPosition) -> None:
        if not self._proposals:
            return
        proposals, self._proposals = self._proposals, {}
        for key, proposal in proposals.items():
            if not position.covers(proposal.role, proposal.offset):
                self._proposals[key] = proposal
                continue
            session = self.store.session(proposal.event.session_id)
            self._apply(session, [WaitingJudged(proposal)], None, 0, _NOTHING)
            facts = decide_proposal_past_barrier(session, proposal, self._publisher.judged)
            self._apply(session, facts, proposal.as_batch(), 0, _NOTHING)
            if isinstance(facts[0], ProposalParked):
                self._start_grace(session, proposal.event.task_id)

    # Time

    def next_due_ms(self, *, hot_only: bool | None = None) -> int | None:
        """Broker time at which the first thing falls due; None if nothing does.

        `hot_only`: of what no record of the cold lane can keep from falling due (True), of the rest (False), or of all.
        """
        dues: list[int] = []
        if hot_only is not False:
            hot = self._timers.next_due_ms()
            if hot is not None:
                dues.append(hot)
        if hot_only is not True:
            for queue in (self._unknown, self._cold_timers):
                due = queue.next_due_ms()
                if due is not None:
                    dues.append(due)
        return min(dues) if dues else None

    def act_on_due(self, position: LogPosition, now_ms: int, *, hot_only: bool = False) -> None:
        """Act on what has fallen due at `now_ms`.

        The caller has folded and judged everything that was on the topics of both lanes at that time, with `hot_only`
        on those of the hot one, so what is on them already cannot be missed.
        """
        self.judge_ready(position, now_ms)  # nothing expires whose result or proposed effect is there
        if not hot_only:
            self._give_up_unknown(now_ms)
        for session in self.store.changed.values():
            self._set_timers(session)
        due = self._timers.take_due(now_ms)
        if not hot_only:
            due += self._cold_timers.take_due(now_ms)
        for session_id in dict.fromkeys(due):
            session = self.store.session(session_id)
            self._fall_due(session, now_ms, hot_only=hot_only)
            self._set_timers(session)
        self.judge_ready(position, now_ms)

    def _fall_due(self, session: Session, now_ms: int, *, hot_only: bool) -> None:
        tasks, index = session.tasks, session.index
        due = list(tasks) if index is None else index.take_due(now_ms, hot_only=hot_only)
        for task_id in due:
            task = tasks.get(task_id)
            if task is not None and not (hot_only and awaits_both_lanes(tasks, task)):
                self._apply(session, decide_due(session, task_id, now_ms), None, 0, _NOTHING)
        if index is not None:
            for task_id in due:
                task = tasks.get(task_id)
                if task is not None:
                    index.set_due(task_id, task)

    def _start_grace(self, session: Session, task_id: str) -> None:
        parked = session.parked.get(task_id)
        if parked is not None and len(parked.results) == 1:
            due = parked.results[0].timestamp + self._rules.unknown_task_grace_ms
            self._unknown.set((session.id, task_id), due)

    def _give_up_unknown(self, now_ms: int) -> None:
        """Withhold the results whose dispatch has not come within its grace."""
        due: list[tuple[int, int, str, str, str]] = []
        for session_id, task_id in self._unknown.take_due(now_ms):
            first = self.store.session(session_id).parked[task_id].results[0]
            due.append((first.timestamp, first.offset, first.role, session_id, task_id))
        for _, _, _, session_id, task_id in sorted(due):
            session = self.store.session(session_id)
            results = session.parked[task_id].results
            self._apply(session, [GraceExpired(task_id)], None, 0, _NOTHING)
            for result in results:
                self._ready.pop(result.kept_as or b"", None)
                self._proposals.pop(result.kept_as or b"", None)
                self._apply(session, [WaitingJudged(result)], None, 0, _NOTHING)
                if result.is_proposal:
                    judged = self._publisher.judged
                    facts = decide_proposal_past_barrier(session, result, judged, has_waited=True)
                    self._apply(session, facts, result.as_batch(), 0, _NOTHING)
                    continue
                ended = session.ended_task(task_id)
                facts = decide_late(result, unknown_task(result) if ended is None else ended, self._rules)
                self._apply(session, facts, result.as_batch(), 0, _NOTHING)

    def _set_timers(self, session: Session) -> None:
        index, tasks = session.index, session.tasks
        if index is not None:
            hot, other = index.dues()
        elif tasks:
            hot, other = dues_of(tasks)
        else:
            hot, other = None, None
        timers, cold_timers = self._timers, self._cold_timers
        if hot is not None or len(timers):
            timers.set(session.id, hot)
        if other is not None or len(cold_timers):
            cold_timers.set(session.id, other)

    # Idle sessions

    def find_idle(self, now_ms: int, limit: int) -> None:
        """Look at the next `limit` sessions for those idle for longer than the TTL and without open tasks."""
        oldest_ms = now_ms - self._rules.session_ttl_ms
        for looked, session_id in enumerate(self._sweep, start=1):
            raw = self.store.raw(session_id)
            if raw is not None and self.store.is_idle_since(session_id, oldest_ms):
                self._idle.append((session_id, raw))
            if looked >= limit:
                return
        self._sweep = iter(self.store.session_ids())

    def drop_idle(self) -> None:
        """Forget the sessions that were found idle, and still are.

        The caller has folded everything that was on the topics when they were found: what is on them already may be
        newer than what the rows know.
        """
        for session_id, raw in self._idle:
            is_unchanged = session_id not in self.store.changed and self.store.raw(session_id) == raw
            if is_unchanged and self.store.kept_of(session_id) is None:  # a result waits for the facets, too
                self._apply(self.store.session(session_id), [SessionForgotten([], b"")], None, 0, _NOTHING)
        self._idle = []


def _offset(event: Arrived) -> int:
    return event.offset


def _arrival(event: Arrived) -> tuple[int, int]:
    return event.timestamp, event.offset
