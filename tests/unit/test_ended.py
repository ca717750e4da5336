"""Ended tasks are found by their id and by nothing else, and forgotten beyond the horizon."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from projections.ended import MAX_RESULTS, PRUNE_EVERY, Ended, EndedTasks, ended_from_line

DAY_MS = 86_400_000
ODD_IDS = [
    "t",
    "t1",
    "t10",
    '"',
    '"t"',
    't",',
    '["t",',
    "\n",
    '\n["t",',
    "t\n",
    "\\",
    '\\"',
    "",
    "é",
    "\U0001f6eb",
    "\0",
]

task_ids = st.sampled_from(ODD_IDS) | st.text(alphabet='t",[]\\\n1é', max_size=6)


def ended(task_id: str, at: int = 0, disposition: str | None = "delivered") -> Ended:
    return Ended(task_id, disposition, at, "digest", [["i", "c"]], None, {"reason": task_id})


def tasks(count: int = 1000, retention_ms: int = DAY_MS) -> EndedTasks:
    return EndedTasks(retention_ms, count)


@given(task_ids, st.none() | st.sampled_from(["delivered", "withheld"]), st.integers(0, 2**53))
def test_a_line_holds_all_and_is_one_line(task_id: str, disposition: str | None, at: int) -> None:
    entry = ended(task_id, at, disposition)
    assert ended_from_line(entry.to_line()) == entry
    assert entry.to_line().count(b"\n") == 1
    assert entry.was_unknown == (disposition is None)


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "remove", "get"]), st.sampled_from(["s", "s2"]), task_ids, st.integers(0, 9))
    )
)
def test_it_is_a_dictionary_by_session_and_task(actions: list[tuple[str, str, str, int]]) -> None:
    known, model = tasks(), dict[tuple[str, str], Ended]()
    for action, session_id, task_id, at in actions:
        if action == "put":
            known.put(session_id, task_id, ended(task_id, at).to_line())
            model[session_id, task_id] = ended(task_id, at)
        elif action == "remove":
            known.remove(session_id, task_id)
            model.pop((session_id, task_id), None)
        for session, task in {(session_id, task_id), *model}:
            assert known.get(session, task) == model.get((session, task))
    for session in ("s", "s2"):
        assert sorted(known.remove_all(session)) == sorted(task for each, task in model if each == session)
        assert known.remove_all(session) == []


def test_ids_that_begin_alike_are_not_mixed_up() -> None:
    known = tasks()
    for task_id in ODD_IDS:
        known.put("s", task_id, ended(task_id).to_line())
    for task_id in ODD_IDS:
        known.remove("s", task_id)
        assert known.get("s", task_id) is None
        assert all(known.get("s", other) is not None for other in ODD_IDS if other != task_id)
        known.put("s", task_id, ended(task_id).to_line())


def test_no_more_than_a_number_of_tasks_are_remembered_the_newest_ones() -> None:
    known = tasks(count=3)
    forgotten = []
    for number in range(6):
        known.put("s", f"t{number}", ended(f"t{number}", number).to_line())
        forgotten += known.prune("s", number)
    assert forgotten == ["t0", "t1", "t2"]
    assert [known.get("s", f"t{number}") is not None for number in range(6)] == [False] * 3 + [True] * 3


def test_a_task_is_forgotten_some_time_after_the_horizon_and_never_before() -> None:
    known = tasks(retention_ms=1000)
    forgotten: list[str] = []
    for number in range(40):
        now = 100 * number
        known.put("s", f"t{number}", ended(f"t{number}", now).to_line())
        forgotten += known.prune("s", now)
        for each in range(number + 1):
            age = now - 100 * each
            assert age > 1000 or known.get("s", f"t{each}") is not None
            assert age <= 1000 + 100 * PRUNE_EVERY or known.get("s", f"t{each}") is None
    assert forgotten == [f"t{number}" for number in range(len(forgotten))]


def test_a_task_touched_again_is_the_newest() -> None:
    known = tasks(count=2)
    for task_id in ("a", "b"):
        known.put("s", task_id, ended(task_id).to_line())
    known.put("s", "a", ended("a").with_result(["i2", "c2"]).to_line())
    known.put("s", "c", ended("c").to_line())
    assert known.prune("s", 0) == ["b"]


def test_of_many_results_the_first_and_the_last_are_known_again() -> None:
    entry = ended("t")
    for number in range(100):
        entry = entry.with_result([f"i{number}", f"c{number}"])
    assert len(entry.results) == MAX_RESULTS
    assert entry.results[0] == ["i", "c"]
    assert entry.results[-1] == ["i99", "c99"]


def test_nothing_is_kept_of_a_session_without_ended_tasks() -> None:
    known = tasks()
    known.put("s", "a", ended("a").to_line())
    known.remove("s", "a")
    known.remove("s", "a")
    assert known.get("s", "a") is None
    assert known.prune("s", 0) == []
    assert known.remove_all("s") == []
    assert not known._lines
