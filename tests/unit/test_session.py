"""The questions that can be asked of a session: about the tree of tasks and about slots, with an index or without."""

from __future__ import annotations

import pytest

from projections.decode import Decoder
from projections.rows import FORMAT, DispatchOrder, Policy, ResultDigests, Scope, Task, new_row
from projections.session import Parked, Session
from projections.slot_order import is_older, order_of
from projections.task_index import TaskIndex
from projections.waiting import Arrived
from tests.unit.test_waiting import result_value


def task(offset: int = 0, at: int = 0, slot: str | None = None, *, cold: bool = False) -> Task:
    return Task(FORMAT, at, offset, "d", "search", "", {}, is_cold=cold, slot=slot)


def family(**parents: tuple[str, bool]) -> Session:
    """Tasks with their parents, and whether they are independent."""
    session = Session("s", new_row())
    for task_id, (parent, independent) in parents.items():
        session.tasks[task_id] = task()
        session.tasks[task_id].scope = Scope(parent)
        session.tasks[task_id].policy = Policy(independent=independent)
    session.tasks["root"] = task()
    for task_id, (parent, _) in parents.items():
        if parent in session.tasks:
            above = session.tasks[parent]
            above.scope = above.scope or Scope()
            above.scope.children[task_id] = None
    return session


def above(session: Session, task_id: str) -> list[str]:
    tasks = session.tasks
    return [name for each in session.ancestors(tasks[task_id]) for name in tasks if tasks[name] is each]


def readers(session: Session, task_id: str) -> list[str]:
    return [name for name, _ in session.readers_above(session.tasks[task_id])]


def test_above_a_task_are_its_parents_and_its_reads_stop_at_an_independent_one() -> None:
    session = family(leaf=("middle", False), middle=("top", True), top=("root", False), lost=("gone", False))
    assert above(session, "leaf") == ["middle", "top", "root"]
    assert readers(session, "leaf") == ["middle"]
    assert readers(session, "middle") == []
    assert readers(session, "top") == ["root"]
    assert above(session, "lost") == []
    assert readers(session, "lost") == []
    assert session.descendants("root") == ["top", "middle", "leaf"]
    assert session.descendants("leaf") == []


def test_tasks_that_are_each_others_parents_would_be_noticed() -> None:
    session = family(a=("b", False), b=("a", False))
    assert above(session, "a") == ["b"]
    with pytest.raises(AssertionError, match="a task is its own ancestor"):
        readers(session, "a")


@pytest.mark.parametrize("indexed", [False, True])
def test_children_that_came_before_their_parent_are_found(*, indexed: bool) -> None:
    session = family(b=("late", False), a=("late", False), known=("root", False), other=("lost", False))
    for task_id in ("a", "b", "other"):
        scope = session.tasks[task_id].scope
        assert scope is not None
        scope.parentless_until = 7
    if indexed:
        session.index = TaskIndex(session.tasks)
    assert session.parentless_children("late") == ["b", "a"]
    assert session.parentless_children("root") == []


@pytest.mark.parametrize("indexed", [False, True])
def test_older_in_a_slot_goes_by_the_log_of_the_lane_and_between_lanes_by_time(*, indexed: bool) -> None:
    session = Session("s", new_row())
    session.tasks.update(
        {
            "before": task(3, 1, "panel"),
            "before, with a later time": task(4, 9, "panel"),
            "after, with an earlier time": task(6, 1, "panel"),
            "cold before": task(9, 1, "panel", cold=True),
            "cold after": task(1, 3, "panel", cold=True),
            "elsewhere": task(1, 1, "mail"),
            "nowhere": task(1, 1),
        }
    )
    session.tasks["before"].policy = Policy(protected=True)
    for position, each in enumerate(session.tasks.values()):
        each.position = position
    if indexed:
        session.index = TaskIndex(session.tasks)
    older = ["before", "before, with a later time", "cold before"]
    hot, cold = DispatchOrder(2, 5), DispatchOrder(2, 5, is_cold=True)
    assert session.older_in_slot("new", "panel", hot) == older
    assert session.older_in_slot("new", "panel", hot, protected=False) == older[1:]
    assert session.first_older_in_slot("new", "panel", hot) == "before"
    assert session.has_older_in_slot("new", "panel", hot)
    late = "before, with a later time"
    assert session.older_in_slot(late, "panel", order_of(session.tasks[late])) == [
        "before",
        "cold before",
        "cold after",
    ]
    assert session.older_in_slot("new", "panel", cold) == ["before", "after, with an earlier time", "cold after"]
    assert session.older_in_slot("new", "unheard of", hot) == []
    assert session.first_older_in_slot("new", "unheard of", hot) is None
    assert not session.has_older_in_slot("new", "mail", DispatchOrder(1, 1))


def test_of_two_dispatches_with_one_time_and_offset_the_hot_lanes_is_older() -> None:
    hot, cold = DispatchOrder(1, 1), DispatchOrder(1, 1, is_cold=True)
    assert is_older(hot, cold)
    assert not is_older(cold, hot)
    assert not is_older(hot, hot)
    assert is_older(DispatchOrder(1, 2, is_cold=True), DispatchOrder(1, 3))


# Results that wait for their dispatch


def arrived(**fields: object) -> Arrived:
    value = result_value(**fields)
    return Arrived(Decoder("results").event_of(value, ()), value, None, (), 0, 0, "results", 0)


def test_parked_results_know_each_other() -> None:
    first, other = arrived(), arrived(event_id="r-2", outcome="failed")
    parked = Parked()
    assert not parked.is_repeat(first.digests)
    parked.add(first)
    assert parked.is_repeat(arrived(event_id="r-3").digests)
    assert parked.is_conflict(arrived(outcome="failed").digests)
    assert not parked.is_conflict(first.digests)
    copy = parked.copy()
    copy.add(other)
    assert copy.is_repeat(other.digests)
    assert not parked.is_repeat(other.digests)
    assert [parked.results, copy.results] == [[first], [first, other]]
    assert not parked.is_conflict(ResultDigests("i", "c"))


def test_an_id_with_odd_characters_is_one_string_of_json() -> None:
    session = Session('s"é', new_row())
    assert session.json == '"s\\"é"'
    assert session.key == 's"é'.encode()
