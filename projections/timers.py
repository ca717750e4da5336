"""When something falls due, derived from the rows, so that it survives restarts. Times are the broker's, in ms."""

import heapq
from collections.abc import Iterable, Iterator

from projections.row import SessionRow, TaskRow

Dues = tuple[int | None, int | None]
"""When the first of a session's tasks falls due: of those of the hot lane alone, and of the others."""

Timed = tuple[int, bool]
"""When a task falls due, and whether what would keep it from that may be on the cold lane's topics."""


class Timers:
    """The earliest due time of each session that has one."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._due

    def set(self, session_id: str, due_ms: int | None) -> None:
        """Set or remove a session's due time."""
        if due_ms is None:
            self._due.pop(session_id, None)
        elif self._due.get(session_id) != due_ms:
            self._due[session_id] = due_ms
            heapq.heappush(self._heap, (due_ms, session_id))

    def next_due_ms(self) -> int | None:
        """The earliest due time of all."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_ms: int) -> Iterator[str]:
        """The sessions that are due at `now_ms`, earliest first. Each must be set again."""
        while (due_ms := self.next_due_ms()) is not None and due_ms <= now_ms:
            _, session_id = heapq.heappop(self._heap)
            del self._due[session_id]
            yield session_id


def dues_of(row: SessionRow) -> Dues:
    """When the first of the session's tasks falls due."""
    found = [
        due
        for task in row["tasks"].values()
        if ("policy" in task or "wait" in task or "parentless_until" in task) and (due := timed(row, task)) is not None
    ]
    return earliest(found) if found else (None, None)


def earliest(tasks: Iterable[Timed]) -> Dues:
    """The earliest of the hot lane alone, and of the others."""
    hot: int | None = None
    other: int | None = None
    for due, both_lanes in tasks:
        if both_lanes:
            other = due if other is None else min(other, due)
        else:
            hot = due if hot is None else min(hot, due)
    return hot, other


def timed(row: SessionRow, task: TaskRow) -> Timed | None:
    """When the task falls due; None where it does not."""
    due = task_due(task)
    return (due, awaits_both_lanes(row, task)) if due is not None else None


def awaits_both_lanes(row: SessionRow, task: TaskRow) -> bool:
    """Whether what would keep the task from falling due may be on the cold lane's topics."""
    if task["echo"].get("lane") == "cold" or "parentless_until" in task:
        return True
    below = task.get("children", ()) if "wait" in task and task["wait"]["why"] == "children" else ()
    return any(awaits_both_lanes(row, row["tasks"][child]) for child in below if child in row["tasks"])


def task_due(task: TaskRow) -> int | None:
    """When the task falls due.

    With its result there, only waiting ends: the result was in time, and nobody has to send heartbeats any more.
    """
    dues: list[int] = []
    if "parentless_until" in task:
        dues.append(task["parentless_until"])
    wait = task.get("wait")
    if wait is not None:
        if "until" in wait and not wait.get("over"):
            dues.append(wait["until"])
        return min(dues, default=None)
    policy = task.get("policy")
    if policy is not None:
        if "deadline_ms" in policy:
            dues.append(policy["deadline_ms"] + 1)
        if "heartbeat_ms" in policy:
            dues.append(task["heard"] + policy["heartbeat_ms"])
        if "stale_since" in task:
            dues.append(task["stale_since"] + policy["while_stale_grace_ms"])
    return min(dues, default=None)
