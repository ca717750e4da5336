from typing import Any

import pytest

from bench import check
from bench.check import LIMITS, Counting, grown, told

COMMITTED: dict[str, Any] = {
    "instructions_per_event": 500.0,
    "calls_into_c_per_event": 20.0,
    "bytes_per_event": 300.0,
    "cpu_in_references": 4.0,
    "functions": {"projections/fold.py:fold_step": 30.0, "projections/gate.py:judge": 20.0},
}


def with_factor(name: str, factor: float) -> dict[str, Any]:
    return {**COMMITTED, name: COMMITTED[name] * factor}


@pytest.mark.parametrize("name", LIMITS)
def test_a_figure_may_grow_up_to_its_limit(name: str) -> None:
    assert not grown(COMMITTED, with_factor(name, LIMITS[name] - 0.01))
    assert grown(COMMITTED, with_factor(name, LIMITS[name] + 0.01)).keys() == {name}
    assert not grown(COMMITTED, with_factor(name, 0.5))


def test_what_an_event_does_may_grow_by_a_tenth() -> None:
    for name in ("instructions_per_event", "calls_into_c_per_event", "bytes_per_event"):
        assert not told(grown(COMMITTED, with_factor(name, 1.09)), COMMITTED, COMMITTED)
        assert grown(COMMITTED, with_factor(name, 1.11))


def test_what_has_grown_is_named_and_what_to_do() -> None:
    figures = with_factor("instructions_per_event", 1.2)
    figures["functions"] = {"projections/fold.py:fold_step": 30.0, "projections/gate.py:judge": 120.0}
    lines = told(grown(COMMITTED, figures), COMMITTED, figures)
    assert lines[0].startswith("instructions_per_event: 600.00, +20.0%")
    assert lines[1].endswith("+100.00 instructions per event in projections/gate.py:judge")
    assert "fold_step" not in "".join(lines)
    assert "make bench-baseline" in lines[-1]


def test_a_figure_that_was_not_committed_is_not_compared() -> None:
    assert not grown({"bytes_per_event": 300.0}, with_factor("instructions_per_event", 2.0))


def test_another_python_is_held_to_its_bytes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check.committed_figures().keys() >= LIMITS.keys() or check.committed_figures().keys() == {"bytes_per_event"}
    monkeypatch.setattr(check, "python", lambda: "cpython 2.7")
    assert check.committed_figures().keys() == {"bytes_per_event"}


def test_a_noisy_first_try_is_not_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([9.0, 8.0, 4.1])
    monkeypatch.setattr(check, "committed_figures", lambda: COMMITTED)
    monkeypatch.setattr(check, "count", lambda: COMMITTED)
    monkeypatch.setattr(check, "cpu_in_references", lambda: next(tries))
    assert check.check() == []
    monkeypatch.setattr(check, "cpu_in_references", lambda: 6.5)
    assert check.check()[0].startswith("cpu_in_references: 6.50")


def walk(steps: int) -> list[int]:
    visited = []
    for step in range(steps):
        visited.append(len(str(step)))  # noqa: PERF401 - what is counted
    return visited


def test_instructions_and_calls_are_counted_exactly() -> None:
    counts = []
    for steps in (0, 10, 20, 20):
        with Counting() as counter:
            walk(steps)
        counts.append((counter.instructions[walk.__code__], counter.calls))
    nothing, ten, twenty, again = counts
    assert twenty == again
    assert twenty[0] - ten[0] == ten[0] - nothing[0] >= 100
    assert twenty[1] - ten[1] == ten[1] - nothing[1] >= 20
