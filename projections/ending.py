"""How a task ends: what is remembered and reported of it, and which tasks are stopped with it."""

from collections.abc import Iterable

import orjson

from projections.attempts import lineage_of_next
from projections.dispatched import kept_of_dispatch
from projections.ended import EndedTask
from projections.facts import Fact, TaskEnded
from projections.publish import work_members
from projections.rows import NextAttempt, ResultDigests, Task
from projections.session import Session
from projections.text import json_of
from schemas.fields import Reason


def ended_task(
    task_id: str,
    task: Task,
    disposition: str,
    reason: str,
    ended_at: int,
    results: list[ResultDigests],
    receipt: str,
    commanded: int,
    delivery: list[str] | None = None,
) -> EndedTask:
    """An open task as it ends. `receipt`: JSON of what it had done, if it was stopped; `delivery`: what ends it.

    `commanded`: the number of the attempt that was commanded after it; 0 if none was.
    """
    work = work_members(task)
    if receipt:
        work = f'{work},"receipt":{receipt}' if work else f'"receipt":{receipt}'
    acknowledged: str | None = None
    detail: str | None = None
    outcomes: dict[str, str] | None = None
    delivered = task.delivered
    if delivery is not None:
        delivered = [*delivered, delivery] if delivered else [delivery]
    acknowledgement, later_results = task.acknowledgement, task.later_results
    if acknowledgement:
        reported = orjson.loads(f"{{{acknowledgement}}}")
        acknowledged, detail = reported["acknowledged"], reported.get("detail")
        outcomes = reported.get("acknowledged_parts")
    scope = task.scope
    return EndedTask(
        task_id,
        disposition,
        reason,
        ended_at,
        task.digest,
        results + later_results if later_results else results,
        scope.parent if scope is not None else None,
        task.dispatched_at,
        task.steps_started,
        task.steps_completed,
        task.echo,
        work,
        acknowledged,
        detail,
        kept_of_dispatch(task),
        NextAttempt(lineage_of_next(task_id, task, commanded), commanded) if commanded else None,
        delivered,
        outcomes,
    )


def end(session: Session, task_id: str, task: Task, ended: EndedTask) -> TaskEnded:
    """The end of an open task whose result was decided."""
    readers = [above_id for above_id, _ in session.readers_above(task)] if task.expected else []
    return TaskEnded(task_id, ended, task, readers)


def stop(
    session: Session, task_id: str, disposition: str, reason: Reason, timestamp: int, outside: list[str] | None = None
) -> list[Fact]:
    """The ends of an open task that is stopped and of its descendants, which end first.

    `outside`: the tasks that keep what they depended on, if it is not all above the task. Whatever else stops them,
    those that are to be cancelled end for that reason: their agents may have been refused an effect for it.
    """
    tasks, cancels = session.tasks, session.cancels
    root = tasks[task_id]
    if outside is None:
        outside = [above_id for above_id, _ in session.readers_above(root)]
    below = session.descendants(task_id)
    # What a task depended on stays with those above that go on: not beyond an independent one, nor with the stopped.
    readers = {task_id: outside}
    for each in below:
        parent_id = _parent_of(tasks[each])
        readers[each] = [] if _is_independent(tasks[each]) else readers[parent_id]
    facts: list[Fact] = []
    for each in reversed(below):
        if each in cancels:
            facts.append(_stopped(each, tasks[each], "cancelled", "cancelled", cancels[each], readers[each]))
        else:
            facts.append(_stopped(each, tasks[each], "cancelled", "parent_ended", timestamp, readers[each]))
    if task_id in cancels and reason != "cancelled":
        disposition, reason, timestamp = "cancelled", "cancelled", cancels[task_id]
    facts.append(_stopped(task_id, root, disposition, reason, timestamp, outside))
    return facts


def stop_all(session: Session, task_ids: list[str], disposition: str, reason: Reason, timestamp: int) -> list[Fact]:
    """The ends of open tasks that are stopped together, each once: one may be a descendant of another."""
    facts: list[Fact] = []
    stopped: set[str] = set()
    for task_id in task_ids:
        if task_id in stopped:  # with one above it
            continue
        for each in stop(session, task_id, disposition, reason, timestamp):
            if isinstance(each, TaskEnded) and each.task_id not in stopped:
                stopped.add(each.task_id)
                facts.append(each)
    return facts


def stop_children(session: Session, task: Task, reason: Reason, timestamp: int) -> list[Fact]:
    """The ends of a task's open children and their descendants. The task itself goes on, or ends after them."""
    facts: list[Fact] = []
    if task.scope is not None:
        for child_id in task.scope.children:
            if child_id in session.tasks:
                facts += stop(session, child_id, "cancelled", reason, timestamp)
    return facts


def _stopped(
    task_id: str, task: Task, disposition: str, reason: Reason, timestamp: int, readers: list[str]
) -> TaskEnded:
    wait = task.wait
    undecided: list[str] | None = None
    if wait is not None:
        undecided = wait.undecided
        if wait.delivered:
            disposition = "delivered"
    ended = ended_task(task_id, task, disposition, reason, timestamp, [], receipt_of(task), task.commanded)
    return TaskEnded(task_id, ended, task, readers, reason, undecided)


def receipt_of(task: Task) -> str:
    """What a task that is stopped had done, as JSON of a `Receipt`."""
    done: list[str] = orjson.loads(f"[{task.done}]") if task.done else []
    failed, in_flight = (task.work.failed, task.work.in_flight) if task.work is not None else ([], [])
    planned: Iterable[str] = task.policy.plan if task.policy is not None else ()
    begun = {*done, *failed, *in_flight}
    receipt = {
        "done": done,
        "failed": failed,
        "in_flight": in_flight,
        "not_attempted": [step for step in planned if step not in begun],
    }
    return json_of({name: steps for name, steps in receipt.items() if steps})


def _parent_of(task: Task) -> str:
    return task.scope.parent or "" if task.scope is not None else ""


def _is_independent(task: Task) -> bool:
    return task.policy is not None and task.policy.independent
