"""A benchmark in alternation with an earlier commit: baseline, current, baseline, current; figures and ratio.

CPU per event depends on what else the machine does. It changed within seconds by a third when this module was written,
so two figures can be compared only if they were measured at the same time. Each round therefore runs the benchmarks of
both trees. Where a benchmark has turns (the pipeline's cycles, a tenth of a second each), the two alternate turn by
turn: a slower moment meets both alike. Every other round starts with the current tree.

Each tree is measured in a fresh process, by its own benchmark, on its own packages (`bench.in_tree`), both compiled,
with the same parameters and seed. The seed differs between rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median_high
from typing import Any, Final, NamedTuple

from bench.baseline import CURRENT, DIGITS, Tree, resolve, tree_of
from tidegate.errors import TidegateError

CPU: Final = "cpu_us_per_event"
SPEED: Final = "events_per_second"
STAGES: Final = "stages_us_per_event"
END_SECONDS: Final = 30.0
"""A local broker takes up to 20 s to stop."""
WIDE_SPREAD: Final = 0.1
"""From the lowest to the highest ratio of the rounds. On a busy machine 0.06 where sides take turns."""
_SCRIPT: Final = Path(__file__).resolve().parent / "in_tree.py"
_SAME_WORK: Final = ("events", "sessions", "partitions", "cycle_records", "results", "event_bytes", "refused")
_VERDICTS: Final = ("delivered_", "withheld_")


class Benchmark(NamedTuple):
    """A function that both trees have: it takes keyword arguments, and returns figures that JSON can hold."""

    module: str
    function: str
    turn: str = ""
    """The method, as `Class.method` of that module, that is called once for each turn; without one, the whole
    measurement is one turn."""


class Measured(NamedTuple):
    """Figures of one tree, whether its core was `compiled` or `interpreted`, and where the code was that ran."""

    figures: dict[str, Any]
    core: str
    code: str


class Round(NamedTuple):
    """Figures of both trees, measured alternately."""

    baseline: dict[str, Any]
    current: dict[str, Any]

    @property
    def ratio(self) -> float:
        """CPU of an event, current to baseline."""
        return _ratio(self.current, self.baseline)


def alternate(benchmark: Benchmark, commit: str, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Measure both trees with the parameters of each round; returns the figures, as `compared` describes them.

    Progress goes to stderr. Raises `TidegateError` where git does not have the commit, a measurement fails, or the two
    cannot be compared: only one core is compiled, they did different work, or files changed meanwhile.
    """
    full = resolve(commit)
    baseline = tree_of(full)
    measured: list[Round] = []
    code: dict[str, str] = {}
    for number, parameters in enumerate(rounds, start=1):
        trees = (baseline, CURRENT) if number % 2 else (CURRENT, baseline)  # neither is always first
        sides = dict(zip(trees, measure(trees, benchmark, parameters), strict=True))
        for tree, side in sides.items():
            if code.setdefault(tree.name, side.code) != side.code:
                raise TidegateError(
                    f"files of {tree.name} changed while it was measured",
                    "Measure again, and change nothing meanwhile.",
                )
        before, now = sides[baseline], sides[CURRENT]
        _check_comparable(baseline, before, now)
        measured.append(Round(before.figures, now.figures))
        _say(
            f"round {number} of {len(rounds)}: {baseline.name} {before.figures[CPU]:.2f} µs CPU per event,"
            f" {CURRENT.name} {now.figures[CPU]:.2f}, ratio {measured[-1].ratio:.3f}"
        )
    ratios = sorted(each.ratio for each in measured)
    if ratios[-1] > ratios[0] * (1 + WIDE_SPREAD):
        _say(
            f"the ratios of the rounds go from {ratios[0]:.2f} to {ratios[-1]:.2f}: measure with less else running on"
            " the machine, or in more rounds (--rounds)"
        )
    return compared(measured, full, by_turns=bool(benchmark.turn))


def measure(trees: Sequence[Tree], benchmark: Benchmark, parameters: Mapping[str, Any]) -> list[Measured]:
    """One measurement of each tree, alternately. A tree compiles itself first, if it has changed.

    Raises `TidegateError` where a process fails; what it printed is on stderr by then.
    """
    with ExitStack() as stack:
        sides = []
        for tree in trees:
            sides.append(stack.enter_context(_measuring(tree, benchmark, parameters)))
            if not benchmark.turn:
                sides[-1].listen()  # done before the next one starts
        if benchmark.turn:
            # They prepare at the same time: one that had to wait for the other cost 2 to 5 % more afterwards.
            for side in sides:
                side.listen()
        while any(side.measured is None for side in sides):
            for side in sides:
                if side.measured is None:
                    side.take_turn()
        return [side.measured for side in sides if side.measured is not None]


def compared(rounds: Sequence[Round], commit: str, *, by_turns: bool) -> dict[str, Any]:
    """The current tree's figures, those of the baseline next to them, and `ratio`: CPU per event, current to baseline.

    With `by_turns` all of them are those of the round with the median ratio, because the two sides of one round share
    the machine's slow moments, and sides of different rounds do not. In three runs of the same code on a busy machine
    this gave 0.998, 0.996 and 1.004; the ratio of the medians was 1.011, 0.995 and 1.014.

    Otherwise `cpu_us_per_event` and `events_per_second` are medians of each side over the rounds, the other figures
    belong to the round with the median CPU, and `ratio` is that of the medians.

    Of an even number the higher of the two in the middle counts. Lists have one entry for each round, in the order in
    which they were measured; `ratio_of_rounds` shows the spread.
    """
    every_baseline, every_current = [each.baseline for each in rounds], [each.current for each in rounds]
    if by_turns:
        baseline, current = sorted(rounds, key=lambda each: each.ratio)[len(rounds) // 2]
    else:
        baseline, current = _medians(every_baseline), _medians(every_current)
    return {
        **current,
        **_by_round("", every_current),
        "rounds": len(rounds),
        "baseline_commit": commit[:DIGITS],
        **{f"baseline_{name}": baseline[name] for name in (CPU, SPEED, STAGES) if name in baseline},
        **_by_round("baseline_", every_baseline),
        "ratio": _ratio(current, baseline),
        "ratio_of_rounds": [each.ratio for each in rounds],
    }


class _Measuring:
    """A measurement of a tree that runs in a process."""

    def __init__(self, tree: Tree, benchmark: Benchmark, process: subprocess.Popen[str]) -> None:
        self.measured: Measured | None = None
        self._name = f"{benchmark.module}.{benchmark.function} of {tree.name}"
        self._process = process

    def take_turn(self) -> None:
        """Let it continue until it asks for its next turn or has finished."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which `listen` reports
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        self.listen()

    def listen(self) -> None:
        """Wait until it asks for a turn or has finished."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line == "ready\n":
            return
        status = self._process.wait()
        if status != 0:
            raise TidegateError(f"{self._name} ended with exit status {status}; what it printed is above")
        self.measured = Measured(**json.loads(line))


@contextmanager
def _measuring(tree: Tree, benchmark: Benchmark, parameters: Mapping[str, Any]) -> Iterator[_Measuring]:
    command = [sys.executable, "-P", str(_SCRIPT), str(tree.root), benchmark.module, benchmark.function]
    command += [json.dumps(dict(parameters)), benchmark.turn]
    with (
        tempfile.TemporaryDirectory() as directory,  # no tree's own tidegate.toml is read
        subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(tree.root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            yield _Measuring(tree, benchmark, process)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Wait until it has ended, so that it can stop its broker and worker; one that waits for a turn notices the end."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    medians = {name: median_high(figures[name] for figures in runs) for name in (CPU, SPEED)}
    (middle, *_) = (figures for figures in runs if figures[CPU] == medians[CPU])
    return {**middle, **medians}


def _by_round(prefix: str, runs: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    return {f"{prefix}runs_{name}": [figures[name] for figures in runs] for name in (CPU, SPEED)}


def _ratio(current: Mapping[str, Any], baseline: Mapping[str, Any]) -> float:
    return round(float(current[CPU] / baseline[CPU]), 3)


def _check_comparable(tree: Tree, baseline: Measured, current: Measured) -> None:
    if baseline.core != current.core:
        raise TidegateError(
            f"the core of {tree.name} was {baseline.core} and that of {CURRENT.name} {current.core}",
            "Both have to be compiled: what the compiler printed is above.",
        )
    before, now = baseline.figures, current.figures
    both = [name for name in _SAME_WORK if name in before and name in now]
    verdicts = sorted(name for name in before.keys() | now.keys() if name.startswith(_VERDICTS))
    differing = [name for name in (*both, *verdicts) if before.get(name, 0) != now.get(name, 0)]
    if differing:
        listed = ", ".join(f"{name} {before.get(name, 0)} and {now.get(name, 0)}" for name in differing)
        raise TidegateError(
            f"{tree.name} and {CURRENT.name} did different work: {listed}",
            "Their costs cannot be compared. If the difference is intended, compare with a later commit (--baseline).",
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
