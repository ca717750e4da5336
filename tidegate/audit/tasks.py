"""One task compared with the rules: every result judged once or accounted for, and one disposition that agrees."""

from __future__ import annotations

from collections import Counter
from typing import Final

from tidegate.audit.case import STEPS_OF, Case, Verdict
from tidegate.audit.logs import Result, Status, Task
from tidegate.audit.verdicts import VerdictCheck

REPEATS_REMEMBERED: Final = 16
"""A repeat of a result is known as one only among this many results of its task."""


def check_task(case: Case, reasons: Counter[tuple[str, str]]) -> None:
    """Check everything of the task; count the judged parts in `reasons`."""
    _match(case)
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


def _match(case: Case) -> None:
    """Bring outputs and results together."""
    verdicts: dict[tuple[str, str, int], Verdict] = {}
    for output in case.session.outputs.get(case.task_id, ()):
        verdict = verdicts.setdefault((output.source, output.event_id, output.result_offset), Verdict())
        (verdict.withheld if output.role == "withheld" else verdict.delivered).append(output)
    for result in case.results:
        found = verdicts.pop((result.source, result.event_id, result.offset), None)
        if found is not None:
            case.judged.append((result, found))
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
    if case.session.erased or case.forgotten:
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
    for output in deciding[1:]:
        case.note_at("task_judged_twice", output, f"decided at {deciding[0].role}/{deciding[0].offset} already")


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
        if result.digest in accounted:
            counts["repeats"] += 1
        elif case.session.erased:
            counts["erased"] += 1
        elif (why := _why_waiting(case, result)) is not None:
            accounted.add(result.digest)
            counts["pending"] += 1
            if case.terms.require_drained and why == "parked":
                case.note("not_drained", "parked: its task is not known yet", result.role, result.offset)
        elif case.outputs_truncated:
            counts["unverifiable"] += 1
        else:
            detail = f"result {result.source} {result.event_id}"
            case.note("result_without_verdict", detail, result.role, result.offset)


def _why_waiting(case: Case, result: Result) -> str | None:
    """`behind` the committed offset, `parked` until its dispatch comes, or None: it should have been judged."""
    if not case.handled(result.role, result.offset):
        return "behind"
    task, terms = case.task, case.terms
    if task is None or not case.handled(task.role, task.offset) or case.forgotten:
        due = result.at_ms + terms.grace_ms
    elif task.at_ms >= result.at_ms:
        due = task.at_ms  # it may have been parked, and is to be judged now that the dispatch has come
    else:
        return None
    return "parked" if due > terms.now_ms - terms.slack_ms or not terms.gate_running else None


def _check_disposition(case: Case) -> None:
    task, status, disposition = case.task, case.status, case.disposition
    if status is not None:
        if len(status.dispositions) > 1 and not case.forgotten:
            case.note("two_dispositions", " and ".join(status.dispositions), "tasks", status.ended_offset)
        if status.reopened and not case.forgotten:
            case.note("ended_then_running", f"ended {disposition}", "tasks", status.ended_offset)
        if status.tombstone and disposition is None:
            return
    if task is None:
        if status is not None and not case.truncated("steps", "steps.cold"):
            case.note("status_without_dispatch", f"ended {disposition}" if disposition else "running", "tasks")
        return
    if status is None:
        if case.handled(task.role, task.offset):
            case.note("dispatch_without_status", "", task.role, task.offset)
        return
    # A result that was given up before its dispatch came has ended the task already, whatever that asks for.
    if task.unsupported is not None and not case.given_up:
        if disposition != "rejected":
            case.note("not_rejected", f"{task.unsupported}: {disposition or 'running'}", task.role, task.offset)
    elif case.deciding:
        deciding = case.deciding[0]
        if disposition is None:
            case.note_at("task_without_disposition", deciding, "its status says running")
        elif disposition != deciding.disposition:
            case.note_at("disposition_contradicts", deciding, f"status {disposition}, verdict {deciding.disposition}")
    elif disposition is not None:
        _check_ended_without_verdict(case, task, status, disposition)
    elif case.given_up and case.handled(task.role, task.offset) and not case.forgotten:
        case.note("task_without_disposition", "its result was given up as unknown_task", task.role, task.offset)


def _check_ended_without_verdict(case: Case, task: Task, status: Status, disposition: str) -> None:
    """The status says ended, but no verdict decided it."""
    if disposition == "rejected":
        # A session whose row is full takes no tasks; the logs do not tell how full it is.
        if task.unsupported is None and not status.detail.startswith("session:"):
            case.note("rejected_without_reason", status.detail, task.role, task.offset)
    elif disposition not in ("delivered", "withheld"):
        case.note("reason_unexpected", f"disposition {disposition}", "tasks", status.ended_offset)
    elif disposition == "withheld" and case.given_up:
        return
    elif status.ended_offset < case.bounds["tasks"].settled and not case.outputs_truncated:
        case.note("disposition_without_output", f"ended {disposition}", "tasks", status.ended_offset)
