"""The only code that changes a session: applies a fact to it, and notes what has to be written and looked at again."""

from typing import Any, Final

import msgspec
import orjson

from projections import ended
from projections.attempts import attempt_id
from projections.cancelling import reaches
from projections.clocks import awaits_first_sign, has_run_out, is_waiting_for_person
from projections.ended import EndedTask
from projections.expectation import ABSENT
from projections.facets import Facets
from projections.facts import (
    AttemptCommanded,
    AttemptRevoked,
    CancelExpired,
    CancelRemembered,
    CancelRequested,
    DeadlineExtended,
    DeliveryWatched,
    EffectAnswered,
    EventTaken,
    FacetsChanged,
    FacetsLost,
    Fact,
    ForwardedOnce,
    GraceExpired,
    HeartbeatReceived,
    InterimJudged,
    KeptForgotten,
    LateResultDelivered,
    LaterResultKnown,
    LeasesChanged,
    ProposalParked,
    ReadsStated,
    ResultAcknowledged,
    ResultDropped,
    ResultHeld,
    ResultJudged,
    ResultOutdated,
    ResultParked,
    SessionForgotten,
    SessionHeard,
    StepTaken,
    TaskEnded,
    TaskOpened,
    TurnCame,
    UndispatchedForgotten,
    VersionsStated,
    WaitExpired,
    WaitingJudged,
)
from projections.keys import ENDED_KEY, WAITING_KEY, ended_record_key
from projections.recent_ids import RECENT_BYTES, with_event
from projections.rows import (
    KNOWN,
    UNKNOWN,
    Checkpoint,
    Clocks,
    Delivery,
    Extras,
    Facet,
    KeptTask,
    NextAttempt,
    OwnChange,
    OwnChanges,
    Replaced,
    Scope,
    Task,
    Wait,
    Work,
)
from projections.rules import Rules
from projections.session import MAX_TASKS_INSIDE, Noted, Parked, Session
from projections.slot_order import is_older, order_of
from projections.stale import abandoning, expect, leave, leave_reads, restale, state, state_own_reads
from projections.task_index import TaskIndex
from projections.text import quoted
from projections.timers import is_timed
from projections.waiting import Arrived, WaitingFor

MAX_OWN_CHANGES: Final = 64
"""Own changes of one facet that are kept one by one."""
MAX_STEPS: Final = 64
"""Ids of steps that are kept of a task: the last ones, by how they ended."""
FEW_SLOTS: Final = 64
"""So many slots of a session are remembered whatever their age. More are for as long as ended tasks are: no older task
of theirs is open then. What they take counts like all of the row."""
MAX_REPLACED: Final = 256
"""Former values that are kept of a session, until the dispatches that were sent before have been folded."""
MAX_FORWARDED: Final = 32

_LOST: Final = Facet(None, None, b"")
_NO_EXTRAS: Final = Extras()


def evolve(session: Session, fact: Fact, rules: Rules) -> bool:
    """Apply the fact; False if it changes nothing. The facts of one decision are applied in their order."""
    if isinstance(fact, FacetsChanged):
        _facets_changed(session, fact)
    elif isinstance(fact, StepTaken):
        _step_taken(session, fact)
    elif isinstance(fact, TaskOpened):
        _task_opened(session, fact, rules)
    elif isinstance(fact, TaskEnded):
        _task_ended(session, fact, rules)
    elif isinstance(fact, ResultJudged):
        return False
    elif isinstance(fact, HeartbeatReceived):
        task = session.tasks[fact.task_id]
        if is_waiting_for_person(task):
            _status_due(session, fact.task_id)
        _heard(task, fact.timestamp)
        task.heartbeat_ids = with_event(task.heartbeat_ids, fact.identity)
        _task_changed(session, fact.task_id, task)
        _row_changed(session, fact.timestamp)
    elif isinstance(fact, AttemptCommanded):
        task = session.tasks[fact.task_id]
        task.commanded = fact.attempt
        _task_changed(session, fact.task_id, task)
        session.is_changed = True
    elif isinstance(fact, AttemptRevoked):
        _remember(session, fact.ended, rules)
        _row_changed(session, fact.ended.ended_at)
    elif isinstance(fact, EventTaken):
        _event_taken(session, fact)
    elif isinstance(fact, ReadsStated):
        session.size_estimate = fact.size_estimate
        _reads_stated(session, fact.task_id, session.tasks[fact.task_id], fact.reads, fact.timestamp)
    elif isinstance(fact, ResultParked):
        _park(session, _keep(session, "unknown", fact.result))
    elif isinstance(fact, ResultHeld):
        _result_held(session, fact, rules)
    elif isinstance(fact, ResultDropped):
        _result_dropped(session, fact)
    elif isinstance(fact, LaterResultKnown):
        _later_result_known(session, fact, rules)
    elif isinstance(fact, ProposalParked):
        _park(session, _keep(session, "unknown", fact.proposal))
    elif isinstance(fact, EffectAnswered):
        _effect_answered(session, fact)
    elif isinstance(fact, WaitingJudged):
        _own_waiting(session)
        session.queued.pop(_kept_as(fact.event), None)
        _forget_kept(session, fact.event)
    elif isinstance(fact, GraceExpired):
        _unpark(session, fact.task_id)
    elif isinstance(fact, WaitExpired):
        _wait_expired(session, fact)
    elif isinstance(fact, CancelRequested):
        session.cancels[fact.task_id] = fact.timestamp
        _row_changed(session, fact.timestamp)
    elif isinstance(fact, CancelRemembered):
        session.size_estimate = fact.size_estimate
        extras = _extras(session)
        extras.cancels = [*extras.cancels, fact.request]
        _row_changed(session, fact.request.timestamp)
    elif isinstance(fact, ResultAcknowledged):
        _result_acknowledged(session, fact, rules)
    elif isinstance(fact, FacetsLost):
        _facets_lost(session, fact)
    elif isinstance(fact, ForwardedOnce):
        session.forwarded = [*session.forwarded, fact.identity][-MAX_FORWARDED:]
        session.is_changed = True
    elif isinstance(fact, SessionForgotten):
        _forget_waiting(session)
        _session_forgotten(session)
        session.context_ids = fact.context_ids
    else:
        return _evolve_rare(session, fact, rules)
    return True


def _evolve_rare(session: Session, fact: Fact, rules: Rules) -> bool:
    """The same for facts that few sessions know."""
    if isinstance(fact, SessionHeard):
        session.is_changed = True
        session.last_event_at = fact.timestamp
    elif isinstance(fact, VersionsStated):
        session.size_estimate = fact.size_estimate
        _extras(session).versions.update(fact.versions)
        _row_changed(session, fact.timestamp)
    elif isinstance(fact, LeasesChanged):
        session.size_estimate = fact.size_estimate
        leases = _extras(session).leases
        leases.update(fact.leases)
        for name in fact.ended:
            leases.pop(name, None)
        _trim_extras(session)
        _row_changed(session, fact.timestamp)
    elif isinstance(fact, InterimJudged):
        _interim_judged(session, fact, rules)
    elif isinstance(fact, TurnCame):
        task = session.tasks[fact.task_id]
        clocks = _clocks(task)
        clocks.is_queued, clocks.turn_at = False, max(fact.timestamp, task.dispatched_at)
        _status_due(session, fact.task_id)
        _task_changed(session, fact.task_id, task)
        _row_changed(session, fact.timestamp)
    elif isinstance(fact, DeliveryWatched):
        _watch(session, fact)
    elif isinstance(fact, LateResultDelivered):
        _forget_task(session, fact.task_id)
        _take_slot(session, fact.task, fact.timestamp, rules)
        if fact.task.slot is not None:
            _free_superseded(session, fact.task.slot)
        _row_changed(session, fact.timestamp)
    elif isinstance(fact, ResultOutdated | KeptForgotten):
        _forget_task(session, fact.task_id)
    elif isinstance(fact, DeadlineExtended):
        task = session.tasks[fact.task_id]
        _clocks(task).deadline_ms = fact.deadline_ms
        task.step_ids = with_event(task.step_ids, fact.identity)
        _task_changed(session, fact.task_id, task)
        _row_changed(session, fact.timestamp)
    elif isinstance(fact, CancelExpired):
        extras = _extras(session)
        extras.cancels = [each for each in extras.cancels if each.offset != fact.request.offset]
        _trim_extras(session)
    elif isinstance(fact, UndispatchedForgotten):
        session.undispatched.pop(fact.task_id, None)
        _extras(session).undispatched_since.pop(fact.task_id, None)
        _trim_extras(session)
    else:
        return False
    return True


# Context


def _facets_changed(session: Session, fact: FacetsChanged) -> None:
    session.size_estimate = fact.size_estimate
    session.context_ids = (session.context_ids + fact.identity)[-RECENT_BYTES:]  # `with_event`, without a call
    facets, tasks = session.facets, session.tasks
    holders: list[Task] = []
    if fact.holder is not None:
        holder = tasks[fact.holder]
        holders = [holder, *session.ancestors(holder)]
        _line_changed(session, fact.holder, holder)
    for change in fact.changes:
        name = change.name
        _remember_replaced(session, name, change.before, change.seen, fact.timestamp)
        facets[name] = Facet(change.value, change.cause, fact.change)
        if holders or fact.undispatched is not None:
            own = OwnChange(fact.offset, change.before, change.value, change.seen)  # type: ignore[arg-type]
            for each in holders:
                if each.own is None:
                    each.own = {}
                _insert(each.own, name, own, each.expected.get(name, ABSENT))
            if fact.undispatched is not None:
                _remember_undispatched(session, fact.undispatched, name, own, fact.timestamp)
        if tasks:
            _restale_all(session, name, fact.timestamp)
            if session.waiting:
                _free_by_facet(session, name)
    if session.extras is not None and session.extras.kept:
        _restale_kept(session, fact, session.extras.kept)
    _row_changed(session, fact.timestamp)


def _restale_kept(session: Session, fact: FacetsChanged, kept: dict[str, KeptTask]) -> None:
    """Bring ended tasks up to date of which more is kept than how they ended."""
    for task_id in fact.kept or ():
        task = kept[task_id].task
        for change in fact.changes:
            own = OwnChange(fact.offset, change.before, change.value, change.seen)  # type: ignore[arg-type]
            if task.own is None:
                task.own = {}
            _insert(task.own, change.name, own, task.expected.get(change.name, ABSENT))
    for task_id, each in kept.items():
        task = each.task
        for change in fact.changes:
            name = change.name
            if name not in task.expected or not restale(session.facets, task, name, fact.timestamp):
                continue
            if each.delivery is not None and name in task.stale and fact.timestamp <= each.until:
                _outdated(session, task_id, name)


def _outdated(session: Session, task_id: str, name: str) -> None:
    _noted(session).outdated.setdefault(task_id, []).append(name)


def _noted(session: Session) -> Noted:
    noted = session.noted
    if noted is None:
        noted = session.noted = Noted()
    return noted


def _watch(session: Session, fact: DeliveryWatched) -> None:
    """Parts that were delivered before, while others waited, are watched on."""
    extras, delivery, until = _extras(session), fact.delivery, fact.until
    before = extras.kept.get(fact.task_id)
    if before is not None and before.delivery is not None:
        delivery = Delivery(delivery.result, {**before.delivery.parts, **delivery.parts})
        until = max(until, before.until)
    extras.kept = {**extras.kept, fact.task_id: KeptTask(_own_copy(fact.task), until, delivery)}
    session.is_changed = True


def _own_copy(task: Task) -> Task:
    """A copy that goes on changing on its own."""
    return msgspec.structs.replace(task, stale=list(task.stale), own=dict(task.own) if task.own is not None else None)


def _forget_task(session: Session, task_id: str) -> None:
    extras = _extras(session)
    extras.kept = {other_id: each for other_id, each in extras.kept.items() if other_id != task_id}
    _trim_extras(session)


def _remember_replaced(session: Session, name: str, value: str | None, seen: int, until: int) -> None:
    """Keep the value that a facet had for dispatches that were sent before its change, and have not been folded."""
    known = session.replaced
    known.append(Replaced(name, until, value, seen))
    if until > session.replaced_until:  # noqa: PLR1730 - compiled, `max` makes objects of the numbers
        session.replaced_until = until
    if len(known) > MAX_REPLACED:
        forgotten = known[1]
        known[:2] = [Replaced("", forgotten.until, None, UNKNOWN)]


def forget_replaced(session: Session, folded_ms: int) -> None:
    """Every dispatch up to this time has been folded: older values are not asked for any more."""
    known = session.replaced
    if session.replaced_until <= folded_ms:
        known.clear()  # nearly always, and none of them is looked at for it
    elif known[0].until <= folded_ms:
        known[:] = [each for each in known if each.until > folded_ms]


def _event_taken(session: Session, fact: EventTaken) -> None:
    task_id = fact.task_id
    if task_id is None:
        session.context_ids = with_event(session.context_ids, fact.identity)
    else:
        task = session.tasks[task_id]
        task.step_ids = with_event(task.step_ids, fact.identity)
        _task_changed(session, task_id, task)
    _row_changed(session, fact.timestamp)


def _facets_lost(session: Session, fact: FacetsLost) -> None:
    for name in fact.names:
        known = session.facets.get(name)
        if known is not None:
            _remember_replaced(session, name, None, UNKNOWN, fact.timestamp)
        session.facets[name] = _LOST
        _restale_all(session, name, fact.timestamp)
        if session.waiting:
            _free_by_facet(session, name)
            _free(session, [task_id for task_id, _ in session.tasks_expecting(name)])
    _row_changed(session, fact.timestamp)


def _restale_all(session: Session, name: str, timestamp: int) -> None:
    facets = session.facets
    found = session.tasks_expecting(name)
    if name == "session" or name.startswith("request/"):
        found = session.with_abandoned(found, name)
    for task_id, task in found:
        if restale(facets, task, name, timestamp):
            _status_due(session, task_id)
            _task_changed(session, task_id, task)
            if task.wait is not None:
                _free(session, [task_id])


def _free_by_facet(session: Session, name: str) -> None:
    """Waiting results that a change of the facet concerns beyond what they depend on."""
    if name == "session":
        _free(session, list(session.waiting))
    elif name.startswith("request/"):
        _free(session, session.tasks_of_request(name[8:]))
    elif name.startswith("presence/"):
        _free(session, session.tasks_minding_presence())


def _remember_undispatched(session: Session, task_id: str, name: str, change: OwnChange, timestamp: int) -> None:
    undispatched, since = session.undispatched, _extras(session).undispatched_since
    since[task_id] = max(timestamp, since.get(task_id, timestamp))
    _insert(undispatched.setdefault(task_id, {}), name, change, ABSENT)


def _insert(own: OwnChanges, name: str, change: OwnChange, stated: Any) -> None:
    """Put a change in its place by offset. Beyond the bound two that follow each other become one.

    Not where they meet in the value that the task has `stated`: it would be lost.
    """
    changes = own.get(name)
    if changes is None:
        own[name] = [change]
        return
    if change in changes:
        return
    changes.append(change)
    if changes[-2].offset > change.offset:
        changes.sort(key=_offset)
    if len(changes) > MAX_OWN_CHANGES:
        place = 1 if changes[0].after == stated else 0
        first, second = changes[place], changes[place + 1]
        if second.seen == KNOWN and first.after == second.before:
            second = OwnChange(second.offset, first.before, second.after, first.seen)
        changes[place : place + 2] = [second]


def _offset(change: OwnChange) -> int:
    return change.offset


def _extras(session: Session) -> Extras:
    """What few sessions have, to be changed."""
    extras = session.extras
    if extras is None:
        extras = session.extras = Extras()
    return extras


def _trim_extras(session: Session) -> None:
    """After something has been removed from them."""
    extras = session.extras
    if extras is not None and extras == _NO_EXTRAS:
        session.extras = None
    session.is_changed = True


def _undispatched(session: Session, task_id: str, timestamp: int, rules: Rules) -> OwnChanges | None:
    """The own changes of a task that came before its dispatch, of this time: None if they came too long before."""
    own = session.undispatched.pop(task_id, None)
    extras = session.extras
    since = extras.undispatched_since.get(task_id) if extras is not None else None
    return own if since is None or timestamp <= since + rules.unknown_task_grace_ms else None


def _dispatched(session: Session, task_id: str, task: Task | None, rules: Rules) -> None:
    """What has waited for a dispatch waits no more. `task` is None if it ended with its dispatch."""
    extras = session.extras
    if extras is None:
        return
    extras.undispatched_since.pop(task_id, None)
    if extras.cancels:
        extras.cancels = [
            msgspec.structs.replace(each, is_matched=True)
            if task is not None and reaches(each, task_id, task, rules.unknown_task_grace_ms)
            else each
            for each in extras.cancels
            if each.task_id != task_id
        ]
    _trim_extras(session)


# Tasks


def _task_opened(session: Session, fact: TaskOpened, rules: Rules) -> None:
    task_id, task = fact.task_id, fact.task
    assert task_id not in session.tasks, "the task is open already"
    session.size_estimate = fact.size_estimate
    own: OwnChanges | None = None
    if task_id in session.undispatched:
        own = _undispatched(session, task_id, task.dispatched_at, rules)
    if session.extras is not None:
        _dispatched(session, task_id, task, rules)
    if own is not None:
        task.own = own
    _add_task(session, task_id, task)
    session.is_timed = session.is_timed or is_timed(task)
    for name in list(task.expected):
        restale(session.facets, task, name, task.dispatched_at)
    for name in abandoning(session.facets, task):
        restale(session.facets, task, name, task.dispatched_at)
    _status_due(session, task_id)
    _row_changed(session, task.dispatched_at)
    if task.scope is not None and task.scope.parentless_until is None:
        _join_scope(session, task_id, task)
    for child_id in session.parentless_children(task_id):
        child = session.tasks[child_id]
        if child.scope is not None:
            child.scope.parentless_until = None
        if session.index is not None:
            session.index.has_parent(child_id, child)
        _task_changed(session, child_id, child)
        _join_scope(session, child_id, child)
    _task_changed(session, task_id, task)
    _free_by_dispatch(session, task)
    _unpark(session, task_id)


def _add_task(session: Session, task_id: str, task: Task) -> None:
    tasks, index = session.tasks, session.index
    if index is not None:
        last: Task = next(reversed(tasks.values()))
        task.position = last.position + 1
    tasks[task_id] = task
    if index is not None:
        index.opened(task_id, task)
    elif len(tasks) > MAX_TASKS_INSIDE:
        for position, each in enumerate(tasks.values()):
            each.position = position
        session.index = TaskIndex(tasks)
        _tasks_to_write(session, list(tasks))


def _join_scope(session: Session, task_id: str, task: Task) -> None:
    """The parent is open: the tasks above depend on what the task depends on, and its own changes are theirs."""
    scope = task.scope
    if scope is None or scope.parent is None:
        return
    parent = session.tasks[scope.parent]
    parent_scope = parent.scope
    if parent_scope is None:
        parent_scope = parent.scope = Scope()
    parent_scope.children[task_id] = None
    _status_due(session, scope.parent)
    _task_changed(session, scope.parent, parent)
    if task.own is not None:
        for above in session.ancestors(task):
            _inherit_own(session, task.own, above, task.dispatched_at)
    if task.expected:
        for above_id, above in session.readers_above(task):
            _join_reads(session, task_id, task, above_id, above)
    if task.own is not None or task.expected:
        _line_changed(session, task_id, task)
        _free_line(session, task_id, task)
    elif session.waiting:
        _free(session, [task_id, scope.parent])


def _join_reads(session: Session, task_id: str, task: Task, above_id: str, above: Task) -> None:
    facets, scope = session.facets, task.scope
    for name, value in task.expected.items():
        below = scope.below.get(name) if scope is not None else None
        if below is None or not below.by_task:
            state(above, task_id, name, value)
        else:
            for reader_id, stated in below.by_task.items():
                state(above, reader_id or task_id, name, stated)
        if below is not None:
            for stated in below.ended:
                leave(above, name, stated)
        _expect(session, above_id, above, name, value)
        restale(facets, above, name, task.dispatched_at)


def _expect(session: Session, task_id: str, task: Task, name: str, value: str | None) -> None:
    if session.index is not None and name not in task.expected:
        session.index.expects(task_id, name)
    expect(task, name, value)


def _inherit_own(session: Session, own: OwnChanges, task: Task, timestamp: int) -> None:
    """Changes made by a descendant are the task's own, too."""
    if task.own is None:
        task.own = {}
    for name, changes in own.items():
        for change in changes:
            _insert(task.own, name, change, task.expected.get(name, ABSENT))
        if name in task.expected or name in abandoning(session.facets, task):
            restale(session.facets, task, name, timestamp)


def _step_taken(session: Session, fact: StepTaken) -> None:
    session.size_estimate = fact.size_estimate
    task_id, status, step_id, checkpoint = fact.task_id, fact.status, fact.step_id, fact.checkpoint
    task = session.tasks[task_id]
    task.step_ids = (task.step_ids + fact.identity)[-RECENT_BYTES:]
    if session.is_timed:
        _heard_step(task, fact.timestamp)
    if status == "started":
        task.steps_started += 1
        work = _work(task)
        work.in_flight = [*work.in_flight, step_id][-MAX_STEPS:]
    elif status == "completed" or status == "failed":  # noqa: PLR1714 - compared so, they are not hashed
        completed = task.steps_completed + 1
        task.steps_completed = completed
        present = task.work
        if present is not None and present.in_flight:
            present.in_flight = [each for each in present.in_flight if each != step_id]
        if status == "completed":
            done = task.done
            done = f"{done},{quoted(step_id)}" if done else quoted(step_id)
            task.done = done if completed <= MAX_STEPS else _last_steps(done)
        else:
            work = _work(task)
            work.failed = [*work.failed, step_id][-MAX_STEPS:]
    elif status == "input_required":
        work = _work(task)
        if step_id not in work.in_flight:
            task.steps_started += 1
            work.in_flight = [*work.in_flight, step_id][-MAX_STEPS:]
        if not has_run_out(task, fact.timestamp):
            _clocks(task).waits_since = fact.timestamp
        session.is_timed = True
    if fact.progress is not None:
        _work(task).progress = fact.progress
    if fact.message:
        _work(task).message = fact.message
    if checkpoint is not None:
        work = _work(task)
        if work.checkpoint is None or checkpoint.sequence >= work.checkpoint.sequence:
            work.checkpoint = Checkpoint(checkpoint.uri, checkpoint.sequence)
    _status_due(session, task_id)
    if fact.reads:
        _reads_stated(session, task_id, task, fact.reads, fact.timestamp)
    else:
        _task_changed(session, task_id, task)
    _row_changed(session, fact.timestamp)


def _heard_step(task: Task, timestamp: int) -> None:
    """The agent is alive, as one of its steps tells."""
    policy = task.policy
    if task.clocks is not None or (
        policy is not None and (policy.options is not None or policy.heartbeat_timeout_ms is not None)
    ):
        _heard(task, timestamp)


def _heard(task: Task, timestamp: int) -> None:
    """The agent is alive. If the task waited for a person, its clocks go on from here. One that has run out stands."""
    if has_run_out(task, timestamp):
        return
    if awaits_first_sign(task):
        _clocks(task).has_started = True
    policy, clocks = task.policy, task.clocks
    if policy is not None and policy.heartbeat_timeout_ms is not None:
        task.last_heartbeat = max(timestamp, task.last_heartbeat)  # an interim answer may be judged after later steps
    if clocks is not None and clocks.waits_since is not None and timestamp >= clocks.waits_since:
        deadline_ms = clocks.deadline_ms
        if deadline_ms is None and policy is not None:
            deadline_ms = policy.deadline_ms
        if deadline_ms is not None:
            clocks.deadline_ms = deadline_ms + timestamp - clocks.waits_since
        clocks.waits_since = None


def _clocks(task: Task) -> Clocks:
    clocks = task.clocks
    if clocks is None:
        clocks = task.clocks = Clocks()
    return clocks


def _work(task: Task) -> Work:
    work = task.work
    if work is None:
        work = task.work = Work()
    return work


def _last_steps(done: str) -> str:
    steps = orjson.loads(f"[{done}]")
    return done if len(steps) <= MAX_STEPS else orjson.dumps(steps[-MAX_STEPS:])[1:-1].decode()


def _reads_stated(session: Session, task_id: str, task: Task, reads: dict[str, str | None], timestamp: int) -> None:
    """What a task looked at joins what it and those above it expect, or replaces what it stated."""
    facets, index = session.facets, session.index
    if index is not None:
        for name in reads:
            if name not in task.expected:
                index.expects(task_id, name)
    state_own_reads(facets, task, reads, timestamp)
    _status_due(session, task_id)
    _task_changed(session, task_id, task)
    for above_id, above in session.readers_above(task):
        for name, value in reads.items():
            state(above, task_id, name, value)
            _expect(session, above_id, above, name, value)
            restale(facets, above, name, timestamp)
        _status_due(session, above_id)
        _task_changed(session, above_id, above)
        if above.wait is not None:
            _free(session, [above_id])
    session.is_changed = True
    if task.wait is not None:
        _free(session, [task_id])


def _task_ended(session: Session, fact: TaskEnded, rules: Rules) -> None:
    task_id, task, end = fact.task_id, fact.task, fact.ended
    own = _undispatched(session, task_id, end.ended_at, rules) if task_id in session.undispatched else None
    session.cancels.pop(task_id, None)
    if task is None:
        _dispatched(session, task_id, None, rules)
        if own is not None and fact.holder is not None:  # as if the changes had come after the dispatch
            _own_of_rejected(session, own, fact.holder, end.ended_at)
    else:
        _close(session, fact, task, rules)
    _revoke_next(session, end)
    _remember(session, end, rules, was_open=task is not None)
    _row_changed(session, end.ended_at)
    if task is None:
        _unpark(session, task_id)


def _revoke_next(session: Session, end: EndedTask) -> None:
    """A request to cancel the attempt after the task is kept with the task from now on."""
    following = end.next
    if following is None or not session.cancels:
        return
    next_id = attempt_id(following.lineage.first, following.attempt)
    if next_id not in session.tasks and session.cancels.pop(next_id, None) is not None:
        end.next = NextAttempt(following.lineage, following.attempt, is_revoked=True)


def _close(session: Session, fact: TaskEnded, task: Task, rules: Rules) -> None:
    task_id, tasks = fact.task_id, session.tasks
    assert tasks.get(task_id) is not None, "a disposition is set once"
    for above_id in fact.readers:
        leave_reads(tasks[above_id], task_id, task)
    if session.index is not None:
        for above_id in fact.readers:
            _task_changed(session, above_id, tasks[above_id])
        session.index.ended(task_id, task)
        _tasks_to_write(session, [task_id])
    del tasks[task_id]
    if session.status_due is not None:
        session.status_due.pop(task_id, None)
    if session.to_reconsider is not None:
        session.to_reconsider.pop(task_id, None)
    _stop_waiting(session, task_id, fact.undecided)
    options = task.policy.options if task.policy is not None else None
    if options is not None and options.delivers_late and fact.ended.disposition == "expired":
        until = fact.ended.ended_at + rules.ended_task_retention_ms
        extras = _extras(session)
        extras.kept = {**extras.kept, task_id: KeptTask(_own_copy(task), until)}
    takes_slot = fact.ended.disposition == "delivered" and task.slot is not None
    if takes_slot:
        _take_slot(session, task, fact.ended.ended_at, rules)
    parent = None
    if task.scope is not None and task.scope.parent is not None:
        parent = tasks.get(task.scope.parent)
        if parent is not None and parent.scope is not None:
            parent.scope.children.pop(task_id, None)
            _task_changed(session, task.scope.parent, parent)
    if session.waiting:
        if parent is not None and task.scope is not None and task.scope.parent is not None:
            _free(session, [task.scope.parent])
        if task.slot is not None:
            _free(session, session.oldest_in_slot(task.slot))
            if takes_slot:
                _free_superseded(session, task.slot)
    if task.slot is not None and tasks:
        _noted(session).freed_slots[task.slot] = fact.ended.ended_at
    if not tasks:
        session.index = None


def _take_slot(session: Session, task: Task, timestamp: int, rules: Rules) -> None:
    slots, slot = session.slots, task.slot
    if slot is None:
        return
    newest, order = slots.pop(slot, None), order_of(task)
    slots[slot] = order if newest is None or is_older(newest, order) else newest
    while len(slots) > FEW_SLOTS:
        first = next(iter(slots))
        if slots[first].timestamp >= timestamp - rules.ended_task_retention_ms or session.oldest_in_slot(first):
            return
        del slots[first]


def _own_of_rejected(session: Session, own: OwnChanges, holder_id: str, timestamp: int) -> None:
    holder = session.tasks[holder_id]
    for each in (holder, *session.ancestors(holder)):
        _inherit_own(session, own, each, timestamp)
    _line_changed(session, holder_id, holder)
    _status_due(session, holder_id)
    for above_id, _ in session.readers_above(holder):
        _status_due(session, above_id)
    _free_line(session, holder_id, holder)


def _remember(session: Session, end: EndedTask, rules: Rules, *, was_open: bool = False) -> None:
    """Remember how a task ended, within the horizon. One that `was_open` cannot be among the ended ones."""
    line = end.line()
    session.ended = session.ended + line if was_open else ended.put(session.ended, end.task_id, line)
    key = _ended_key(session, end)
    records = _records(session)
    records.pop(key, None)  # written in the order of memory, so that it is restored in that order
    records[key] = line
    oldest_ms = end.ended_at - rules.ended_task_retention_ms
    for oldest in ended.beyond_horizon(session.ended, oldest_ms, rules.ended_tasks_per_session):
        session.ended = ended.without(session.ended, oldest.task_id)
        _records(session)[ended_record_key(session.id, oldest.task_id)] = None
        if session.extras is not None and oldest.task_id in session.extras.kept:
            _forget_task(session, oldest.task_id)
        if not oldest.was_unknown:
            _noted(session).forgotten.append(oldest.task_id)


def _ended_key(session: Session, end: EndedTask) -> bytes:
    """`ended_record_key`, of text that is JSON already."""
    return ENDED_KEY + f"[{session.json},{end.task_json}]".encode()


# Results and effects


def _result_held(session: Session, fact: ResultHeld, rules: Rules) -> None:
    task = session.tasks[fact.task_id]
    session.size_estimate = fact.size_estimate
    task.wait = fact.wait
    session.is_timed = True
    _delivered(task, fact.delivery)
    if fact.is_new:
        session.waiting[fact.task_id] = _keep(session, "result", fact.result)
    if fact.takes_slot:
        _take_slot(session, task, fact.result.timestamp, rules)
        if task.slot is not None:
            _free_superseded(session, task.slot)
    _status_due(session, fact.task_id)
    session.is_changed = True
    _task_changed(session, fact.task_id, task)


def _result_dropped(session: Session, fact: ResultDropped) -> None:
    task = session.tasks[fact.task_id]
    task.wait = None
    _stop_waiting(session, fact.task_id, None)
    session.is_changed = True
    _task_changed(session, fact.task_id, task)


def _later_result_known(session: Session, fact: LaterResultKnown, rules: Rules) -> None:
    if fact.ended is not None:
        _remember(session, fact.ended, rules)
        _row_changed(session, fact.ended.ended_at)
        return
    task = session.tasks[fact.task_id]
    task.later_results = [*task.later_results, fact.digests][-ended.MAX_RESULTS :]
    session.is_changed = True
    _task_changed(session, fact.task_id, task)


def _delivered(task: Task, delivery: list[str] | None) -> None:
    """Something of an open task was delivered."""
    if delivery is not None:
        task.delivered = [*task.delivered, delivery][-ended.MAX_RESULTS :]


def _interim_judged(session: Session, fact: InterimJudged, rules: Rules) -> None:
    task = session.tasks[fact.task_id]
    task.later_results = [*task.later_results, fact.digests][-ended.MAX_RESULTS :]
    _delivered(task, fact.delivery)
    if is_waiting_for_person(task):
        _status_due(session, fact.task_id)
    _heard(task, fact.timestamp)
    if fact.takes_slot and task.slot is not None:
        _take_slot(session, task, fact.timestamp, rules)
        _free_superseded(session, task.slot)
    _task_changed(session, fact.task_id, task)
    _row_changed(session, fact.timestamp)


def _wait_expired(session: Session, fact: WaitExpired) -> None:
    task = session.tasks[fact.task_id]
    wait = task.wait
    if wait is None:
        return
    task.wait = Wait(wait.why, wait.undecided, wait.until, expired=True, delivered=wait.delivered)
    _task_changed(session, fact.task_id, task)
    _row_changed(session, fact.timestamp)
    _free(session, [fact.task_id])


def _result_acknowledged(session: Session, fact: ResultAcknowledged, rules: Rules) -> None:
    if fact.ended is not None:
        _remember(session, fact.ended, rules)
        _row_changed(session, fact.ended.ended_at)
    if not fact.members:
        return
    task = session.tasks[fact.task_id]
    session.size_estimate = fact.size_estimate
    task.acknowledgement = fact.members
    session.is_changed = True
    _status_due(session, fact.task_id)
    _task_changed(session, fact.task_id, task)


def _effect_answered(session: Session, fact: EffectAnswered) -> None:
    if fact.task is not None and fact.proposal.event.reads:
        _status_due(session, fact.proposal.task_id)
        for above_id, _ in session.readers_above(fact.task):
            _status_due(session, above_id)
    if fact.remembered is None:
        return
    effects = session.effects
    session.size_estimate = fact.size_estimate
    if fact.forgotten is not None:
        del effects[fact.forgotten]
    effects[fact.proposal.event.idempotency_key] = fact.remembered
    _row_changed(session, fact.proposal.timestamp)


# Waiting


def _keep(session: Session, waiting_for: WaitingFor, event: Arrived) -> Arrived:
    """Keep an event on the changelog until it has been judged. Returns the event to keep."""
    _own_waiting(session)
    key = WAITING_KEY + event.changelog_key(waiting_for)
    if event.kept_as is not None:  # it was kept before, and an aborted transaction goes back to it as it was
        event = event.copy()
    event.kept_as = key
    _records(session)[key] = event.to_bytes()
    session.waiting_bytes += event.size_bytes
    return event


def _kept_as(event: Arrived) -> bytes:
    return event.kept_as or b""


def _forget_kept(session: Session, event: Arrived) -> None:
    if event.kept_as is not None:
        _records(session)[event.kept_as] = None
        session.waiting_bytes -= event.size_bytes


def _own_waiting(session: Session) -> None:
    """Before the first change since the last commit: what was committed must stay as it is."""
    if not session.owns_waiting:
        session.owns_waiting = True
        session.waiting = dict(session.waiting)
        session.parked = dict(session.parked)
        session.owned_parked = set()
        session.queued = dict(session.queued)


def _stop_waiting(session: Session, task_id: str, undecided: list[str] | None) -> None:
    """The open task's result waits no more: it was decided, or else, with what is `undecided`, its task was stopped."""
    if task_id not in session.waiting:
        return
    _own_waiting(session)
    result = session.waiting.pop(task_id)
    if undecided is None:
        _forget_kept(session, result)
        return
    stopped = result.stopped_with(undecided)
    session.queued[_kept_as(stopped)] = stopped
    _records(session)[_kept_as(stopped)] = stopped.to_bytes()
    _to_judge(session, stopped)


def _park(session: Session, result: Arrived) -> None:
    task_id = result.task_id
    parked = session.parked.get(task_id)
    if parked is None or task_id not in session.owned_parked:
        parked = session.parked[task_id] = Parked() if parked is None else parked.copy()
        session.owned_parked.add(task_id)
    parked.add(result)
    session.parked_count += not result.is_proposal


def _unpark(session: Session, task_id: str) -> None:
    """The dispatch has come: the results that waited for it are judged at the next barrier."""
    if task_id not in session.parked:
        return
    _own_waiting(session)
    results = session.parked.pop(task_id).results
    session.parked_count -= sum(not result.is_proposal for result in results)
    for result in results:
        session.queued[_kept_as(result)] = result
        _to_judge(session, result)


def _free(session: Session, task_ids: list[str]) -> None:
    """Their waiting results may be decided now, if they have one."""
    waiting = session.waiting
    if not waiting:
        return
    freed = session.to_reconsider
    if freed is None:
        freed = session.to_reconsider = {}
    for task_id in task_ids:
        if task_id in waiting:
            freed[task_id] = None


def _free_line(session: Session, task_id: str, task: Task) -> None:
    """The waiting results of the task and of those above it."""
    if not session.waiting:
        return
    _free(session, [task_id])
    scope = task.scope
    while scope is not None and scope.parent is not None:
        above = session.tasks.get(scope.parent)
        if above is None:
            return
        _free(session, [scope.parent])
        scope = above.scope


def _free_by_dispatch(session: Session, task: Task) -> None:
    """A task that waits in the slot may be newer."""
    if session.waiting and task.slot is not None:
        _free(session, session.newer_on_other_lane(task.slot, order_of(task)))


def _free_superseded(session: Session, slot: str) -> None:
    """Waiting results that came too late for the slot now."""
    newest = session.slots.get(slot)
    if newest is not None and session.waiting:
        _free(session, session.older_in_slot("", slot, newest, protected=False))


# What has to be written


def _status_due(session: Session, task_id: str) -> None:
    due = session.status_due
    if due is None:
        due = session.status_due = {}
    due[task_id] = None


def _to_judge(session: Session, event: Arrived) -> None:
    if session.to_judge is None:
        session.to_judge = []
    session.to_judge.append(event)


def _records(session: Session) -> dict[bytes, bytes | None]:
    records = session.records
    if records is None:
        records = session.records = {}
    return records


def _tasks_to_write(session: Session, task_ids: list[str]) -> None:
    changed = session.changed_tasks
    if changed is None:
        changed = session.changed_tasks = {}
    for task_id in task_ids:
        changed[task_id] = None


def _row_changed(session: Session, timestamp: int) -> None:
    session.is_changed = True
    session.last_event_at = max(session.last_event_at, timestamp)


def _task_changed(session: Session, task_id: str, task: Task) -> None:
    index = session.index
    if index is not None:
        _tasks_to_write(session, [task_id])
        index.set_due(task_id, task)


def _line_changed(session: Session, task_id: str, task: Task) -> None:
    """The task and those above it have changed."""
    index = session.index
    if index is None:
        return
    _task_changed(session, task_id, task)
    scope = task.scope
    while scope is not None and scope.parent is not None:
        above = session.tasks.get(scope.parent)
        if above is None:
            return
        _task_changed(session, scope.parent, above)
        scope = above.scope


def _session_forgotten(session: Session) -> None:
    for task_id in ended.task_ids(session.ended):
        _records(session)[ended_record_key(session.id, task_id)] = None
    _tasks_to_write(session, list(session.tasks))
    session.facets, session.tasks, session.undispatched = Facets({}), {}, {}
    session.slots, session.cancels, session.effects, session.forwarded = {}, {}, {}, []
    session.replaced, session.extras = [], None
    session.is_timed = False
    session.size_estimate = session.last_event_at = session.replaced_until = 0
    session.ended = b""
    session.index = None
    session.is_changed = False
    session.is_erased = True
    session.status_due = None


def _forget_waiting(session: Session) -> None:
    _own_waiting(session)
    for result in session.waiting.values():
        _forget_kept(session, result)
    for parked in session.parked.values():
        for result in parked.results:
            _forget_kept(session, result)
    for event in session.queued.values():
        _forget_kept(session, event)
    assert session.waiting_bytes == 0, "what waits is counted as it comes and as it goes"
    session.waiting.clear()
    session.parked.clear()
    session.parked_count = 0
    session.queued.clear()
    session.to_reconsider = None
    session.to_judge = None
