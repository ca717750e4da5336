"""What context events establish: facets change, tasks are cancelled, deliveries acknowledged, sessions erased."""

from typing import Any, Final

import msgspec

from projections.attempts import next_id
from projections.budget import NAME_BYTES, NO_ROOM, room_for
from projections.ended import task_ids
from projections.ending import stop
from projections.expectation import is_unknown
from projections.facts import (
    AttemptRevoked,
    CancelRequested,
    EventIgnored,
    EventRefused,
    EventRepeated,
    EventTaken,
    FacetChange,
    FacetsChanged,
    FacetsLost,
    Fact,
    ResultAcknowledged,
    SessionForgotten,
    TaskEnded,
)
from projections.records import change_to_bytes
from projections.refusing import session_full
from projections.rows import CHANGED_BY_SEVERAL, KNOWN, UNKNOWN, UNSEEN
from projections.session import Session
from projections.text import quoted
from schemas import events
from schemas.identity import event_digest
from schemas.wire import event_type, fields_of, picker

_Fields = tuple[str, str, dict[str, str | None], list[str], Any]
_fields_of: Final = fields_of
_picked: Final[Any] = picker(events.ContextChanged, "source", "event_id", "set", "unset", "cause")


def decide_change(
    session: Session, event: events.ContextChanged, size_bytes: int, offset: int, timestamp: int
) -> list[Fact]:
    """Facets are set and unset. `size_bytes`: of the record's value."""
    fields: _Fields = _picked(_fields_of(event))
    source, event_id, values, unset, caused_by = fields
    identity = event_digest(source, event_id)
    if identity in session.context_ids:
        return [EventRepeated("context.changed")]
    cause: str | None = caused_by.task_id if caused_by is not None else None
    changes = _changes(session, values, unset, cause)
    if not changes:
        return [EventTaken(identity, timestamp)]
    holder, undispatched = (None, None) if cause is None else _holder_of(session, cause)
    identity_bytes = len(source) + len(event_id)
    added = _added_bytes(session, identity_bytes, size_bytes, changes, holder or undispatched)
    estimate = room_for(session, added, adds_names=True)
    facts: list[Fact] = []
    if estimate == NO_ROOM:
        new = [change for change in changes if not _is_known(session, change.name)]
        changes = [change for change in changes if _is_known(session, change.name)]
        if new:
            facts.append(EventRefused("session_full", session_full(session)))
        if changes:
            estimate = room_for(session, added, adds_names=False)
            if estimate == NO_ROOM:
                facts.append(FacetsLost([change.name for change in changes], timestamp))
                facts.append(EventTaken(identity, timestamp))
                return facts
    if changes:
        change = change_to_bytes(offset, timestamp, source, event_id)
        facts.append(FacetsChanged(changes, change, offset, timestamp, holder, undispatched, estimate, identity))
    else:
        facts.append(EventTaken(identity, timestamp))
    return facts


def _changes(session: Session, values: dict[str, str | None], unset: list[str], cause: str | None) -> list[FacetChange]:
    """The facets that the event gives another value, or another cause."""
    facets = session.facets
    found: list[FacetChange] = []
    if unset:
        values = {**values, **dict.fromkeys(unset)}
    for name, value in values.items():
        known = facets.get(name)
        if known is None:
            found.append(FacetChange(name, value, cause, None, UNSEEN))
        elif is_unknown(known):
            found.append(FacetChange(name, value, cause, None, UNKNOWN))
        else:
            before = known.value
            if before != value:
                found.append(FacetChange(name, value, cause, before, KNOWN))
            elif known.cause is not None and known.cause != cause:
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
    added = 2 * size_bytes + sum(len(change.name) + 4 * len(change.before or "") + 16 for change in changes)
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


def decide_cancel(session: Session, event: events.TaskCancelRequested, timestamp: int) -> list[Fact]:
    """A task is to be cancelled. Cancelling a task that has ended changes nothing.

    From now on nothing of it is delivered. It is stopped when the steps below the cut have been folded: its receipt
    lists every step that was acknowledged before the broker was asked.
    """
    identity = event_digest(event.source, event.event_id)
    if identity in session.context_ids:
        return [EventRepeated("task.cancel_requested")]
    facts = _cancelled(session, event.task_id, timestamp)
    facts.append(EventTaken(identity, timestamp))
    return facts


def _cancelled(session: Session, task_id: str, timestamp: int) -> list[Fact]:
    """The named task and the attempts after it are to be stopped; one that has not been dispatched is revoked."""
    if task_id not in session.tasks and session.ended_task(task_id) is None:
        return [CancelRequested(task_id, timestamp)]
    facts: list[Fact] = []
    cancels = session.row.cancels
    each: str | None = task_id
    while each is not None:
        is_open = each in session.tasks
        if is_open and each not in cancels:
            facts.append(CancelRequested(each, timestamp))
        following = next_id(session, each)
        if following is None or following in session.tasks or session.ended_task(following) is not None:
            each = following
            continue
        ended = session.ended_task(each)
        if is_open:
            facts.append(CancelRequested(following, timestamp))
        elif ended is not None and ended.next is not None and not ended.next.is_revoked:
            facts.append(AttemptRevoked(ended.with_next(msgspec.structs.replace(ended.next, is_revoked=True))))
        break
    return facts or [EventIgnored("task.cancel_requested")]


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
    """A consumer reports what became of a delivery."""
    identity = event_digest(event.source, event.event_id)
    if identity in session.context_ids:
        return [EventRepeated("result.acknowledged")]
    return [_acknowledged(session, event, offset), EventTaken(identity, timestamp)]


def _acknowledged(session: Session, event: events.ResultAcknowledged, offset: int) -> Fact:
    task_id = event.task_id
    outcome: str = event.outcome
    ended = session.ended_task(task_id)
    if ended is None:
        task = session.tasks.get(task_id)
        if task is not None and task.wait is not None and task.wait.delivered:
            members = f'"acknowledged":"{outcome}"'
            if event.reason:
                members = f'{members},"detail":{quoted(event.reason)}'
            estimate = room_for(session, len(members.encode()), adds_names=False)
            if estimate == NO_ROOM:
                return EventRefused("session_full", session_full(session))
            return ResultAcknowledged(task_id, outcome, offset, None, members, estimate)
    if ended is None or ended.reason is None or ended.disposition != "delivered":
        return EventIgnored("result.acknowledged")
    reported = ended.acknowledged_as(outcome, event.reason or None)
    is_news = (ended.acknowledged, ended.detail) != (reported.acknowledged, reported.detail)
    return ResultAcknowledged(task_id, outcome, offset, reported if is_news else None, "", -1)


def decide_erasure(session: Session, event: events.SessionErased, timestamp: int) -> list[Fact]:
    """Everything kept of the session is removed, with the statuses of its tasks.

    The identities of its last context events stay until the session has been idle for its TTL: none of them, the
    erasure included, does anything to what comes after it.
    """
    identity = event_digest(event.source, event.event_id)
    if identity in session.context_ids:
        return [EventRepeated("session.erased")]
    facts: list[Fact] = [EventIgnored(event_type(type(each.event))) for each in session.queued.values()]
    for parked in session.parked.values():
        facts += [EventIgnored(event_type(type(each.event))) for each in parked.results]
    facts.append(SessionForgotten([*session.tasks, *task_ids(session.ended)], session.context_ids))
    facts.append(EventTaken(identity, timestamp))
    return facts
