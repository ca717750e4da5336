"""The cells of `matrix.md` as cases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.scenarios.case import NEVER, SOON, Case, Later, Said, Step, dispatches, fails, returns, sets, unsets

TABLE: Final = Path(__file__).with_name("matrix.md")

BEFORE: Final = {"view/tab-1": "inbox", "conversation": "c1", "request/42": "r1", "presence/tab-1": "present"}
SNAPSHOT: Final = {"view/tab-1": "inbox", "conversation": "c1", "request/42": "r1"}
MOVES: Final[dict[str, Said]] = {
    "navigate": sets({"view/tab-1": "calendar"}),
    "new conversation": sets({"conversation": "c2"}),
    "archive": sets({"request/42": "archived"}),
    "close the tab": sets({"presence/tab-1": "absent"}),
}
CHANGES: Final[dict[str, Said]] = {
    "addition": sets({"addition/42": "a1"}),
    "revision": sets({"request/42": "r2"}),
    "retraction": unsets("request/42"),
}
MOMENTS: Final = ("before", "during", "after")
OUTCOMES: Final = {"completed": returns("task"), "failed": fails("task")}
POLICIES: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "withhold": {"on_stale": "withhold", "on_stale_failure": "withhold", "when_absent": "withhold"},
    "annotate": {"on_stale": "annotate", "on_stale_failure": "annotate"},
    "hold": {"on_stale": "hold", "on_stale_failure": "hold", "when_absent": "hold", "hold_ttl_seconds": SOON},
    "hold, undone": {"on_stale": "hold", "on_stale_failure": "hold", "when_absent": "hold", "hold_ttl_seconds": NEVER},
    "redispatch": {"on_stale": "redispatch", "on_stale_failure": "redispatch"},
}


def rows() -> list[dict[str, str]]:
    """The rows of the table, by the words of its head."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    begin = next(index for index, line in enumerate(lines) if line.startswith("| outcome"))
    head, *body = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[begin:]]
    return [dict(zip(head, cells, strict=True)) for cells in body]


def matrix() -> Iterator[Case]:
    """A case for each cell."""
    for row in rows():
        for policy in POLICIES:
            yield _case(row, policy)


def _case(row: dict[str, str], policy: str) -> Case:
    result = OUTCOMES[row["outcome"]]
    steps: list[Step] = [sets(BEFORE), dispatches("task", SNAPSHOT, request_id="42", **POLICIES[policy])]
    happens = [MOVES[row["move"]], CHANGES[row["request"]]]
    happens.insert(MOMENTS.index(row["result"]), result)
    steps += happens
    if policy == "hold":
        steps.append(Later(2 * SOON))
    elif policy == "hold, undone":
        steps.append(sets(BEFORE))
    name = f"{row['outcome']}, {row['move']}, {row['request']}, {row['result']}, {policy}"
    return Case(name, tuple(steps), {"task": _told(row[policy], row["move"])})


def _told(cell: str, move: str) -> list[str]:
    """The lines that a cell stands for. A wait is for the user where the tab was closed, else for the context."""
    lines = []
    waits = cell.startswith("waits, ")
    if waits:
        lines.append("waits: user" if move == "close the tab" else "waits: context")
    verdict = cell.removeprefix("waits, ").removesuffix(", redispatch")
    lines.append(verdict)
    if cell.endswith(", redispatch"):
        lines.append("redispatch: task~2")
    disposition, _, reason = verdict.removesuffix(", marked").partition(": ")
    return [*lines, f"end: {disposition}, {reason}"]
