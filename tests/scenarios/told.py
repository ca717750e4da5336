"""What the gate told of each task, one line for each thing told:

waits: context                  the result is there, and waits for that
delivered: fresh                a result, or a part of it, was delivered
delivered: stale, marked        and marked as stale
delivered: fresh, watched       in shadow mode; the reason is what the gate would have given
withheld: stale                 withheld, with the reason
delivered: fresh, interim       an interim answer, after which the task goes on
delivered message: fresh        the part named `message`, of a result of several parts
redispatch: task~2              a new attempt was commanded
cancel: superseded              the agent was told to stop, and why
unmatched                       there was nothing to cancel
start                           its turn in the slot has come
outdated: doc/42                what was delivered has gone stale, by a change of this
effect mail-1: cleared          the answer to a proposed effect
effect mail-1: refused, stale
end: delivered, fresh           how the task ended, and why
acknowledged: shown             what its consumer said
gone                            its status was removed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Told(NamedTuple):
    """One output. `body` is None for a tombstone.

    `position`: how many of the case's events had been said; `at`: seconds since the case began.
    """

    position: int
    at: float
    role: str
    task_id: str
    body: dict[str, Any] | None


def lines_of(told: Told, before: dict[str, str]) -> Iterator[str]:
    """The lines of one output. `before` remembers from call to call what was told of each task."""
    body = told.body
    if body is None:
        yield "gone"
    elif body["type"] == "task.status":
        yield from _status_lines(told.task_id, body, before)
    elif body["type"] in {"result.delivered", "result.withheld"}:
        yield from _result_lines(body)
    elif body["type"] == "task.redispatch":
        yield f"redispatch: {body['new_task_id']}"
    elif body["type"] == "task.cancel":
        yield f"cancel: {body['reason']}"
    elif body["type"] == "task.start":
        yield "start"
    elif body["type"] == "result.outdated":
        yield f"outdated: {', '.join(each['facet'] for each in body['differences'])}"
    elif body["type"] == "task.cancel_unmatched":
        yield "unmatched"
    else:
        answer = body["type"].removeprefix("effect.")
        reason = f", {body['reason']}" if "reason" in body else ""
        yield f"effect {body['idempotency_key']}: {answer}{reason}"


def _status_lines(task_id: str, body: Mapping[str, Any], before: dict[str, str]) -> Iterator[str]:
    if body["status"] == "waiting" and before.get(task_id) != body["waiting_for"]:
        before[task_id] = body["waiting_for"]
        yield f"waits: {body['waiting_for']}"
    said = body.get("acknowledged", before.get(f"{task_id} acknowledged"))
    is_news = said != before.get(f"{task_id} acknowledged")
    if is_news:
        before[f"{task_id} acknowledged"] = said
        yield f"acknowledged: {said}"
    if body["status"] == "ended" and not (is_news and f"{task_id} ended" in before):
        before[f"{task_id} ended"] = ""
        yield f"end: {body['disposition']}, {body['reason']}"


def _result_lines(body: Mapping[str, Any]) -> Iterator[str]:
    decision = body["type"].removeprefix("result.")
    verdicts = {each["part_id"]: each for each in body["verdict"]["parts"]}
    name_parts = len(body["parts"]) > 1 or len(verdicts) > 1
    for part in body["parts"]:
        verdict = verdicts[part["part_id"]]
        name = f" {part['part_id']}" if name_parts else ""
        marked = ", marked" if verdict.get("annotated") else ""
        watched = ", watched" if "shadow" in body else ""
        interim = "" if body.get("final", True) else ", interim"
        yield f"{decision}{name}: {verdict['reason']}{marked}{watched}{interim}"


def has_at_least(found: Any, wanted: Any) -> bool:
    """Whether `found` has what `wanted` names: every field of it, every item in its order, and equal values."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            name in found and has_at_least(found[name], value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(has_at_least(*pair) for pair in zip(found, wanted, strict=True))
        )
    return bool(found == wanted)
