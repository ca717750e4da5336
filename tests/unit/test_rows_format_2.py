"""Rows of format 2 as commit d871351 wrote them, without what was added at their ends since, are read and used.

`fixtures/write_rows_format_2.py` generates them against a checkout of that commit.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from tests.unit.feeding import Feed, reason_of

FILE: Final = Path(__file__).parent / "fixtures" / "rows_format_2.json"


@pytest.fixture(params=["as written", "written again"])
def feed(request: pytest.FixtureRequest) -> Feed:
    """A worker that takes over from one of that version."""
    written: dict[str, Any] = json.loads(FILE.read_text())
    restored = Feed()
    restored.now_ms, restored.ends = written["now_ms"], Counter(written["ends"])
    restored.changelog = [
        (b64decode(key), None if value is None else b64decode(value)) for key, value in written["changelog"]
    ]
    restored.restart()
    if request.param == "written again":
        restored.changed({"unrelated": "1"})
        restored.take()
        restored.restart(compacted=True)
    return restored


def test_its_tasks_go_on(feed: Feed) -> None:
    assert set(feed.row.tasks) == {"open", "pays", "holds", "many0", "many1", "many2"}
    feed.result("open")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")
    feed.changed({"doc": "2"})
    feed.barrier()
    assert [body["task_id"] for body in feed.verdicts()] == ["holds"]
    feed.dispatched("parked")
    feed.barrier()
    assert [body["task_id"] for body in feed.verdicts()] == ["parked"]


def test_repeats_are_known_from_now_on(feed: Feed) -> None:
    feed.changed({"doc": "3"}, event_id="new")
    feed.changed({"doc": "4"})
    feed.changed({"doc": "3"}, event_id="new")
    assert feed.facets["doc"].value == "4"


def test_results_and_dispatches_of_before_are_known_again(feed: Feed) -> None:
    value = (
        b'{"type":"task.result","source":"test","event_id":"r-1","session_id":"s","task_id":"done",'
        b'"occurred_at":"2025-11-24T16:00:00Z","outcome":"completed",'
        b'"parts":[{"part_id":"p","kind":"show","payload":{"b":1,"a":2}}]}'
    )
    feed.send_value("results", value)
    feed.dispatched("done", {"doc": "1"}, slot="panel", metadata={"n": 1})
    assert feed.partition._changes.duplicates == {"task.result": 1, "task.dispatched": 1}
    feed.dispatched("done", {"doc": "1"}, slot="other", metadata={"n": 1})
    feed.dispatched("open", {"doc": "1"}, depends_on=["view"], deadline_at="2027-11-24T16:00:01Z")
    first, second = feed.partition._changes.refusals
    assert "its digest was" in first.detail
    assert "deadline_at was " in second.detail


def test_effects_of_before_are_known(feed: Feed) -> None:
    for key, effect in (("k-1", "charge"), ("k-1", "refund"), ("k-2", "charge")):
        feed.send("task.effect_proposed", task_id="pays", idempotency_key=key, effect=effect)
    feed.barrier()
    first, second, third = [body for body in feed.take() if body["type"].startswith("effect.")]
    assert (first["type"], first["repeat"]) == ("effect.cleared", True)
    assert second["reason"] == "key_conflict"
    assert (third["type"], third.get("repeat", False)) == ("effect.cleared", False)


def test_an_attempt_that_was_commanded_before_stands_on_its_own(feed: Feed) -> None:
    feed.dispatched("retried~2", {"doc": "1"}, attempt=2, slot="panel")
    feed.result("retried~2")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")
