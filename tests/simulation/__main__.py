"""`python -m tests.simulation SEEDS [FIRST]`: run so many schedules, on all cores, and write the report.

A seed that fails is printed as the command that runs it again. With more than one seed, every known mistake is planted
as well, and the seed that finds it is told.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from tests.simulation.mistakes import MISTAKES
from tests.simulation.schedule import Outcome, simulate

REPORT: Final = Path(__file__).parent / "report.json"
MOST_TRIES: Final = 1000


def quiet(seed: int) -> Outcome:
    """Simulate without the engine's log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return simulate(seed)


def caught_by(name: str) -> int | None:
    """The first seed whose schedule finds a planted mistake."""
    with MISTAKES[name].plant():
        seeds = (MISTAKES[name].found_by, *range(MOST_TRIES))
        return next((seed for seed in seeds if quiet(seed).problems), None)


def main(count: int, first: int) -> int:
    """Run the schedules and the planted mistakes; the exit status is 1 where a schedule failed or a mistake passed."""
    began = time.monotonic()
    faults: Counter[str] = Counter()
    results, failures = 0, []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for outcome in pool.map(quiet, range(first, first + count), chunksize=16):
            faults += outcome.faults
            results += outcome.results
            if outcome.problems:
                failures.append(outcome.seed)
                print(f"python -m tests.simulation 1 {outcome.seed}: {outcome.problems[:3]}", flush=True)
        caught = dict(zip(MISTAKES, pool.map(caught_by, MISTAKES), strict=True)) if count > 1 else {}
    for name, seed in caught.items():
        print(f"{name}: " + ("NOT FOUND" if seed is None else f"found by seed {seed}"))
    print(f"{count:,} schedules in {time.monotonic() - began:.0f} s, {len(failures)} failed")
    if count > 1:
        REPORT.write_text(_report(count, first, results, faults, failures, caught))
    return 1 if failures or None in caught.values() else 0


def _report(
    count: int, first: int, results: int, faults: Counter[str], failures: list[int], caught: dict[str, int | None]
) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "schedules": count,
        "first_seed": first,
        "results": results,
        "faults": dict(sorted(faults.items())),
        "failures": failures,
        "mistakes_planted": len(caught),
        "mistakes_caught": sum(seed is not None for seed in caught.values()),
        "caught_by_seed": caught,
    }
    return json.dumps(report, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
