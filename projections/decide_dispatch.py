"""What a dispatch establishes: a task is opened, or ends at once."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from projections.attempts import commanded
from projections.budget import MAX_ROW_BYTES, NAME_BYTES, NO_ROOM, added_above, own_bytes, room_for, snapshot_bytes
from projections.dispatched import Fields, differences, dispatched_fields, ended_fields, in_words, kept_of_dispatch
from projections.ended import EndedTask
from projections.ending import stop, stop_all
from projections.expectation import is_unknown
from projections.facts import EventRefused, EventRepeated, Fact, TaskEnded, TaskOpened, TurnCame
from projections.gate import QUEUES
from projections.rows import (
    DEFAULT_POLICY,
    FORMAT,
    KNOWN,
    UNKNOWN,
    Clocks,
    DispatchOrder,
    Lineage,
    Options,
    Policy,
    ResultDigests,
    Scope,
    Task,
)
from projections.rules import Rules
from projections.session import Session
from projections.slot_order import order_of
from projections.task_index import is_protected
from projections.text import json_of, quoted
from schemas.envelope import Headers, traceparent_of
from schemas.events import TaskDispatched
from schemas.fields import Reason
from schemas.identity import digest
from schemas.topics import topic_name
from schemas.wire import fields_of, struct_of

_fields_of: Final = fields_of
_replace: Final[Any] = msgspec.structs.replace
_sorted_json: Final = msgspec.json.Encoder(order="sorted").encode
_NO_TIME: Final = datetime.fromtimestamp(0, UTC)


def decide_dispatch(
    session: Session,
    event: TaskDispatched,
    size_bytes: int,
    offset: int,
    timestamp: int,
    headers: Headers,
    lane: str,
    rules: Rules,
) -> list[Fact]:
    """Open the task, or end it: it is rejected, or its result was given up before.

    A dispatch that comes again changes nothing. `lane`: of the topic; `size_bytes`: of the record's value.
    """
    if event.lane != lane:
        return [EventRefused("invalid_event", _on_the_wrong_topic(event, rules))]
    task_id = event.task_id
    task = session.tasks.get(task_id)
    ended = session.ended_task(task_id) if task is None else None
    content = dispatch_digest(event)
    known = task.digest if task is not None else ended.digest if ended is not None else None
    if known is not None:
        if content == known:
            return [EventRepeated("task.dispatched")]
        first_at = task.dispatched_at if task is not None else ended.dispatched_at if ended is not None else timestamp
        now = dispatched_fields(_task_of(session, event, content, offset, first_at, headers, rules))
        before = dispatched_fields(task) if task is not None else ended_fields(ended) if ended is not None else None
        return [_repeated(event, known, content, before, now)]
    if ended is not None:
        return [ended_at_once(session, event, content, "withheld", "unknown_task", None, ended.results, timestamp)]
    added = _added_bytes(session, event, size_bytes)
    estimate = room_for(session, added, adds_names=True)
    rejected = _reason_to_reject(session, event, timestamp, offset, has_room=estimate != NO_ROOM)
    if rejected is not None:
        return [ended_at_once(session, event, content, "rejected", rejected[0], rejected[1], [], timestamp)]
    opened = _task_of(session, event, content, offset, timestamp, headers, rules)
    return [TaskOpened(task_id, opened, estimate)]


def decide_after_opening(session: Session, fact: TaskOpened) -> list[Fact]:
    """What the opened task, now part of the session, means for the older tasks of its slot."""
    task_id, task = fact.task_id, fact.task
    timestamp = task.dispatched_at
    if session.pending_cancel(task_id) is not None or task.slot is None:
        return []  # to be cancelled, it takes nobody's place
    order = order_of(task)
    if task.lineage is not None and not is_protected(task):
        policies = _STOPPING if _queues(task) else _INTERRUPTING
        if session.has_newer_stopping(task.slot, order, policies):
            return stop(session, task_id, "cancelled", "superseded", timestamp)
    if task.policy is None or task.policy.on_newer not in _STOPPING:
        return []
    older = session.older_in_slot(task_id, task.slot, order, protected=False)
    if task.policy.on_newer == "enqueue_latest":
        older = [older_id for older_id in older if _queues(session.tasks[older_id])]
    older = [older_id for older_id in older if session.pending_cancel(older_id) is None]  # the user's word comes first
    return stop_all(session, older, "cancelled", "superseded", timestamp)


_INTERRUPTING: Final = ("interrupt",)
_STOPPING: Final = ("interrupt", "enqueue_latest")
"""Policies of a newer task that stop older ones: all of the slot, or those that queue for it."""


def _queues(task: Task) -> bool:
    return task.clocks is not None and task.clocks.is_queued


def decide_turn(session: Session, slot: str, timestamp: int) -> list[Fact]:
    """A task of the slot has ended: the turn of the next one may have come."""
    facts: list[Fact] = []
    for task_id in session.oldest_in_slot(slot):
        task = session.tasks.get(task_id)
        if task is None or not _queues(task) or session.pending_cancel(task_id) is not None:
            continue
        if not session.has_older_in_slot(task_id, slot, order_of(task)):
            facts.append(TurnCame(task_id, task, timestamp, commanded=task.wait is None))
    return facts


def dispatch_digest(event: TaskDispatched) -> str:
    """Digest of everything in a dispatch but its event id and time: two dispatches of one task must agree in it."""
    content = _replace(event, event_id="-", occurred_at=_NO_TIME)
    return digest(_sorted_json(content))


def ended_at_once(
    session: Session,
    event: TaskDispatched,
    content: str,
    disposition: str,
    reason: Reason,
    detail: str | None,
    results: list[ResultDigests],
    timestamp: int,
) -> TaskEnded:
    """A task that ends with its dispatch. `content`: the dispatch's digest."""
    task_id = event.task_id
    parent_id = event.parent_task_id if not event.detached else None
    ended = EndedTask(
        task_id,
        disposition,
        reason,
        timestamp,
        content,
        results,
        parent_id,
        timestamp,
        echo=echo_of(event),
        detail=detail,
        dispatch=kept_of_dispatch(_task_of(session, event, content, 0, timestamp, (), Rules())),
    )
    holder: str | None = None
    if task_id in session.undispatched:
        above = session.nearest_open_ancestor(task_id, parent_id)
        holder = above if above in session.tasks else None
    return TaskEnded(task_id, ended, None, [], holder=holder)


def echo_of(event: TaskDispatched) -> str:
    """What every output repeats of a dispatch, as JSON members."""
    destination, metadata, request_id, slot = event.destination, event.metadata, event.request_id, event.slot
    echo = f'"task_type":{quoted(event.task_type)}'
    if destination is not None:
        echo = f'{echo},"destination":{quoted(destination)}'
    if metadata:
        echo = f'{echo},"metadata":{json_of(metadata)}'
    if request_id is not None:
        echo = f'{echo},"request_id":{quoted(request_id)}'
    if slot is not None:
        echo = f'{echo},"slot":{quoted(slot)}'
    return echo if event.lane == "hot" else f'{echo},"lane":"{event.lane}"'


def _on_the_wrong_topic(event: TaskDispatched, rules: Rules) -> str:
    hot, cold = topic_name("steps", rules.topic_prefix), topic_name("steps.cold", rules.topic_prefix)
    here, there = (hot, cold) if event.lane == "cold" else (cold, hot)
    other = "hot" if event.lane == "cold" else "cold"
    return (
        f'lane: "{event.lane}", but it was dispatched on {here}; dispatch it on {there}, or with lane: "{other}";'
        " its result goes to the results topic of its lane"
    )


def _repeated(event: TaskDispatched, known: str, content: str, before: Fields | None, now: Fields) -> Fact:
    """A dispatch whose bytes say something else than those of the first one: in other words, or something else."""
    if before is None:
        told = f"its digest was {known} and is {content} now"
    else:
        found = differences(before, now)
        if not found:
            return EventRepeated("task.dispatched")
        told = in_words(found)
    detail = (
        f"task_id: {event.task_id[:64]!r} was dispatched before with other content: {told}; the first dispatch stands:"
        " repeat a dispatch as it was, and give every other task its own id"
    )
    return EventRefused("dispatch_conflict", detail)


def _reason_to_reject(
    session: Session, event: TaskDispatched, timestamp: int, offset: int, *, has_room: bool
) -> tuple[Reason, str] | None:
    task_id, parent_id, tasks = event.task_id, event.parent_task_id, session.tasks
    if not has_room:
        return "session_full", f"session: with it, its row would have more than {MAX_ROW_BYTES} bytes"
    for name in event.depends_on if session.replaced else ():
        if session.value_at(name, timestamp)[1] == UNKNOWN and not _is_lost(session, name):
            return "session_full", f"depends_on: too many changes followed to know the value that {name!r} had"
    if event.detached:
        if task_id == parent_id:
            return "unknown_parent", "parent_task_id: a task cannot be above itself"
    elif parent_id is not None:
        if task_id == parent_id or (session.parentless_children(task_id) and _is_above(session, task_id, parent_id)):
            return "unknown_parent", "parent_task_id: a task cannot be above itself"
        if parent_id not in tasks:
            ended = session.ended_task(parent_id)
            if ended is not None:
                return "parent_ended", f"parent_task_id: {parent_id!r} has ended ({ended.disposition})"
        else:
            cancel = session.pending_cancel(parent_id)
            if cancel is not None and cancel[1] < timestamp:  # else it is cancelled with its parent, and told so
                return "parent_ended", f"parent_task_id: {parent_id!r} has ended (cancelled)"
    if event.slot is not None and event.on_newer == "reject":
        found = commanded(session, task_id)
        order = DispatchOrder(timestamp, offset, event.lane == "cold")
        if found is not None:
            order = DispatchOrder(found.lineage.timestamp, found.lineage.offset, found.lineage.is_cold)
        taken_by = session.first_older_in_slot(task_id, event.slot, order)
        if taken_by is not None and session.cancels:
            older = session.older_in_slot(task_id, event.slot, order)
            taken_by = next((each for each in older if session.pending_cancel(each) is None), None)
        if taken_by is not None:
            return "slot_taken", f"slot: {event.slot!r} is taken by {taken_by!r}"
    return None


def _is_lost(session: Session, name: str) -> bool:
    """Whether the facet's value was lost for want of room, and has not been set since."""
    facet = session.facets.get(name)
    return facet is not None and is_unknown(facet)


def _is_above(session: Session, task_id: str, below_id: str) -> bool:
    """Whether the task, which is not open, stands above an open one. Only its parentless children can be below it."""
    tasks = session.tasks
    above: str | None = below_id
    while above is not None and above in tasks:
        scope = tasks[above].scope
        above = scope.parent if scope is not None else None
    return above == task_id


def _task_of(
    session: Session,
    event: TaskDispatched,
    content: str,
    offset: int,
    timestamp: int,
    headers: Headers,
    rules: Rules,
) -> Task:
    expected: dict[str, str | None] = dict(event.snapshot)
    taken: dict[str, str | None] = {}
    for name in event.depends_on:
        if name not in expected:
            value, seen = session.value_at(name, timestamp)
            if seen == KNOWN:
                taken[name] = expected[name] = value
    policy = _policy_of(event, timestamp)
    lineage: Lineage | None = None
    attempt = commanded(session, event.task_id) if "~" in event.task_id else None
    if attempt is not None:
        lineage = attempt.lineage
        policy = msgspec.structs.replace(policy or DEFAULT_POLICY, attempt=attempt.attempt)
    scope: Scope | None = None
    parent_id = event.parent_task_id if not event.detached else None
    if parent_id is not None:
        is_parentless = parent_id not in session.tasks
        scope = Scope(parent_id, {}, timestamp + rules.unknown_task_grace_ms if is_parentless else None)
    clocks: Clocks | None = None
    if event.slot is not None and event.on_newer in QUEUES:
        order = DispatchOrder(timestamp, offset, event.lane == "cold")
        if lineage is not None:
            order = DispatchOrder(lineage.timestamp, lineage.offset, lineage.is_cold)
        if session.has_older_in_slot(event.task_id, event.slot, order):
            clocks = Clocks(is_queued=True)
    return Task(
        FORMAT,
        timestamp,
        offset,
        content,
        event.task_type,
        echo_of(event),
        expected,
        event.lane == "cold",
        event.slot,
        event.request_id,
        policy=policy,
        taken=json_of(taken) if taken else "",
        depends_on=event.depends_on,
        lineage=lineage,
        scope=scope,
        traceparent=traceparent_of(headers) if headers else None,
        last_heartbeat=timestamp if policy is not None and policy.heartbeat_timeout_ms is not None else 0,
        clocks=clocks,
    )


def _policy_of(event: TaskDispatched, timestamp: int) -> Policy | None:
    """The policies and limits of a dispatch; None if it has only defaults."""
    if _fields_of(event)[_FIRST_POLICY:] == _NO_POLICIES:
        return None
    policy = Policy(
        event.on_stale,
        event.on_stale_failure,
        event.when_absent,
        event.on_newer,
        protected=event.protected,
        independent=event.independent,
        while_stale_grace_ms=round(event.while_stale_grace_seconds * 1000) if event.while_stale == "cancel" else None,
        deadline_ms=(
            None if event.deadline_at is None and event.deadline_seconds is None else _deadline_of(event, timestamp)
        ),
        heartbeat_timeout_ms=_milliseconds(event.heartbeat_timeout_seconds),
        scope_grace_ms=_milliseconds(event.scope_grace_seconds),
        hold_ttl_ms=_milliseconds(event.hold_ttl_seconds),
        max_redispatches=event.max_redispatches,
        attempt=event.attempt,
        valid_until=event.valid_until.isoformat() if event.valid_until is not None else None,
        plan=event.plan,
        options=_options_of(event),
    )
    return None if policy == DEFAULT_POLICY else policy


_FIELDS: Final = struct_of(TaskDispatched).__struct_fields__
_FIRST_POLICY: Final = _FIELDS.index("on_newer")
_NO_POLICIES: Final = tuple([TaskDispatched.model_fields[name].default for name in _FIELDS[_FIRST_POLICY:]])
"""Most dispatches have none, nor a parent, which stands among them, and comparing these values costs much less than
making a `Policy`."""


def _deadline_of(event: TaskDispatched, timestamp: int) -> int | None:
    """The earlier one of the deadlines that the dispatch states."""
    deadline_ms = round(event.deadline_at.timestamp() * 1000) if event.deadline_at is not None else None
    if event.deadline_seconds is not None:
        relative_ms = timestamp + round(event.deadline_seconds * 1000)
        deadline_ms = relative_ms if deadline_ms is None else min(deadline_ms, relative_ms)
    return deadline_ms


def _options_of(event: TaskDispatched) -> Options | None:
    """What few dispatches ask for; None if this one does not."""
    delivers_late = event.on_late == "deliver"
    if not (event.detached or delivers_late) and event.start_timeout_seconds is None and event.watch_seconds is None:
        return None
    return Options(
        detached_from=event.parent_task_id if event.detached else None,
        start_timeout_ms=_milliseconds(event.start_timeout_seconds),
        delivers_late=delivers_late,
        watch_ms=_milliseconds(event.watch_seconds),
    )


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _added_bytes(session: Session, event: TaskDispatched, size_bytes: int) -> int:
    """About what a dispatch adds: with values taken, what tasks above expect with it, and what joins it."""
    taken, task_id, depends_on = 0, event.task_id, event.depends_on
    for name in depends_on:
        facet = session.facets.get(name)
        if facet is not None and facet.value is not None:
            taken += 4 * len(facet.value)
    parent_id = event.parent_task_id if not event.detached else None
    above = session.tasks.get(parent_id) if parent_id is not None else None
    depth = 0 if above is None else 1 + len(session.ancestors(above))
    count = len(event.snapshot) + len(depends_on)
    size = size_bytes + taken + count * NAME_BYTES
    joining = snapshot_bytes(session, above) if above is not None and count else 0
    for child_id in session.parentless_children(task_id):
        child = session.tasks[child_id]
        below = child.scope.below if child.scope is not None else {}
        joining += added_above(child_id, len(child.expected), len(json_of((child.expected, below))))
        joining += own_bytes(child) + size
    own = session.undispatched.get(task_id)
    if own is not None and depth:
        for changes in own.values():
            joining += sum(32 + 4 * len(each.before or "") + 4 * len(each.after or "") for each in changes)
    return 2 * size + depth * added_above(task_id, count, size) + (1 + depth) * joining
