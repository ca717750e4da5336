"""What a task expects of a facet after its own changes, and whether the session contradicts it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.expectation import contradicted, differing, differs, expected_values, is_unknown
from projections.facets import facets_of
from projections.records import change_to_bytes
from projections.rows import (
    FORMAT,
    KNOWN,
    UNKNOWN,
    UNSEEN,
    Facet,
    OwnChange,
    OwnChanges,
    Scope,
    Seen,
    StatedBelow,
    Task,
)

Change = tuple[bool, str | None]
"""Whether the task itself made it, and the new value."""

CHANGED = change_to_bytes(0, 0, "app", "e")
LOST = Facet(None, None, b"")


def task(expected: dict[str, str | None], own: OwnChanges | None = None, scope: Scope | None = None) -> Task:
    return Task(FORMAT, 0, 0, "d", "search", "", expected, own=own, scope=scope)


def facet(value: str | None) -> Facet:
    return Facet(value, None, CHANGED)


# Own changes


@given(
    stated=st.sampled_from([None, "a", "b"]),
    begin=st.sampled_from(["unseen", None, "a", "b"]),
    changes=st.lists(st.tuples(st.booleans(), st.sampled_from([None, "a", "b", "c"])), max_size=8),
)
def test_the_expected_value_follows_own_changes_from_where_it_matched(
    stated: str | None, begin: str | None, changes: list[Change]
) -> None:
    before, own = begin, []
    for offset, (is_own, after) in enumerate(changes):
        if is_own:
            seen: Seen = UNSEEN if before == "unseen" else KNOWN
            own.append(OwnChange(offset, None if before == "unseen" else before, after, seen))
        before = after
    expected = followed(stated, begin, changes)
    mine = task({"f": stated}, own={"f": own} if own else None)
    assert expected_values(facets_of({}), mine) == {"f": expected}
    facets = facets_of({} if before == "unseen" else {"f": facet(before)})
    fitting = {"unseen", expected}
    if begin == "unseen" and changes and changes[0][0]:  # it may have read what others made of its own first change
        fitting.add(followed(stated, changes[0][1], changes[1:]))
    assert differs(facets, mine, "f") == (before not in fitting)
    if before in fitting - {"unseen"}:
        assert expected_values(facets, mine) == {"f": before}
    elif before != "unseen":
        assert contradicted(mine, "f", before) == expected


def followed(expected: str | None, before: str | None, changes: list[Change]) -> str | None:
    for is_own, after in changes:
        if is_own and before in ("unseen", expected):
            expected = after
        before = after
    return expected


def test_an_own_change_of_a_value_that_nobody_knew_moves_nothing() -> None:
    mine = task({"f": "a"}, own={"f": [OwnChange(1, None, "b", UNKNOWN)]})
    assert expected_values(facets_of({}), mine) == {"f": "a"}
    assert differs(facets_of({"f": facet("b")}), mine, "f")
    assert not differs(facets_of({"f": facet("b")}), task({"f": "b"}, own=mine.own), "f")


# Facets that were never there, or were lost


def test_a_facet_that_never_changed_contradicts_nothing_and_one_that_is_unknown_contradicts_everything() -> None:
    mine = task({"f": None})
    assert not differs(facets_of({}), mine, "f")
    assert not differs(facets_of({"f": facet(None)}), mine, "f")
    assert differs(facets_of({"f": LOST}), mine, "f")
    assert is_unknown(LOST)
    assert not is_unknown(facet(None))
    assert expected_values(facets_of({"f": LOST}), task({"f": "a"}, own={"f": [OwnChange(1, "a", "b")]})) == {"f": "b"}


# Statements of tasks below


def test_every_statement_that_stands_must_agree() -> None:
    scope = Scope(below={"f": StatedBelow(["left"], {"": "mine", "child": "theirs"})})
    mine = task({"f": "theirs"}, scope=scope)
    for value in ("left", "mine", "theirs"):
        assert differs(facets_of({"f": facet(value)}), mine, "f")
    assert contradicted(mine, "f", "theirs") == "left"
    assert contradicted(mine, "f", "left") == "theirs"
    agreed = task({"f": "a"}, scope=Scope(below={"f": StatedBelow(["a"], {"child": "a"})}))
    assert not differs(facets_of({"f": facet("a")}), agreed, "f")
    with pytest.raises(ValueError, match="f does not differ"):
        contradicted(agreed, "f", "a")


def test_differing_facets_are_told_in_the_order_in_which_the_task_came_to_depend_on_them() -> None:
    mine = task({"a": None, "b": None, "c": None})
    assert differing(mine) == []
    mine.stale = ["c"]
    assert differing(mine) == ["c"]
    mine.stale = ["c", "a"]
    assert differing(mine) == ["a", "c"]
