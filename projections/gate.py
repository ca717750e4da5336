"""The gate: is this result still what the latest context asks for? A pure function of session, result and time.

Source of the rules and their order: the design of the gate; docs/semantics.md explains each with an example.
"""

from typing import Any, Final, Literal

from mypy_extensions import mypyc_attr

from projections.clocks import deadline_of
from projections.expectation import differing, is_unknown
from projections.facets import Facets
from projections.records import change_of
from projections.rows import DEFAULT_POLICY, Facet, Policy, Task, Wait
from projections.rules import Rules
from projections.session import Session
from projections.slot_order import is_older, order_of
from schemas.events import TaskResult
from schemas.fields import Part, Reason
from schemas.outputs import MAX_DIFFERENCES

PartDecision = Literal["delivered", "withheld", "held"]


DELIVERED: Final[PartDecision] = "delivered"
WITHHELD: Final[PartDecision] = "withheld"
HELD: Final[PartDecision] = "held"

QUEUES: Final = ("enqueue", "enqueue_latest")
"""Policies with which a task waits for the older ones of its slot."""

_FEW: Final = 8


@mypyc_attr(acyclic=True, free_list_len=1)
class PartVerdict:
    """The decision on one part. `facets` are those whose difference is reported, `omitted` how many more differ."""

    def __init__(
        self,
        part: Part,
        decision: PartDecision,
        reason: Reason,
        facets: list[str] | None = None,
        omitted: int = 0,
        *,
        annotated: bool = False,
    ) -> None:
        self.part = part
        self.decision = decision
        self.reason = reason
        self.facets = facets
        self.omitted = omitted
        self.annotated = annotated


@mypyc_attr(acyclic=True, free_list_len=1)
class Judgement:
    """The decision on one result.

    `parts` are the verdicts on the parts judged, in their order. `reason` is that of the first part withheld, else of
    the first held, else of the first. `wait` is what held parts wait for. `redispatch`: a new attempt is called for.
    """

    def __init__(
        self,
        decision: PartDecision,
        reason: Reason,
        parts: list[PartVerdict],
        wait: Wait | None = None,
        *,
        redispatch: bool = False,
    ) -> None:
        self.decision = decision
        self.reason = reason
        self.parts = parts
        self.wait = wait
        self.redispatch = redispatch


def judge_at_once(
    session: Session, task_id: str, task: Task, result: TaskResult, at_ms: int, rules: Rules
) -> Judgement:
    """The verdict on a result that does not wait: what would be held is withheld, and no new attempt is called for.

    Children are not asked about: the result does not end their scope.
    """
    judgement = judge(session, task_id, task, result, at_ms, rules, waits_for_children=False)
    judgement.redispatch = False
    wait = judgement.wait
    if wait is None:
        return judgement
    if wait.why != "context":
        return all_parts(result.parts, WITHHELD, _INSTEAD_OF_WAITING[wait.why])
    return _summed_up(
        [
            each if each.decision != HELD else PartVerdict(each.part, WITHHELD, "stale", each.facets, each.omitted)
            for each in judgement.parts
        ]
    )


def mark_late(judgement: Judgement) -> None:
    """What is delivered as fresh of a late result is delivered as late."""
    for each in judgement.parts:
        if each.decision == DELIVERED and not each.annotated:
            each.reason = "late"
    if judgement.reason == "fresh":
        judgement.reason = "late"


_INSTEAD_OF_WAITING: Final[dict[str, Reason]] = {
    "parent": "unknown_parent",
    "slot": "slot_taken",
    "user": "user_absent",
}


def judge(
    session: Session,
    task_id: str,
    task: Task,
    result: TaskResult,
    at_ms: int,
    rules: Rules,
    *,
    waits_for_children: bool = True,
) -> Judgement:
    """The verdict on the undecided parts of an open task's result, which the broker took at `at_ms`.

    `task` has what the result read. Changes nothing.
    """
    wait = task.wait
    parts = result.parts if wait is None else undecided_parts(wait, result)
    reason = reason_for_all(session, task_id, task, at_ms)
    if reason is not None:
        return all_parts(parts, WITHHELD, reason)
    waits = _wait_for_others(session, task_id, task, at_ms, rules, waits_for_children=waits_for_children)
    if waits is not None:
        return _held(parts, waits)
    if task.policy is None and not task.stale:  # as most are
        return all_parts(parts, DELIVERED, "fresh")
    policy: Policy = task.policy if task.policy is not None else DEFAULT_POLICY
    expired = wait is not None and wait.expired
    hold_ttl_ms = policy.hold_ttl_ms
    hold_until = at_ms + (rules.hold_ttl_ms if hold_ttl_ms is None else hold_ttl_ms)
    if policy.when_absent != "deliver" and may_be_absent(session.facets):
        return all_parts(parts, WITHHELD, "session_full")
    if policy.when_absent != "deliver" and is_user_absent(session.facets):
        if policy.when_absent == "withhold":
            return all_parts(parts, WITHHELD, "user_absent")
        if expired:
            return all_parts(parts, WITHHELD, "hold_expired")
        return _held(parts, Wait("user", [], hold_until))
    stale = differing(task)
    if not stale:
        return all_parts(parts, DELIVERED, "fresh")
    on_stale: str = policy.on_stale_failure if result.outcome == "failed" else policy.on_stale
    return _judge_stale(session.facets, parts, stale, on_stale, policy, hold_until, expired=expired)


def undecided_parts(wait: Wait, result: TaskResult) -> list[Part]:
    """The parts of a waiting result that no verdict has decided."""
    undecided = set(wait.undecided)
    return [part for part in result.parts if part.part_id in undecided]


def all_parts(parts: list[Part], decision: PartDecision, reason: Reason) -> Judgement:
    """The same decision on every part, for the same reason."""
    return Judgement(decision, reason, [PartVerdict(part, decision, reason) for part in parts])


def reason_for_all(session: Session, task_id: str, task: Task, at_ms: int) -> Reason | None:
    """Why nothing of this task may have an effect any more, whatever it depends on; None if it may."""
    facets = session.facets
    closed = facets.get("session")
    if closed is not None and is_unknown(closed):
        return "session_full"  # it may be closed
    if closed is not None and closed.value == "closed" and not _is_own(closed, "session", task_id, task):
        return "session_closed"
    request_id, slot, policy = task.request_id, task.slot, task.policy
    if request_id is not None:
        name = f"request/{request_id}"
        request = facets.get(name)
        if request is not None and is_unknown(request):
            return "session_full"  # it may be archived
        if request is not None and request.value == "archived" and not _is_own(request, name, task_id, task):
            return "request_archived"
    if policy is not None and policy.deadline_ms is not None:
        deadline_ms = deadline_of(task)
        if deadline_ms is not None and at_ms > deadline_ms:
            return "deadline_passed"
    if slot is not None and not (policy is not None and policy.protected):
        newest = session.slots.get(slot)
        if newest is not None and is_older(order_of(task), newest):
            return "superseded"
    return None


def is_user_absent(facets: Facets) -> bool:
    """True if clients are known and every one of them is absent or gone."""
    known = [facet.value for facet in facets.starting_with("presence/") if facet.change]
    return bool(known) and all(value is None or value == "absent" for value in known)


def may_be_absent(facets: Facets) -> bool:
    """True if no client is known to be there, and of one it is unknown."""
    clients = facets.starting_with("presence/")
    return any(map(is_unknown, clients)) and all(
        is_unknown(client) or client.value is None or client.value == "absent" for client in clients
    )


def _is_own(facet: Facet, name: str, task_id: str, task: Task) -> bool:
    """Whether the facet has its value by the task's own work, or by that of a descendant, and nobody else's."""
    if not facet.cause or facet.cause == task_id:
        return bool(facet.cause)
    changes = task.own.get(name, ()) if task.own is not None else ()
    if not changes:
        return False
    offset = change_of(facet).offset
    return any(change.offset == offset for change in changes)


def _wait_for_others(
    session: Session, task_id: str, task: Task, at_ms: int, rules: Rules, *, waits_for_children: bool
) -> Wait | None:
    policy, scope = task.policy, task.scope
    if scope is not None:
        if scope.parentless_until is not None:
            return Wait("parent", [])
        if scope.children and waits_for_children:
            grace_ms = policy.scope_grace_ms if policy is not None else None
            return Wait("children", [], at_ms + (rules.scope_grace_ms if grace_ms is None else grace_ms))
    is_queued = policy is not None and policy.on_newer in QUEUES and task.slot is not None
    if is_queued and session.has_older_in_slot(task_id, task.slot or "", order_of(task)):
        return Wait("slot", [])
    return None


def _held(parts: list[Part], wait: Wait) -> Judgement:
    judgement = all_parts(parts, HELD, "held")
    judgement.wait = Wait(wait.why, [part.part_id for part in parts], wait.until)
    return judgement


def _judge_stale(
    facets: Facets,
    parts: list[Part],
    stale: list[str],
    on_stale: str,
    policy: Policy,
    hold_until: int,
    *,
    expired: bool,
) -> Judgement:
    reported: set[str] = set()
    unknown = {name for name in stale if is_unknown(facets[name])}
    verdicts: list[PartVerdict] = []
    redispatch = False
    for part in parts:
        policy_of_part: str = part.on_stale or on_stale
        verdict = _judge_part(part, stale, unknown, policy_of_part, reported, expired=expired)
        verdicts.append(verdict)
        if policy_of_part == "redispatch" and verdict.decision == WITHHELD and verdict.reason == "stale":
            redispatch = True
    judgement = _summed_up(verdicts)
    if judgement.wait is not None:
        judgement.wait = Wait("context", judgement.wait.undecided, hold_until)
    judgement.redispatch = redispatch and policy.attempt <= policy.max_redispatches
    return judgement


def _judge_part(
    part: Part, stale: list[str], unknown: set[str], on_stale: str, reported: set[str], *, expired: bool
) -> PartVerdict:
    scope: Any = part.depends_on
    differ = stale
    if scope is not None:
        members: Any = scope if len(scope) < _FEW else set(scope)
        differ = [name for name in stale if name in members]
    if not differ:
        return PartVerdict(part, DELIVERED, "fresh")
    if unknown and not unknown.isdisjoint(differ):
        return PartVerdict(part, WITHHELD, "session_full")
    facets = differ[: MAX_DIFFERENCES if not reported else max(1, MAX_DIFFERENCES - len(reported))]
    reported.update(facets)
    omitted = len(differ) - len(facets)
    if on_stale == "annotate":
        return PartVerdict(part, DELIVERED, "stale", facets, omitted, annotated=True)
    if on_stale == "hold":
        if not expired:
            return PartVerdict(part, HELD, "stale", facets, omitted)
        return PartVerdict(part, WITHHELD, "hold_expired", facets, omitted)
    return PartVerdict(part, WITHHELD, "stale", facets, omitted)


def _summed_up(parts: list[PartVerdict]) -> Judgement:
    first: dict[str, PartVerdict] = {}
    for part in parts:
        first.setdefault(part.decision, part)
    deciding = first.get(WITHHELD) or first.get(HELD) or parts[0]
    decision = DELIVERED if DELIVERED in first else HELD if HELD in first else WITHHELD
    held = [part.part.part_id for part in parts if part.decision == HELD]
    return Judgement(decision, deciding.reason, parts, Wait("context", held) if held else None)
