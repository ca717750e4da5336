"""A benchmark in alternation: who runs when, what is saved, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import alternating
from bench.alternating import Benchmark, Measured, Round, alternate, compared, measure
from bench.baseline import CURRENT, Tree
from tidegate.errors import TidegateError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD = Tree("commit 0123456789ab", Path("old"))

COMPILED = """\
from pathlib import Path
PACKAGES = ()
def compiled(): return Path(__file__).parent.parent
def is_compiled(code): return True
"""
# Takes the given number of turns, writes each down, and prints on stdout what must not reach the parent.
MEASURED = """\
import subprocess
from pathlib import Path
class Run:
    def cycle(self, file, name):
        with Path(file).open("a") as trace:
            trace.write(name + "\\n")
def run(*, file, cycles):
    name = Path(__file__).parent.parent.name
    print("a table")
    subprocess.run(["echo", "a compiler"])
    for _ in range(cycles[name]):
        Run().cycle(file, name)
    return {"cpu_us_per_event": 1.5, "name": name}
async def later(**parameters):
    return run(**parameters)
def broken(*, file, cycles):
    raise SystemExit(3)
"""


def figures(cpu: float, **others: Any) -> dict[str, Any]:
    return {"cpu_us_per_event": cpu, "events_per_second": round(1e6 / cpu), "events": 1000, **others}


@pytest.fixture
def trees(tmp_path: Path) -> list[Tree]:
    for name in ("a", "b"):
        bench = tmp_path / name / "bench"
        bench.mkdir(parents=True)
        (bench / "__init__.py").touch()
        (bench / "compiled.py").write_text(COMPILED)
        (bench / "measured.py").write_text(MEASURED)
    return [Tree(name, tmp_path / name) for name in ("a", "b")]


def traced(trees: Sequence[Tree], file: Path, benchmark: Benchmark, **cycles: int) -> str:
    sides = measure(trees, benchmark, {"file": str(file), "cycles": cycles})
    assert [side.figures["name"] for side in sides] == [tree.name for tree in trees]
    assert [Path(side.code) for side in sides] == [tree.root for tree in trees]
    return "".join(file.read_text().split())


def test_each_tree_runs_its_own_code_and_they_take_turns(trees: list[Tree], tmp_path: Path) -> None:
    benchmark = Benchmark("bench.measured", "run", turn="Run.cycle")
    assert traced(trees, tmp_path / "trace", benchmark, a=3, b=3) == "ababab"


def test_one_with_more_turns_finishes_alone(trees: list[Tree], tmp_path: Path) -> None:
    benchmark = Benchmark("bench.measured", "run", turn="Run.cycle")
    assert traced(trees[::-1], tmp_path / "trace", benchmark, a=4, b=2) == "babaaa"


def test_without_turns_one_is_measured_after_the_other(trees: list[Tree], tmp_path: Path) -> None:
    assert traced(trees, tmp_path / "trace", Benchmark("bench.measured", "later"), a=2, b=2) == "aabb"


def test_a_measurement_that_fails_is_named(trees: list[Tree], tmp_path: Path) -> None:
    parameters = {"file": str(tmp_path / "trace"), "cycles": {}}
    with pytest.raises(TidegateError, match=r"bench\.measured\.broken of a ended with exit status 3"):
        measure(trees, Benchmark("bench.measured", "broken"), parameters)


ROUNDS = [
    Round(figures(10.0), figures(5.5, stages_us_per_event={"fold": 5.5})),
    Round(figures(20.0), figures(9.0, stages_us_per_event={"fold": 9.0})),
    Round(figures(12.0), figures(6.0, stages_us_per_event={"fold": 6.0})),
]
"""Their ratios are 0.55, 0.45 and 0.5."""


@pytest.mark.parametrize("by_turns", [False, True])
def test_every_round_is_saved_with_the_baseline(*, by_turns: bool) -> None:
    saved = compared(ROUNDS, COMMIT, by_turns=by_turns)
    assert saved["runs_cpu_us_per_event"] == [5.5, 9.0, 6.0]
    assert saved["baseline_runs_cpu_us_per_event"] == [10.0, 20.0, 12.0]
    assert saved["ratio_of_rounds"] == [0.55, 0.45, 0.5]
    assert saved["rounds"] == 3
    assert saved["baseline_commit"] == "0123456789ab"
    assert saved["ratio"] == round(saved["cpu_us_per_event"] / saved["baseline_cpu_us_per_event"], 3)


def test_by_turns_both_sides_are_those_of_the_round_with_the_median_ratio() -> None:
    slow = Round(figures(40.0), figures(20.4, stages_us_per_event={"fold": 20.4}))  # 0.51
    saved = compared([ROUNDS[0], slow, ROUNDS[1]], COMMIT, by_turns=True)
    assert saved["cpu_us_per_event"] == 20.4
    assert saved["baseline_cpu_us_per_event"] == 40.0
    assert saved["stages_us_per_event"] == {"fold": 20.4}
    assert saved["ratio"] == 0.51


def test_whole_runs_are_compared_by_their_medians() -> None:
    crossed = [
        Round(figures(10.0), figures(9.0)),
        Round(figures(20.0), figures(6.0)),
        Round(figures(12.0), figures(5.5)),
    ]
    saved = compared(crossed, COMMIT, by_turns=False)
    assert saved["cpu_us_per_event"] == 6.0
    assert saved["baseline_cpu_us_per_event"] == 12.0
    assert saved["ratio"] == 0.5
    assert saved["ratio_of_rounds"] == [0.9, 0.3, 0.458]


def test_speed_is_a_median_also_where_cpu_does_not_decide_it() -> None:
    speeds = [100, 300, 200]
    rounds = [
        Round(figures(10.0), figures(cpu, events_per_second=speed))
        for cpu, speed in zip((1.0, 2.0, 3.0), speeds, strict=True)
    ]
    saved = compared(rounds, COMMIT, by_turns=False)
    assert (saved["cpu_us_per_event"], saved["events_per_second"]) == (2.0, 200)
    assert saved["runs_events_per_second"] == speeds


class Fakes:
    """Synthetic measurements, and the order in which they were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.sides = {OLD: Measured(figures(10.0), "compiled", "x"), CURRENT: Measured(figures(5.0), "compiled", "y")}
        monkeypatch.setattr(alternating, "resolve", lambda commit: commit)
        monkeypatch.setattr(alternating, "tree_of", lambda _commit: OLD)
        monkeypatch.setattr(alternating, "measure", self.measure)

    def measure(self, trees: Sequence[Tree], _benchmark: Benchmark, parameters: Mapping[str, Any]) -> list[Measured]:
        first, second = trees
        self.asked.append((first.name, second.name, parameters["seed"]))
        return [self.sides[tree] for tree in trees]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


def alternated(rounds: int = 1) -> dict[str, Any]:
    return alternate(Benchmark("m", "f"), COMMIT, [{"seed": number} for number in range(rounds)])


def test_rounds_begin_with_either_tree(fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    assert alternated(3)["ratio_of_rounds"] == [0.5, 0.5, 0.5]
    old, now = OLD.name, CURRENT.name
    assert fakes.asked == [(old, now, 0), (now, old, 1), (old, now, 2)]
    said = capsys.readouterr()
    assert not said.out
    assert "round 3 of 3: commit 0123456789ab 10.00 µs CPU per event, the current tree 5.00, ratio 0.500" in said.err


@pytest.mark.parametrize(("cpu", "warns"), [(5.4, False), (5.6, True)])
def test_rounds_that_differ_widely_are_pointed_out(
    fakes: Fakes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, cpu: float, warns: bool
) -> None:
    found = iter((5.0, cpu))

    def varied(trees: Sequence[Tree], *_: Any) -> list[Measured]:
        fakes.sides[CURRENT] = Measured(figures(next(found)), "compiled", "y")
        return [fakes.sides[tree] for tree in trees]

    monkeypatch.setattr(alternating, "measure", varied)
    alternated(2)
    assert ("or in more rounds (--rounds)" in capsys.readouterr().err) is warns


def test_a_compiled_core_is_not_compared_with_an_interpreted_one(fakes: Fakes) -> None:
    fakes.sides[CURRENT] = Measured(figures(5.0), "interpreted", "y")
    with pytest.raises(TidegateError, match="was compiled and that of the current tree interpreted"):
        alternated()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"events": 1000}, {"events": 999}),
        ({"delivered_fresh": 3}, {"delivered_fresh": 4}),
        ({}, {"withheld_stale": 1}),
    ],
)
def test_different_work_is_not_compared(fakes: Fakes, before: dict[str, Any], now: dict[str, Any]) -> None:
    fakes.sides[OLD] = Measured(figures(10.0, **before) if "events" not in before else figures(10.0), "compiled", "x")
    fakes.sides[CURRENT] = Measured({**figures(5.0), **now}, "compiled", "y")
    with pytest.raises(TidegateError, match="did different work"):
        alternated()


def test_other_figures_may_differ(fakes: Fakes) -> None:
    fakes.sides[OLD] = Measured(figures(10.0, rows_written=7, event_bytes=246), "compiled", "x")
    assert alternated()["ratio"] == 0.5


def test_files_that_change_meanwhile_are_noticed(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = iter("yz")

    def rebuilt(trees: Sequence[Tree], *_: Any) -> list[Measured]:
        fakes.sides[CURRENT] = Measured(figures(5.0), "compiled", next(builds))
        return [fakes.sides[tree] for tree in trees]

    monkeypatch.setattr(alternating, "measure", rebuilt)
    with pytest.raises(TidegateError, match="files of the current tree changed"):
        alternated(2)
