"""The session row: its bytes, and the questions one can ask of it."""

from __future__ import annotations

from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.row import (
    MAX_ROW_BYTES,
    UNSEEN,
    SessionRow,
    TaskRow,
    all_expected_now,
    ancestors,
    differs,
    expected_now,
    has_open_tasks,
    has_room,
    is_user_absent,
    last_event_at,
    new_row,
    older_in_slot,
    readers,
    row_from_bytes,
    row_to_bytes,
)

Change = tuple[bool, str | None]
"""Whether the task itself made it, and the new value."""


def task(expected: dict[str, str | None] | None = None, **fields: Any) -> TaskRow:
    row: Any = {"at": 1, "offset": 0, "digest": "d", "echo": {}, "expected": expected or {}}
    row.update(fields)
    return cast("TaskRow", row)


def facet(value: str | None) -> list[Any]:
    return [value, 0, 0, "app", "e", None]


def test_a_row_survives_its_bytes() -> None:
    row = new_row()
    row["facets"]["dóc\n"] = facet(None)
    row["tasks"]["t"] = task({"a": "1"}, progress=0.1, own={"a": [[0, UNSEEN, None]]})
    assert row_from_bytes(row_to_bytes(row)) == row
    assert row_to_bytes(row_from_bytes(row_to_bytes(row))) == row_to_bytes(row)


@pytest.mark.parametrize("at", [0, 7, 1_764_000_000_000])
def test_the_time_of_the_last_event_is_found_in_the_bytes(at: int) -> None:
    assert last_event_at(row_to_bytes({**new_row(), "at": at})) == at


@pytest.mark.parametrize("name", ["tasks", '"tasks":{', "own", "}"])
def test_open_tasks_are_found_in_the_bytes_whatever_is_written_there(name: str) -> None:
    row = new_row()
    row["facets"][name] = [name, 0, 0, name, name, name]
    row["own"][name] = {name: []}
    assert not has_open_tasks(row_to_bytes(row))
    row["tasks"][name] = task(echo={"metadata": {"tasks": {}, "facets": {"tasks": {}}}})
    assert has_open_tasks(row_to_bytes(row))


# Own changes


@given(
    stated=st.sampled_from([None, "a", "b"]),
    begin=st.sampled_from([UNSEEN, None, "a", "b"]),
    changes=st.lists(st.tuples(st.booleans(), st.sampled_from([None, "a", "b", "c"])), max_size=8),
)
def test_the_expected_value_follows_own_changes_from_where_it_matched(
    stated: str | None, begin: Any, changes: list[Change]
) -> None:
    before, own = begin, []
    for offset, (is_own, after) in enumerate(changes):
        if is_own:
            own.append([offset, before, after])
        before = after
    expected = followed(stated, begin, changes)
    mine = task({"f": stated}, own={"f": own}) if own else task({"f": stated})
    assert expected_now(mine, "f") == expected
    assert all_expected_now(mine, {}) == {"f": expected}
    row = new_row()
    row["tasks"]["t"] = mine
    if before != UNSEEN:
        row["facets"]["f"] = facet(before)
    fitting = {UNSEEN, expected}
    if begin == UNSEEN and changes and changes[0][0]:  # it may have read what others made of its own first change
        fitting.add(followed(stated, changes[0][1], changes[1:]))
    assert differs(row, mine, "f") == (before not in fitting)
    if before in fitting - {UNSEEN}:
        assert all_expected_now(mine, row["facets"]) == {"f": before}


def followed(expected: str | None, before: Any, changes: list[Change]) -> str | None:
    for is_own, after in changes:
        if is_own and before in (UNSEEN, expected):
            expected = after
        before = after
    return expected


# Absence


@pytest.mark.parametrize(
    ("facets", "is_absent"),
    [
        ({}, False),
        ({"presence": "absent", "presents/a": "absent"}, False),
        ({"presence/a": "absent"}, True),
        ({"presence/a": None}, True),
        ({"presence/a": "absent", "presence/b": "present"}, False),
        ({"presence/": "absent"}, True),
    ],
)
def test_the_user_is_absent_when_every_known_client_is(facets: dict[str, str | None], *, is_absent: bool) -> None:
    row = new_row()
    row["facets"] = {name: facet(value) for name, value in facets.items()}
    assert is_user_absent(row) == is_absent


# Scopes and slots


def family(**parents: tuple[str, bool]) -> SessionRow:
    """Tasks with their parents, and whether they are independent."""
    row = new_row()
    for task_id, (parent, independent) in parents.items():
        row["tasks"][task_id] = task(parent=parent, policy={"independent": True} if independent else {})
    row["tasks"]["root"] = task()
    return row


def names(row: SessionRow, tasks: Any) -> list[str]:
    return [next(name for name, each in row["tasks"].items() if each is one) for one in tasks]


def test_above_a_task_are_its_parents_and_its_reads_stop_at_an_independent_one() -> None:
    row = family(leaf=("middle", False), middle=("top", True), top=("root", False), lost=("gone", False))
    tasks = row["tasks"]
    assert names(row, ancestors(row, tasks["leaf"])) == ["middle", "top", "root"]
    assert names(row, readers(row, tasks["leaf"])) == ["leaf", "middle"]
    assert names(row, readers(row, tasks["middle"])) == ["middle"]
    assert names(row, readers(row, tasks["top"])) == ["top", "root"]
    assert names(row, ancestors(row, tasks["lost"])) == []
    assert names(row, readers(row, tasks["lost"])) == ["lost"]


def test_tasks_that_are_each_others_parents_have_an_end() -> None:
    row = family(a=("b", False), b=("a", False))
    assert names(row, ancestors(row, row["tasks"]["a"])) == ["b"]


def test_older_in_a_slot_goes_by_the_log_of_the_lane_and_between_lanes_by_time() -> None:
    row = new_row()
    for task_id, at, offset, echo in (
        ("before", 1, 3, {"slot": "panel"}),
        ("before, with a later time", 9, 4, {"slot": "panel"}),
        ("after, with an earlier time", 1, 6, {"slot": "panel"}),
        ("cold before", 1, 9, {"slot": "panel", "lane": "cold"}),
        ("cold after", 3, 1, {"slot": "panel", "lane": "cold"}),
        ("elsewhere", 1, 1, {"slot": "mail"}),
        ("nowhere", 1, 1, {}),
    ):
        row["tasks"][task_id] = task(echo=echo) | {"at": at, "offset": offset}
    older = ["before", "before, with a later time", "cold before"]
    assert older_in_slot(row, "new", "panel", [2, 5]) == older
    assert older_in_slot(row, "before", "panel", [2, 5]) == older[1:]
    assert older_in_slot(row, "new", "panel", [2, 5, 1]) == ["before", "after, with an earlier time", "cold after"]


# Room


def test_room_is_measured_when_the_count_runs_out_and_does_not_depend_on_writing() -> None:
    row = new_row()
    size = 1000
    taken = 0
    while has_room(row, size):
        name = f"doc/{taken}"
        row["facets"][name] = facet("x" * (size - len(orjson.dumps({name: facet("")}))))
        taken += 1
        if taken % 100 == 0:
            row = row_from_bytes(row_to_bytes(row))
    assert MAX_ROW_BYTES - 2 * size < len(row_to_bytes(row)) <= MAX_ROW_BYTES
    assert not has_room(row, size)


def test_a_row_that_changes_but_does_not_grow_always_has_room() -> None:
    row = new_row()
    assert all(has_room(row, 10_000) for _ in range(1000))
