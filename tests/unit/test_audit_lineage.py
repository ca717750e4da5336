"""Which dispatches the audit takes for attempts that were commanded."""

from __future__ import annotations

from typing import Any

import pytest

from audit.lineage import link_attempts
from audit.logs import JudgedAt, Redispatch, Session, Task
from audit.parse import task_of
from schemas.topics import Role
from tests.lives.memory import Rec

COMMANDED_MS = 2000


def dispatched(role: Role, task_id: str, offset: int, at_ms: int) -> Task:
    body: dict[str, Any] = {"task_id": task_id, "task_type": "search", "snapshot": {}, "slot": "panel"}
    task = task_of(role, Rec(offset, at_ms, b"s", b"{}"), body)
    assert task is not None
    return task


@pytest.mark.parametrize(
    ("judged", "at_ms", "is_attempt"),
    [
        (JudgedAt(0, "steps.cold", 9, 30), COMMANDED_MS + 1, True),
        (JudgedAt(0, "steps.cold", 9, 50), COMMANDED_MS + 1, False),
        (JudgedAt(0, "steps", 9, 1700), COMMANDED_MS + 1, True),
        (JudgedAt(0, "steps", 9, 1700), COMMANDED_MS - 1, False),
    ],
    ids=["folded after", "folded before", "other lane, later", "other lane, earlier"],
)
def test_an_attempt_stands_in_the_place_of_the_first_unless_it_was_there_before_the_command(
    judged: JudgedAt, at_ms: int, *, is_attempt: bool
) -> None:
    """A command may be given with the cut of the other lane, whose steps offsets say nothing of this one's."""
    session = Session()
    first = session.tasks["t"] = dispatched("steps.cold", "t", 2, 100)
    again = session.tasks["t~2"] = dispatched("steps.cold", "t~2", 40, at_ms)
    other = session.tasks["o"] = dispatched("steps.cold", "o", 20, 1000)
    session.redispatches["t"] = [Redispatch(0, "t~2", 2, {}, None, judged, COMMANDED_MS)]
    link_attempts(session)
    assert (again.repeats is first) == is_attempt
    assert again.is_older(other) == is_attempt
