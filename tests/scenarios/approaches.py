"""What reaches people, and what is said of the rest: with the gate, with none, and with one version counter.

Each approach turns a case into what it did with the parts of its results; none is asked whether that was right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.scenarios.case import Case, Moment
from tests.scenarios.oracle import Truth
from tests.scenarios.pipeline import run


class Deed(NamedTuple):
    """What became of one part of one result.

    `place`: how many of the case's events had been said by then; `at`: seconds since the case began.
    """

    result: Moment
    part: dict[str, Any]
    place: int
    at: float
    was_delivered: bool
    was_marked: bool = False


class Outcome(NamedTuple):
    """Everything an approach did in a case. `told`: the tasks whose end was shown or recorded."""

    deeds: list[Deed]
    told: set[str]


def no_gate(case: Case) -> Outcome:
    """Every result reaches the user when it arrives."""
    truth = Truth(case)
    deeds = [Deed(result, part, result.position + 1, result.at, was_delivered=True) for result, part in _parts(truth)]
    return Outcome(deeds, {deed.result.said.body["task_id"] for deed in deeds})


def one_counter(case: Case) -> Outcome:
    """Every change of the context counts; a result of a task dispatched at another count is dropped."""
    truth = Truth(case)
    counts: dict[str, int] = {}
    count = 0
    deeds = []
    for moment in truth.moments:
        body = moment.said.body
        if body["type"] == "context.changed":
            count += 1
        elif body["type"] == "task.dispatched":
            counts.setdefault(body["task_id"], count)
        elif body["type"] == "task.result" and counts.pop(body["task_id"], None) == count:
            deeds += [Deed(moment, part, moment.position + 1, moment.at, was_delivered=True) for part in body["parts"]]
    return Outcome(deeds, {deed.result.said.body["task_id"] for deed in deeds})


def tidegate(case: Case) -> Outcome:
    """The gate, in memory."""
    results = {(each.said.body["task_id"], each.event_id): each for each in reversed(Truth(case).results)}
    deeds, told = [], set()
    for output in run(case).told:
        body = output.body
        if body is None:
            continue
        if body["type"] in {"result.delivered", "result.withheld"}:
            result = results[output.task_id, body["result"]["event_id"]]
            verdicts = {each["part_id"]: each for each in body["verdict"]["parts"]}
            for part in body["parts"]:
                is_marked = verdicts[part["part_id"]].get("annotated", False) or "shadow" in body
                is_marked = is_marked or body["verdict"].get("late", False)
                was_delivered = body["type"] == "result.delivered"
                deeds.append(Deed(result, part, output.position, output.at, was_delivered, is_marked))
        elif body["type"] == "task.status" and body["status"] == "ended":
            told.add(output.task_id)
    return Outcome(deeds, told)


APPROACHES: dict[str, Callable[[Case], Outcome]] = {
    "no gate": no_gate,
    "version counter": one_counter,
    "tidegate": tidegate,
}


def _parts(truth: Truth) -> Iterator[tuple[Moment, dict[str, Any]]]:
    for result in truth.results:
        for part in result.said.body["parts"]:
            yield result, part
