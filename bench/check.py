"""The regression guard: what an event costs in the in-memory pipeline now, against what was committed.

CPU time will not do for a limit of 10 %: it varied by half with the load of the machine, and even against a reference
work in the same process, in turns, by 15 % (3.58 to 4.16 in 20 runs on two cores with ten processes to run). What the
interpreter is told to do does not vary at all. So these are held to 10 %, the same on every machine:

- bytecode instructions for an event (`sys.settrace`), by function, so that what has grown can be named;
- calls into C for an event (`sys.setprofile`): decoding, encoding, dictionaries, digests;
- bytes written for an event: rows and outputs.

What becomes slower inside one call into C shows in none of the three. For that, CPU for an event is compared in
units of `bench.reference`, with a limit that noise does not reach.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from types import CodeType, FrameType
from typing import Any, Final, Self

import orjson

from bench.pipeline import Log, Run, garbage_out_of_the_way, logs_of
from bench.reference import RECORDS, Reference
from bench.report import RESULTS, ROOT, save
from projections.partition import Partition
from projections.rules import Rules
from testing.workload import Workload

LIMITS: Final[Mapping[str, float]] = {
    "instructions_per_event": 1.10,
    "calls_into_c_per_event": 1.10,
    "bytes_per_event": 1.10,
    "cpu_in_references": 1.35,
}
BY_PYTHON: Final = frozenset(LIMITS) - {"bytes_per_event"}
"""Figures that mean something only beside those of the same Python."""

COUNTED_EVENTS: Final = 12_000
TIMED_EVENTS: Final = 20_000
TIMED_ROUNDS: Final = 2
TRIES: Final = 3
SESSIONS: Final = 400
CYCLE_RECORDS: Final = 1_300
NAMED: Final = 8


def check() -> list[str]:
    """Measure, print beside the committed figures, and return what has grown too much, in words; empty if nothing."""
    committed = committed_figures()
    figures = measure()
    growth = grown(committed, figures)
    for _ in range(TRIES - 1):
        if growth.keys() != {"cpu_in_references"}:
            break
        figures["cpu_in_references"] = min(figures["cpu_in_references"], cpu_in_references())
        growth = grown(committed, figures)
    for name, limit in LIMITS.items():
        was = committed.get(name)
        beside = f"{was:10.2f} committed, {figures[name] / was - 1:+7.1%}" if was else "not compared with this Python"
        print(f"{name:24} {figures[name]:10.2f} {beside}, limit {limit - 1:+.0%}")
    return told(growth, committed, figures)


def measure() -> dict[str, Any]:
    """Every figure of the guard, with the instructions of each function."""
    return {**count(), "cpu_in_references": cpu_in_references()}


def committed_figures() -> dict[str, Any]:
    """The figures to compare with; without those that another Python gave."""
    file = RESULTS / "check.json"
    by_python = orjson.loads(file.read_bytes())["by_python"] if file.exists() else {}
    own = by_python.get(python())
    if own is not None:
        return dict(own)
    other: dict[str, Any] = next(iter(by_python.values()), {})
    return {name: other[name] for name in LIMITS if name in other and name not in BY_PYTHON}


def write_baseline() -> Path:
    """Measure, and write what later runs are compared with; figures of other Pythons stay."""
    file = RESULTS / "check.json"
    by_python = orjson.loads(file.read_bytes())["by_python"] if file.exists() else {}
    figures = {**count(), "cpu_in_references": median(cpu_in_references() for _ in range(TRIES))}
    return save("check", {"by_python": {**by_python, python(): figures}})


def python() -> str:
    """The interpreter's version as far as it decides the bytecode."""
    return f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


def grown(committed: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures beyond their limit, each as a multiple of the committed one."""
    factors = {name: figures[name] / committed[name] for name in LIMITS if name in committed}
    return {name: factor for name, factor in factors.items() if factor > LIMITS[name]}


def told(growth: Mapping[str, float], committed: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """What has grown, where, and what to do."""
    if not growth:
        return []
    lines = [
        f"{name}: {figures[name]:.2f}, {factor - 1:+.1%} of the committed {committed[name]:.2f};"
        f" the limit is {LIMITS[name] - 1:+.0%}"
        for name, factor in growth.items()
    ]
    now, before = figures["functions"], committed.get("functions", {})
    added = {name: now.get(name, 0.0) - before.get(name, 0.0) for name in {**now, **before}}
    most = sorted(added, key=lambda name: -added[name])[:NAMED]
    lines += [f"  {added[name]:+8.2f} instructions per event in {name}" for name in most if added[name] > 0]
    return [
        *lines,
        "An event costs more than it did. `python -m bench pipeline --profile` shows where the time goes.",
        "If the cost is intended, `make bench-baseline` writes the new figures; commit them with the change.",
    ]


def count() -> dict[str, Any]:
    """Instructions, calls into C and bytes of an event, exactly."""
    logs = _logs(COUNTED_EVENTS)
    run = Run()
    with Counting() as counter:
        for number, log in enumerate(logs):
            run.feed(Partition(number, Rules()), log)
    instructions = sum(counter.instructions.values())
    functions: Counter[str] = Counter()
    for code, times in counter.instructions.items():
        functions[_name(code)] += times
    return {
        "instructions_per_event": round(instructions / COUNTED_EVENTS, 2),
        "calls_into_c_per_event": round(counter.calls / COUNTED_EVENTS, 2),
        "bytes_per_event": round((run.counts["row_bytes_written"] + run.counts["output_bytes"]) / COUNTED_EVENTS, 2),
        "functions": {
            name: round(times / COUNTED_EVENTS, 2)
            for name, times in functions.most_common()
            if times >= COUNTED_EVENTS / 2
        },
    }


class Counting:
    """Counts, while entered, what the interpreter is told to do in this thread."""

    def __init__(self) -> None:
        self.instructions: dict[CodeType, int] = {}
        self.calls = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.setprofile(None)

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.instructions.setdefault(frame.f_code, 0)
        return self._instruction

    def _instruction(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.instructions[frame.f_code] += 1
        return self._instruction

    def _profile(self, _frame: FrameType, event: str, _argument: Any) -> None:
        if event == "c_call":
            self.calls += 1


def cpu_in_references() -> float:
    """CPU of an event, in units of what the reference work spends on one of its records.

    Both run in turns, a few milliseconds each, so that a slower moment meets both alike.
    """
    logs, reference = _logs(TIMED_EVENTS), Reference()
    ours = theirs = 0.0
    records = 0
    with garbage_out_of_the_way():
        for _ in range(TIMED_ROUNDS):
            run = Run()
            for number, log in enumerate(logs):
                partition = Partition(number, Rules())
                for batches in log:
                    began = time.process_time()
                    reference.work()
                    between = time.process_time()
                    run.cycle(partition, batches)
                    ours += time.process_time() - between
                    theirs += between - began
                    records += RECORDS
    return round((ours / (TIMED_EVENTS * TIMED_ROUNDS)) / (theirs / records), 2)


def _logs(events: int) -> list[Log]:
    return logs_of(Workload(sessions=SESSIONS, partitions=1, seed=1).records(events), 1, CYCLE_RECORDS)


def _name(code: CodeType) -> str:
    file = Path(code.co_filename)
    within = file.relative_to(ROOT) if file.is_relative_to(ROOT) and ".venv" not in file.parts else Path(file.name)
    return f"{within.as_posix()}:{code.co_qualname}"
