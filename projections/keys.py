"""Keys on the changelog and on the tasks topic."""

from typing import Final

import orjson

SESSION_KEY: Final = b"s"
TASK_KEY: Final = b"t"
ENDED_KEY: Final = b"e"
WAITING_KEY: Final = b"r"
"""First bytes of changelog keys: a session's row; an open task with a record of its own; an ended task; an event that
waits."""


def session_record_key(session_key: bytes) -> bytes:
    """Of a session's row. `session_key` is the session id in UTF-8."""
    return SESSION_KEY + session_key


def task_record_key(session_id: str, task_id: str) -> bytes:
    """Of an open task that has a record of its own."""
    return TASK_KEY + task_key(session_id, task_id)


def ended_record_key(session_id: str, task_id: str) -> bytes:
    """Of an ended task."""
    return ENDED_KEY + task_key(session_id, task_id)


def task_key(session_id: str, task_id: str) -> bytes:
    """Key on the tasks topic: the JSON array of session and task, so that no two pairs share one."""
    return orjson.dumps([session_id, task_id])
