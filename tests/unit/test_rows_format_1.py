"""Rows of format 1, as commit 47d38fc wrote them: after a restore the gate decides what that commit decided.

`fixtures/write_rows_format_1.py` generates them against a checkout of that commit.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest

from projections.rules import Rules
from tests.unit.feeding import Feed
from tests.unit.fixtures.write_rows_format_1 import FILE, outcome_of

STORIES: list[dict[str, Any]] = orjson.loads(FILE.read_bytes())


def restored(story: dict[str, Any], *, compacted: bool) -> Feed:
    """A worker that has taken over from one of the last version."""
    feed = Feed(Rules(**story["rules"]))
    feed.now_ms = story["now_ms"]
    feed.ends = Counter(story["ends"])
    feed.changelog = [(key.encode(), None if value is None else value.encode()) for key, value in story["changelog"]]
    feed.restart(compacted=compacted)
    return feed


def go_on(feed: Feed, steps: list[list[Any]]) -> None:
    for what, *arguments in steps:
        if what == "send":
            role, body, headers = arguments
            record_headers = [(name, None if text is None else text.encode("latin-1")) for name, text in headers]
            feed.send_value(role, orjson.dumps(body), record_headers)
        elif what == "wait":
            feed.wait(*arguments)
        elif what == "barrier":
            feed.barrier()
        else:
            feed.take()


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story["story"])
def test_restored_rows_of_format_1_give_the_outputs_of_the_version_that_wrote_them(
    story: dict[str, Any], *, compacted: bool
) -> None:
    feed = restored(story, compacted=compacted)
    go_on(feed, story["then"])
    assert orjson.loads(orjson.dumps(without_removals(outcome_of(feed.changes)))) == without_removals(story["outcome"])


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story["story"])
def test_so_do_the_rows_that_this_version_writes_from_them(story: dict[str, Any]) -> None:
    feed = restored(story, compacted=True)
    go_on(feed, story["then"][: len(story["then"]) // 2])
    feed.take()
    feed.restart(compacted=True)
    go_on(feed, story["then"][len(story["then"]) // 2 :])
    assert final(without_removals(outcome_of(feed.changes))) == final(without_removals(story["outcome"]))


def without_removals(transactions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without removed statuses: that version left those of tasks and sessions that it forgot."""
    return [
        {**each, "outputs": [output for output in each["outputs"] if output[2] is not None]} for each in transactions
    ]


def final(transactions: list[dict[str, Any]]) -> list[Any]:
    """All outputs except the statuses of open tasks, whose number depends on the transactions."""
    outputs = [output for each in transactions for output in each["outputs"]]
    ended = [each for each in outputs if each[0] != "tasks" or each[2] is None or each[2]["status"] == "ended"]
    return sorted(orjson.loads(orjson.dumps(ended)), key=lambda each: each[:2])
