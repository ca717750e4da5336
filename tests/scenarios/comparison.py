"""How often each approach was wrong, by what the oracle says of the same cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.scenarios.approaches import Outcome
from tests.scenarios.case import Case
from tests.scenarios.oracle import Truth


@dataclass(slots=True)
class Score:
    """Parts of results; the names say where each mistake was made.

    `stale_applied`: delivered, unmarked, though it should not have been. `fresh_withheld`: not delivered, though it
    should have been. `silent`: neither delivered nor recorded; and tasks of whose end nothing was shown or recorded.
    """

    delivered: int = 0
    marked: int = 0
    withheld: int = 0
    stale_applied: list[str] = field(default_factory=list)
    fresh_withheld: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    def add(self, other: Score) -> None:
        """Count another case."""
        self.delivered += other.delivered
        self.marked += other.marked
        self.withheld += other.withheld
        self.stale_applied += other.stale_applied
        self.fresh_withheld += other.fresh_withheld
        self.silent += other.silent


def score(case: Case, outcome: Outcome) -> Score:
    """What was right and wrong in one case."""
    truth, found = Truth(case), Score()
    delivered: list[str] = []
    decided: set[tuple[int, str]] = set()
    for deed in outcome.deeds:
        task_id = deed.result.said.body["task_id"]
        name = f"{case.name}: {task_id}"
        key = deed.result.position, deed.part["part_id"]
        why_not = truth.why_not(deed.result, deed.part, deed.place, deed.at, delivered)
        decided.add(key)
        if deed.was_delivered:
            found.delivered += 1
            found.marked += deed.was_marked
            delivered.append(task_id)
            if why_not is not None and not deed.was_marked:
                found.stale_applied.append(f"{name}: {why_not}")
        else:
            found.withheld += 1
            if why_not is None:
                found.fresh_withheld.append(name)
    if truth.is_erased:
        return found
    for result in truth.results:
        for part in result.said.body["parts"]:
            task_id = result.said.body["task_id"]
            if (result.position, part["part_id"]) in decided or truth.is_repeat(result):
                continue
            found.silent.append(f"{case.name}: {task_id}")
            if truth.why_not(result, part, result.position + 1, result.at, delivered) is None:
                found.fresh_withheld.append(f"{case.name}: {task_id}")
    found.silent += [f"{case.name}: {task_id}" for task_id in _ended(truth) if task_id not in outcome.told]
    return found


def total(cases: Iterable[Case], outcomes: Iterable[Outcome]) -> Score:
    """The same over many cases."""
    found = Score()
    for case, outcome in zip(cases, outcomes, strict=True):
        found.add(score(case, outcome))
    return found


def _ended(truth: Truth) -> Iterator[str]:
    """Tasks that did not return, and are over all the same."""
    for task_id in truth.tasks:
        if truth.first_result(task_id) is None and truth.why_over(task_id, truth.end) is not None:
            yield task_id
