"""The receipt of a task that was stopped: the steps that its agent had taken below the cut, by the topics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from audit.cancels import may_reach
from audit.case import Case
from audit.logs import JudgedAt, Status, StepTaken, Task

MOST_STEPS: Final = 64
"""A receipt lists so many steps of each kind, the last ones."""

Receipt = dict[str, list[str]]


def check_receipt(case: Case, task: Task, status: Status) -> None:
    """That the receipt names the steps below its cut, and that the cut lies where it must."""
    receipt, offset = status.receipt, status.ended_offset
    if receipt is None:
        case.note("receipt_wrong", "there is none", "tasks", offset)
        return
    if case.truncated("steps", "steps.cold"):
        return
    steps = case.session.steps.get(case.task_id, [])
    problems = _problems(receipt, task, steps)
    judged = status.judged
    if judged is not None and not problems and judged.role == task.role:
        below = [each for each in steps if task.offset < each.offset < judged.steps_offset]
        problems += _differences(receipt, below)
        problems += _left_out(case, task, status, judged)
    if problems:
        case.note("receipt_wrong", ", ".join(problems), "tasks", offset)


def _problems(receipt: Receipt, task: Task, steps: Iterable[StepTaken]) -> list[str]:
    """Steps that are not on the topic, and planned steps that are not accounted for."""
    taken, problems = {(each.step_id, each.status) for each in steps}, []
    taken |= {(step_id, "started") for step_id, status in taken if status == "input_required"}
    for name, status in (("done", "completed"), ("failed", "failed"), ("in_flight", "started")):
        problems += [f"{name} {each}" for each in receipt.get(name, ()) if (each, status) not in taken]
    begun = {step for name in ("done", "failed", "in_flight") for step in receipt.get(name, ())}
    left = receipt.get("not_attempted", [])
    if left != [step for step in task.plan if step not in begun]:
        problems.append(f"not_attempted {left}")
    return problems


def _differences(receipt: Receipt, steps: list[StepTaken]) -> list[str]:
    """How the receipt differs from what these steps, in order, amount to."""
    done: list[str] = []
    failed: list[str] = []
    in_flight: list[str] = []
    for step_id, status in ((each.step_id, each.status) for each in steps):
        if status == "started" or (status == "input_required" and step_id not in in_flight):
            in_flight.append(step_id)
        elif status in ("completed", "failed"):
            in_flight = [each for each in in_flight if each != step_id]
            (done if status == "completed" else failed).append(step_id)
    if len(steps) > MOST_STEPS:
        return []  # which of them the gate still knows depends on how many there were of each kind
    due = {"done": done, "failed": failed, "in_flight": in_flight}
    return [
        f"{name} {receipt.get(name, [])}, should be {each}"
        for name, each in due.items()
        if receipt.get(name, []) != each
    ]


def _may_end_before(task: Task) -> bool:
    """Whether something else than a result may end it: it is cancelled in that place then."""
    clocks = (task.deadline_ms, task.start_ms, task.heartbeat_ms, task.while_stale_grace_ms)
    return task.parent is not None or task.slot is not None or any(each is not None for each in clocks)


def _left_out(case: Case, task: Task, status: Status, judged: JudgedAt) -> list[str]:
    """Steps that are older than every request to cancel the task, and not below its cut."""
    if status.reason != "cancelled" or _may_end_before(task):
        return []
    asked = [each for each in case.session.cancels if may_reach(case, task, each)]
    if not asked or not all(each.broker_time for each in asked):
        return []
    # A result before it is decided in its place, and finds the task cancelled.
    until_ms = min([*(each.at_ms for each in asked), *(each.at_ms for each in case.results)])
    older = case.logs.clocks.last_before(task.role, until_ms - case.terms.margin_ms)
    if older < judged.steps_offset:
        return []
    return [f"step {older} is older than the request, and above the cut at {judged.steps_offset}"]
