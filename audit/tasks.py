"""One task compared with the rules: every result judged once or accounted for, and one disposition that agrees."""

from __future__ import annotations

from collections import Counter
from typing import Final

from audit.case import STEPS_OF, Case, Decision, Verdict
from audit.life import STOPS, check_life
from audit.logs import Result, Status
from audit.verdicts import VerdictCheck

REPEATS_REMEMBERED: Final = 16
"""A repeat of a result is known as one only among this many results of its task."""


def check_task(case: Case, reasons: Counter[tuple[str, str]]) -> None:
    """Check everything of the task; count the judged parts in `reasons`. Its results have been matched."""
    for result, verdict in case.judged:
        VerdictCheck(case, result, verdict).run(reasons)
    if len(case.judged) > 1:
        _check_repeats(case)
    _check_unjudged(case)
    if case.disposition is not None:
        case.counts["dispositions"] += 1
    # An erased session's tasks are forgotten, and nothing says where among the steps that happened.
    if not case.session.erased:
        _check_disposition(case)
        check_life(case)


def match(case: Case) -> None:
    """Bring outputs and results together."""
    found: dict[tuple[str, str, int], dict[int, Decision]] = {}
    for output in case.session.outputs.get(case.task_id, ()):
        decisions = found.setdefault((output.source, output.event_id, output.result_offset), {})
        decision = decisions.setdefault(output.digest, Decision())
        (decision.withheld if output.role == "withheld" else decision.delivered).append(output)
    # A later decision is about parts that an earlier one held, so about fewer.
    verdicts = {
        name: Verdict(sorted(decisions.values(), key=lambda each: -len(each.first.parts)))
        for name, decisions in found.items()
    }
    for result in case.results:
        verdict = verdicts.pop((result.source, result.event_id, result.offset), None)
        if verdict is not None:
            verdict.is_interim = not result.final
            case.judged.append((result, verdict))
    for (source, event_id, offset), verdict in verdicts.items():
        refused = [case.logs.refused.get((role, offset)) for role in STEPS_OF]
        name = (case.session_id, case.task_id, source, event_id)
        where = f"result {source} {event_id} at {offset}"
        if any(one is not None and one.result == name for one in refused):
            case.note_at("dlq_and_verdict", verdict.first, where)
        elif all(offset >= case.bounds[role].beginning for role in STEPS_OF):
            case.note_at("verdict_without_result", verdict.first, where)
        else:
            case.counts["unverifiable"] += 1
    case.counts["verdicts"] += len(case.judged)


def _check_repeats(case: Case) -> None:
    """Repeats must not be judged again, and only one result may decide."""
    if case.unsettled:
        return
    known = [(result, verdict.first) for result, verdict in case.judged if not verdict.only("unknown_task")]
    contents: dict[int, Result] = {}
    identities: dict[tuple[str, str], Result] = {}
    for result, output in known if len(known) <= REPEATS_REMEMBERED else ():
        same = contents.setdefault(result.digest, result)
        same_id = identities.setdefault((result.source, result.event_id), result)
        if same is not result:
            case.note_at("repeat_judged", output, f"the result at {result.offset} repeats the one at {same.offset}")
        elif same_id is not result:
            detail = f"the result at {result.offset} contradicts the one at {same_id.offset} with the same id"
            case.note_at("conflict_unaccounted", output, detail)
    deciding = case.deciding
    for _, verdict in deciding[1:]:
        first = deciding[0][1].last
        case.note_at("task_judged_twice", verdict.last, f"decided at {first.role}/{first.offset} already")


def _check_unjudged(case: Case) -> None:
    """Results without a verdict: repeats of judged ones, waiting, or lost."""
    counts = case.counts
    counts["results"] += len(case.results)
    if len(case.results) == len(case.judged):
        return
    judged = {id(result) for result, _ in case.judged}
    accounted = {result.digest for result, _ in case.judged}
    for result in case.results:
        if id(result) in judged:
            continue
        if result.digest in accounted or _repeats_a_refused_one(case, result):
            counts["repeats"] += 1
        elif case.session.erased:
            counts["erased"] += 1
        elif (why := _why_waiting(case, result)) is not None:
            accounted.add(result.digest)
            counts["pending"] += 1
            if why == "held":
                counts["held"] += 1
                _check_held(case, result)
            if case.terms.require_drained and why == "parked":
                case.note("not_drained", "parked: its task is not known yet", result.role, result.offset)
        elif case.outputs_truncated:
            counts["unverifiable"] += 1
        else:
            detail = f"result {result.source} {result.event_id}"
            case.note("result_without_verdict", detail, result.role, result.offset)


def _repeats_a_refused_one(case: Case, result: Result) -> bool:
    """Whether it is known as the repeat of one that waited then, and was refused when it was to be judged."""
    return any(
        refused.digest == result.digest and (refused.role != result.role or refused.offset < result.offset)
        for refused in case.session.refused.get(case.task_id, ())
    )


def _why_waiting(case: Case, result: Result) -> str | None:
    """`behind` the committed offset, `parked` until its dispatch comes, `held`, or None: it should have been judged."""
    if not case.handled(result.role, result.offset):
        return "behind"
    task, status, terms = case.task, case.status, case.terms
    if status is not None and status.waiting_for is not None and case.is_open:
        first = next((each for each in case.results if each is result or not _is_judged(case, each)), None)
        if first is result and not any(verdict.is_open for _, verdict in case.judged):
            return "held"
    if task is None or not case.handled(task.role, task.offset) or case.unsettled:
        due = result.at_ms + terms.grace_ms
    elif status is not None and _is_stopped(status):
        due = max(status.ended_ms, result.at_ms)  # it waited when its task was stopped
    elif task.at_ms >= result.at_ms - terms.margin_ms or task.role != STEPS_OF[result.role]:
        due = max(task.at_ms, result.at_ms)  # it may have been parked: to be judged now that the dispatch has come
    else:
        return None
    return None if case.is_due(due) else "parked"


def _is_judged(case: Case, result: Result) -> bool:
    return any(each is result for each, _ in case.judged)


def _is_stopped(status: Status) -> bool:
    return bool(status.dispositions) and status.reason in STOPS


def _check_held(case: Case, result: Result) -> None:
    """That a result, or a part of it, that waits does not wait beyond its time."""
    task, status, terms = case.task, case.status, case.terms
    if task is None or status is None or case.unsettled:
        return
    if status.waiting_for in ("context", "user"):
        due = result.at_ms + (terms.hold_ttl_ms if task.hold_ttl_ms is None else task.hold_ttl_ms)
    elif status.waiting_for == "children":
        due = result.at_ms + (terms.scope_grace_ms if task.scope_grace_ms is None else task.scope_grace_ms)
    elif status.waiting_for == "parent":
        due = task.at_ms + terms.grace_ms
    else:
        return
    if case.is_due(due):
        detail = f"waits for {status.waiting_for}, due {terms.now_ms - due} ms ago"
        case.note("waits_too_long", detail, result.role, result.offset)


def _check_disposition(case: Case) -> None:
    task, status, disposition = case.task, case.status, case.disposition
    if status is not None:
        if len(status.dispositions) > 1 and not case.unsettled:
            case.note("two_dispositions", " and ".join(status.dispositions), "tasks", status.ended_offset)
        if status.reopened and not case.unsettled:
            case.note("ended_then_running", f"ended {disposition}", "tasks", status.ended_offset)
        if status.tombstone and disposition is None:
            return
    if task is None:
        if status is not None and not case.truncated("steps", "steps.cold"):
            case.note("status_without_dispatch", f"ended {disposition}" if disposition else "running", "tasks")
        return
    if status is None:
        # What is forgotten is removed from the tasks topic, and compaction may have removed even that.
        if case.handled(task.role, task.offset) and not case.unsettled:
            case.note("dispatch_without_status", "", task.role, task.offset)
        return
    held = next(((result, verdict) for result, verdict in case.judged if verdict.is_open), None)
    if held is not None:
        _check_rest(case, status, *held)
    if case.deciding:
        deciding = case.deciding[0][1].last
        if disposition is None:
            case.note_at("task_without_disposition", deciding, f"its status says {status.waiting_for or 'running'}")
        elif disposition != deciding.disposition and not case.unsettled:
            case.note_at("disposition_contradicts", deciding, f"status {disposition}, verdict {deciding.disposition}")
    elif disposition is not None:
        _check_ended_without_verdict(case, status, disposition)
    elif case.given_up and case.handled(task.role, task.offset) and not case.unsettled:
        case.note("task_without_disposition", "its result was given up as unknown_task", task.role, task.offset)


def _check_rest(case: Case, status: Status, result: Result, verdict: Verdict) -> None:
    """Parts that were held: as long as their task is open, and no longer than they may be."""
    case.counts["held"] += 1
    if case.is_open:
        if status.waiting_for is None:
            case.note_at("verdict_inconsistent", verdict.last, "it holds parts, but the task's status does not wait")
        else:
            _check_held(case, result)
    elif not case.unsettled and case.is_due(max(status.ended_ms, result.at_ms)):
        left = ", ".join(verdict.decisions[-1].held)
        case.note_at("held_undecided", verdict.last, f"the task ended {case.disposition}, and nothing decided {left}")


def _check_ended_without_verdict(case: Case, status: Status, disposition: str) -> None:
    """The status says ended, but no verdict decided it."""
    if disposition in ("rejected", "cancelled", "expired"):
        return  # `life` looks at why
    if disposition not in ("delivered", "withheld"):
        case.note("reason_unexpected", f"disposition {disposition}", "tasks", status.ended_offset)
    elif disposition == "withheld" and case.given_up:
        return
    elif disposition == "delivered" and status.reason in STOPS and any(verdict.delivers for _, verdict in case.judged):
        return  # it was stopped after some of its parts had been delivered
    elif status.ended_offset < case.bounds["tasks"].settled and not case.outputs_truncated and not case.unsettled:
        case.note("disposition_without_output", f"ended {disposition}", "tasks", status.ended_offset)
