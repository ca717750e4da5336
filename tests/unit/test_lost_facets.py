"""A change that a full session has no room for may close it, archive a request or send the user away: nobody knows."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from projections import budget
from projections.store import Store
from tests.unit.feeding import Feed, reason_of


def feed_that_loses(name: str, before: str, after: str, **policy: Any) -> Feed:
    """A task, and a change of a facet that the session has no room for."""
    feed = Feed()
    feed.changed({name: before, "doc/1": "1"})
    feed.dispatched("t", {"doc/1": "1"}, **policy)
    feed.take()
    with patch.object(budget, "MAX_ROW_BYTES", 1), patch.object(budget, "MAX_FULL_ROW_BYTES", 1):
        feed.changed({name: after})
    return feed


@pytest.mark.parametrize(
    ("name", "before", "after", "policy"),
    [
        ("session", "open", "closed", {}),
        ("request/r", "1", "archived", {"request_id": "r"}),
        ("presence/a", "present", "absent", {"when_absent": "withhold"}),
        ("presence/a", "present", "absent", {"when_absent": "hold"}),
    ],
)
def test_a_result_is_withheld_where_a_lost_change_might_have_withheld_it(
    name: str, before: str, after: str, policy: dict[str, Any]
) -> None:
    feed = feed_that_loses(name, before, after, **policy)
    feed.result("t")
    assert reason_of(feed.verdict()) == ("withheld", "session_full")


def test_a_client_that_is_there_is_enough() -> None:
    feed = feed_that_loses("presence/a", "present", "absent", when_absent="withhold")
    feed.changed({"presence/b": "present"})
    feed.result("t")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_a_facet_that_is_known_again_decides_again() -> None:
    feed = feed_that_loses("session", "open", "closed")
    feed.changed({"session": "open"})
    feed.result("t")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_a_new_attempt_is_told_what_was_stated_of_a_facet_nobody_knows() -> None:
    feed = Feed()
    feed.changed({"doc/1": "1", "doc/2": "1"})
    feed.dispatched("t", {"doc/1": "1", "doc/2": "1"}, on_stale="redispatch")
    feed.changed({"doc/1": "2"})
    with patch.object(budget, "MAX_ROW_BYTES", 1), patch.object(budget, "MAX_FULL_ROW_BYTES", 1):
        feed.changed({"doc/2": "2"})
    feed.result("t", {"part_id": "p", "depends_on": ["doc/1"]})
    (command,) = [body for body in feed.take() if body["type"] == "task.redispatch"]
    assert command["snapshot"] == {"doc/1": "2", "doc/2": "1"}


def test_an_ended_task_of_an_unknown_format_is_refused_while_restoring() -> None:
    with pytest.raises(ValueError, match="an ended task has format 3"):
        Store(0).restore(b'e["s","t"]', b'\n["t",3,"delivered"]')
