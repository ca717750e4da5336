"""The scenario suite in memory, and that its table is whole and its oracle finds what is wrong."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scenarios import cases
from tests.scenarios.__main__ import main
from tests.scenarios.approaches import APPROACHES, Outcome, no_gate, one_counter, tidegate
from tests.scenarios.case import Case
from tests.scenarios.chance import case_by_chance
from tests.scenarios.comparison import score, total
from tests.scenarios.matrix import CHANGES, MOMENTS, MOVES, OUTCOMES, POLICIES, matrix, rows
from tests.scenarios.pipeline import run
from tests.scenarios.rows import SUBJECTS
from tests.scenarios.verdict import mistakes

ROWS = [pytest.param(case, id=case.name) for cases in SUBJECTS.values() for case in cases]
HOW = [
    pytest.param({}, id="hot"),
    pytest.param({"lane": "cold"}, id="cold"),
    pytest.param({"restarts": True}, id="taken over after every event"),
]


def case(name: str) -> Case:
    (found,) = [each for each in cases() if each.name == name]
    return found


# ---- as written


@pytest.mark.parametrize("how", HOW)
def test_every_cell_ends_as_the_table_says(how: dict[str, object]) -> None:
    assert [each for cell in matrix() for each in mistakes(cell, **how)] == []


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("row", ROWS)
def test_every_row_ends_as_written(row: Case, how: dict[str, object]) -> None:
    assert mistakes(row, **how) == []


def test_the_table_has_every_cell_once() -> None:
    found = [(row["outcome"], row["move"], row["request"], row["result"]) for row in rows()]
    assert sorted(found) == sorted(product(OUTCOMES, MOVES, CHANGES, MOMENTS))
    assert all(set(POLICIES) <= set(row) for row in rows())


def test_no_two_cases_share_a_name() -> None:
    names = [each.name for each in cases()]
    assert len(names) == len(set(names))


def test_a_case_that_ends_otherwise_is_noticed() -> None:
    right = case("a deleted document")
    wrong = Case(right.name, right.steps, {"rewrite": ["delivered: fresh", "end: delivered, fresh"]})
    assert len(mistakes(wrong)) == 1


# ---- by chance: the same cases in every run, for the oracle is simpler than the gate


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_the_oracle_finds_no_mistake_in_a_case_made_up_by_chance(random: Random) -> None:
    made_up = case_by_chance(random)
    found = score(made_up, tidegate(made_up))
    assert (found.stale_applied, found.fresh_withheld, found.silent) == ([], [], []), made_up.steps


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_a_take_over_after_every_event_changes_nothing(random: Random) -> None:
    made_up = case_by_chance(random)
    straight, taken_over = run(made_up), run(made_up, restarts=True)
    assert straight.lines == taken_over.lines, made_up.steps
    assert all(sum(line.startswith("end:") for line in lines) <= 1 for lines in straight.lines.values())


# ---- the oracle


def test_the_oracle_finds_no_mistake_of_the_gate() -> None:
    found = total(cases(), map(tidegate, cases()))
    assert (found.stale_applied, found.fresh_withheld, found.silent) == ([], [], [])


def test_the_oracle_agrees_with_the_table_on_what_is_fresh() -> None:
    """Without a gate a part is applied stale exactly where the table says anything but `delivered: fresh`."""
    for cell in matrix():
        is_fresh = cell.told["task"][0] == "delivered: fresh"
        assert bool(score(cell, no_gate(cell)).stale_applied) != is_fresh, cell.name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a teammate's edit", "doc/42 is another"),
        ("cancelled, and its result comes late", "it was cancelled"),
        ("an old failure after a newer success", "a newer answer stands in its place"),
        ("a failure nobody has heard of", "nobody knows the task"),
        ("heartbeats that stop", "its agent fell silent"),
        ("a deadline that passes", "its time was up"),
        ("stopped while stale", "it was stale for too long"),
        ("a stale child in a fan-out", "doc/42 is another"),
        ("slot, reject: the newer is turned away", "its place was taken"),
        ("a child of a parent that has ended", "its parent had returned"),
    ],
)
def test_the_oracle_finds_what_is_applied_without_a_gate(name: str, reason: str) -> None:
    found = score(case(name), no_gate(case(name))).stale_applied
    assert any(each.endswith(reason) for each in found), found


@pytest.mark.parametrize(
    "name",
    ["two tabs with different views", "the agent's own write", "a read in mid-run", "changes that nobody asked about"],
)
def test_the_oracle_finds_what_a_version_counter_withholds(name: str) -> None:
    found = score(case(name), one_counter(case(name)))
    assert found.fresh_withheld
    assert found.silent


def test_the_oracle_finds_silence() -> None:
    for each in cases():
        outcome = tidegate(each)
        if outcome.deeds and not score(each, outcome).silent and "erased" not in each.name:
            assert score(each, Outcome([], set())).silent, each.name


def test_neither_baseline_does_without_mistakes() -> None:
    without, counter = (total(cases(), map(APPROACHES[name], cases())) for name in ("no gate", "version counter"))
    assert without.stale_applied
    assert not without.fresh_withheld
    assert counter.stale_applied
    assert counter.fresh_withheld
    assert counter.silent


def test_the_command_prints_the_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "tidegate: stale_applied=0 fresh_withheld=0 silent=0"
    assert all(name in printed for name in APPROACHES)
