"""Rows with many tasks as records, and what is known of the tasks between two encodings."""

from __future__ import annotations

from unittest.mock import patch

import orjson
import pytest

from projections import store
from projections.encoding import RowEncoder
from projections.row import MAX_TASKS_INSIDE, row_to_bytes
from schemas.fields import MAX_INLINE_PART_BYTES
from tests.unit.feeding import Feed
from tests.unit.kept_tasks import held_against_rows, tasks_apart, tasks_inside


def with_tasks(count: int) -> Feed:
    """A session with tasks of which each depends on a facet of its own, written twice."""
    feed = Feed()
    for number in range(count):
        feed.dispatched(f"t{number}", {f"doc/{number}": "1"})
    feed.take()
    feed.changed({"view/a": "1"})
    feed.take()
    return feed


def written_row(feed: Feed) -> bytes:
    """The session's row as the changelog has it, held against the row in memory."""
    feed.take()
    newest = dict(feed.changelog)
    raw = newest[b"s" + feed.session.encode()]
    tasks = {orjson.loads(key[1:])[1]: value for key, value in newest.items() if key[:1] == b"t" and value is not None}
    assert raw is not None
    assert tasks == tasks_apart(feed.partition.store.row(feed.session))
    assert raw == row_to_bytes(feed.partition.store.row(feed.session), len(tasks))
    return b"".join([raw, *tasks.values()])


def test_only_tasks_that_were_written_to_are_written_again() -> None:
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
        feed = with_tasks(3)
        assert [task.get("apart") for task in feed.row["tasks"].values()] == [0, 1, 2]
        feed.result("t0")
        feed.result("t2")
        feed.dispatched("t3")
        assert [task.get("apart") for task in feed.row["tasks"].values()] == [1, 2]
        written_row(feed)
        feed.result("t1")
        feed.result("t3")
        feed.dispatched("t4")
        assert [task.get("apart") for task in feed.row["tasks"].values()] == [None]
        written_row(feed)
        assert feed.partition.store.encoder.kept == {}


def test_a_task_that_ends_where_it_began_is_not_written() -> None:
    feed = with_tasks(2)
    feed.dispatched("t2")
    feed.result("t2")
    feed.take()
    assert feed.changes[-1].rows.keys() == {b'e["s","t2"]', b"ss"}


def test_a_row_without_the_records_of_its_tasks_is_not_restored() -> None:
    feed = with_tasks(3)
    other = store.Store(feed.rules)
    for key, value in feed.changelog:
        if key != b't["s","t1"]':
            other.restore(key, value)
    with pytest.raises(ValueError, match="session 's': the row says that 3 open tasks have records of their own"):
        other.settle()


def test_only_tasks_that_may_depend_on_a_facet_are_looked_at() -> None:
    feed = with_tasks(20)
    store = feed.partition.store
    kept, row = store.encoder.kept["s"], store.row("s")
    assert [task_id for task_id, _ in kept.expecting(row, "doc/3")] == ["t3"]
    assert [*kept.expecting(row, "view/a")] == []
    feed.step("t9", {"doc/3": "1"})
    feed.dispatched("t20", {"doc/3": "1"})
    assert [task_id for task_id, _ in kept.expecting(row, "doc/3")] == ["t3", "t9", "t20"]
    feed.result("t3")
    feed.take()
    assert [task_id for task_id, _ in kept.expecting(row, "doc/3")] == ["t9", "t20"]
    assert [*kept.expecting(row, "view/a")] == []


def test_nothing_is_kept_of_few_tasks() -> None:
    with tasks_inside(MAX_TASKS_INSIDE):
        assert with_tasks(MAX_TASKS_INSIDE).partition.store.encoder.kept == {}
        assert with_tasks(MAX_TASKS_INSIDE + 1).partition.store.encoder.kept.keys() == {"s"}


def test_what_tasks_expect_is_not_noted_of_a_row_that_is_written_once() -> None:
    feed = Feed()
    feed.dispatched("t1")
    feed.dispatched("t2", {"doc/1": "1"})
    feed.take()
    kept = feed.partition.store.encoder.kept["s"]
    assert kept.facets == {}
    assert [task_id for task_id, _ in kept.expecting(feed.partition.store.row("s"), "doc/1")] == ["t1", "t2"]


def test_tasks_come_and_go_in_the_rows_order() -> None:
    feed = with_tasks(4)
    feed.changed({"doc/9": "1"}, by="t5")  # written to before it is opened, and before another one is
    feed.dispatched("t4")
    feed.dispatched("t5", {"doc/9": "1"})
    feed.result("t1")
    assert [*feed.row["tasks"]] == ["t0", "t2", "t3", "t4", "t5"]
    written_row(feed)
    feed.result("t0")
    written_row(feed)
    feed.dispatched("t6")
    written_row(feed)


def test_a_task_that_is_opened_again_stands_last() -> None:
    feed = with_tasks(3)
    feed.result("t0")
    feed.partition.store.forget_ended("s")
    feed.dispatched("t0", {"doc/0": "2"})
    assert [*feed.row["tasks"]] == ["t1", "t2", "t0"]
    written_row(feed)


def test_what_falls_due_is_kept_too() -> None:
    feed = with_tasks(3)
    feed.dispatched("beating", heartbeat_timeout_seconds=60)
    written_row(feed)
    due = feed.partition.next_due_ms()
    feed.send("task.heartbeat", task_id="beating")
    written_row(feed)
    assert due is not None
    assert feed.partition.next_due_ms() == due + 1000
    feed.result("beating")
    written_row(feed)
    assert feed.partition.next_due_ms() is None


@pytest.mark.parametrize("way", ["erased", "evicted"])
def test_what_is_kept_goes_with_the_decoded_row(way: str) -> None:
    feed = with_tasks(3)
    assert feed.partition.store.encoder.kept.keys() == {"s"}
    if way == "erased":
        feed.send("session.erased")
    else:
        feed.step("t1")
        with patch.object(store, "MAX_DECODED_ROWS", 0), patch.object(store, "MAX_KEPT_ROWS", 0):
            feed.take()
    assert feed.partition.store.encoder.kept == {}


@pytest.mark.parametrize("forgotten", ["written", "ends"])
def test_it_would_be_noticed_if_nobody_said_so(forgotten: str) -> None:
    feed = with_tasks(3)
    with held_against_rows(), patch.object(RowEncoder, forgotten):
        feed.step("t1") if forgotten == "written" else feed.result("t1")
        with pytest.raises((AssertionError, KeyError)):
            feed.take()


def test_a_task_whose_waiting_result_went_to_the_dead_letters_waits_no_more() -> None:
    feed = with_tasks(3)
    feed.dispatched("older", slot="panel")
    feed.dispatched("newer", slot="panel", on_newer="enqueue")
    for number in range(20):
        feed.step("newer", {f"never/seen/{number}/{each}": "v" * 1000 for each in range(15)})
    payload = "x" * (MAX_INLINE_PART_BYTES - 2)
    feed.result("newer", *({"part_id": str(number), "payload": payload[number * 3000 :]} for number in range(3)))
    assert b'"wait"' in written_row(feed)
    feed.result("older")
    feed.barrier()
    assert b'"wait"' not in written_row(feed)
    assert [refusal.error for refusal in feed.changes[-1].refusals] == ["output_too_large"]
    assert "newer" in feed.row["tasks"]
