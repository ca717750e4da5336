"""Which tasks are attempts that the gate commanded, and what each repeats.

A dispatch answers a command if it was folded after it: a command is given with the verdict that calls for it, and that
names the steps below which everything was folded.
"""

from __future__ import annotations

from audit.logs import Output, Session, Task


def link_attempts(session: Session) -> None:
    """Tell every commanded attempt which task it repeats first. To be asked once everything is read."""
    commands = [(task_id, each) for task_id, several in session.redispatches.items() for each in several]
    for task_id, command in sorted(commands, key=lambda told: told[1].attempt):
        task, before = session.tasks.get(command.new_task_id), session.tasks.get(task_id)
        given = _given_at(session, task_id)
        if task is None or before is None or given is None or task.above_it:
            continue
        task.commanded_at = given.context_offset
        task.above_it = [*before.above_it, task_id]
        if task.role == before.role and task.offset < given.steps_offset:
            continue  # it was there before the command was, in its own place
        task.repeats = before.repeats or before
        task.first_id = _first_id(task_id, before)
        task.number = command.attempt


def _given_at(session: Session, task_id: str) -> Output | None:
    """The verdict with which a task's next attempt was commanded: its first with a part that is stale and withheld."""
    for output in sorted(session.outputs.get(task_id, ()), key=lambda each: (each.context_offset, each.steps_offset)):
        if any((part.decision, part.reason) == ("withheld", "stale") for part in output.parts):
            return output
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
