"""What results establish past their barrier: each is judged once, and its task ends with it or waits."""

from projections.attempts import next_attempt
from projections.budget import NO_ROOM, added_by_reads, has_room_to_wait, room_for, snapshot_bytes
from projections.ended import EndedTask
from projections.ending import end, ended_task, stop_children
from projections.expectation import is_unknown
from projections.facts import (
    AttemptCommanded,
    DeliveryWatched,
    EventRefused,
    EventRepeated,
    Fact,
    InterimJudged,
    LateResultDelivered,
    LaterResultKnown,
    ReadsStated,
    ResultHeld,
    ResultJudged,
    ResultOutdated,
    ResultParked,
)
from projections.gate import DELIVERED, Judgement, all_parts, judge, judge_at_once, mark_late
from projections.publish import KNOWN_DIGITS, identity_json, result_event_id
from projections.refusing import session_full, too_many_waiting
from projections.rows import Delivery, ResultDigests, Task, Wait
from projections.rules import Rules
from projections.session import Session
from projections.stale import with_reads
from projections.text import json_of
from projections.waiting import Arrived, undecided_rest
from schemas.events import TaskResult
from schemas.fields import Reason


def decide_result(session: Session, result: Arrived, rules: Rules) -> list[Fact]:
    """A result whose barrier has been reached."""
    task_id = result.task_id
    task = session.tasks.get(task_id)
    if task is None:
        ended = session.ended_task(task_id)
        if ended is None:
            return _park(session, result)
        extras = session.extras
        kept = extras.kept.get(task_id) if extras is not None else None
        if kept is not None and kept.delivery is None and result.event.final:
            return _decide_late_but_complete(session, result, ended, kept.task, rules)
        return decide_late(result, ended, rules)
    if task.wait is not None:
        return _decide_further(session, result, task)
    event: TaskResult = result.event
    if task.later_results:  # interim answers
        known = _known(result, task.later_results)
        if known is not None:
            return [known]
    reads = event.reads
    if not reads:
        if not event.final:
            return _decide_interim(session, result, task, rules, [])
        return decide_open(session, result, task, task, rules, [])
    above = session.readers_above(task)
    added = added_by_reads(len(json_of(reads).encode()), len(reads), task_id, len(above))
    added += snapshot_bytes(session, task)
    estimate = room_for(session, added, adds_names=not reads.keys() <= task.expected.keys())
    seen = with_reads(session.facets, task, reads, result.timestamp)
    if estimate == NO_ROOM and (above or not event.final or _would_wait(session, task_id, seen, result, rules)):
        return [EventRefused("session_full", session_full(session))]
    stated = ReadsStated(task_id, reads, result.timestamp, max(estimate, session.size_estimate))
    if not event.final:
        return _decide_interim(session, result, seen, rules, [stated])
    return decide_open(session, result, task, seen, rules, [stated])


def _decide_interim(session: Session, result: Arrived, seen: Task, rules: Rules, before: list[Fact]) -> list[Fact]:
    """An interim answer of an open task, which goes on. `seen` is the task with what the result read."""
    task_id = result.event.task_id
    judgement = judge_at_once(session, task_id, seen, result.event, result.timestamp, rules)
    shadow = rules.is_shadow(seen.task_type)
    facts = before
    judged = _judged(session, result, seen, judgement, None, shadow=shadow)
    facts.append(judged)
    takes_slot = shadow or judgement.decision == DELIVERED
    facts.append(
        InterimJudged(task_id, result.digests, result.timestamp, takes_slot=takes_slot, delivery=_delivery(judged))
    )
    return facts


def _would_wait(session: Session, task_id: str, task: Task, result: Arrived, rules: Rules) -> bool:
    """Whether the result, or a part of it, would stay with its task, and with them what it read."""
    if rules.is_shadow(task.task_type):
        return False
    return judge(session, task_id, task, result.event, result.timestamp, rules).wait is not None


def decide_open(
    session: Session, result: Arrived, task: Task, seen: Task, rules: Rules, before: list[Fact]
) -> list[Fact]:
    """The result of an open task, or the rest of it.

    `seen` is the task with what the result read; `before` are the facts that come first, if any others do.
    """
    task_id, task_type = result.task_id, task.task_type
    judgement = judge(session, task_id, seen, result.event, result.timestamp, rules)
    shadow = rules.is_shadow(task_type)
    if judgement.wait is not None and not shadow:
        return _hold(session, result, task, seen, judgement, judgement.wait, before)
    waited = task.wait
    delivered = shadow or judgement.decision == DELIVERED or (waited is not None and waited.delivered)
    disposition = "delivered" if delivered else "withheld"
    facts = before
    judged = _judged(session, result, seen, judgement, disposition, shadow=shadow)
    facts.append(judged)
    commanded = task.commanded
    if judgement.redispatch and not shadow:
        commanded = _command_attempt(task_id, seen, facts) or commanded
    scope = task.scope
    if scope is not None and scope.children and not shadow:
        facts += stop_children(session, task, "parent_ended", result.timestamp)
    digests, delivery = [result.digests], _delivery(judged)
    ended = ended_task(task_id, seen, disposition, judgement.reason, result.timestamp, digests, "", commanded, delivery)
    facts.append(end(session, task_id, seen, ended))
    if seen.policy is not None and seen.policy.options is not None:
        timestamp = result.timestamp if waited is None else max(result.timestamp, session.last_event_at)
        facts += _watch(task_id, result, seen, judgement, timestamp)
    return facts


def _watch(task_id: str, result: Arrived, task: Task, judgement: Judgement, timestamp: int) -> list[Fact]:
    """The parts that are delivered as fresh, to be watched, if the dispatch asks for it."""
    options = task.policy.options if task.policy is not None else None
    if options is None or options.watch_ms is None:
        return []
    parts: dict[str, list[str] | None] = {
        each.part.part_id: each.part.depends_on
        for each in judgement.parts
        if each.decision == DELIVERED and not each.annotated
    }
    if not parts:
        return []
    return [DeliveryWatched(task_id, task, timestamp + options.watch_ms, Delivery(identity_json(result), parts))]


def decide_outdated(session: Session, task_id: str, names: list[str]) -> list[Fact]:
    """Facets that a watched delivery depends on have changed. It is told of once."""
    extras = session.extras
    kept = extras.kept.get(task_id) if extras is not None else None
    if kept is None or kept.delivery is None:
        return []
    differ = [name for name in names if name in kept.task.stale and not is_unknown(session.facets[name])]
    parts = kept.delivery.parts
    part_ids = [part_id for part_id, on in parts.items() if on is None or not set(on).isdisjoint(differ)]
    if not part_ids:
        return []
    if None not in parts.values():
        on_any = {name for on in parts.values() for name in on or ()}
        differ = [name for name in differ if name in on_any]
    return [ResultOutdated(task_id, kept, differ, part_ids)]


def _decide_late_but_complete(
    session: Session, result: Arrived, ended: EndedTask, task: Task, rules: Rules
) -> list[Fact]:
    """The result of a task that had expired and asks for it all the same: every other rule holds, and nothing waits."""
    event: TaskResult = result.event
    known = _known(result, ended.results)
    if known is not None:
        return [known]
    seen = with_reads(session.facets, task, event.reads, result.timestamp) if event.reads else task
    judgement = judge_at_once(session, event.task_id, seen, event, result.timestamp, rules)
    mark_late(judgement)
    judged = _judged(session, result, seen, judgement, ended.disposition, shadow=rules.is_shadow(ended.task_type))
    judged.late = True
    changed = ended.with_result(result.digests)
    delivery = _delivery(judged)
    if delivery is not None:
        changed = changed.delivered_late(delivery)
    facts: list[Fact] = [judged, LaterResultKnown(event.task_id, result.digests, changed)]
    if judgement.decision == DELIVERED:
        facts.append(LateResultDelivered(event.task_id, seen, result.timestamp))
        facts += _watch(event.task_id, result, seen, judgement, result.timestamp)
    return facts


def _hold(
    session: Session,
    result: Arrived,
    task: Task,
    seen: Task,
    judgement: Judgement,
    wait: Wait,
    before: list[Fact],
) -> list[Fact]:
    waited = task.wait
    takes_slot = judgement.decision == DELIVERED
    wait = Wait(
        wait.why,
        wait.undecided,
        wait.until,
        expired=waited is not None and waited.expired and waited.why == wait.why,
        delivered=takes_slot or (waited is not None and waited.delivered),
    )
    facts = before
    delivery: list[str] | None = None
    if len(wait.undecided) < len(judgement.parts):
        judged = _judged(session, result, seen, judgement, None, shadow=False)
        delivery = _delivery(judged)
        facts.append(judged)
    if wait != waited:
        estimate = session.size_estimate
        for fact in before:
            if isinstance(fact, ReadsStated):
                estimate = fact.size_estimate
        if waited is None:
            if not has_room_to_wait(session, result.size_bytes):
                return [EventRefused("session_full", too_many_waiting(session, result.size_bytes))]
            added = sum(len(part_id.encode()) + 4 for part_id in wait.undecided)
            added += max(0, estimate - session.size_estimate)
            estimate = room_for(session, added, adds_names=False)
            if estimate == NO_ROOM:
                return [EventRefused("session_full", session_full(session))]
        facts.append(
            ResultHeld(
                result.task_id,
                result,
                wait,
                estimate,
                is_new=waited is None,
                takes_slot=takes_slot,
                delivery=delivery,
            )
        )
        if delivery is not None:
            facts += _watch(result.event.task_id, result, seen, judgement, result.timestamp)
    if judgement.redispatch:
        _command_attempt(result.task_id, seen, facts)
    return facts


def _judged(
    session: Session, result: Arrived, task: Task, judgement: Judgement, disposition: str | None, *, shadow: bool
) -> ResultJudged:
    delivered = [each.part.part_id for each in judgement.parts if shadow or each.decision == DELIVERED]
    delivered_id = ""
    if delivered:
        delivered_id = result_event_id(session, result, "result.delivered", judgement.reason, delivered[0])
    return ResultJudged(
        result,
        result.event,
        judgement,
        disposition,
        task,
        task.echo,
        is_cold=task.is_cold,
        task_type=task.task_type,
        shadow=shadow,
        delivered=delivered,
        delivered_id=delivered_id,
    )


def _delivery(judged: ResultJudged) -> list[str] | None:
    """What is delivered, as consumers refer to it: see `rows.Task.delivered`."""
    if not judged.delivered_id:
        return None
    return [judged.delivered_id[:KNOWN_DIGITS], *judged.delivered]


def _command_attempt(task_id: str, task: Task, facts: list[Fact]) -> int:
    """Add the command, and return the attempt's number; 0 if there can be none: its id would be too long, or was given.

    A task commands one attempt, whichever of its parts are stale.
    """
    following = next_attempt(task_id, task)
    if following is None or task.commanded:
        return 0
    facts.append(AttemptCommanded(task_id, task, *following))
    return following[1]


def _decide_further(session: Session, result: Arrived, task: Task) -> list[Fact]:
    """Another result of a task whose first one waits: a repeat, a conflict, or late."""
    event: TaskResult = result.event
    first = session.waiting[result.task_id].digests
    known = _known(result, [first, *task.later_results])
    if known is not None:
        return [known]
    judgement = all_parts(event.parts, "withheld", "late")
    return [
        ResultJudged(
            result,
            event,
            judgement,
            None,
            None,
            task.echo,
            is_cold=task.is_cold,
            task_type=task.task_type,
            shadow=False,
        ),
        LaterResultKnown(result.task_id, result.digests, None),
    ]


def decide_late(result: Arrived, ended: EndedTask, rules: Rules) -> list[Fact]:
    """A result of a task that has ended, or was never known: a repeat, a conflict, or withheld."""
    event: TaskResult = result.event
    known = _known(result, ended.results)
    if known is not None:
        return [known]
    return _withheld(result, event, ended, rules)


def decide_stopped(session: Session, result: Arrived) -> list[Fact]:
    """A result that waited when its task was stopped: what nothing had decided of it comes too late."""
    ended = session.ended_task(result.task_id)
    if ended is None:  # so many others ended with it
        ended = unknown_task(result)
    return _withheld(result, undecided_rest(result), ended, None)


def unknown_task(result: Arrived) -> EndedTask:
    """What is remembered of a task whose dispatch has not come within its grace."""
    return EndedTask(result.task_id, None, None, result.timestamp, None, [])


def _withheld(result: Arrived, event: TaskResult, ended: EndedTask, rules: Rules | None) -> list[Fact]:
    reason: Reason = "unknown_task" if ended.was_unknown else "late"
    task_type = ended.task_type
    judgement = all_parts(event.parts, "withheld", reason)
    return [
        ResultJudged(
            result,
            event,
            judgement,
            ended.disposition,
            None,
            ended.echo,
            is_cold=ended.is_cold,
            task_type=task_type,
            shadow=rules is not None and rules.is_shadow(task_type),
        ),
        LaterResultKnown(result.task_id, result.digests, ended.with_result(result.digests)),
    ]


def _known(result: Arrived, known: list[ResultDigests]) -> Fact | None:
    """Whether the result came before: with equal content, or with its identity and other content."""
    digests = result.digests
    is_repeat = False
    for each in known:
        is_same = each.content == digests.content
        if is_same or each.content == result.digest_of_bytes:
            is_repeat = True
        elif each.identity == digests.identity:
            return _conflict(result.event)
    return EventRepeated("task.result") if is_repeat else None


def _conflict(event: TaskResult) -> EventRefused:
    detail = (
        f"event_id: {event.event_id!r} of source {event.source!r} came before with other content;"
        " give every event its own id"
    )
    return EventRefused("identity_conflict", detail)


def _park(session: Session, result: Arrived) -> list[Fact]:
    event: TaskResult = result.event
    parked = session.parked.get(event.task_id)
    if parked is not None:
        if parked.is_conflict(result.digests):
            return [_conflict(event)]
        if parked.is_repeat(result.digests):
            return [EventRepeated("task.result")]
    if not has_room_to_wait(session, result.size_bytes):
        return [EventRefused("session_full", too_many_waiting(session, result.size_bytes))]
    return [ResultParked(result)]
