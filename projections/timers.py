"""When something falls due, derived from the rows, so that it survives restarts. Times are the broker's, in ms."""

import heapq
from collections.abc import Iterator

from projections.row import SessionRow, TaskRow


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


def due_of(row: SessionRow) -> int | None:
    """When the first of the session's tasks falls due; None where nothing does."""
    dues = [
        due
        for task in row["tasks"].values()
        if ("policy" in task or "wait" in task or "parentless_until" in task) and (due := task_due(task)) is not None
    ]
    return min(dues) if dues else None


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
