"""Which tasks are attempts that the gate commanded, and what each repeats.

A dispatch answers a command if it was folded after it: a command names the steps below which everything was folded, of
one lane. Commands of older versions name no place: then it is that of the verdict that calls for them.
"""

from __future__ import annotations

from audit.logs import JudgedAt, Session, Task
from schemas.topics import Role


def link_attempts(session: Session) -> None:
    """Tell every commanded attempt which task it repeats first. To be asked once everything is read."""
    commands = [(task_id, each) for task_id, several in session.redispatches.items() for each in several]
    for task_id, command in sorted(commands, key=lambda told: told[1].attempt):
        task, before = session.tasks.get(command.new_task_id), session.tasks.get(task_id)
        if task is None or before is None or task.above_it:
            continue
        given = command.judged or _given_with_verdict(session, task_id, before.role)
        if given is None:
            continue
        task.commanded_at = given.context_offset
        task.above_it = [*before.above_it, task_id]
        was_there = task.offset < given.steps_offset if task.role == given.role else task.at_ms < command.at_ms
        if task.role == before.role and was_there:
            continue  # before the command was, so in its own place
        task.repeats = before.repeats or before
        task.first_id = _first_id(task_id, before)
        task.number = command.attempt


def _given_with_verdict(session: Session, task_id: str, role: Role) -> JudgedAt | None:
    """Where a task's next attempt was commanded: with its first verdict with a part that is stale and withheld."""
    for output in sorted(session.outputs.get(task_id, ()), key=lambda each: (each.context_offset, each.steps_offset)):
        if any((part.decision, part.reason) == ("withheld", "stale") for part in output.parts):
            return JudgedAt(output.partition, role, output.context_offset, output.steps_offset)
    return None


def due_command(task_id: str, task: Task) -> tuple[str, int]:
    """Id and number of the attempt to be commanded after a task."""
    attempt = attempt_of(task) + 1
    return f"{_first_id(task_id, task)}~{attempt}", attempt


def _first_id(task_id: str, task: Task) -> str:
    """Id of the first task that it repeats: by its command, or as its name says."""
    if task.repeats is not None:
        return task.first_id
    return task_id.removesuffix(f"~{task.attempt}") if task.attempt > 1 else task_id


def attempt_of(task: Task) -> int:
    """Which attempt the task is: as commanded, or as it says."""
    return task.number if task.repeats is not None else task.attempt
