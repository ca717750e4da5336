"""The clocks of a task as its steps moved them: deadlines put off, waits for a person, the first sign of life.

A task's steps stand in one log. Its interim answers are signs of life, too: they are put among the steps by time.
"""

from __future__ import annotations

from dataclasses import dataclass

from audit.case import Case
from audit.logs import Task


@dataclass(slots=True)
class Clock:
    """Where the clocks of a task stand at a moment. `heard_ms` is its last sign of life, or its dispatch."""

    deadline_ms: int | None
    heard_ms: int
    has_started: bool = False
    waits_since: int | None = None

    def given_up_at(self, task: Task) -> tuple[int, str] | None:
        """When and why it ends if nothing more is heard of it; None while it waits for a person, and without limit."""
        if self.waits_since is not None:
            return None
        if task.start_ms is not None and not self.has_started:
            return task.at_ms + task.start_ms, "not_started"
        if task.heartbeat_ms is None:
            return None
        return self.heard_ms + task.heartbeat_ms, "heartbeat_missed"


def clock_at(case: Case, task: Task, before_ms: float) -> Clock:
    """The clocks after everything that came before the moment, and after the dispatch."""
    clock = Clock(task.deadline_ms, task.at_ms)
    signs = case.session.signs.get(case.task_id, ())
    for sign in sorted(signs, key=lambda each: each.at_ms):
        if sign.role != task.role or sign.offset <= task.offset or sign.at_ms >= before_ms:
            continue
        if sign.deadline_ms is not None:
            _extend(clock, sign.deadline_ms, sign.at_ms)
            continue
        if clock.waits_since is not None and clock.deadline_ms is not None:
            clock.deadline_ms += max(0, sign.at_ms - clock.waits_since)
        clock.heard_ms, clock.has_started = max(clock.heard_ms, sign.at_ms), True
        clock.waits_since = sign.at_ms if sign.asks else None
    return clock


def _extend(clock: Clock, deadline_ms: int, at_ms: int) -> None:
    """A deadline is put off unless it had passed, and never brought forward."""
    if clock.deadline_ms is None or deadline_ms <= clock.deadline_ms:
        return
    if clock.waits_since is not None or at_ms <= clock.deadline_ms:
        clock.deadline_ms = deadline_ms
