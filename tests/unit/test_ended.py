"""Ended tasks are found by their id and by nothing else, and forgotten beyond the horizon."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.ended import (
    MAX_ENDED_BYTES,
    MAX_RESULTS,
    PRUNE_EVERY,
    EndedTask,
    beyond_horizon,
    find,
    put,
    task_ids,
    task_of,
    without,
)
from projections.records import UnknownFormatError
from projections.rows import FORMAT, EndedLine, ResultDigests
from projections.text import members_of

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

ids = st.sampled_from(ODD_IDS) | st.text(alphabet='t",[]\\\n1é', max_size=6)


def ended(task_id: str, at: int = 0, disposition: str | None = "delivered", **fields: Any) -> EndedTask:
    return EndedTask(task_id, disposition, "fresh", at, "digest", [ResultDigests("i", "c")], **fields)


def fields_of(task: EndedTask) -> dict[str, Any]:
    names = {"dispatched_at", *EndedLine.__struct_fields__} - {"format", "open_ms"}
    return {name: getattr(task, name) for name in names}


def put_all(*tasks: EndedTask) -> bytes:
    lines = b""
    for task in tasks:
        lines = put(lines, task.task_id, task.line())
    return lines


TEXTS = st.none() | ids


@given(
    ids, st.none() | st.sampled_from(["delivered", "withheld"]), st.integers(0, 2**53), ids, TEXTS, TEXTS, TEXTS, TEXTS
)
def test_a_line_holds_all_and_is_one_line(
    task_id: str,
    disposition: str | None,
    at: int,
    text: str,
    reason: str | None,
    parent: str | None,
    acknowledged: str | None,
    detail: str | None,
) -> None:
    results = [ResultDigests("a", "b"), ResultDigests("c", "d")]
    echo = members_of({"task_type": text, "metadata": {text: [text, None, 0.5]}, "lane": "cold"})
    work = members_of({"message": text})
    task = EndedTask(
        task_id, disposition, reason, at, parent, results, parent, at, 3, 2, echo, work, acknowledged, detail
    )
    line = task.line()
    assert line.count(b"\n") == 1
    assert fields_of(task_of(line)) == fields_of(task)
    assert task_of(line).line() == line
    assert task.was_unknown == (disposition is None)
    assert (task.task_type, task.is_cold) == (text, True)


def test_of_a_task_that_was_never_seen_little_is_known() -> None:
    task = EndedTask("t", None, None, 5, None, [])
    assert fields_of(task_of(task.line())) == fields_of(task)
    assert task.was_unknown
    assert (task.task_type, task.is_cold) == (None, False)


@given(st.lists(st.tuples(st.sampled_from(["put", "remove", "get"]), ids, st.integers(0, 9))))
def test_it_is_a_dictionary_by_task(actions: list[tuple[str, str, int]]) -> None:
    lines, model = b"", dict[str, EndedTask]()
    for action, task_id, at in actions:
        if action == "put":
            lines = put(lines, task_id, ended(task_id, at).line())
            model.pop(task_id, None)
            model[task_id] = ended(task_id, at)
        elif action == "remove":
            lines = without(lines, task_id)
            model.pop(task_id, None)
        for each in {task_id, *model}:
            found, expected = find(lines, each), model.get(each)
            assert (found.line() if found else None) == (expected.line() if expected else None)
        assert task_ids(lines) == list(model)


def test_ids_that_begin_alike_are_not_mixed_up() -> None:
    lines = put_all(*map(ended, ODD_IDS))
    for task_id in ODD_IDS:
        others = without(lines, task_id)
        assert find(others, task_id) is None
        assert all(find(others, other) is not None for other in ODD_IDS if other != task_id)


# The horizon


def test_no_more_than_a_number_of_tasks_are_remembered_the_newest_ones() -> None:
    lines = b""
    forgotten = []
    for number in range(6):
        lines = put(lines, f"t{number}", ended(f"t{number}", number).line())
        for each in beyond_horizon(lines, number - DAY_MS, 3):
            forgotten.append(each.task_id)
            lines = without(lines, each.task_id)
    assert forgotten == ["t0", "t1", "t2"]
    assert task_ids(lines) == ["t3", "t4", "t5"]


def test_a_task_is_forgotten_some_time_after_the_horizon_and_never_before() -> None:
    lines = b""
    forgotten: list[str] = []
    for number in range(40):
        now = 100 * number
        lines = put(lines, f"t{number}", ended(f"t{number}", now).line())
        for oldest in beyond_horizon(lines, now - 1000, 1000):
            forgotten.append(oldest.task_id)
            lines = without(lines, oldest.task_id)
        for each in range(number + 1):
            age = now - 100 * each
            assert age > 1000 or find(lines, f"t{each}") is not None
            assert age <= 1000 + 100 * PRUNE_EVERY or find(lines, f"t{each}") is None
    assert forgotten == [f"t{number}" for number in range(len(forgotten))]
    assert forgotten


def test_no_more_than_so_many_bytes_are_remembered() -> None:
    size = MAX_ENDED_BYTES // 10
    lines = put_all(*(ended(f"t{number}", detail="x" * size) for number in range(10)))
    assert len(lines) > MAX_ENDED_BYTES
    assert [each.task_id for each in beyond_horizon(lines, 0, 1000)] == ["t0"]
    assert beyond_horizon(without(lines, "t0"), 0, 1000) == []


def test_a_task_touched_again_is_the_newest() -> None:
    lines = put_all(ended("a"), ended("b"), ended("a").with_result(ResultDigests("i2", "c2")), ended("c"))
    assert [each.task_id for each in beyond_horizon(lines, 0, 2)] == ["b"]


# What is learned later


def test_of_many_results_the_first_and_the_last_are_known_again() -> None:
    first = task = ended("t", echo='"task_type":"q"', detail="d")
    for number in range(100):
        task = task.with_result(ResultDigests(f"i{number}", f"c{number}"))
    assert len(task.results) == MAX_RESULTS
    assert task.results[0] == ResultDigests("i", "c")
    assert task.results[-1] == ResultDigests("i99", "c99")
    assert first.results == [ResultDigests("i", "c")]
    assert {name for name in fields_of(first) if fields_of(first)[name] != fields_of(task)[name]} == {"results"}


def test_an_acknowledgement_leaves_the_task_itself_as_it_was() -> None:
    task = ended("t")
    told = task.acknowledged_as("refused", "too late")
    assert (told.acknowledged, told.detail) == ("refused", "too late")
    assert (task.acknowledged, task.detail) == (None, None)


def test_a_line_of_another_version_is_refused_with_a_clear_message() -> None:
    line = ended("t").line()
    newer = line.replace(b'["t",%d,' % FORMAT, b'["t",%d,' % (FORMAT + 1))
    with pytest.raises(UnknownFormatError, match=f"an ended task has format {FORMAT + 1}, but this version reads"):
        task_of(newer)
    with pytest.raises(UnknownFormatError, match="cannot be read"):
        task_of(b'\n["t",2]')
    assert msgspec.json.decode(line, type=EndedLine).format == FORMAT
