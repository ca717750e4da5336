"""What context events establish: facets change, tasks are cancelled, deliveries acknowledged, sessions erased."""

from typing import Any, Final

import msgspec
import orjson

from projections.attempts import commanding, next_id
from projections.budget import NAME_BYTES, NO_ROOM, room_for
from projections.cancelling import reached_by
from projections.ended import EndedTask, task_ids
from projections.ending import stop
from projections.facts import (
    AttemptRevoked,
    CancelRemembered,
    CancelRequested,
    EventIgnored,
    EventRefused,
    EventRepeated,
    EventTaken,
    FacetChange,
    FacetsChanged,
    FacetsLost,
    Fact,
    LeasesChanged,
    ResultAcknowledged,
    SessionForgotten,
    TaskEnded,
    VersionsStated,
)
from projections.publish import KNOWN_DIGITS
from projections.recent_ids import has_event
from projections.records import change_to_bytes
from projections.refusing import session_full
from projections.rows import CHANGED_BY_SEVERAL, KNOWN, UNKNOWN, UNSEEN, CancelRequest, FacetFields, Lease, Task
from projections.session import Session
from projections.text import json_of, quoted
from schemas import events
from schemas.fields import Reason
from schemas.identity import event_digest
from schemas.wire import event_type, fields_in_order, fields_of

_Fields = tuple[str, str, object, object, dict[str, str | None], list[str], Any, dict[str, int], dict[str, float]]
_fields_of: Final[Any] = fields_in_order(
    events.ContextChanged,
    "source",
    "event_id",
    "session_id",
    "occurred_at",
    "set",
    "unset",
    "cause",
    "versions",
    "expires_in_seconds",
)


_facet_fields_of: Final = fields_of


class UnknownValueError(ValueError):
    """A reserved facet was given a value that the gate would not understand."""


def decide_change(
    session: Session, event: events.ContextChanged, size_bytes: int, offset: int, timestamp: int
) -> list[Fact]:
    """Facets are set and unset. `size_bytes`: of the record's value."""
    fields: _Fields = _fields_of(event)
    source, event_id, _, _, values, unset, caused_by, versions, expires = fields
    identity = event_digest(source, event_id)
    if has_event(session.context_ids, identity):
        return [EventRepeated("context.changed")]
    cause: str | None = caused_by.task_id if caused_by is not None else None
    if unset:
        values = {**values, **dict.fromkeys(unset)}
    facts: list[Fact] = []
    extras = session.extras
    is_special = extras is not None or bool(versions) or bool(expires)
    if is_special:
        problem = _problem_of(event, values)
        if problem is not None:
            return [EventRefused("invalid_event", problem)]
        newest = _newest(session, versions, values)
        if len(newest) < len(values):
            facts.append(EventIgnored("context.changed"))
            values = newest
    try:
        changes = changes_of(session, values, cause)
    except UnknownValueError as error:
        return [EventRefused("invalid_event", str(error))]
    estimate = session.size_estimate
    is_taken = False
    if changes:
        holder, undispatched = (None, None) if cause is None else _holder_of(session, cause)
        identity_bytes = len(source) + len(event_id)
        added = _added_bytes(session, identity_bytes, size_bytes, changes, holder or undispatched)
        estimate = room_for(session, added, adds_names=True)
        if estimate == NO_ROOM:
            new = [change for change in changes if not _is_known(session, change.name)]
            changes = [change for change in changes if _is_known(session, change.name)]
            if new:
                facts.append(EventRefused("session_full", session_full(session)))
                values = {name: value for name, value in values.items() if _is_known(session, name)}
            if changes:
                estimate = room_for(session, added, adds_names=False)
                if estimate == NO_ROOM:
                    facts.append(FacetsLost([change.name for change in changes], timestamp))
                    changes, values = [], {}
        if changes:
            change = change_to_bytes(offset, timestamp, source, event_id)
            kept = None if cause is None or extras is None else _kept_with_work_of(session, cause)
            facts.append(
                FacetsChanged(changes, change, offset, timestamp, holder, undispatched, estimate, identity, kept)
            )
            is_taken = True
        elif estimate == NO_ROOM:
            estimate = session.size_estimate
    if is_special:
        facts += _special_facts(session, event, values, size_bytes, offset, timestamp, estimate)
    if not is_taken:
        facts.append(EventTaken(identity, timestamp))
    return facts


def _newest(session: Session, versions: dict[str, int], values: dict[str, str | None]) -> dict[str, str | None]:
    """Without the facets of which a newer version, or the same one, was stated before."""
    known = session.extras.versions if session.extras is not None else {}
    return {
        name: value for name, value in values.items() if name not in versions or versions[name] > known.get(name, -1)
    }


def _special_facts(
    session: Session,
    event: events.ContextChanged,
    values: dict[str, str | None],
    size_bytes: int,
    offset: int,
    timestamp: int,
    estimate: int,
) -> list[Fact]:
    """What the event says of versions and leases, of the facets whose values were taken.

    `estimate`: the session's size with these values.
    """
    leased = session.extras.leases if session.extras is not None else {}
    newer = {name: version for name, version in event.versions.items() if name in values}
    until = {name: seconds for name, seconds in event.expires_in_seconds.items() if name in values}
    ended = [name for name in leased if name in values and name not in until]
    if newer or until:
        added = size_bytes + len(until) * (len(event.source) + len(event.event_id) + NAME_BYTES)
        estimate = room_for(session, estimate - session.size_estimate + added, adds_names=False)
        if estimate == NO_ROOM:
            return [EventRefused("session_full", session_full(session))]
    facts: list[Fact] = []
    if newer:
        facts.append(VersionsStated(newer, timestamp, estimate))
    if until or ended:
        change = change_to_bytes(offset, timestamp, event.source, event.event_id)
        leases = {name: Lease(timestamp + round(seconds * 1000), change) for name, seconds in until.items()}
        facts.append(LeasesChanged(leases, ended, timestamp, estimate))
    return facts


def _problem_of(event: events.ContextChanged, values: dict[str, str | None]) -> str | None:
    """What contradicts itself in the event."""
    for name in event.versions:
        if name not in values:
            return f"versions.{name}: the event does not set or unset this facet"
    for name in event.expires_in_seconds:
        if name not in event.set:
            return f"expires_in_seconds.{name}: the event does not set this facet"
    return None


_RESERVED: Final = "ps"
"""Reserved facets with values of their own begin so: `presence/<client>` and `session`."""
_SESSION_VALUES: Final = ("open", "closed")
_PRESENCE_VALUES: Final = ("present", "absent")


def _check_value(name: str, value: str) -> None:
    """Refuse a value that a reserved facet does not have. Raises `UnknownValueError`."""
    allowed = _SESSION_VALUES if name == "session" else _PRESENCE_VALUES if name.startswith("presence/") else None
    if allowed is not None and value not in allowed:
        detail = f"{value[:64]!r} is not a value of this reserved facet; use {' or '.join(allowed)}"
        raise UnknownValueError(f"set.{name}: {detail}")


def _kept_with_work_of(session: Session, cause: str) -> list[str] | None:
    """The ended tasks of which more is kept, and whose own work the task's is: itself and those that were above it."""
    extras = session.extras
    if extras is None or not extras.kept:
        return None
    found: list[str] = []
    each: str | None = cause
    seen: set[str] = set()
    while each is not None and each not in seen:
        seen.add(each)
        if each in extras.kept:
            found.append(each)
        over = session.ended_task(each)
        each = over.parent if over is not None else None
    return found


def changes_of(session: Session, values: dict[str, str | None], cause: str | None) -> list[FacetChange]:
    """The facets that an event gives another value, or another cause. Raises `UnknownValueError`."""
    facets = session.facets
    found: list[FacetChange] = []
    for name, value in values.items():
        known = facets.get(name)
        if name[0] in _RESERVED and value is not None:
            _check_value(name, value)
        if known is None:
            found.append(FacetChange(name, value, cause, None, UNSEEN))
            continue
        fields: FacetFields = _facet_fields_of(known)
        before, cause_before, change_before = fields
        if not change_before:  # nobody knows the value
            found.append(FacetChange(name, value, cause, None, UNKNOWN))
        elif before != value:
            found.append(FacetChange(name, value, cause, before, KNOWN))
        elif cause_before is not None and cause_before != cause:
            several = None if cause is None else CHANGED_BY_SEVERAL
            found.append(FacetChange(name, value, several, before, KNOWN))
    return found


def _holder_of(session: Session, cause: str) -> tuple[str | None, str | None]:
    """The open task whose own change it is, or else the task, if its dispatch has not been folded."""
    if cause in session.tasks:
        return cause, None
    over = session.ended_task(cause)
    if over is None:
        return None, cause
    above = session.nearest_open_ancestor(cause, over.parent)
    return (above, None) if above in session.tasks else (None, None)


def _added_bytes(
    session: Session, identity_bytes: int, size_bytes: int, changes: list[FacetChange], holder: str | None
) -> int:
    """About what the change adds: itself, with its source and id for each facet, and what of it is own work."""
    others = len(changes) - 1
    added = 2 * size_bytes
    if others:
        added += others * max(identity_bytes + 64, NAME_BYTES)
    if holder is not None:
        task = session.tasks.get(holder)
        holders = 1 if task is None else 1 + len(session.ancestors(task))
        own = sum(
            len(change.name) + 4 * len(change.before or "") + 4 * len(change.value or "") + 24 for change in changes
        )
        added += holders * own
    return added


def _is_known(session: Session, name: str) -> bool:
    """Whether the session has the facet, or an open task depends on it: its changes are never refused for room."""
    return name in session.facets or bool(session.tasks_expecting(name))


def decide_cancel(
    session: Session, event: events.TaskCancelRequested, size_bytes: int, offset: int, timestamp: int
) -> list[Fact]:
    """Tasks are to be cancelled. Cancelling a task that has ended changes nothing.

    From now on nothing of them is delivered. They are stopped when the steps below the cut have been folded: a receipt
    lists every step that was acknowledged before the broker was asked.

    A request that names no task id reaches the tasks that were dispatched before it, by the broker's time. Topics have
    no common order: it is remembered for the grace of unknown tasks, for those whose dispatches are folded later.
    """
    task_id = event.task_id
    named = [name for name in (task_id, event.request_id, event.slot) if name is not None]
    if len(named) + event.all != 1:
        detail = f"event: {len(named) + event.all} of task_id, request_id, slot and all say what to cancel; state one"
        return [EventRefused("invalid_event", detail)]
    identity = event_digest(event.source, event.event_id)
    pending = session.extras.cancels if session.extras is not None else []
    came_before = any((each.source, each.event_id) == (event.source, event.event_id) for each in pending)
    if came_before or has_event(session.context_ids, identity):
        return [EventRepeated("task.cancel_requested")]
    taken = EventTaken(identity, timestamp)
    if task_id is not None and _is_known_task(session, task_id):
        return [*(_cancelled(session, [task_id], timestamp) or [EventIgnored("task.cancel_requested")]), taken]
    request = CancelRequest(task_id, event.request_id, event.slot, timestamp, offset, event.source, event.event_id)
    reached = [] if task_id is not None else reached_by(session, request)
    if reached:
        request = msgspec.structs.replace(request, is_matched=True)
    facts = _cancelled(session, reached, timestamp)
    estimate = room_for(session, size_bytes + NAME_BYTES, adds_names=False)
    if estimate == NO_ROOM:
        return [*facts, EventRefused("session_full", session_full(session)), taken]
    return [CancelRemembered(request, estimate), *facts, taken]


def _is_known_task(session: Session, task_id: str) -> bool:
    """Whether the task is open or has ended, or is an attempt that was commanded."""
    if task_id in session.tasks or session.ended_task(task_id) is not None:
        return True
    return commanding(session, task_id) is not None


def _cancelled(session: Session, task_ids: list[str], timestamp: int) -> list[Fact]:
    """These tasks and the attempts after them are to be stopped; one that has not been dispatched is revoked.

    What is to be stopped already, because one above it is, ends for that reason: its agent may have been told.
    """
    facts: list[Fact] = []
    noted = set(session.cancels)
    for task_id in task_ids:
        each: str | None = task_id
        while each is not None:
            is_open = each in session.tasks
            ended = session.ended_task(each) if not is_open else None
            if is_open:
                if each not in noted and session.pending_cancel(each) is None:
                    noted.add(each)
                    facts.append(CancelRequested(each, timestamp))
            elif ended is None:
                facts += _revoked(session, each, timestamp, noted)
                break
            each = next_id(session, each)
    return facts


def _revoked(session: Session, task_id: str, timestamp: int, noted: set[str]) -> list[Fact]:
    """A commanded attempt that has not been dispatched is to be stopped: noted with the task that it comes after."""
    if task_id in noted:
        return []
    noted.add(task_id)
    before = commanding(session, task_id)
    ended: EndedTask | None = session.ended_task(before) if before is not None else None
    if ended is None:
        return [CancelRequested(task_id, timestamp)]
    if ended.next is None or ended.next.is_revoked:
        return []
    return [AttemptRevoked(ended.with_next(msgspec.structs.replace(ended.next, is_revoked=True)))]


def decide_cancelled(session: Session, task_id: str, cancel: tuple[Reason, int]) -> list[Fact]:
    """Stop a task that is to be cancelled, or one above it, when something else would end it: see `pending_cancel`."""
    reason, cancelled_at = cancel
    if reason == "cancelled":
        return decide_stop(session, task_id, cancelled_at)
    return stop(session, task_id, "cancelled", reason, cancelled_at)


def decide_stop(session: Session, task_id: str, cancelled_at: int) -> list[Fact]:
    """Stop an open task that is to be cancelled, with what its steps have done. The attempt after it is revoked."""
    facts = stop(session, task_id, "cancelled", "cancelled", cancelled_at)
    for fact in facts:
        if isinstance(fact, TaskEnded) and fact.task_id == task_id and fact.ended.next is not None:
            fact.ended.next = msgspec.structs.replace(fact.ended.next, is_revoked=True)
    return facts


def decide_acknowledgement(
    session: Session, event: events.ResultAcknowledged, offset: int, timestamp: int
) -> list[Fact]:
    """A consumer reports what became of a delivery, or of some of its parts."""
    identity = event_digest(event.source, event.event_id)
    if has_event(session.context_ids, identity):
        return [EventRepeated("result.acknowledged")]
    return [_acknowledged(session, event, offset), EventTaken(identity, timestamp)]


def _acknowledged(session: Session, event: events.ResultAcknowledged, offset: int) -> Fact:
    task_id = event.task_id
    outcome: str = event.outcome
    ended = session.ended_task(task_id)
    if ended is None:
        task = session.tasks.get(task_id)
        if task is None or not (task.delivered or (task.wait is not None and task.wait.delivered)):
            return EventIgnored("result.acknowledged")
        return _acknowledge_open(session, event, task, offset)
    if ended.reason is None or not (ended.delivered or ended.disposition == "delivered"):
        return EventIgnored("result.acknowledged")
    refused = _unknown_delivery(event, ended.delivered or [])
    if refused is not None:
        return refused
    outcomes = _outcomes_with(event, ended.outcomes or {})
    reported = ended.acknowledged_as(outcome, event.reason or None, outcomes)
    before = ended.acknowledged, ended.detail, ended.outcomes or {}
    is_news = before != (reported.acknowledged, reported.detail, outcomes)
    return ResultAcknowledged(task_id, outcome, offset, reported if is_news else None, "", -1)


def _acknowledge_open(session: Session, event: events.ResultAcknowledged, task: Task, offset: int) -> Fact:
    """The same of a task that is open: other parts wait, or it was an interim answer."""
    refused = _unknown_delivery(event, task.delivered)
    if refused is not None:
        return refused
    known = orjson.loads(f"{{{task.acknowledgement}}}").get("acknowledged_parts", {}) if task.acknowledgement else {}
    outcomes = _outcomes_with(event, known)
    members = f'"acknowledged":"{event.outcome}"'
    if event.reason:
        members = f'{members},"detail":{quoted(event.reason)}'
    if outcomes:
        members = f'{members},"acknowledged_parts":{json_of(outcomes)}'
    if members == task.acknowledgement:
        return ResultAcknowledged(event.task_id, event.outcome, offset, None, "", -1)
    estimate = room_for(session, len(members.encode()), adds_names=False)
    if estimate == NO_ROOM:
        return EventRefused("session_full", session_full(session))
    return ResultAcknowledged(event.task_id, event.outcome, offset, None, members, estimate)


def _unknown_delivery(event: events.ResultAcknowledged, delivered: list[list[str]]) -> EventRefused | None:
    """What the event names that was not delivered. Of deliveries that an earlier version made nothing is known."""
    if not delivered:
        return None
    if event.result_event_id is not None:
        digits = event.result_event_id[:KNOWN_DIGITS]
        delivered = [each for each in delivered if each[0] == digits]
        if not delivered:
            detail = (
                f"result_event_id: no result.delivered of task {event.task_id!r} has the id"
                f" {event.result_event_id!r}; name the event_id of the delivery"
            )
            return EventRefused("unknown_result", detail)
    known = [part_id for each in delivered for part_id in each[1:]]
    for part_id in event.part_ids or ():
        if part_id not in known:
            told = ", ".join(known[:16])
            return EventRefused("unknown_part", f"part_ids: {part_id!r} was not delivered; delivered were {told}")
    return None


def _outcomes_with(event: events.ResultAcknowledged, known: dict[str, str]) -> dict[str, str]:
    """The outcomes of single parts. An event without parts is about all of them."""
    if event.part_ids is None:
        return dict.fromkeys(known, event.outcome)
    return {**known, **dict.fromkeys(event.part_ids, event.outcome)}


def decide_erasure(session: Session, event: events.SessionErased, timestamp: int) -> list[Fact]:
    """Everything kept of the session is removed, with the statuses of its tasks.

    The identities of its last context events stay until the session has been idle for its TTL: none of them, the
    erasure included, does anything to what comes after it.
    """
    identity = event_digest(event.source, event.event_id)
    if has_event(session.context_ids, identity):
        return [EventRepeated("session.erased")]
    facts: list[Fact] = [EventIgnored(event_type(type(each.event))) for each in session.queued.values()]
    for parked in session.parked.values():
        facts += [EventIgnored(event_type(type(each.event))) for each in parked.results]
    facts.append(SessionForgotten([*session.tasks, *task_ids(session.ended)], session.context_ids))
    facts.append(EventTaken(identity, timestamp))
    return facts
