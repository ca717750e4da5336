"""What is told of tasks besides verdicts and stops: that their turn has come, and that a delivery is outdated."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from audit.case import Case, Place, Verdict
from audit.expect import END, cut_of, statements_of
from audit.logs import NEVER, Outdated, Result, Task
from audit.oracle import rule


def check_after(case: Case) -> None:
    """Check `task.start` and `result.outdated` of one task."""
    task = case.task
    if task is None or case.unsettled:
        return
    _check_starts(case, task)
    _check_outdated(case, task)


def queues(task: Task) -> bool:
    """Whether the task waits for the older ones of its slot."""
    return task.slot is not None and task.on_newer.startswith("enqueue")


# ---- turns


def _check_starts(case: Case, task: Task) -> None:
    sent = case.session.starts.get(case.task_id, [])
    older = [each for each in case.rivals if each.task is not None and each.task.is_older(task)]
    for offset in sent:
        if not queues(task) or not older:
            case.note("command_unfounded", "task.start, but it does not queue for its slot", "commands", offset)
        elif len(sent) > 1:
            case.note("command_unfounded", f"task.start, {len(sent)} times", "commands", offset)
        elif any(each.is_open for each in older):
            case.note("command_unfounded", "task.start, but an older task of its slot is open", "commands", offset)
    status = case.status
    if not queues(task) or sent or status is None or not status.queued or not case.is_open:
        return
    if any(result.final for result in case.results) or case.bounds["commands"].truncated:
        return
    ends = [each.status.ended_ms for each in older if each.status is not None and not each.is_open]
    if len(ends) == len(older) and case.is_due(max(ends, default=0)):
        case.note("turn_not_told", "no older task of its slot is open", task.role, task.offset)


# ---- outdated deliveries


def _check_outdated(case: Case, task: Task) -> None:
    told = case.session.outdated.get(case.task_id, [])
    delivered = [(result, verdict) for result, verdict in case.judged if verdict.delivers and result.final]
    deliveries = sum(bool(decision.delivered) for _, verdict in delivered for decision in verdict.decisions)
    for each in told:
        problem = _wrong_with(case, task, each, delivered)
        if problem is None and len(told) > deliveries:
            problem = f"told {len(told)} times"
        if problem is not None:
            case.note("command_unfounded", f"result.outdated: {problem}", "commands", each.offset)
    if task.watch_ms is None or told or len(delivered) != 1 or case.truncated("context", "commands"):
        return
    since = _outdated_since(case, task, *delivered[0])
    if since is not None and case.is_due(since):
        case.note("outdated_not_told", "a facet it depends on has changed", "context", None)


def _wrong_with(case: Case, task: Task, told: Outdated, delivered: list[tuple[Result, Verdict]]) -> str | None:
    if task.watch_ms is None:
        return "nobody asked for it"
    found = [
        (result, verdict)
        for result, verdict in delivered
        if (result.source, result.event_id) == (told.source, told.event_id)
    ]
    if not found:
        return None if case.outputs_truncated else "no such result was delivered"
    carriers = [output for decision in found[0][1].decisions for output in decision.delivered]
    parts = {part_id for output in carriers for part_id, _ in output.carried}
    if not told.part_ids or not set(told.part_ids) <= parts:
        return f"parts {told.part_ids} were not delivered"
    for difference in told.differences:
        by = difference["changed_by"]
        values = case.session.values_at(difference["facet"], by["offset"] + 1, inf, inf)
        if difference["actual"] == difference["expected"]:
            return f"{difference['facet']} does not differ"
        expired = by.get("expired_at") is not None
        if not expired and all(value is NEVER or value != difference["actual"] for value, _, _ in values):
            return f"{difference['facet']} was not {difference['actual']!r}"
    return None


def _outdated_since(case: Case, task: Task, result: Result, verdict: Verdict) -> int | None:
    """When a facet that an unmarked part depends on surely differed first, while the delivery was watched."""
    index = next(index for index, decision in enumerate(verdict.decisions) if decision.delivered)
    output = verdict.decisions[index].first
    fresh = {part.part_id for part in output.parts if part.decision == "delivered" and not part.annotated}
    parts = [part for part in result.parts if part.part_id in fresh]
    place = case.place_of(result, verdict, index)
    # What those below it change counts as its own work, whenever they were dispatched.
    cut = replace(cut_of(case, result, output.steps_offset), most=END)
    statements = statements_of(case, None, result, output)
    until_ms = result.at_ms + (task.watch_ms or 0)
    offsets = sorted(
        (event.offset, event.at_ms)
        for facet in case.session.facets.values()
        for event in facet.events
        if event.offset >= place.context_offset and event.at_ms <= until_ms
    )
    for offset, at_ms in offsets:
        if not case.handled("context", offset):
            return None
        ruling = rule(case, task, at_ms, Place(offset + 1, None), cut, statements, at_ms)
        if ruling.stale and any(
            part.depends_on is None or not ruling.stale.keys().isdisjoint(part.depends_on) for part in parts
        ):
            return at_ms
    return None
