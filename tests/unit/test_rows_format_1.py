"""Rows of format 1, as commit 47d38fc wrote them: after a restore the gate decides as if it had written them itself.

`fixtures/write_rows_format_1.py` generates the rows against a checkout of that commit. The outcomes were that commit's,
until decisions were made below a cut: since then results are judged, tasks cancelled and timers acted on at their own
place. `python -m tests.unit.test_rows_format_1` writes the outcomes anew; look at what changes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest

from projections.rules import Rules
from tests.unit.feeding import Feed
from tests.unit.fixtures.write_rows_format_1 import FILE, as_text, outcome_of

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
def test_restored_rows_of_format_1_give_the_outcome_that_was_looked_at(
    story: dict[str, Any], *, compacted: bool
) -> None:
    feed = restored(story, compacted=compacted)
    go_on(feed, story["then"])
    assert as_before(orjson.loads(orjson.dumps(outcome_of(feed.changes)))) == as_before(story["outcome"])


def as_before(transactions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same without what is new: refusals in other words, what commands say of dispatches, removed statuses."""
    return [
        {
            **each,
            "refusals": [refusal[:3] for refusal in each["refusals"]],
            "duplicates": {kind: n for kind, n in each["duplicates"].items() if kind != "task.effect_proposed"},
            "outputs": [without_dispatch(output) for output in each["outputs"] if output[2] is not None],
        }
        for each in transactions
    ]


def without_dispatch(output: list[Any]) -> list[Any]:
    """An output without what is new: the dispatch, and where the logs stood. Of an effect only that it was answered."""
    topic, key, body, headers = output
    if body["type"].startswith("effect."):
        return [topic, key, {"effect": body["idempotency_key"]}, headers]
    return [topic, key, {name: value for name, value in body.items() if name not in ("dispatch", "judged")}, headers]


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
    outputs = [without_dispatch(output) for each in transactions for output in each["outputs"]]
    ended = [each for each in outputs if each[0] != "tasks" or each[2] is None or each[2]["status"] == "ended"]
    return sorted(orjson.loads(orjson.dumps(ended)), key=lambda each: each[:2])


def write_outcomes() -> None:
    """Write what comes of the stories now."""
    for story in STORIES:
        feed = restored(story, compacted=False)
        go_on(feed, story["then"])
        story["outcome"] = orjson.loads(orjson.dumps(outcome_of(feed.changes)))
    FILE.write_text(as_text(STORIES))


if __name__ == "__main__":
    write_outcomes()
