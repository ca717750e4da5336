"""Rows as bytes: they come back as they were, and what this version cannot read is refused and never overwritten."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.facets import Facets
from projections.partition import Partition
from projections.records import (
    UnknownFormatError,
    change_of,
    change_to_bytes,
    head_from_bytes,
    row_from_bytes,
    row_to_bytes,
    task_from_bytes,
    task_to_bytes,
)
from projections.rows import (
    FORMAT,
    UNKNOWN,
    UNSEEN,
    CancelRequest,
    Change,
    Checkpoint,
    Clocks,
    Delivery,
    DispatchOrder,
    EffectAnswer,
    Extras,
    Facet,
    KeptTask,
    Lease,
    Lineage,
    OwnChange,
    Policy,
    ResultDigests,
    Scope,
    SessionRow,
    StatedBelow,
    Task,
    Wait,
    Work,
    new_row,
)
from projections.rules import Rules
from tests.unit.feeding import START_MS, Feed

CHANGED = change_to_bytes(3, START_MS, "app", "e")
FULL_TASK = Task(
    FORMAT,
    START_MS,
    2**40,
    "digest",
    "search",
    '"task_type":"search"',
    {"a": "1", "b": None},
    True,
    "panel",
    "r-1",
    3,
    2,
    '"plan"',
    ["a"],
    Policy(on_stale="hold", deadline_ms=START_MS, plan=["look"]),
    {"a": [OwnChange(0, None, "x", UNSEEN), OwnChange(1, None, "y", UNKNOWN), OwnChange(2, "y", None)]},
    '{"a":"1"}',
    Scope("parent", {"child": None}, START_MS, {"a": StatedBelow([None, "1"], {"": "1", "child": None})}),
    Wait("context", ["p"], START_MS, expired=True, delivered=True),
    Work(["f"], ["i"], 0.1, "é", Checkpoint("cp", 1)),
    "00-trace",
    START_MS,
    START_MS,
    [ResultDigests("i", "c")],
    '"acknowledged":"shown"',
    7,
    b"step-ids",
    b"beat-ids",
    {"a": None},
    ["a", "never seen"],
    Lineage("t", START_MS, 3, is_cold=True),
    3,
    Clocks(START_MS, START_MS, has_started=True, is_queued=True, turn_at=START_MS),
    [["1f2e3d4c", "p"]],
)
FULL_EXTRAS = Extras(
    {"doc": 2**63 - 1},
    [CancelRequest("t", None, "s", START_MS, 1, "a", "b", is_matched=True)],
    {"u": START_MS},
    {"presence/tab": Lease(START_MS, CHANGED)},
    {"k": KeptTask(FULL_TASK, START_MS, Delivery("{}", {"p": None, "q": ["a"]}))},
)


def full_row() -> SessionRow:
    row = new_row()
    row.last_event_at, row.size_estimate, row.open_tasks = START_MS, 1000, 1
    row.facets["dóc\n"] = Facet(None, "t", CHANGED)
    row.facets["lost"] = Facet(None, None, b"")
    row.tasks["t"] = msgspec.structs.replace(FULL_TASK)
    row.undispatched["u"] = {"a": [OwnChange(0, None, None, UNSEEN)]}
    row.slots["panel"] = DispatchOrder(START_MS, 1, is_cold=True)
    row.cancels["c"] = START_MS
    row.effects["k"] = EffectAnswer(True, '"a":1')
    row.forwarded = ["identity"]
    row.context_ids = b"context1"
    row.extras = FULL_EXTRAS
    return row


def test_a_row_survives_its_bytes() -> None:
    row = full_row()
    read = row_from_bytes(row_to_bytes(row))
    read.facets = dict(Facets(read.facets).items())
    assert read == row
    assert row_to_bytes(row_from_bytes(row_to_bytes(row))) == row_to_bytes(row)
    assert task_from_bytes(task_to_bytes(FULL_TASK)) == FULL_TASK


def test_every_field_of_a_task_was_tried() -> None:
    defaults = Task(FORMAT, 0, 0, "", "", "", {})
    same = [name for name in Task.__struct_fields__ if getattr(defaults, name) == getattr(FULL_TASK, name)]
    assert same == ["format"]


def test_every_field_of_the_extras_was_tried() -> None:
    defaults = Extras()
    assert [name for name in Extras.__struct_fields__ if getattr(defaults, name) == getattr(FULL_EXTRAS, name)] == []


def test_rows_without_the_fields_added_since_are_read() -> None:
    """Format 2 as it was first written: a row of eleven fields, tasks of 26, policies of 15."""
    row = full_row()
    row.extras, row.replaced, row.context_ids = None, [], b""
    new = Task(FORMAT, 0, 0, "", "", "", {})
    task = row.tasks["t"] = msgspec.structs.replace(
        row.tasks["t"], **{name: getattr(new, name) for name in Task.__struct_fields__[26:]}
    )
    assert task.policy is not None
    raw = msgspec.msgpack.decode(row_to_bytes(row))
    assert raw[11:] == [[], b"", None]
    assert raw[5]["t"][32] is None
    assert raw[5]["t"][14][15] is None
    del raw[11:], raw[5]["t"][26:], raw[5]["t"][14][15:]
    old = msgspec.msgpack.encode(raw)
    assert row_to_bytes(row_from_bytes(old)) == row_to_bytes(row)
    assert not head_from_bytes(old).has_extras
    assert head_from_bytes(old).open_tasks == 1


def test_what_few_sessions_have_takes_a_byte_of_the_others() -> None:
    row = full_row()
    with_extras = len(row_to_bytes(row))
    row.extras = None
    raw = msgspec.msgpack.decode(row_to_bytes(row))
    del raw[13:]
    assert len(row_to_bytes(row)) == len(msgspec.msgpack.encode(raw)) + 1 < with_extras
    assert row.extras is None


def test_a_row_whose_tasks_have_records_of_their_own_is_put_together_in_their_order() -> None:
    row = new_row()
    for position, task_id in enumerate("cab"):
        row.tasks[task_id] = Task(FORMAT, 0, 0, "d", "q", "", {}, position=position)
    row.open_tasks = 3
    apart = row_to_bytes(msgspec.structs.replace(row, tasks={}))
    assert list(row.tasks) == ["c", "a", "b"]
    records = {task_id: task_to_bytes(task) for task_id, task in row.tasks.items()}
    assert row_from_bytes(apart, dict(sorted(records.items()))) == row
    assert list(row_from_bytes(apart, records).tasks) == ["c", "a", "b"]
    for wrong in ({}, {**records, "d": records["a"]}, {"a": records["a"]}):
        with pytest.raises(ValueError, match="3 open tasks have records of their own"):
            row_from_bytes(apart, wrong)
    with pytest.raises(ValueError, match="have records of their own"):
        row_from_bytes(row_to_bytes(row), records)


@pytest.mark.parametrize("at", [0, 7, START_MS])
@pytest.mark.parametrize("open_tasks", [0, 1, 300])
def test_the_head_of_a_row_is_read_without_the_rest(at: int, open_tasks: int) -> None:
    row = full_row()
    row.last_event_at, row.open_tasks = at, open_tasks
    head = head_from_bytes(row_to_bytes(row))
    assert (head.format, head.last_event_at, head.open_tasks) == (FORMAT, at, open_tasks)


def test_a_change_survives_its_bytes() -> None:
    assert change_of(Facet("a", None, CHANGED)) == Change(3, START_MS, "app", "e")


@given(st.binary(max_size=40).filter(lambda raw: not raw.startswith(b"{")))
def test_bytes_that_are_no_row_are_refused_as_such(raw: bytes) -> None:
    for read in (row_from_bytes, task_from_bytes):
        with pytest.raises(UnknownFormatError):
            read(raw)
    with suppress(UnknownFormatError):
        head_from_bytes(raw)


def test_an_older_row_of_this_format_may_lack_the_last_fields_of_a_task() -> None:
    raw = msgspec.msgpack.encode([FORMAT, 5, 6, "d", "search", "", {"a": "1"}])
    assert task_from_bytes(raw) == Task(FORMAT, 5, 6, "d", "search", "", {"a": "1"})


# Unknown formats


def row_of_format(number: Any) -> bytes:
    row = msgspec.msgpack.decode(row_to_bytes(full_row()))
    return msgspec.msgpack.encode([number, *row[1:]])


@pytest.mark.parametrize("read", [row_from_bytes, task_from_bytes, head_from_bytes])
def test_the_message_says_which_format_it_is_and_which_are_read(read: Any) -> None:
    raw = row_of_format(FORMAT + 1)
    if read is task_from_bytes:
        raw = task_to_bytes(msgspec.structs.replace(FULL_TASK, format=FORMAT + 1))
    expected = f"a row has format {FORMAT + 1}, but this version reads formats 1 and {FORMAT}: go back to the version"
    with pytest.raises(UnknownFormatError, match=expected):
        read(raw)


@pytest.mark.parametrize(
    "raw",
    [
        row_of_format(FORMAT + 1),
        row_of_format(0),
        row_of_format("new"),
        msgspec.msgpack.encode([FORMAT + 1, {"of": "another shape"}]),
        msgspec.msgpack.encode([FORMAT, "nonsense"]),
        msgspec.msgpack.encode({}),
        b"\xff",
        b"",
    ],
)
def test_a_row_that_cannot_be_read_is_refused_by_restore_and_not_overwritten(raw: bytes) -> None:
    partition = Partition(0, Rules())
    with pytest.raises(UnknownFormatError):
        partition.restore(b"ss", raw)
    partition.settle()
    assert partition.take(START_MS).rows == {}


def test_a_task_s_record_that_cannot_be_read_is_refused_before_anything_is_written() -> None:
    feed = Feed()
    for task_id in "abc":
        feed.dispatched(task_id)
    feed.take()
    newest = dict(feed.changelog)
    task = task_from_bytes(newest[b't["s","b"]'] or b"")
    newest[b't["s","b"]'] = task_to_bytes(msgspec.structs.replace(task, format=FORMAT + 1))
    other = Partition(0, Rules())

    def restore() -> None:
        for key, value in newest.items():
            other.restore(key, value)
        other.settle()

    with pytest.raises(UnknownFormatError, match=f"a row has format {FORMAT + 1}"):
        restore()
    assert other.take(START_MS).rows == {}
