"""Attempts of one task: what a new one repeats, where it stands, and which of them a cancellation reaches.

The gate commands a new attempt with `task.redispatch`, and remembers that with the task it repeats. A dispatch
without a command, or whose command is forgotten, is a separate task.
"""

from typing import NamedTuple

from projections.ended import EndedTask
from projections.rows import Lineage, Task
from projections.session import Session
from projections.slot_order import order_of
from projections.task_index import MAX_ATTEMPTS
from schemas.fields import MAX_NAME_BYTES


class Commanded(NamedTuple):
    """A commanded attempt: where it stands, which number it has, and whether it was cancelled before its dispatch."""

    lineage: Lineage
    attempt: int
    is_revoked: bool


def next_attempt(task_id: str, task: Task) -> tuple[str, int] | None:
    """Id and number of the task's next attempt; None if no task can have that id."""
    attempt = (task.policy.attempt if task.policy is not None else 1) + 1
    new_task_id = attempt_id(first_of(task_id, task, attempt - 1), attempt)
    return None if len(new_task_id.encode()) > MAX_NAME_BYTES else (new_task_id, attempt)


def first_of(task_id: str, task: Task, attempt: int) -> str:
    """Id of the first task that an attempt repeats: by its command, or as its name shows."""
    if task.lineage is not None:
        return task.lineage.first
    return task_id.removesuffix(f"~{attempt}") if attempt > 1 else task_id


def family_of(task_id: str, task: Task | None) -> str:
    """Id of the first of the commanded attempts that the task is one of; its own if it is none of them."""
    return task_id if task is None or task.lineage is None else task.lineage.first


def attempt_id(first: str, attempt: int) -> str:
    """The id of an attempt."""
    return f"{first}~{attempt}"


def lineage_of_next(task_id: str, task: Task, attempt: int) -> Lineage:
    """Where the next attempt of a task stands, which is `attempt`: where the first one does."""
    if task.lineage is not None:
        return task.lineage
    order = order_of(task)
    return Lineage(first_of(task_id, task, attempt - 1), order.timestamp, order.offset, order.is_cold)


def commanded(session: Session, task_id: str) -> Commanded | None:
    """The command that the task's id answers, if there is one."""
    found = _find_command(session, task_id)
    return found[1] if found is not None else None


def commanding(session: Session, task_id: str) -> str | None:
    """The task, open or ended, after which the attempt with this id was commanded; None if none is."""
    found = _find_command(session, task_id)
    return found[0] if found is not None else None


def _find_command(session: Session, task_id: str) -> tuple[str, Commanded] | None:
    if "~" not in task_id:
        return None
    first, _, number = task_id.rpartition("~")
    if not number.isdecimal() or number[0] == "0" or len(number) > 2:
        return None
    attempt = int(number)
    if not 2 <= attempt <= MAX_ATTEMPTS:
        return None
    for before in (first, attempt_id(first, attempt - 1)):
        task = session.tasks.get(before)
        if task is not None:
            if task.commanded == attempt and first_of(before, task, attempt - 1) == first:
                return before, Commanded(lineage_of_next(before, task, attempt), attempt, is_revoked=False)
            continue
        ended = session.ended_task(before)
        if ended is not None and ended.next is not None and ended.next.attempt == attempt:
            found = ended.next
            if found.lineage.first == first:
                return before, Commanded(found.lineage, attempt, found.is_revoked)
    return None


def is_revoked(session: Session, task_id: str) -> bool:
    """Whether the task is a commanded attempt that was cancelled before its dispatch."""
    found = commanded(session, task_id)
    return found is not None and found.is_revoked


def next_id(session: Session, task_id: str) -> str | None:
    """The id of the attempt that was commanded after this task, open or ended; None if none was."""
    task = session.tasks.get(task_id)
    if task is not None:
        return attempt_id(first_of(task_id, task, task.commanded - 1), task.commanded) if task.commanded else None
    ended = session.ended_task(task_id)
    return next_of(ended) if ended is not None else None


def next_of(ended: EndedTask) -> str | None:
    """The same of an ended task."""
    return None if ended.next is None else attempt_id(ended.next.lineage.first, ended.next.attempt)
