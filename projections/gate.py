"""The gate: is this result still what the latest context asks for? A pure function of the row and the result.

Source of the rules and their order: design of the gate; docs/semantics.md explains each with an example.
"""

from dataclasses import dataclass
from typing import Any, Final

from projections.row import (
    CAUSE,
    EVENT_ID,
    OFFSET,
    SOURCE,
    TIMESTAMP,
    VALUE,
    SessionRow,
    TaskRow,
    differs,
    expected_now,
    is_user_absent,
)
from schemas.events import TaskResult
from schemas.fields import Decision, Part, Reason
from schemas.outputs import MAX_DIFFERENCES
from schemas.times import rfc3339

DELIVERED: Final[Decision] = "delivered"
WITHHELD: Final[Decision] = "withheld"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the logs stood when a verdict was given: every record below these offsets was folded."""

    partition: int
    context_offset: int
    steps_offset: int


@dataclass(slots=True)
class Judgement:
    """The decision on one result, in the contract's own shapes.

    `parts` are `PartVerdict` values in the order of the result's parts, `reason` the first withheld part's, or else the
    first part's.
    """

    decision: Decision
    reason: Reason
    parts: list[dict[str, Any]]


def judge(row: SessionRow, task_id: str, task: TaskRow, result: TaskResult) -> Judgement:
    """The verdict on the result of a running task whose `reads` have been folded. Changes nothing."""
    reason = _reason_for_all(row, task_id, task)
    if reason is not None:
        return withhold_all(result, reason)
    policy = task.get("policy", {})
    on_stale = policy.get("on_stale", "withhold")
    if result.outcome == "failed":
        on_stale = policy.get("on_stale_failure", "annotate")
    stale = [facet for facet in task["expected"] if differs(row, task, facet)]
    listed: set[str] = set()
    return _summed_up([_judge_part(row, task, part, stale, on_stale, listed) for part in result.parts])


def withhold_all(result: TaskResult, reason: Reason) -> Judgement:
    """Every part withheld for the same reason."""
    parts = [{"part_id": part.part_id, "decision": WITHHELD, "reason": reason} for part in result.parts]
    return Judgement(WITHHELD, reason, parts)


def _reason_for_all(row: SessionRow, task_id: str, task: TaskRow) -> Reason | None:
    facets = row["facets"]
    session = facets.get("session")
    if session is not None and session[VALUE] == "closed" and session[CAUSE] != task_id:
        return "session_closed"
    request_id = task["echo"].get("request_id")
    if request_id is not None:
        request = facets.get(f"request/{request_id}")
        if request is not None and request[VALUE] == "archived" and request[CAUSE] != task_id:
            return "request_archived"
    if task.get("policy", {}).get("when_absent") == "withhold" and is_user_absent(row):
        return "user_absent"
    return None


def _judge_part(
    row: SessionRow, task: TaskRow, part: Part, stale: list[str], on_stale: str, listed: set[str]
) -> dict[str, Any]:
    verdict: dict[str, Any] = {"part_id": part.part_id, "decision": DELIVERED, "reason": "fresh"}
    scope = part.depends_on
    differing = stale if scope is None else [facet for facet in stale if facet in scope]
    if not differing:
        return verdict
    verdict["reason"] = "stale"
    told = differing[: MAX_DIFFERENCES if not listed else max(1, MAX_DIFFERENCES - len(listed))]
    listed.update(told)
    verdict["differences"] = [_difference(row, task, facet) for facet in told]
    if len(differing) > len(told):
        verdict["differences_omitted"] = len(differing) - len(told)
    if (part.on_stale or on_stale) == "annotate":
        verdict["annotated"] = True
    else:
        verdict["decision"] = WITHHELD
    return verdict


def _difference(row: SessionRow, task: TaskRow, name: str) -> dict[str, Any]:
    facet = row["facets"][name]
    changed_by = {
        "source": facet[SOURCE],
        "event_id": facet[EVENT_ID],
        "offset": facet[OFFSET],
        "at": rfc3339(facet[TIMESTAMP]),
    }
    if facet[CAUSE]:
        changed_by["cause_task_id"] = facet[CAUSE]
    return {
        "facet": name,
        "expected": expected_now(task, name),
        "actual": facet[VALUE],
        "changed_by": changed_by,
        "since": "dispatch" if facet[TIMESTAMP] <= task["at"] else "running",
    }


def _summed_up(parts: list[dict[str, Any]]) -> Judgement:
    withheld = next((part for part in parts if part["decision"] == WITHHELD), None)
    delivered = any(part["decision"] == DELIVERED for part in parts)
    return Judgement(DELIVERED if delivered else WITHHELD, (withheld or parts[0])["reason"], parts)
