"""The sessions of a partition: written, restored, put back after an abort, and few of them decoded at a time."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from projections import store as store_module
from projections.keys import WAITING_KEY, ended_record_key, session_record_key, task_record_key
from projections.records import UnknownFormatError, row_to_bytes
from projections.rows import FORMAT, new_row
from projections.store import Store
from tests.unit.feeding import Feed, reason_of
from tests.unit.session_checks import check_counters, kept_in, kept_of


def kept(feed: Feed, session_id: str = "s") -> object:
    return kept_in(feed.partition.store, session_id)


def everything(feed: Feed) -> dict[str, object]:
    store = feed.partition.store
    return {
        session_id: kept_in(store, session_id) for session_id in {*store.session_ids(), *store.sessions_with_waiting()}
    }


def busy_feed() -> Feed:
    """A session with something of every kind, written."""
    feed = Feed()
    feed.changed({"doc/1": "b"})
    for task_id in "abc":
        feed.dispatched(task_id, {"doc/1": "a"}, on_stale="hold")
    feed.result("a")
    feed.result("unknown")
    feed.dispatched("over")
    feed.result("over")
    feed.send("task.effect_proposed", task_id="b", idempotency_key="k", effect="book")
    feed.take()
    return feed


def test_everything_is_restored_as_it_was_written() -> None:
    feed = busy_feed()
    before = everything(feed)
    counters = feed.partition.store.row_bytes, feed.partition.store.ended_bytes, feed.partition.store.waiting_bytes
    assert min(counters) > 0
    for compacted in (False, True):
        feed.restart(compacted=compacted)
        store = feed.partition.store
        assert everything(feed) == before
        assert (store.row_bytes, store.ended_bytes, store.waiting_bytes) == counters
        assert store.waiting_count == 2
        check_counters(store)
        assert kept_of(store.session("s")) == before["s"]


# Rolling back


def everything_happens(feed: Feed) -> None:
    feed.changed({"doc/1": "c", "doc/2": "x"}, by="ghost")
    feed.dispatched("d", parent_task_id="b")
    feed.step("c", {"doc/3": "1"})
    feed.send("task.cancel_requested", task_id="a")
    feed.dispatched("unknown")
    feed.barrier()
    feed.result("c")
    feed.result("new one")
    feed.session = "other"
    feed.changed({"doc/1": "z"})
    feed.dispatched("t")
    feed.result("t")
    feed.session = "s"


@pytest.mark.parametrize("begun", [False, True, "twice"])
def test_after_an_abort_everything_is_as_it_was_committed(begun: object) -> None:
    feed = busy_feed()
    before = everything(feed)
    feed.restart()
    due = feed.partition.next_due_ms()
    everything_happens(feed)
    if begun:
        feed.partition.take(feed.now_ms)
    if begun == "twice":
        feed.send("session.erased")
        feed.partition.take(feed.now_ms)
        feed.changed({"doc/9": "x"})
    feed.partition.roll_back()
    assert everything(feed) == before
    assert not feed.partition.has_changes
    check_counters(feed.partition.store)
    assert feed.partition.next_due_ms() == due
    assert feed.take() == []
    assert feed.changes[-1].is_empty


def test_what_was_rolled_back_happens_again_as_if_for_the_first_time() -> None:
    once, twice = busy_feed(), busy_feed()
    everything_happens(once)
    now_ms, sent, ends = twice.now_ms, twice._sent, twice.ends.copy()
    everything_happens(twice)
    twice.partition.take(twice.now_ms)
    twice.partition.roll_back()
    twice.now_ms, twice._sent, twice.ends = now_ms, sent, ends
    everything_happens(twice)
    assert twice.take() == once.take()
    assert twice.changes[-1].rows == once.changes[-1].rows


def test_a_result_that_waited_for_its_dispatch_and_then_was_held_waits_for_its_dispatch_again() -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.result("t")
    feed.take()
    before = kept(feed)
    feed.dispatched("t", {"doc/1": "a"}, on_stale="hold")
    feed.barrier()
    assert feed.waits("t") == "context"
    feed.partition.take(feed.now_ms)
    feed.partition.roll_back()
    assert kept(feed) == before
    feed.wait(30)
    assert reason_of(feed.verdict()) == ("withheld", "unknown_task")
    assert [key for key, value in dict(feed.changelog).items() if key[:1] == WAITING_KEY and value is not None] == []


def test_an_erasure_that_was_rolled_back_has_erased_nothing() -> None:
    feed = busy_feed()
    before = everything(feed)
    feed.send("session.erased")
    feed.partition.take(feed.now_ms)
    assert feed.row.facets == {}
    feed.partition.roll_back()
    assert everything(feed) == before
    feed.changed({"doc/1": "a"})
    feed.barrier()
    assert ("delivered", "fresh") in [reason_of(body) for body in feed.verdicts()]


def test_what_is_committed_is_not_put_back() -> None:
    feed = busy_feed()
    feed.changed({"doc/1": "c"})
    feed.take()
    after = kept(feed)
    feed.partition.roll_back()
    assert kept(feed) == after
    assert feed.facets["doc/1"].value == "c"


def test_a_session_that_was_new_is_gone() -> None:
    feed = Feed()
    feed.dispatched("t", heartbeat_timeout_seconds=5)
    feed.result("unknown")
    feed.partition.take(feed.now_ms)
    feed.partition.roll_back()
    assert everything(feed) == {}
    assert feed.partition.store.session_count == 0
    assert feed.partition.next_due_ms() is None
    assert feed.partition.store.known("s") is None


def test_what_idle_sessions_were_found_is_forgotten_too() -> None:
    feed = busy_feed()
    feed.session = "idle"
    feed.changed({"a": "1"})
    feed.take()
    for _ in range(2):
        feed.partition.find_idle(feed.now_ms + 10**12, 10)
    assert feed.partition.has_idle
    feed.partition.roll_back()
    assert not feed.partition.has_idle


# What is decoded


def test_few_sessions_stay_decoded_and_those_with_many_tasks_longer() -> None:
    feed = Feed()
    for number in range(6):
        feed.session = f"s{number}"
        for task_id in "ab"[: 1 + number % 2]:
            feed.dispatched(task_id)
    with patch.multiple(store_module, MAX_DECODED=2, MAX_DECODED_INDEXED=2):
        feed.take()
        assert list(feed.partition.store.loaded) == ["s3", "s5"]
        feed.session = "s0"
        feed.step("a")
        assert list(feed.partition.store.loaded) == ["s3", "s5", "s0"]
        feed.take()
        assert list(feed.partition.store.loaded) == ["s3", "s5", "s0"]
    with patch.multiple(store_module, MAX_DECODED=0, MAX_DECODED_INDEXED=8):
        feed.step("a")
        feed.take()
        assert list(feed.partition.store.loaded) == ["s3", "s5"]


def test_a_session_that_is_only_asked_for_is_not_kept() -> None:
    feed = Feed()
    assert feed.partition.store.known("s") is None
    assert feed.partition.store.session("s").row() == new_row()
    assert feed.take() == []
    assert feed.partition.store.session_ids() == []


# Bounds and formats


def test_a_row_beyond_its_bound_is_not_written() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a" * 1000})
    with (
        patch.object(store_module, "MAX_RECORD_BYTES", 1000),
        pytest.raises(AssertionError, match="a row never exceeds its bound"),
    ):
        feed.take()


def test_a_task_beyond_its_bound_is_not_written() -> None:
    feed = Feed()
    feed.dispatched("small")
    feed.dispatched("large", {"doc/1": "a" * 1000})
    with (
        patch.object(store_module, "MAX_RECORD_BYTES", 1000),
        pytest.raises(AssertionError, match="a task never exceeds its bound"),
    ):
        feed.take()


def test_a_row_without_the_records_of_its_tasks_is_not_restored() -> None:
    feed = Feed()
    for task_id in "abc":
        feed.dispatched(task_id)
    feed.result("unknown")
    feed.take()
    other = Store(0)
    for key, value in feed.changelog:
        if key != b't["s","b"]':
            other.restore(key, value)
    with pytest.raises(ValueError, match="the row says that 3 open tasks have records of their own, but 2 do"):
        other.settle()


def test_a_row_of_an_unknown_format_is_refused_and_stays_as_it_is() -> None:
    row = new_row()
    row.format = FORMAT + 1
    store = Store(0)
    with pytest.raises(UnknownFormatError, match=f"a row has format {FORMAT + 1}, but this version reads"):
        store.restore(b"ss", row_to_bytes(row))
    assert store.session_ids() == []
    store.settle()
    assert store.begin_write() == []


def test_keys_of_two_names_are_never_the_same() -> None:
    names = [("a", "b"), ("a\0b", ""), ('a","b', ""), ("a", 'b","c'), ("", "a")]
    keys = {key(*name) for name in names for key in (task_record_key, ended_record_key)}
    assert len(keys) == 2 * len(names)
    assert session_record_key(b"a") == b"sa"
