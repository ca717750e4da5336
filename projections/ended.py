"""The tasks of a session that ended, within the horizon: how each ended, and which results of it were judged.

Kept as lines of JSON, because they are many, looked for often and read seldom: finding one is a search for its first
bytes (a newline, a bracket, the task id in quotes), and only that line is parsed.
"""

from typing import Any, Final, NamedTuple

import orjson

PRUNE_EVERY: Final = 8
"""How many tasks of a session end between two looks at the oldest one's age."""

MAX_RESULTS: Final = 16
"""Results of one ended task that are known again as repeats."""


class Ended(NamedTuple):
    """One ended task.

    `disposition` and `dispatch_digest` are None where a result was given up as unknown before any dispatch of the task
    was seen. `results` are [identity digest, content digest] pairs, `at` is the broker's time (ms), `told` what the
    task's last status said.
    """

    task_id: str
    disposition: str | None
    at: int
    dispatch_digest: str | None
    results: list[list[str]]
    parent: str | None = None
    told: dict[str, Any] | None = None

    @property
    def was_unknown(self) -> bool:
        """Whether no dispatch of the task was seen."""
        return self.disposition is None

    def with_result(self, digests: list[str]) -> "Ended":
        """The same, with one more result known."""
        results = [*self.results, digests]
        if len(results) > MAX_RESULTS:
            del results[1]  # the first is the one that was judged
        return self._replace(results=results)

    def to_line(self) -> bytes:
        """The line it is kept as."""
        return b"\n" + orjson.dumps([*self])


def ended_from_line(line: bytes) -> Ended:
    """The entry that `to_line` wrote."""
    return Ended(*orjson.loads(line))


class EndedTasks:
    """The ended tasks of the sessions of one partition."""

    def __init__(self, retention_ms: int, count: int) -> None:
        self._retention_ms = retention_ms
        self._count = count
        self._lines: dict[str, bytes] = {}

    def get(self, session_id: str, task_id: str) -> Ended | None:
        """How the task ended; None where it has not, or longer ago than the horizon."""
        lines = self._lines.get(session_id)
        if lines is None:
            return None
        begin, end = _place(lines, task_id)
        return ended_from_line(lines[begin:end]) if begin >= 0 else None

    def put(self, session_id: str, task_id: str, line: bytes) -> None:
        """Remember how a task ended (`Ended.to_line`), or replace what is remembered of it."""
        lines = self._lines.get(session_id, b"")
        begin, end = _place(lines, task_id)
        if begin >= 0:
            lines = lines[:begin] + lines[end:]
        self._lines[session_id] = lines + line

    def prune(self, session_id: str, now_ms: int) -> list[str]:
        """Forget what is beyond the horizon at `now_ms`: too old, or too many. Returns the task ids forgotten."""
        lines = self._lines.get(session_id, b"")
        count = lines.count(b"\n")
        surplus = count - self._count
        if surplus <= 0 and count % PRUNE_EVERY:
            return []  # looking at the oldest one's age costs more than the rest of remembering
        forgotten: list[str] = []
        while lines:
            end = lines.find(b"\n", 1)
            oldest = ended_from_line(lines if end < 0 else lines[:end])
            if surplus <= len(forgotten) and oldest.at >= now_ms - self._retention_ms:
                break
            forgotten.append(oldest.task_id)
            lines = b"" if end < 0 else lines[end:]
        self._set(session_id, lines)
        return forgotten

    def remove(self, session_id: str, task_id: str) -> None:
        """Forget one task."""
        lines = self._lines.get(session_id, b"")
        begin, end = _place(lines, task_id)
        if begin >= 0:
            self._set(session_id, lines[:begin] + lines[end:])

    def remove_all(self, session_id: str) -> list[str]:
        """Forget a session. Returns the task ids forgotten."""
        return [ended_from_line(line).task_id for line in self._lines.pop(session_id, b"").split(b"\n") if line]

    def _set(self, session_id: str, lines: bytes) -> None:
        if lines:
            self._lines[session_id] = lines
        else:
            self._lines.pop(session_id, None)


def _place(lines: bytes, task_id: str) -> tuple[int, int]:
    begin = lines.find(b"\n[" + orjson.dumps(task_id) + b",")
    if begin < 0:
        return -1, -1
    end = lines.find(b"\n", begin + 1)
    return begin, len(lines) if end < 0 else end
