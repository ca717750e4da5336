"""The gate: is this result still what the latest context asks for? A pure function of the row, the result and its time.

Source of the rules and their order: the design of the gate; docs/semantics.md explains each with an example.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from projections.row import (
    CAUSE,
    EVENT_ID,
    OFFSET,
    SOURCE,
    TIMESTAMP,
    VALUE,
    Facet,
    SessionRow,
    TaskRow,
    Wait,
    contradicted_now,
    differs,
    is_older,
    is_user_absent,
    older_in_slot,
    order_of,
)
from projections.rules import Rules
from schemas.events import TaskResult
from schemas.fields import Part, Reason
from schemas.outputs import MAX_DIFFERENCES
from schemas.times import rfc3339
from schemas.topics import Role

PartDecision = Literal["delivered", "withheld", "held"]

DELIVERED: Final[PartDecision] = "delivered"
WITHHELD: Final[PartDecision] = "withheld"
HELD: Final[PartDecision] = "held"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the logs stood when a verdict was given: every record below these offsets was folded.

    `steps_offset` is of the topic `steps_role`. `asked_offset`: how far that one had been folded when the barrier was
    asked for. What was folded after that, a proposed effect, may have seen a context that the barrier did not.
    """

    partition: int
    context_offset: int
    steps_offset: int
    steps_role: Role = "steps"
    asked_offset: int | None = None

    def covers(self, role: Role, offset: int) -> bool:
        """Whether a step had been folded when the barrier was asked for."""
        return role == self.steps_role and offset < (
            self.steps_offset if self.asked_offset is None else self.asked_offset
        )


@dataclass(slots=True)
class Judgement:
    """The decision on one result, in the contract's own shapes.

    `parts` are `PartVerdict` values of the parts judged, in their order. `reason` is that of the first part withheld,
    else of the first held, else of the first. `wait` is what held parts wait for. `redispatch`: a new attempt is
    called for.
    """

    decision: PartDecision
    reason: Reason
    parts: list[dict[str, Any]]
    wait: Wait | None = None
    redispatch: bool = False


def judge(row: SessionRow, task_id: str, task: TaskRow, result: TaskResult, at_ms: int, rules: Rules) -> Judgement:
    """The verdict on the undecided parts of an open task's result, which the broker took at `at_ms`.

    The result's `reads` have been folded. Changes nothing.
    """
    parts = undecided_parts(task, result)
    reason = _reason_for_all(row, task_id, task, at_ms)
    if reason is not None:
        return all_parts(parts, WITHHELD, reason)
    wait = _wait_for_others(row, task_id, task, at_ms, rules)
    if wait is not None:
        return _held(parts, wait)
    policy = task.get("policy", {})
    over = task.get("wait", {}).get("over", False)
    hold_until = at_ms + int(policy.get("hold_ttl_ms", rules.hold_ttl_ms))
    if policy.get("when_absent") in ("withhold", "hold") and is_user_absent(row):
        if policy["when_absent"] == "withhold":
            return all_parts(parts, WITHHELD, "user_absent")
        if over:
            return all_parts(parts, WITHHELD, "hold_expired")
        return _held(parts, {"why": "user", "undecided": [], "until": hold_until})
    on_stale = policy.get("on_stale", "withhold")
    if result.outcome == "failed":
        on_stale = policy.get("on_stale_failure", "annotate")
    stale = [facet for facet in task["expected"] if differs(row, task, facet)]
    told: set[str] = set()
    verdicts = [_judge_part(row, task, part, stale, part.on_stale or on_stale, told, over=over) for part in parts]
    judgement = _summed_up(verdicts)
    if judgement.wait is not None:
        judgement.wait["until"] = hold_until
    attempts_left = policy.get("attempt", 1) <= policy.get("max_redispatches", 1)
    judgement.redispatch = attempts_left and any(
        verdict["decision"] == WITHHELD and verdict["reason"] == "stale" and (part.on_stale or on_stale) == "redispatch"
        for part, verdict in zip(parts, verdicts, strict=True)
    )
    return judgement


def undecided_parts(task: TaskRow, result: TaskResult) -> list[Part]:
    """The parts that no verdict has decided: all of them at first, the held ones after that."""
    wait = task.get("wait")
    return result.parts if wait is None else [part for part in result.parts if part.part_id in wait["undecided"]]


def all_parts(parts: list[Part], decision: PartDecision, reason: Reason) -> Judgement:
    """The same decision on every part, for the same reason."""
    return Judgement(
        decision, reason, [{"part_id": part.part_id, "decision": decision, "reason": reason} for part in parts]
    )


def reason_to_refuse(row: SessionRow, task_id: str, task: TaskRow, at_ms: int) -> Reason | None:
    """Why nothing of this task may have an effect any more, whatever it depends on; None where it may."""
    return _reason_for_all(row, task_id, task, at_ms)


def differences(row: SessionRow, task: TaskRow) -> list[dict[str, Any]]:
    """What the row contradicts of all the task expects, as `Difference` values, at most 32."""
    stale = [facet for facet in task["expected"] if differs(row, task, facet)]
    return [_difference(row, task, facet) for facet in stale[:MAX_DIFFERENCES]]


def _reason_for_all(row: SessionRow, task_id: str, task: TaskRow, at_ms: int) -> Reason | None:
    facets, echo, policy = row["facets"], task["echo"], task.get("policy", {})
    session = facets.get("session")
    if session is not None and session[VALUE] == "closed" and not _is_own(session, "session", task_id, task):
        return "session_closed"
    request_id = echo.get("request_id")
    if request_id is not None:
        name = f"request/{request_id}"
        request = facets.get(name)
        if request is not None and request[VALUE] == "archived" and not _is_own(request, name, task_id, task):
            return "request_archived"
    if at_ms > policy.get("deadline_ms", at_ms):
        return "deadline_passed"
    slot = echo.get("slot")
    if slot is not None and not policy.get("protected"):
        newest = row.get("slots", {}).get(slot)
        if newest is not None and is_older(order_of(task), newest):
            return "superseded"
    return None


def _is_own(facet: Facet, name: str, task_id: str, task: TaskRow) -> bool:
    """Whether the facet has its value by the task's own work, or by that of a task below it, and nobody else's."""
    if not facet[CAUSE] or facet[CAUSE] == task_id:
        return bool(facet[CAUSE])
    return any(change[0] == facet[OFFSET] for change in task.get("own", {}).get(name, ()))


def _wait_for_others(row: SessionRow, task_id: str, task: TaskRow, at_ms: int, rules: Rules) -> Wait | None:
    policy = task.get("policy", {})
    if "parentless_until" in task:
        return {"why": "parent", "undecided": []}
    if task.get("children"):
        return {"why": "children", "undecided": [], "until": at_ms + policy.get("scope_grace_ms", rules.scope_grace_ms)}
    slot = task["echo"].get("slot")
    if slot is not None and policy.get("on_newer") == "enqueue" and older_in_slot(row, task_id, slot, order_of(task)):
        return {"why": "slot", "undecided": []}
    return None


def _held(parts: list[Part], wait: Wait) -> Judgement:
    judgement = all_parts(parts, HELD, "held")
    judgement.wait = {**wait, "undecided": [part.part_id for part in parts]}
    return judgement


def _judge_part(
    row: SessionRow,
    task: TaskRow,
    part: Part,
    stale: list[str],
    on_stale: str,
    told: set[str],
    *,
    over: bool,
) -> dict[str, Any]:
    verdict: dict[str, Any] = {"part_id": part.part_id, "decision": DELIVERED, "reason": "fresh"}
    scope = part.depends_on
    differing = stale if scope is None else [facet for facet in stale if facet in scope]
    if not differing:
        return verdict
    verdict["reason"] = "stale"
    tell = differing[: MAX_DIFFERENCES if not told else max(1, MAX_DIFFERENCES - len(told))]
    told.update(tell)
    verdict["differences"] = [_difference(row, task, facet) for facet in tell]
    if len(differing) > len(tell):
        verdict["differences_omitted"] = len(differing) - len(tell)
    if on_stale == "annotate":
        verdict["annotated"] = True
    elif on_stale == "hold" and not over:
        verdict["decision"] = HELD
    else:
        verdict["decision"] = WITHHELD
        if on_stale == "hold":
            verdict["reason"] = "hold_expired"
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
        "expected": contradicted_now(task, name, facet[VALUE]),
        "actual": facet[VALUE],
        "changed_by": changed_by,
        "since": "dispatch" if facet[TIMESTAMP] <= task["at"] else "running",
    }


def _summed_up(parts: list[dict[str, Any]]) -> Judgement:
    by_decision = {part["decision"]: part for part in parts[::-1]}
    first = by_decision.get(WITHHELD) or by_decision.get(HELD) or parts[0]
    decision = DELIVERED if DELIVERED in by_decision else HELD if HELD in by_decision else WITHHELD
    held = [part["part_id"] for part in parts if part["decision"] == HELD]
    wait: Wait | None = {"why": "context", "undecided": held} if held else None
    return Judgement(decision, first["reason"], parts, wait)
