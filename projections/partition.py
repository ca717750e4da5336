"""One partition: what its events make of it.

Context is folded ahead. Steps and results are decided below a cut: the end offsets of the context, the steps and the
results, as the broker told them after the records were fetched. Context below the cut counts for every decision,
whatever its timestamp; steps and results come in the order of the broker's timestamps (see `projections.merge`), and so
do timers. What a record frees is decided before the next record. So the outcome does not depend on how the records were
fetched, nor on when.

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
from projections.cancelling import cancelled_by
from projections.changes import Changes
from projections.decide_context import (
    decide_acknowledgement,
    decide_cancel,
    decide_cancelled,
    decide_change,
    decide_erasure,
    decide_stop,
)
from projections.decide_dispatch import (
    decide_after_opening,
    decide_dispatch,
    decide_turn,
    dispatch_digest,
    ended_at_once,
)
from projections.decide_effects import decide_proposal_past_barrier
from projections.decide_results import (
    decide_late,
    decide_open,
    decide_outdated,
    decide_result,
    decide_stopped,
    unknown_task,
)
from projections.decide_steps import decide_extension, decide_heartbeat, decide_step
from projections.decide_time import decide_due, decide_expiry, decide_extras, decide_run_out
from projections.decode import Batch, Decoder, Refusal
from projections.due_queue import DueQueue
from projections.ended import told_ids
from projections.evolve import evolve, forget_replaced
from projections.facts import (
    AttemptCommanded,
    CancelRequested,
    EventRefused,
    EventRepeated,
    Fact,
    ForwardedOnce,
    GraceExpired,
    ProposalParked,
    QuietFact,
    ResultDropped,
    ResultJudged,
    ResultParked,
    SessionForgotten,
    SessionHeard,
    TaskOpened,
    WaitingJudged,
)
from projections.keys import task_key
from projections.log_position import LogPosition
from projections.publish import Output, Publisher, TooLargeError
from projections.rules import Rules
from projections.session import Parked, Session
from projections.store import Store
from projections.timers import Due, dues_of, extras_dues
from projections.waiting import Arrived, arrived, identity_of
from schemas.envelope import was_forwarded
from schemas.events import (
    ContextChanged,
    ResultAcknowledged,
    SessionErased,
    TaskCancelRequested,
    TaskDispatched,
    TaskEffectProposed,
    TaskExtended,
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
_EXTENDED: Final[Any] = struct_of(TaskExtended)
_PROPOSED: Final[Any] = struct_of(TaskEffectProposed)

_NOTHING: Final[list[Fact]] = []

HEARD_AGAIN: Final = 32
"""An event that changes nothing of its session is noted if the last one is older than this part of the TTL."""
EVERYTHING: Final = 1 << 62
"""Above every offset."""
CLOCK_AHEAD_MS: Final = 3_600_000
"""A session cannot have been heard of later than now. Broker and worker may differ by less than this."""

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
        self._cold_unknown = DueQueue()
        """The same of results on the cold lane's topic."""
        self._cancels: dict[tuple[str, str], int] = {}
        """Sessions and open tasks that are to be cancelled when the steps below a cut have been folded, which was asked
        for after the request with this offset had been fetched."""
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
        self.newest_ms = 0
        """The newest timestamp of the context that has been folded."""
        self.keeps_replaced = False
        """Whether former values of facets were kept in the last transaction."""
        self._folded_ms = 0
        """Steps that have not been folded were sent at this time or later."""
        self._heard_again_ms = max(1, rules.session_ttl_ms // HEARD_AGAIN)
        self._sweep: Iterator[str] = iter(())
        self._idle: list[tuple[str, bytes]] = []

    # What is there to do

    @property
    def has_ready(self) -> bool:
        """Whether results that waited can be judged at the next barrier."""
        return bool(self._ready or self._pending or self._stopped or self._proposals)

    def has_cancels(self, *, cold: bool) -> bool:
        """Whether open tasks of the lane are to be cancelled at the next cut."""
        return any(self._is_cold(name) == cold for name in self._cancels)

    def _is_cold(self, name: tuple[str, str]) -> bool:
        task = self.store.session(name[0]).tasks.get(name[1])
        return task is not None and task.is_cold

    @property
    def has_idle(self) -> bool:
        """Whether sessions were found idle, to be looked at again past a barrier."""
        return bool(self._idle)

    @property
    def has_outputs(self) -> bool:
        """Whether something was decided that is to be published."""
        return bool(self._changes.outputs)

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.store.changed) or not self._changes.is_empty

    def has_folded(self, folded_ms: int) -> None:
        """Every step of both lanes with an earlier timestamp has been folded."""
        self._folded_ms = max(self._folded_ms, folded_ms)

    # Restoring and writing

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take over one changelog record. Raises `UnknownFormatError`."""
        self.store.restore(key, value)

    def settle(self) -> None:
        """Everything is restored. Raises `ValueError` if the changelog is not whole."""
        self.store.settle()
        self._queue_what_waits()
        for session_id in self.store.session_ids_with_timers():
            session = self.store.session(session_id)
            self._set_timers(session)
            self._note_cancels(session)
            self.store.let_go()

    def take(self, now_ms: int) -> Changes:
        """Everything changed since the last call, to be written in one transaction. Statuses have the time `now_ms`."""
        changes, self._changes = self._changes, Changes()
        publisher = self._publisher
        publisher.at(None, now_ms)
        store, outputs, rows = self.store, changes.outputs, changes.rows
        self.keeps_replaced = False
        pending = store.begin_write()
        while pending:  # each session is freed before the next one, while it is in the cache
            session = pending[-1]
            if session.status_due is not None:
                tasks = session.tasks
                for task_id in session.status_due:
                    task = tasks.get(task_id)
                    if task is not None:
                        outputs.append(publisher.open_status(session, task_id, task))
                session.status_due = None
            if session.replaced and session.is_changed:
                forget_replaced(session, self._folded_ms)
                self.keeps_replaced = self.keeps_replaced or bool(session.replaced)
            self._set_timers(session)
            store.write(session, rows)
            pending.pop()
        store.let_go()
        return changes

    def committed(self) -> None:
        """What the last `take` returned is durable."""
        self.store.committed()

    def roll_back(self) -> None:
        """Go back to what was last committed: the transaction was aborted, or something raised while folding."""
        self._changes = Changes()
        rolled_back = self.store.roll_back()
        changed = set(rolled_back)
        self._cancels = {name: offset for name, offset in self._cancels.items() if name[0] not in changed}
        for session_id in rolled_back:
            session = self.store.known(session_id)
            if session is not None:
                self._set_timers(session)
                self._note_cancels(session)
            else:
                self._timers.set(session_id, None)
                self._cold_timers.set(session_id, None)
        self._unknown, self._cold_unknown = DueQueue(), DueQueue()
        self._idle = []
        self._queue_what_waits()

    def _note_cancels(self, session: Session) -> None:
        for task_id in session.cancels:
            if task_id in session.tasks:
                self._cancels[session.id, task_id] = 0

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
                self._set_grace(session_id, task_id, parked)
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
        if timestamps and timestamps[-1] > self.newest_ms:
            self.newest_ms = timestamps[-1]
        changed = 0
        for index in range(len(values)):
            event = decoder.event(batch, index, refusals)
            if event is None:
                continue
            kind = type(event)
            if kind is _CHANGED:
                changed += 1
            else:
                counts[kind] = counts.get(kind, 0) + 1
            session = self._admit(batch, index, decoder.session_id, event)
            if session is None:
                continue
            timestamp = timestamps[index]
            if session.extras is not None:
                self._expire(session, timestamp - 1)
            if kind is _CHANGED:
                facts = decide_change(session, event, len(values[index] or b""), offsets[index], timestamp)
            elif kind is _CANCEL:
                facts = decide_cancel(session, event, len(values[index] or b""), offsets[index], timestamp)
                for fact in facts:
                    if isinstance(fact, CancelRequested) and fact.task_id in session.tasks:
                        self._cancels.setdefault((session.id, fact.task_id), offsets[index])
            elif kind is _ACKNOWLEDGED:
                facts = decide_acknowledgement(session, event, offsets[index], timestamp)
            else:
                facts = decide_erasure(session, event, timestamp)
                if len(facts) > 1:  # it has not come before
                    self._unqueue(session)
            self._apply(session, facts, batch, index, _NOTHING)
        counts[_CHANGED] = counts.get(_CHANGED, 0) + changed

    def fold_steps(
        self, batch: Batch, position: LogPosition, now_ms: int, start: int = 0, stop: int | None = None
    ) -> None:
        """Decode and decide dispatches, steps, heartbeats and proposed effects of one lane: records of a batch.

        The caller has folded the context up to the cut.
        """
        decoder, refusals, counts = self._decoders["steps"], self._changes.refusals, self._counts(batch.role)
        self._begin(position, now_ms)
        values, offsets, timestamps, is_cold = batch.values, batch.offsets, batch.timestamps, batch.role == "steps.cold"
        steps = 0
        for index in range(start, len(values) if stop is None else stop):
            event = decoder.event(batch, index, refusals)
            if event is None:
                continue
            kind = type(event)
            if kind is _STEP:
                steps += 1
            else:
                counts[kind] = counts.get(kind, 0) + 1
            session = self._admit(batch, index, decoder.session_id, event)
            if session is None:
                continue
            timestamp = timestamps[index]
            if session.is_timed or session.parked or session.extras is not None:
                position.steps_offset = offsets[index]
                self._let_time_pass(session, event.task_id, timestamp, is_cold=is_cold)
            position.steps_offset = offsets[index] + 1
            if kind is _STEP:
                facts = decide_step(session, event, len(values[index] or b""), timestamp)
                self._apply(session, facts, batch, index, _NOTHING)
                if self._pending:
                    self._decide_waiting()
                continue
            request: tuple[int, int] | None = None
            if kind is _DISPATCHED:
                facts = self._decide_dispatch(session, event, batch, index)
                opened = facts[0]
                if isinstance(opened, TaskOpened):
                    grace_ms = self._rules.unknown_task_grace_ms
                    request = cancelled_by(session, event.task_id, opened.task, grace_ms)
            elif kind is _HEARTBEAT:
                facts = decide_heartbeat(session, event, timestamp)
            elif kind is _EXTENDED:
                facts = decide_extension(session, event, timestamp)
            else:
                facts = decide_proposal_past_barrier(session, arrived(batch, index, event), self._publisher.judged)
            self._apply(session, facts, batch, index, _NOTHING)
            if kind is _DISPATCHED:
                self._after_dispatch(session, event.task_id, facts, request, batch, index)
            elif kind is _PROPOSED and facts and isinstance(facts[0], ProposalParked):
                self._start_grace(session, event.task_id)
            if self.has_ready:
                self._decide_waiting()
        counts[_STEP] = counts.get(_STEP, 0) + steps

    def _decide_dispatch(self, session: Session, event: TaskDispatched, batch: Batch, index: int) -> list[Fact]:
        lane = "cold" if batch.role == "steps.cold" else "hot"
        offset, timestamp = batch.offsets[index], batch.timestamps[index]
        size, headers = len(batch.values[index] or b""), batch.headers[index]
        return decide_dispatch(session, event, size, offset, timestamp, headers, lane, self._rules)

    def _after_dispatch(
        self,
        session: Session,
        task_id: str,
        facts: list[Fact],
        request: tuple[int, int] | None,
        batch: Batch,
        index: int,
    ) -> None:
        if task_id not in session.parked:
            self._unset_grace(session.id, task_id)
        opened = facts[0]
        if isinstance(opened, TaskOpened) and task_id in session.tasks:
            dispatched_at = opened.task.dispatched_at
            if request is not None:  # it cannot end before it was dispatched
                self._apply(session, [CancelRequested(task_id, max(request[0], dispatched_at))], None, 0, _NOTHING)
            elif "~" in task_id and is_revoked(session, task_id):
                self._apply(session, [CancelRequested(task_id, dispatched_at)], None, 0, _NOTHING)
            if task_id in session.cancels:
                folded = self._publisher.context_offset - 1
                self._cancels.setdefault((session.id, task_id), folded if request is None else request[1])
            after = decide_after_opening(session, opened)
            if after:
                self._apply(session, after, batch, index, _NOTHING)

    def _expire(self, session: Session, now_ms: int) -> None:
        """Leases that have run out by then, before the next context event, which may renew them."""
        extras = session.extras
        if extras is not None and extras.leases:
            self._apply(session, decide_expiry(session, now_ms), None, 0, _NOTHING)

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

    def _admit(self, batch: Batch, index: int, session_id: str, event: Any) -> Session | None:
        """The session to fold a record into; None if it is on the wrong partition, or was sent on from one twice."""
        session = self._home(batch, index, session_id)
        headers = batch.headers[index]
        if session is None or not headers or not was_forwarded(headers):
            return session
        identity = identity_of(event)
        if identity in session.forwarded:
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
            if batch is not None and batch.timestamps[index] - session.last_event_at >= self._heard_again_ms:
                self._hear(session, batch.timestamps[index])
            return
        if len(facts) == 1 and isinstance(facts[0], QuietFact):
            self._apply_quiet(session, facts[0])
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
                judged = publisher.judged if publisher.has_cut else ""
                changes.refusals.append(Refusal(batch, index, fact.error, fact.detail, judged))
                continue
            changes.count(fact)
            if evolve(session, fact, self._rules) and not session.is_listed:
                self.store.to_write(session)
        if batch is not None and batch.timestamps[index] - session.last_event_at >= self._heard_again_ms:
            self._hear(session, batch.timestamps[index])
        if session.to_reconsider is not None or session.to_judge is not None or session.noted is not None:
            self._collect(session)

    def _apply_quiet(self, session: Session, fact: Fact) -> None:
        """Apply a fact that no record reports by itself, and that is the only one of its decision."""
        evolve(session, fact, self._rules)
        if not session.is_listed:
            self.store.to_write(session)
        if session.to_reconsider is not None or session.noted is not None:
            self._collect(session)

    def _hear(self, session: Session, timestamp: int) -> None:
        """Every event keeps a session that has a row, also one that changes nothing.

        The row is written for it only after a part of the TTL, and `find_idle` waits so much longer.
        """
        if session.last_event_at:
            evolve(session, SessionHeard(timestamp), self._rules)
            if not session.is_listed:
                self.store.to_write(session)

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
        if session.to_reconsider is not None:
            self._reconsider_later(session, session.to_reconsider)
        if session.noted is not None:
            self._follow_up(session)

    def _reconsider_later(self, session: Session, task_ids: dict[str, None]) -> None:
        tasks, at = session.tasks, self._at
        for task_id in task_ids:
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

    def _follow_up(self, session: Session) -> None:
        """Decide what follows from what was noted."""
        noted, session.noted = session.noted, None
        if noted is None:
            return
        removed = [Output("tasks", task_key(session.id, each), None, None) for each in noted.forgotten]
        self._changes.outputs += removed
        for slot, timestamp in noted.freed_slots.items():
            turn_at = max(timestamp, session.last_event_at)
            self._apply(session, decide_turn(session, slot, turn_at), None, 0, _NOTHING)
        for task_id, names in noted.outdated.items():
            self._apply(session, decide_outdated(session, task_id, names), None, 0, _NOTHING)

    def _unqueue(self, session: Session) -> None:
        """The session is forgotten: nothing of it is judged any more."""
        for key in session.queued:
            self._proposals.pop(key, None)
            self._ready.pop(key, None)
            self._stopped.pop(key, None)
        for task_id in session.waiting:
            self._pending.pop((session.id, task_id), None)
        for task_id in session.parked:
            self._unset_grace(session.id, task_id)
        for task_id in session.cancels:
            self._cancels.pop((session.id, task_id), None)
        self._timers.set(session.id, None)
        self._cold_timers.set(session.id, None)

    # Judging

    def judge(self, batch: Batch, position: LogPosition, now_ms: int, start: int = 0, stop: int | None = None) -> None:
        """Decode and judge results: records of a batch. The caller has folded the context up to the cut."""
        decoder, refusals, counts = self._decoders["results"], self._changes.refusals, self._counts(batch.role)
        self._begin(position, now_ms)
        offsets, timestamps, is_cold = batch.offsets, batch.timestamps, batch.role == "results.cold"
        for index in range(start, len(batch.values) if stop is None else stop):
            event = decoder.event(batch, index, refusals)
            if event is None:
                continue
            kind = type(event)
            counts[kind] = counts.get(kind, 0) + 1
            session = self._home(batch, index, decoder.session_id)
            if session is None:
                continue
            result = arrived(batch, index, event)
            if session.is_timed or session.parked or session.extras is not None:
                position.results_offset = offsets[index]
                self._let_time_pass(session, result.task_id, timestamps[index], is_cold=is_cold)
            position.results_offset = offsets[index] + 1
            facts = self._decide_result(session, result)
            self._apply(session, facts, batch, index, _NOTHING)
            first = facts[0] if facts else None
            if isinstance(first, ResultParked):
                self._start_grace(session, result.task_id)
            if self.has_ready:
                self._decide_waiting()

    def judge_ready(
        self, position: LogPosition, now_ms: int, *, cold: bool | None = None, context_fetched: int = EVERYTHING
    ) -> None:
        """A cut has been reached, and every record below it decided: cancel what is to be cancelled.

        Judge what waited and waits no more. `cold`: of which lane the cut is; None if of both. `context_fetched`: when
        the cut was asked for, the context below this offset had been fetched. A request that came later waits for the
        next cut: steps may be above this one that had been acknowledged before the request.
        """
        self._publisher.at(position, now_ms)
        self._decide_waiting()
        for name in list(self._cancels):
            if self._cancels[name] < context_fetched and (cold is None or self._is_cold(name) == cold):
                del self._cancels[name]
                session = self.store.session(name[0])
                cancelled_at = session.cancels.get(name[1])
                if cancelled_at is not None and name[1] in session.tasks:
                    facts = decide_stop(session, name[1], cancelled_at)
                    self._apply(session, facts, None, 0, _NOTHING)
                    self._decide_waiting()

    def decide_waiting(self, position: LogPosition, now_ms: int) -> None:
        """Judge what waited and waits no more. What a record frees is judged with it: this is for the context."""
        self._publisher.at(position, now_ms)
        self._decide_waiting()

    def _begin(self, position: LogPosition, now_ms: int) -> None:
        """Decide what follows from the context that was folded since, before the next record."""
        self._publisher.at(position, now_ms)
        if self.has_ready:
            self._decide_waiting()

    def _decide_result(self, session: Session, result: Arrived) -> list[Fact]:
        """Decide a result. If its task is to be cancelled, it comes too late, unless it waits for other tasks."""
        task_id = result.task_id
        if session.is_timed and session.pending_cancel(task_id) is None:
            run_out = decide_run_out(session, task_id, result.timestamp)
            if run_out:
                self._apply(session, run_out, None, 0, _NOTHING)
                self._decide_stopped()
        facts = decide_result(session, result, self._rules)
        cancel = session.pending_cancel(task_id)
        if cancel is None or not any(isinstance(fact, ResultJudged) and fact.task is not None for fact in facts):
            return facts
        self._apply(session, decide_cancelled(session, task_id, cancel), None, 0, _NOTHING)
        self._decide_stopped()
        return decide_result(session, result, self._rules)

    def _decide_waiting(self) -> None:
        """Judge what waited and waits no more: for its dispatch, for other tasks, for the context."""
        while self._ready or self._pending or self._stopped or self._proposals:
            if self._proposals:
                self._answer_proposals()
            ready, self._ready = sorted(self._ready.values(), key=_offset), {}
            for result in ready:
                session = self.store.session(result.session_id)
                self._apply(session, [WaitingJudged(result)], None, 0, _NOTHING)
                facts = self._decide_result(session, result)
                self._apply(session, facts, result.as_batch(), 0, _NOTHING)
                if facts and isinstance(facts[0], ResultParked):
                    self._start_grace(session, result.task_id)
            self._reconsider()
            self._decide_stopped()

    def _decide_stopped(self) -> None:
        """Withhold the results that waited when their tasks were stopped."""
        stopped, self._stopped = self._stopped, {}
        for result in stopped.values():
            session = self.store.session(result.session_id)
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
            task = self.store.session(session_id).tasks.get(task_id)
            if task is not None:
                heapq.heappush(self._round, (task.dispatched_at, task.offset, task.is_cold, session_id, task_id))
                self._in_round.add((session_id, task_id))
        while self._round:
            self._at = heapq.heappop(self._round)
            session_id, task_id = self._at[3], self._at[4]
            self._in_round.discard((session_id, task_id))
            session = self.store.session(session_id)
            result, task = session.waiting.get(task_id), session.tasks.get(task_id)
            if result is not None and task is not None and session.pending_cancel(task_id) is None:
                facts = decide_open(session, result, task, task, self._rules, [])
                self._apply(session, facts, result.as_batch() if facts else None, 0, [ResultDropped(task_id)])
        self._at = None

    def _answer_proposals(self) -> None:
        """Those whose dispatch has come. Others are answered when their record is decided."""
        proposals, self._proposals = self._proposals, {}
        for proposal in proposals.values():
            session = self.store.session(proposal.session_id)
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
            for queue in (self._timers, self._unknown):
                due = queue.next_due_ms()
                if due is not None:
                    dues.append(due)
        if hot_only is not True:
            for queue in (self._cold_unknown, self._cold_timers):
                due = queue.next_due_ms()
                if due is not None:
                    dues.append(due)
        return min(dues) if dues else None

    def act_on_due(
        self,
        position: LogPosition,
        now_ms: int,
        *,
        hot_only: bool = False,
        cold_only: bool = False,
        context_fetched: int = EVERYTHING,
    ) -> None:
        """Act on what has fallen due at `now_ms`.

        The caller has folded and judged everything that was on the topics of both lanes at that time, with `hot_only`
        on those of the hot one, so what is on them already cannot be missed. `cold_only`: the hot lane's has been acted
        on, with the place where its own topics stand. `context_fetched`: see `judge_ready`.
        """
        cold = False if hot_only else True if cold_only else None
        # Nothing expires whose result is there.
        self.judge_ready(position, now_ms, cold=cold, context_fetched=context_fetched)
        if not cold_only:
            self._give_up(self._unknown, now_ms)
        if not hot_only:
            self._give_up(self._cold_unknown, now_ms)
        for session in self.store.changed:
            self._set_timers(session)
        due = [] if cold_only else self._timers.take_due(now_ms)
        if not hot_only:
            due += self._cold_timers.take_due(now_ms)
        for session_id in dict.fromkeys(due):
            session = self.store.session(session_id)
            self._fall_due(session, now_ms, hot_only=hot_only)
            self._set_timers(session)

    def _let_time_pass(self, session: Session, task_id: str, timestamp: int, *, is_cold: bool) -> None:
        """Act on what fell due in the session before a record with this timestamp."""
        if session.is_timed or session.extras is not None:
            hot, other = self._dues_of(session)
            if not is_cold and hot is not None and hot < timestamp:
                self._fall_due(session, timestamp - 1, hot_only=True)
            if is_cold and other is not None and other < timestamp:
                self._fall_due(session, timestamp - 1, hot_only=False)
        if task_id in session.parked:
            graces = self._cold_unknown if is_cold else self._unknown
            due = graces.get((session.id, task_id))
            if due is not None and due < timestamp:
                graces.set((session.id, task_id), None)
                self._give_up_results(session, task_id)
                self._decide_waiting()

    def _fall_due(self, session: Session, now_ms: int, *, hot_only: bool) -> None:
        """Act on what is due in the session, in the order of the due times, and on what follows from each."""
        grace_ms = self._rules.unknown_task_grace_ms
        while True:
            extras = session.extras
            if extras is not None:
                hot, other = extras_dues(extras, grace_ms)
                due = hot if hot_only or other is None or (hot is not None and hot < other) else other
                if due is not None and due <= now_ms:
                    task_id = session.first_due(due - 1, hot_only=hot_only)
                    if task_id is None:
                        facts = decide_extras(session, due, grace_ms, hot_only=hot_only)
                        assert facts, "what is due happens"
                        self._apply(session, facts, None, 0, _NOTHING)
                        self._decide_waiting()
                        continue
            task_id = session.first_due(now_ms, hot_only=hot_only)
            if task_id is None:
                return
            cancel = session.pending_cancel(task_id)
            if cancel is None:
                facts = decide_due(session, task_id, now_ms)
            else:  # the user's word comes first
                facts = decide_cancelled(session, task_id, cancel)
            assert facts, "what is due happens"
            self._apply(session, facts, None, 0, _NOTHING)
            self._decide_waiting()

    def _start_grace(self, session: Session, task_id: str) -> None:
        parked = session.parked.get(task_id)
        if parked is not None and len(parked.results) == 1:
            self._set_grace(session.id, task_id, parked)

    def _set_grace(self, session_id: str, task_id: str, parked: Parked) -> None:
        first = parked.results[0]
        graces = self._cold_unknown if first.role.endswith(".cold") else self._unknown
        graces.set((session_id, task_id), first.timestamp + self._rules.unknown_task_grace_ms)

    def _unset_grace(self, session_id: str, task_id: str) -> None:
        for graces in (self._unknown, self._cold_unknown):
            if len(graces):
                graces.set((session_id, task_id), None)

    def _give_up(self, graces: DueQueue, now_ms: int) -> None:
        """Withhold the results whose dispatch has not come within its grace."""
        due: list[tuple[int, int, str, str, str]] = []
        for session_id, task_id in graces.take_due(now_ms):
            first = self.store.session(session_id).parked[task_id].results[0]
            due.append((first.timestamp, first.offset, first.role, session_id, task_id))
        for _, _, _, session_id, task_id in sorted(due):
            self._give_up_results(self.store.session(session_id), task_id)

    def _give_up_results(self, session: Session, task_id: str) -> None:
        results = session.parked[task_id].results
        self._apply(session, [GraceExpired(task_id)], None, 0, _NOTHING)
        for result in results:
            self._ready.pop(result.kept_as or b"", None)
            self._proposals.pop(result.kept_as or b"", None)
            self._apply(session, [WaitingJudged(result)], None, 0, _NOTHING)
            if result.is_proposal:
                judged = self._publisher.judged
                facts = decide_proposal_past_barrier(session, result, judged, has_waited=True)
            else:
                ended = session.ended_task(task_id)
                facts = decide_late(result, unknown_task(result) if ended is None else ended, self._rules)
            self._apply(session, facts, result.as_batch(), 0, _NOTHING)

    def _dues_of(self, session: Session) -> Due:
        """When the first thing of the session falls due."""
        index, extras = session.index, session.extras
        if index is not None:
            hot, other = index.dues()
        elif session.is_timed:
            hot, other = dues_of(session.tasks)
        else:
            hot, other = None, None
        if extras is not None:
            first_hot, first_other = extras_dues(extras, self._rules.unknown_task_grace_ms)
            if first_hot is not None and (hot is None or first_hot < hot):
                hot = first_hot
            if first_other is not None and (other is None or first_other < other):
                other = first_other
        return hot, other

    def _set_timers(self, session: Session) -> None:
        hot, other = self._dues_of(session)
        timers, cold_timers = self._timers, self._cold_timers
        if hot is not None or len(timers):
            timers.set(session.id, hot)
        if other is not None or len(cold_timers):
            cold_timers.set(session.id, other)

    # Idle sessions

    def find_idle(self, now_ms: int, limit: int) -> None:
        """Look at the next `limit` sessions for those idle for longer than the TTL and without open tasks."""
        oldest_ms = now_ms - self._rules.session_ttl_ms - self._heard_again_ms
        for looked, session_id in enumerate(self._sweep, start=1):
            raw = self.store.raw(session_id)
            if raw is not None and self.store.is_idle_since(session_id, oldest_ms):
                self._idle.append((session_id, raw))
            elif raw is not None and self.store.last_event_at(session_id) > now_ms + CLOCK_AHEAD_MS:
                self._correct_clock(self.store.session(session_id), now_ms)
            if looked >= limit:
                return
        self._sweep = iter(self.store.session_ids())

    def drop_idle(self) -> None:
        """Forget the sessions that were found idle, and still are.

        The caller has folded everything that was on the topics when they were found: what is on them already may be
        newer than what the rows know.
        """
        for session_id, raw in self._idle:
            is_unchanged = not self.store.is_changed(session_id) and self.store.raw(session_id) == raw
            if is_unchanged and self.store.kept_of(session_id) is None:  # a result waits for the facets, too
                session = self.store.session(session_id)
                self._apply(session, [SessionForgotten(told_ids(session.ended), b"")], None, 0, _NOTHING)
        self._idle = []

    def _correct_clock(self, session: Session, now_ms: int) -> None:
        """The broker's clock had jumped ahead and is back: the session would not be forgotten before that time."""
        evolve(session, SessionHeard(now_ms), self._rules)
        if not session.is_listed:
            self.store.to_write(session)


def _offset(event: Arrived) -> int:
    return event.offset


def _arrival(event: Arrived) -> tuple[int, int]:
    return event.timestamp, event.offset
