"""How a task lived and was stopped: its scope, its slot, its time, and what its agent was told, compared with the logs.

Where the topics' interleaving decides, and no verdict tells of it, nothing is held against the gate.
"""

from __future__ import annotations

from math import inf
from typing import Final

from audit.after import queues
from audit.cancels import may_reach, must_reach
from audit.case import Case
from audit.clocks import Clock, clock_at
from audit.lineage import attempt_of, due_command
from audit.logs import NEVER, Redispatch, Status, Task
from audit.oracle import policy_of
from audit.parse import digest_of_dispatch
from audit.receipts import check_receipt
from audit.room import may_be_unknown
from schemas.fields import MAX_NAME_BYTES

STOPS: Final[dict[str, tuple[str, ...]]] = {
    "cancelled": ("cancelled",),
    "superseded": ("cancelled",),
    "parent_ended": ("cancelled", "rejected"),
    "scope_closed": ("cancelled",),
    "stale": ("cancelled",),
    "deadline_passed": ("expired",),
    "heartbeat_missed": ("expired",),
    "not_started": ("expired",),
    "unknown_parent": ("rejected",),
}
"""Reasons to end an open task before its time, and the dispositions that go with them if nothing was delivered."""

_STOPPING: Final = ("reject", "interrupt", "enqueue_latest")
REJECTIONS: Final = ("slot_taken", "parent_ended", "unknown_parent", "session_full")


def check_life(case: Case) -> None:
    """Check how the task was stopped or rejected, or that it was when it should have been."""
    task, status = case.task, case.status
    if task is None or status is None or not status.seen or case.unsettled:
        return
    given = case.session.acknowledged.get(case.task_id, ())
    if status.acknowledged not in (None, *given) and not case.truncated("context"):
        case.note("acknowledgement_unfounded", str(status.acknowledged), "tasks", status.ended_offset)
    _check_acknowledged_parts(case, status)
    is_stopped = _is_stopped(case, task, status)
    if is_stopped:
        _check_stop(case, task, status)
    elif case.disposition == "rejected":
        _check_rejection(case, task, status)
    elif case.disposition in ("cancelled", "expired"):
        _unfounded(case, status, f"ended {case.disposition}, reason {status.reason}")
    _check_cut(case, task, status)
    _check_commands(case, status, is_stopped=is_stopped)
    _check_cancels(case, task)
    _check_scope(case, task, status)
    _check_slot(case, task, status)
    if case.is_open and status.waiting_for is None:
        _check_time(case, task)
    _check_redispatch(case, task)


def _check_acknowledged_parts(case: Case, status: Status) -> None:
    """What the status says of single parts: that they were delivered, and that a consumer said so of them last."""
    if case.outputs_truncated or case.truncated("context"):
        return
    delivered = {
        part_id
        for _, verdict in case.judged
        for decision in verdict.decisions
        for output in decision.delivered
        for part_id, _ in output.carried
    }
    said: dict[str, str] = {}
    for outcome, parts in case.session.outcomes.get(case.task_id, ()):
        said |= dict.fromkeys(said if parts is None else parts, outcome)
    for part_id, outcome in status.acknowledged_parts.items():
        if part_id not in delivered:
            detail = f"part {part_id} was not delivered"
        elif said.get(part_id) != outcome:
            detail = f"part {part_id} is {outcome}, should be {said.get(part_id)}"
        else:
            continue
        case.note("acknowledgement_unfounded", detail, "tasks", status.ended_offset)
    for offset, part_ids in case.session.unknown_parts.get(case.task_id, ()):
        held = {part_id for _, verdict in case.judged for part_id in verdict.decisions[0].held}
        later = {part.part_id for result, _ in case.judged for part in result.parts}
        if set(part_ids) <= delivered and not held and len(case.judged) == 1 and later:
            case.note("dlq_unfounded", f"parts {part_ids} were delivered", "dlq", offset)


def _is_stopped(case: Case, task: Task, status: Status) -> bool:
    """Whether it was stopped while it was open: by a wish, by another task, or by time."""
    dispositions = STOPS.get(status.reason or "", ())
    if case.disposition == "delivered":
        return bool(dispositions) and not case.deciding
    if case.disposition == "rejected":
        return status.reason == "unknown_parent" and (status.ended_ms != task.at_ms or status.receipt is not None)
    return case.disposition in dispositions and case.disposition in ("cancelled", "expired")


def _check_cut(case: Case, task: Task, status: Status) -> None:
    """The cut that the status names: that it lies on the topics, and above what led to the end."""
    judged, bounds = status.judged, case.bounds
    if judged is None:
        return

    def note(kind: str, detail: str) -> None:
        case.note(kind, f"{status.reason}: {detail}", "tasks", status.ended_offset)

    if judged.partition != case.logs.partition:
        note("verdict_inconsistent", f"judged on partition {judged.partition}")
    elif judged.context_offset > bounds["context"].end or judged.steps_offset > bounds[judged.role].end:
        note("judged_past_end", f"context {judged.context_offset}, steps {judged.steps_offset}")
    elif status.reason == "cancelled":
        asked = [each.offset for each in case.session.cancels if may_reach(case, task, each)]
        if asked and min(asked) >= judged.context_offset and not case.truncated("context"):
            note("judged_before_request", f"asked for at {min(asked)}, judged at context {judged.context_offset}")
    elif case.disposition == "rejected" and status.ended_ms == task.at_ms and judged.role == task.role:
        if judged.steps_offset > task.offset:
            return
        note("judged_before_dispatch", f"dispatched at {task.offset}, judged at {judged.steps_offset}")


def _unfounded(case: Case, status: Status, detail: str) -> None:
    case.note("stopped_without_reason", detail, "tasks", status.ended_offset)


def _check_stop(case: Case, task: Task, status: Status) -> None:
    check_receipt(case, task, status)
    why_not = _why_not(case, task, status)
    if why_not is not None:
        _unfounded(case, status, f"{status.reason}: {why_not}")


def _why_not(case: Case, task: Task, status: Status) -> str | None:
    """What speaks against the reason for which the task was stopped; None where nothing does, as far as can be told."""
    session, margin = case.session, case.terms.margin_ms
    ended_ms, reason = status.ended_ms, status.reason
    if reason == "cancelled":
        asked = any(may_reach(case, task, request) for request in session.cancels)
        return None if asked or case.truncated("context") else "nobody asked for it"
    if reason == "superseded":
        newer = [each for each in case.rivals if _interrupts(each, case, task)]
        return None if newer and not task.protected else "no newer task of its slot interrupts it"
    if reason in ("parent_ended", "scope_closed", "unknown_parent"):
        return _why_not_scope(case, task, status)
    if reason == "stale":
        if task.while_stale_grace_ms is None:
            return "it goes on while stale"
        since = _stale_since(case, task)
        return None if since + task.while_stale_grace_ms <= ended_ms + margin else "its grace was not over"
    if reason in ("deadline_passed", "heartbeat_missed", "not_started"):
        # What came in the very millisecond may have been folded before, or not.
        found = [
            _why_not_over(case, task, status, clock_at(case, task, ms)) for ms in (ended_ms - margin, ended_ms + 1)
        ]
        return None if None in found else found[0]
    return None


def _why_not_over(case: Case, task: Task, status: Status, clock: Clock) -> str | None:
    """What speaks against the end of a task whose clocks stood so."""
    margin, ended_ms = case.terms.margin_ms, status.ended_ms
    if status.reason == "deadline_passed":
        if clock.waits_since is not None:
            return "it waited for a person"
        if clock.deadline_ms is None or ended_ms + margin < clock.deadline_ms:
            return "its deadline had not passed"
        return _why_not_expired(case, min(ended_ms, clock.deadline_ms))
    due = clock.given_up_at(task)
    if due is None or due[1] != status.reason:
        return f"{due[1] if due is not None else 'nothing'} was due"
    if due[0] > ended_ms + margin:
        return f"it was heard of {ended_ms - clock.heard_ms} ms before"
    return _why_not_expired(case, ended_ms)


def _stale_since(case: Case, task: Task) -> int:
    """The least time since when the task may have been stale: the gate counts from the event that broke its snapshot.

    That may be older than the dispatch, and folded after it.
    """
    events = (event.at_ms for facet in case.session.facets.values() for event in facet.events)
    return min(task.at_ms, *events) if case.session.facets else task.at_ms


def _why_not_scope(case: Case, task: Task, status: Status) -> str | None:
    above = case.family.get(task.parent or "")
    if task.parent is None:
        return "it has no parent"
    if status.reason == "unknown_parent" and status.ended_ms + case.terms.margin_ms < task.at_ms + case.terms.grace_ms:
        return "the grace for its parent's dispatch was not over"
    if above is None or above.task is None or above.unsettled:
        # A parent whose result was given up has ended, too, for all the gate knows.
        known = above is not None and (above.task is not None or above.given_up)
        cannot_tell = known or status.reason == "unknown_parent" or case.truncated("steps", "steps.cold")
        return None if cannot_tell else "no parent"
    terms, ended_ms = case.terms, status.ended_ms
    if status.reason == "parent_ended":
        return "its parent is open" if above.is_open else None
    if status.reason == "scope_closed":
        grace = terms.scope_grace_ms if above.task.scope_grace_ms is None else above.task.scope_grace_ms
        waited = min((result.at_ms for result in above.results if result.final), default=None)
        if waited is None:
            return None if case.truncated("results", "results.cold") else "its parent has no result"
        return None if waited + grace <= ended_ms + terms.margin_ms else "its parent had not waited so long"
    was_known = above.disposition != "rejected" and not above.given_up
    if was_known and above.task.at_ms + terms.margin_ms < ended_ms and not _may_be_over(above, task):
        return f"its parent was dispatched {ended_ms - above.task.at_ms} ms before"
    return None


def _may_be_over(above: Case, task: Task) -> bool:
    """Whether the parent may have ended before the child's dispatch was folded, and been forgotten since."""
    return not above.is_open and above.task is not None and above.task.at_ms <= task.at_ms


def _why_not_expired(case: Case, due_ms: int) -> str | None:
    """A result in time that was on the topics before the timer's barrier was asked for should have been judged."""
    at_ms = min((each.at_ms for each in case.results if each.broker_time and each.final), default=due_ms)
    if at_ms + case.terms.margin_ms >= due_ms:
        return None
    return f"its result had been there {due_ms - at_ms} ms before that"


def _interrupts(newer: Case, case: Case, task: Task) -> bool:
    """Whether the newer task may have stopped this one: any that is older, or one that queues for the slot."""
    other = newer.task
    if other is None or not task.is_older(other):
        return False
    if other.on_newer == "interrupt":
        return True
    has_older = any(each.task is not None and each.task.is_older(task) for each in case.rivals)
    return other.on_newer == "enqueue_latest" and queues(task) and has_older


# ---- rejections


def _check_rejection(case: Case, task: Task, status: Status) -> None:
    """The task ended with its dispatch."""
    reason, detail = status.reason, None
    if reason not in REJECTIONS:
        detail = f"reason {reason}"
    elif reason == "slot_taken":
        if task.slot is None or task.on_newer != "reject":
            detail = "it does not ask for a free slot"
        elif not any(_may_be_open_at(each, task) for each in case.rivals if each is not case):
            detail = "no older task of its slot was open"
    elif reason == "parent_ended":
        detail = _why_not_scope(case, task, status)
    elif reason == "unknown_parent" and not _is_above_itself(case):
        detail = "it is not above itself"
    # A session whose row is full takes no tasks; the logs do not tell how full it is.
    if detail is not None:
        case.note("rejected_without_reason", f"{reason}: {detail}", task.role, task.offset)


def _is_above_itself(case: Case) -> bool:
    """Whether following parents leads back to the task: such a dispatch is rejected at once."""
    above, seen = case.task.parent if case.task is not None else None, set[str]()
    while above is not None and above not in seen:
        if above == case.task_id:
            return True
        seen.add(above)
        task = case.session.tasks.get(above)
        above = task.parent if task is not None else None
    return False


def _may_be_open_at(older: Case, task: Task) -> bool:
    """Whether the older task may have been open when the newer one's dispatch was folded."""
    other = older.task
    if other is None or not other.is_older(task) or not _came_before(other, task):
        return False
    status = older.status
    if older.disposition == "rejected" and status is not None and not _is_stopped(older, other, status):
        return False
    ended = older.ended_at
    if ended is None or ended.steps_offset is None or other.role != task.role:
        return True
    return ended.steps_offset > task.offset


def _was_open_at(older: Case, task: Task) -> bool:
    """Whether the older task surely was open then."""
    other = older.task
    if other is None or not other.is_older(task) or other.role != task.role or not _came_before(other, task):
        return False
    if older.unsettled or older.given_up:
        return False
    ended = older.ended_at
    return ended is not None and ended.steps_offset is not None and ended.steps_offset > task.offset


def _came_before(one: Task, other: Task) -> bool:
    """Whether its dispatch was folded before, as far as is known: an attempt stands before tasks dispatched earlier."""
    return one.role != other.role or one.offset < other.offset


# ---- commands


def _check_commands(case: Case, status: Status, *, is_stopped: bool) -> None:
    """`task.cancel` for every task that was stopped, and for no other."""
    sent = case.session.stops.get(case.task_id, [])
    case.counts["cancel_commands"] += len(sent)
    reasons = {reason for reason, _ in sent}
    if is_stopped and status.reason not in reasons:
        settled = status.ended_offset < case.bounds["tasks"].settled
        if settled and not case.bounds["commands"].truncated:
            case.note("cancel_not_sent", f"it ended {case.disposition}, reason {status.reason}", "tasks")
    for reason, offset in sent:
        if offset < case.bounds["commands"].settled and not (is_stopped and reason == status.reason):
            detail = f"task.cancel, reason {reason}; the task's status says {case.disposition}, reason {status.reason}"
            case.note("command_unfounded", detail, "commands", offset)


# ---- what should have stopped it


def _check_cancels(case: Case, task: Task) -> None:
    """A wish to cancel below the context that a verdict was given with stops the task before that."""
    asked = [request.offset for request in case.session.cancels if must_reach(case, task, request)]
    if not asked or case.given_up:
        return
    first = asked[0]
    for _, verdict in case.judged:
        last = verdict.last
        if verdict.decides and last.context_offset > first and not case.truncated("steps", "steps.cold"):
            case.note_at("cancel_not_obeyed", last, f"asked for at {first}, judged at context {last.context_offset}")
    if case.is_open and case.handled("context", first) and case.handled(task.role, task.offset):
        case.note("cancel_not_obeyed", "the task is open", "context", first)


def _check_scope(case: Case, task: Task, status: Status) -> None:
    """No child is open once its parent has ended."""
    above = case.family.get(task.parent or "")
    _check_order(case, status, above)
    if above is None or above is case or not case.is_open or above.is_open or above.unsettled:
        return
    other, over = above.task, above.status
    if other is None or over is None or not over.dispositions or above.disposition == "rejected" or above.given_up:
        return
    if _is_watched(above):
        return
    ended = above.ended_at
    joined = (
        other.role == task.role
        and other.offset < task.offset
        and ended is not None
        and ended.steps_offset is not None
        and ended.steps_offset > task.offset
    )
    if joined or case.is_due(max(over.ended_ms, task.at_ms) + case.terms.grace_ms):
        case.note(
            "child_outlives_parent", f"its parent {task.parent} ended {above.disposition}", task.role, task.offset
        )
    del status


def _check_order(case: Case, status: Status, above: Case | None) -> None:
    """A child ends before its parent does: whatever ends the parent stops it first.

    Where it was acknowledged, compaction may have left only that record of its end.
    """
    over = above.status if above is not None else None
    if above is None or above.task is None or over is None or over.ended_offset < 0 or above.unsettled:
        return
    if "rejected" in (case.disposition, above.disposition) or case.given_up or above.given_up:
        return  # one of them was never open
    if status.acknowledged is None and status.ended_offset > over.ended_offset and not _is_watched(above):
        detail = f"its parent {above.task_id} had ended at {over.ended_offset}"
        case.note("child_outlives_parent", detail, "tasks", status.ended_offset)


def _is_watched(case: Case) -> bool:
    """Whether it is in shadow mode, where nothing is enforced."""
    return any(verdict.last.shadow is not None for _, verdict in case.judged)


def _check_slot(case: Case, task: Task, status: Status) -> None:
    """What a newer task's policy does to the older ones of its slot, as far as the logs tell that they were open."""
    if case.disposition == "rejected" or case.given_up:
        return
    if task.repeats is not None and not task.protected and status.reason not in ("superseded", "cancelled"):
        newer = [each for each in case.rivals if _stops_all(each, task) and _was_there(each, task)]
        if newer:
            detail = f"an attempt, but the newer task {newer[0].task_id}, which interrupts it, was open"
            case.note("slot_not_respected", detail, task.role, task.offset)
    if task.on_newer not in _STOPPING:
        return
    if task.on_newer == "interrupt" and status.reason == "cancelled":
        return  # it was cancelled before it was dispatched, perhaps
    for older in case.rivals:
        other = older.task
        if other is None or not _was_open_at(older, task):
            continue
        if task.on_newer == "enqueue_latest" and not (queues(other) and _has_open_before(case, other, task)):
            continue
        if task.on_newer == "reject" or not other.protected:
            detail = f"{task.on_newer}, but the older task {older.task_id} was open and went on"
            case.note("slot_not_respected", detail, task.role, task.offset)


def _stops_all(newer: Case, task: Task) -> bool:
    """Whether the newer task interrupts every older one of its slot, which this one is."""
    other = newer.task
    return other is not None and other.on_newer == "interrupt" and task.is_older(other)


def _was_there(newer: Case, task: Task) -> bool:
    """Whether the newer task surely was open when the attempt's dispatch was folded."""
    other, ended = newer.task, newer.ended_at
    if other is None or other.role != task.role or newer.unsettled or newer.given_up or other.offset > task.offset:
        return False
    return ended is not None and ended.steps_offset is not None and ended.steps_offset > task.offset


def _has_open_before(case: Case, other: Task, task: Task) -> bool:
    """Whether a task older than the other one surely was open when this one was dispatched."""
    return any(each.task is not None and each.task.is_older(other) and _was_open_at(each, task) for each in case.rivals)


def _check_time(case: Case, task: Task) -> None:
    """An open task without a result is neither past its deadline nor silent for too long."""
    if any(result.final for result in case.results) or not case.handled(task.role, task.offset):
        return
    clock = clock_at(case, task, inf)
    due = [] if clock.deadline_ms is None or clock.waits_since is not None else [clock.deadline_ms]
    silent = clock.given_up_at(task)
    if silent is not None and not (silent[1] == "not_started" and queues(task)):  # that counts from its turn on
        due.append(silent[0])
    abandoned = _abandoned_since(case, task)
    if abandoned is not None and task.while_stale_grace_ms is not None:
        due.append(max(abandoned, task.at_ms) + task.while_stale_grace_ms)
    if due and case.is_due(max(min(due), task.at_ms)):
        case.note("not_expired", f"due {case.terms.now_ms - min(due)} ms ago", task.role, task.offset)


def _abandoned_since(case: Case, task: Task) -> int | None:
    """Since when the request is archived or the session closed, by somebody who works for no task; None if neither."""
    found = []
    for name, value in (("session", "closed"), (f"request/{task.request_id}", "archived")):
        if name != "session" and task.request_id is None:
            continue
        actual, givers, is_certain = case.session.value_at(name, case.bounds["context"].handled)
        if is_certain and actual == value and all(event.cause is None for event in givers):
            found.append(givers[-1].at_ms)
    return min(found, default=None)


# ---- redispatch


def _check_redispatch(case: Case, task: Task) -> None:
    """A new attempt is commanded once, where a part was withheld as stale that asks for it, and within the bound."""
    causes = [
        verdict.decisions[index].first
        for result, verdict in case.judged
        if verdict.was_first and result.final
        for index, decision in enumerate(verdict.decisions)
        if decision.first.shadow is None
        for part, judged in ((part, judged) for part in result.parts for judged in decision.first.parts)
        if part.part_id == judged.part_id
        and (judged.decision, judged.reason) == ("withheld", "stale")
        and policy_of(part, task, result) == "redispatch"
    ]
    sent = case.session.redispatches.get(case.task_id, [])
    case.counts["redispatches"] += len(sent)
    due = due_command(case.task_id, task)
    has_attempts = attempt_of(task) <= task.max_redispatches and len(due[0].encode()) <= MAX_NAME_BYTES
    for command in sent:
        problem = _wrong_with(task, due, command)
        if problem is None and not causes and not case.outputs_truncated:
            problem = "no part was withheld as stale that asks for it"
        if problem is None and not has_attempts:
            problem = f"attempt {attempt_of(task)}, at most {task.max_redispatches} redispatches"
        if problem is None and len(sent) > 1:
            problem = f"it was commanded {len(sent)} times"
        if problem is not None:
            case.note("redispatch_wrong", problem, "commands", command.offset)
        elif len({cause.context_offset for cause in causes}) == 1:
            _check_snapshot(case, command, causes[0].context_offset)
    is_due = bool(causes) and has_attempts and not case.bounds["commands"].truncated
    if is_due and not sent and causes[0].offset < case.bounds[causes[0].role].settled:
        case.note_at("redispatch_missing", causes[0], "a part withheld as stale asks for it")


def _wrong_with(task: Task, due: tuple[str, int], command: Redispatch) -> str | None:
    told = (command.new_task_id, command.attempt)
    if told != due:
        return f"{told}, should be {due}"
    if command.dispatch is not None and digest_of_dispatch(command.dispatch, task) != task.digest:
        return f"its dispatch is {command.dispatch}, which is not what was dispatched at {task.offset}"
    return None


def _check_snapshot(case: Case, command: Redispatch, context_offset: int) -> None:
    """The facets a new attempt is to start from: as they stood when the part was withheld."""
    for name, value in command.snapshot.items():
        facet = case.session.facets.get(name)
        actual = facet.at(context_offset)[0] if facet is not None else NEVER
        if actual is not NEVER and actual != value and not may_be_unknown(case, name, context_offset):
            case.note("redispatch_wrong", f"{name} is {value!r}, should be {actual!r}", "commands", command.offset)
