"""Which facets a task finds changed, and who stated what of them."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from projections.expectation import differs
from projections.facets import Facets, facets_of
from projections.records import change_to_bytes, task_to_bytes
from projections.rows import FORMAT, Facet, Policy, Scope, StatedBelow, Task
from projections.stale import ITSELF, MAX_LEFT, leave, leave_reads, restale, state, state_own_reads, with_reads

CHANGED = change_to_bytes(0, 0, "app", "e")


def task(expected: dict[str, str | None] | None = None, policy: Policy | None = None) -> Task:
    return Task(FORMAT, 0, 0, "d", "search", "", expected or {}, policy=policy)


def facets(**values: str | None) -> Facets:
    return facets_of({name: Facet(value, None, CHANGED) for name, value in values.items()})


def below(of: Task) -> dict[str, StatedBelow]:
    return of.scope.below if of.scope is not None else {}


def test_a_facet_is_in_the_list_while_it_differs() -> None:
    mine = task({"a": "1", "b": "1"})
    assert restale(facets(b="2"), mine, "b", 5)
    assert not restale(facets(b="3"), mine, "b", 6)
    assert restale(facets(a="2"), mine, "a", 7)
    assert mine.stale == ["b", "a"]
    assert restale(facets(b="1"), mine, "b", 8)
    assert mine.stale == ["a"]
    assert mine.stale_since is None


def test_the_time_of_the_first_difference_is_kept_if_it_stops_the_task() -> None:
    mine = task({"a": "1", "b": "1"}, Policy(while_stale_grace_ms=0))
    restale(facets(a="2"), mine, "a", 5)
    restale(facets(b="2"), mine, "b", 6)
    restale(facets(a="1"), mine, "a", 7)
    assert mine.stale_since == 5
    restale(facets(b="1"), mine, "b", 8)
    assert mine.stale_since is None


# Who stated what


def test_what_a_task_stated_itself_is_noted_once_others_state_it_too() -> None:
    mine = task({"a": "1"})
    state(mine, ITSELF, "a", "2")
    assert below(mine) == {}
    state(mine, "child", "a", "3")
    assert below(mine) == {"a": StatedBelow([], {ITSELF: "1", "child": "3"})}
    state(mine, ITSELF, "a", "4")
    state(mine, "child", "a", "5")
    assert below(mine) == {"a": StatedBelow([], {ITSELF: "4", "child": "5"})}


def test_what_children_left_behind_is_kept_once_and_bounded() -> None:
    mine = task()
    for number in range(3 * MAX_LEFT):
        for _ in range(2):
            leave(mine, "a", str(number))
    assert below(mine)["a"].ended == [str(number) for number in range(MAX_LEFT)]


def test_what_an_ended_task_depended_on_stays_whoever_stated_it() -> None:
    above, child = task({"a": "3"}), task({"a": "2", "b": "1"})
    state(above, "child", "a", "2")
    state(above, "other", "a", "3")
    leave_reads(above, "child", child)
    assert below(above) == {"a": StatedBelow(["2"], {ITSELF: "3", "other": "3"})}
    leave_reads(above, "other", task({"a": "3"}))
    assert below(above) == {"a": StatedBelow(["2", "3"], {})}
    leave_reads(above, "nobody", child)
    assert below(above) == {"a": StatedBelow(["2", "3"], {})}


VALUES = st.sampled_from([None, "1", "2"])
NAMES = st.sampled_from(["a", "b", "c"])
READS = st.dictionaries(NAMES, VALUES)


@given(
    expected=READS,
    known=st.dictionaries(NAMES, VALUES),
    statements=st.lists(st.tuples(st.sampled_from(["child", "other"]), NAMES, VALUES), max_size=4),
    reads=READS,
)
def test_a_copy_that_has_read_leaves_the_task_as_it_was(
    expected: dict[str, str | None],
    known: dict[str, str | None],
    statements: list[tuple[str, str, str | None]],
    reads: dict[str, str | None],
) -> None:
    mine, session_facets = task(expected, Policy(while_stale_grace_ms=0)), facets(**known)
    for reader_id, name, value in statements:
        if name in mine.expected:
            state(mine, reader_id, name, value)
            mine.expected[name] = value
    for name in mine.expected:
        restale(session_facets, mine, name, 1)
    before = task_to_bytes(mine)
    seen = with_reads(session_facets, mine, reads, 2)
    assert task_to_bytes(mine) == before
    changed = msgspec.msgpack.decode(before, type=Task)
    state_own_reads(session_facets, changed, reads, 2)
    assert task_to_bytes(seen) == task_to_bytes(changed)
    assert set(seen.stale) == {name for name in seen.expected if differs(session_facets, seen, name)}


def test_a_task_without_a_scope_is_not_given_one_by_what_it_reads() -> None:
    mine = task({"a": "1"})
    state_own_reads(facets(), mine, {"a": "2", "b": "3"}, 1)
    assert mine.scope is None
    assert mine.expected == {"a": "2", "b": "3"}
    mine.scope = Scope("parent")
    assert with_reads(facets(), mine, {"a": "4"}, 1).scope == Scope("parent")
