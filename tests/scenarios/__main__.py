"""Prints how the gate does beside doing without, on every case; `make scenarios` runs it.

Ends with 1 where the gate told anything else than the tables say, or where the oracle finds a mistake of it.
"""

from __future__ import annotations

import sys
from typing import Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from tests.scenarios import cases
from tests.scenarios.approaches import APPROACHES
from tests.scenarios.comparison import Score, total
from tests.scenarios.verdict import mistakes

KINDS: Final = ("stale_applied", "fresh_withheld", "silent")


def main() -> int:
    """Run everything; the exit status."""
    console = Console(highlight=False, soft_wrap=True)
    all_cases = cases()
    wrong = {case.name: found for case in all_cases if (found := mistakes(case))}
    scores = {name: total(all_cases, map(approach, all_cases)) for name, approach in APPROACHES.items()}
    console.print(_table(len(all_cases), scores))
    for lines in wrong.values():
        for line in lines:
            console.print(f"not as written: {line}", style="red", markup=False)
    ours = scores["tidegate"]
    for kind in KINDS:
        for name in getattr(ours, kind):
            console.print(f"{kind}: {name}", style="red", markup=False)
    console.print(f"{len(all_cases) - len(wrong)} of {len(all_cases)} cases end as written")
    counts = {kind: len(getattr(ours, kind)) for kind in KINDS}
    console.print("tidegate: " + " ".join(f"{kind}={count}" for kind, count in counts.items()))
    return 1 if wrong or any(counts.values()) else 0


def _table(count: int, scores: dict[str, Score]) -> Table:
    table = Table(
        title=f"{count} cases: what became of the parts of their results",
        caption="marked: delivered as stale, or in shadow mode. silent: also tasks of whose end nobody was told",
        box=SIMPLE,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("approach", no_wrap=True)
    for column in ("delivered", "marked", "withheld", "stale\napplied", "fresh\nwithheld", "silent\nlosses"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, score in scores.items():
        wrong = (score.stale_applied, score.fresh_withheld, score.silent)
        table.add_row(name, *map(str, [score.delivered, score.marked, score.withheld, *map(len, wrong)]))
    return table


if __name__ == "__main__":
    sys.exit(main())
