"""Sessions with many tasks: each has a record of its own, and is found without looking at all of them."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import msgspec
import orjson
import pytest

from projections import evolve, store
from projections.records import row_to_bytes, task_to_bytes
from projections.session import MAX_TASKS_INSIDE, Session
from projections.task_index import TaskIndex
from tests.unit.feeding import Feed
from tests.unit.session_checks import checked_at_every_take, tasks_inside


def with_tasks(count: int) -> Feed:
    """A session with tasks of which each depends on a facet of its own, written twice."""
    feed = Feed()
    for number in range(count):
        feed.dispatched(f"t{number}", {f"doc/{number}": "1"})
    feed.take()
    feed.changed({"view/a": "1"})
    feed.take()
    return feed


def session_of(feed: Feed) -> Session:
    return feed.partition.store.session(feed.session)


def index_of(feed: Feed) -> TaskIndex | None:
    return session_of(feed).index


def positions(feed: Feed) -> list[int]:
    return [task.position for task in feed.row.tasks.values()]


def written(feed: Feed) -> bytes:
    """The session's row and tasks as the changelog has them, compared with those in memory."""
    feed.take()
    newest = dict(feed.changelog)
    raw = newest[b"s" + feed.session.encode()]
    tasks = {orjson.loads(key[1:])[1]: value for key, value in newest.items() if key[:1] == b"t" and value is not None}
    row = session_of(feed).row()
    assert raw == row_to_bytes(msgspec.structs.replace(row, tasks={}))
    assert tasks == {task_id: task_to_bytes(task) for task_id, task in row.tasks.items()}
    return b"".join([raw, *tasks.values()])


def expecting(feed: Feed, facet: str) -> list[str]:
    return [task_id for task_id, _ in session_of(feed).tasks_expecting(facet)]


def test_only_tasks_that_have_changed_are_written_again() -> None:
    feed = with_tasks(20)
    feed.changed({"doc/3": "2"})
    feed.step("t7")
    feed.result("t9")
    feed.take()
    rows = feed.changes[-1].rows
    assert {key: value is None for key, value in rows.items()} == {
        b'e["s","t9"]': False,
        b't["s","t3"]': False,
        b't["s","t7"]': False,
        b't["s","t9"]': True,
        b"ss": False,
    }
    assert len(rows[b"ss"] or b"") < 20 * 100  # no matter how many there are


def test_tasks_are_inside_until_there_are_too_many_and_again_when_all_have_ended() -> None:
    with tasks_inside(2):
        feed = with_tasks(2)
        assert index_of(feed) is None
        feed.dispatched("t2")
        assert index_of(feed) is not None
        assert positions(feed) == [0, 1, 2]
        written(feed)
        feed.result("t0")
        feed.result("t2")
        feed.dispatched("t3")
        assert list(feed.row.tasks) == ["t1", "t3"]
        written(feed)
        feed.result("t1")
        feed.result("t3")
        assert index_of(feed) is None
        feed.dispatched("t4")
        feed.take()
        assert index_of(feed) is None
        newest = dict(feed.changelog)
        assert {key for key, value in newest.items() if key[:1] == b"t" and value is not None} == set()


@pytest.mark.parametrize("way", ["kept", "restarted", "let go"])
def test_what_is_written_of_a_task_does_not_depend_on_whether_the_session_was_decoded_anew(way: str) -> None:
    records = []
    for each in ("kept", way):
        feed = with_tasks(3)
        feed.result("t2")
        feed.take()
        if each == "restarted":
            feed.restart()
        elif each == "let go":
            with patch.multiple(store, MAX_DECODED=0, MAX_DECODED_INDEXED=0):
                feed.partition.store.let_go()
        feed.dispatched("t3")
        records.append(written(feed))
    assert records[0] == records[1]


def test_a_task_that_ends_where_it_began_is_not_written() -> None:
    feed = with_tasks(2)
    feed.dispatched("t2")
    feed.result("t2")
    feed.take()
    assert feed.changes[-1].rows.keys() == {b'e["s","t2"]', b"ss"}


def test_only_tasks_that_depend_on_a_facet_are_looked_at() -> None:
    feed = with_tasks(20)
    expecting(feed, "doc/3")
    assert expecting(feed, "doc/3") == ["t3"]
    assert expecting(feed, "view/a") == []
    feed.step("t9", {"doc/3": "1"})
    feed.dispatched("t20", {"doc/3": "1"})
    assert expecting(feed, "doc/3") == ["t3", "t9", "t20"]
    feed.result("t3")
    feed.take()
    assert expecting(feed, "doc/3") == ["t9", "t20"]
    assert expecting(feed, "view/a") == []


def test_few_tasks_have_no_index() -> None:
    with tasks_inside(MAX_TASKS_INSIDE):
        assert index_of(with_tasks(MAX_TASKS_INSIDE)) is None
        assert index_of(with_tasks(MAX_TASKS_INSIDE + 1)) is not None


def test_what_tasks_expect_is_not_noted_for_a_session_that_is_asked_once() -> None:
    feed = Feed()
    feed.dispatched("t1")
    feed.dispatched("t2", {"doc/1": "1"})
    index = index_of(feed)
    assert index is not None
    assert expecting(feed, "doc/1") == ["t2"]
    assert not index._has_facets
    assert expecting(feed, "doc/1") == ["t2"]
    assert index._has_facets


def test_tasks_come_and_go_in_their_order() -> None:
    feed = with_tasks(4)
    feed.changed({"doc/9": "1"}, by="t5")  # it changes something before it is opened, and before another one is
    feed.dispatched("t4")
    feed.dispatched("t5", {"doc/9": "1"})
    feed.result("t1")
    assert [*feed.row.tasks] == ["t0", "t2", "t3", "t4", "t5"]
    written(feed)
    feed.result("t0")
    written(feed)
    feed.dispatched("t6")
    written(feed)


def test_a_task_that_is_opened_again_stands_last() -> None:
    feed = with_tasks(3)
    feed.result("t0")
    feed.take()
    session_of(feed).ended = b""  # it is beyond the horizon
    feed.dispatched("t0", {"doc/0": "2"})
    assert [*feed.row.tasks] == ["t1", "t2", "t0"]
    written(feed)


def test_what_falls_due_is_known_too() -> None:
    feed = with_tasks(3)
    feed.dispatched("beating", heartbeat_timeout_seconds=60)
    written(feed)
    due = feed.partition.next_due_ms()
    feed.send("task.heartbeat", task_id="beating")
    written(feed)
    assert due is not None
    assert feed.partition.next_due_ms() == due + 1000
    feed.result("beating")
    written(feed)
    assert feed.partition.next_due_ms() is None


def test_what_a_hot_task_waits_for_does_not_hide_behind_one_that_waits_for_the_cold_lane() -> None:
    for inside in (1, 100):
        with tasks_inside(inside):
            feed = Feed()
            feed.dispatched("hot", scope_grace_seconds=60)
            feed.dispatched("hot child", parent_task_id="hot")
            feed.dispatched("cold", scope_grace_seconds=10)
            cold: dict[str, Any] = {"task_type": "q", "lane": "cold", "parent_task_id": "cold"}
            feed.send("task.dispatched", role="steps.cold", task_id="cold child", **cold)
            feed.result("hot")
            feed.result("cold")
            feed.take()
            assert feed.waits("hot") == feed.waits("cold") == "children"
            dues = [feed.partition.next_due_ms(hot_only=hot_only) for hot_only in (True, False)]
            assert dues == [feed.now_ms + 59_000, feed.now_ms + 10_000]


def test_the_index_goes_with_an_erased_session() -> None:
    feed = with_tasks(3)
    feed.send("session.erased")
    assert index_of(feed) is None
    feed.take()
    assert [key for key, value in dict(feed.changelog).items() if value is not None] == [b"ss"]
    assert (feed.row.tasks, feed.row.open_tasks, feed.row.facets) == ({}, 0, {})


@pytest.mark.parametrize("forgotten", ["_tasks_to_write", "_task_changed", "_line_changed", "_row_changed"])
def test_it_would_be_noticed_if_a_change_was_not_noted(forgotten: str) -> None:
    feed = with_tasks(3)
    feed.dispatched("child", {"doc/1": "1"}, parent_task_id="t1", heartbeat_timeout_seconds=9)
    feed.take()
    with checked_at_every_take(), patch.object(evolve, forgotten):
        feed.changed({"doc/1": "2"}, by="child")
        feed.send("task.heartbeat", task_id="child")
        with pytest.raises((AssertionError, KeyError)):
            feed.take()


@pytest.mark.parametrize("forgotten", ["ended", "set_due", "opened"])
def test_it_would_be_noticed_if_the_index_was_not_told(forgotten: str) -> None:
    feed = with_tasks(3)
    feed.dispatched("beating", heartbeat_timeout_seconds=9, slot="panel")
    feed.take()
    with checked_at_every_take(), patch.object(TaskIndex, forgotten):
        feed.send("task.heartbeat", task_id="beating")
        feed.dispatched("another", slot="panel")
        feed.dispatched("newer", slot="panel")
        if forgotten == "ended":
            feed.result("beating")
        with pytest.raises((AssertionError, KeyError, ValueError)):
            feed.take()
