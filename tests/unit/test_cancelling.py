"""Which tasks a request to cancel means."""

from __future__ import annotations

import pytest

from projections.cancelling import reached_by, reaches
from projections.rows import CancelRequest
from tests.unit.feeding import Feed


def request(
    task_id: str | None = None, request_id: str | None = None, slot: str | None = None, at_ms: int = 2**62
) -> CancelRequest:
    return CancelRequest(task_id, request_id, slot, at_ms, 0, "app", "e")


@pytest.mark.parametrize("inside", [True, False])
def test_tasks_are_meant_by_id_request_slot_or_all(*, inside: bool) -> None:
    feed = Feed()
    for number in range(2 if inside else 12):
        feed.dispatched(f"t{number}", slot="even" if number % 2 == 0 else "odd", request_id=f"r{number // 2}")
    session = feed.partition.store.session("s")
    everything = list(session.tasks)
    assert reached_by(session, request()) == everything
    assert reached_by(session, request(slot="even")) == everything[::2]
    assert reached_by(session, request(request_id="r0")) == ["t0", "t1"]
    assert reached_by(session, request(slot="nobodys")) == []


def test_a_group_reaches_what_was_dispatched_before_and_a_name_whatever_comes() -> None:
    feed = Feed()
    feed.dispatched("t", slot="s")
    task = feed.row.tasks["t"]
    at_ms = task.dispatched_at
    assert reaches(request(slot="s", at_ms=at_ms), "t", task, 30_000)
    assert not reaches(request(slot="s", at_ms=at_ms - 1), "t", task, 30_000)
    assert not reaches(request(at_ms=at_ms - 1), "t", task, 30_000)
    assert reaches(request(task_id="t", at_ms=at_ms - 1), "t", task, 30_000)
    assert not reaches(request(task_id="other"), "t", task, 30_000)
