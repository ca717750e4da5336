"""From decisions to records: the events the gate writes, as key, value and headers for a topic.

Nothing is decided here. Every output has its own event id; the same decision taken again has the same one.
"""

from typing import Any, Final, NamedTuple

import msgspec
import orjson

from projections.gate import DELIVERED, HELD, WITHHELD, Judgement, Place
from projections.row import Facet, TaskRow, all_expected_now
from schemas.envelope import headers_of
from schemas.events import TaskResult
from schemas.identity import output_event_id
from schemas.outputs import MAX_DIFFERENCES
from schemas.times import rfc3339
from schemas.topics import Role

MAX_OUTPUT_BYTES: Final = 1_000_000
"""Largest value of an output record: the broker's default limit of 1,048,588 bytes less room for key, headers and
batch."""

_encode = msgspec.json.Encoder().encode


class Output(NamedTuple):
    """One record to write. `value` is None for a tombstone."""

    role: Role
    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]


class JudgedResult(NamedTuple):
    """A result and everything its outputs say about it.

    `task` is None where the dispatch is unknown or ended. `facets` are the session's. `shadow`: deliver all the same.
    """

    event: TaskResult
    offset: int
    timestamp: int
    traceparent: str | None
    echo: dict[str, Any]
    task: TaskRow | None
    judgement: Judgement
    disposition: str | None
    shadow: bool = False
    facets: dict[str, Facet] = {}  # noqa: RUF012 - never changed


def result_outputs(source: str, judged: JudgedResult, place: Place, now_ms: int) -> list[Output]:
    """`result.delivered` with the delivered parts, `result.withheld` with the withheld ones; none for held ones."""
    judgement, event = judged.judgement, judged.event
    verdict = {
        "decision": WITHHELD if judgement.decision == HELD else judgement.decision,
        "reason": judgement.reason,
        "parts": judgement.parts,
        "judged": _judged(place, now_ms),
        "disposition": judged.disposition,
    }
    decision_of = {part["part_id"]: part["decision"] for part in judgement.parts}
    if judged.shadow:
        parts = [part for part in event.parts if part.part_id in decision_of]
        return [_result_output(source, judged, verdict, DELIVERED, parts, now_ms)]
    outputs = []
    for decision in (DELIVERED, WITHHELD):
        parts = [part for part in event.parts if decision_of.get(part.part_id) == decision]
        if parts:
            outputs.append(_result_output(source, judged, verdict, decision, parts, now_ms))
    return outputs


def _judged(place: Place, now_ms: int) -> dict[str, Any]:
    return {
        "partition": place.partition,
        "context_offset": place.context_offset,
        "steps_offset": place.steps_offset,
        "at": rfc3339(now_ms),
    }


def _result_output(
    source: str, judged: JudgedResult, verdict: dict[str, Any], decision: str, parts: list[Any], now_ms: int
) -> Output:
    event, task = judged.event, judged.task
    event_type = f"result.{decision}"
    reason, first = judged.judgement.reason, parts[0].part_id
    name = orjson.dumps([event.session_id, event.task_id, event.source, event.event_id, event_type, reason, first])
    body: dict[str, Any] = {
        "type": event_type,
        "source": source,
        "event_id": output_event_id(name),
        "session_id": event.session_id,
        "occurred_at": rfc3339(now_ms),
        "task_id": event.task_id,
        **judged.echo,
        "outcome": event.outcome,
        "parts": parts,
        "result": {
            "source": event.source,
            "event_id": event.event_id,
            "offset": judged.offset,
            "at": rfc3339(judged.timestamp),
        },
        "verdict": verdict,
    }
    if event.error is not None:
        body["error"] = event.error
    if judged.shadow:
        body["shadow"] = {"decision": judged.judgement.decision, "reason": judged.judgement.reason}
    if task is not None:
        body["snapshot"] = all_expected_now(task, judged.facets)
        if decision == DELIVERED and "policy" in task and "valid_until" in task["policy"]:
            body["valid_until"] = task["policy"]["valid_until"]
    role: Role = "withheld"
    if decision == DELIVERED:
        role = "delivered.cold" if judged.echo.get("lane") == "cold" else "delivered"
    return _output(role, event.session_id.encode(), body, judged.traceparent)


def open_status(source: str, session_id: str, task_id: str, task: TaskRow, now_ms: int) -> Output:
    """`task.status` of an open task: running, or waiting with its result."""
    body = _status_head(source, session_id, task_id, task["echo"], now_ms)
    body["status"] = "running"
    if "wait" in task:
        body["status"] = "waiting"
        body["waiting_for"] = task["wait"]["why"]
    _tell_work(body, task)
    stale = task.get("stale")
    if stale:
        body["stale"] = True
        body["stale_facets"] = stale[:MAX_DIFFERENCES]
    return _status(body, task.get("trace"))


def ended_status(
    source: str,
    session_id: str,
    task_id: str,
    told: dict[str, Any],
    now_ms: int,
    traceparent: str | None,
    acknowledged_at: int | None = None,
) -> Output:
    """`task.status` with the task's one disposition: `told` is what `ending` made of it, perhaps with more.

    `acknowledged_at`: offset of the acknowledgement that it tells. `shown`, `refused`, `shown` are three records.
    """
    body = _status_head(source, session_id, task_id, {}, now_ms)
    body |= told
    identity = [session_id, task_id, told["disposition"], told["reason"], told["ended_at"], acknowledged_at]
    return _status(body, traceparent, orjson.dumps(identity))


def ending(
    echo: dict[str, Any],
    task: TaskRow | None,
    disposition: str,
    reason: str,
    ended_at_ms: int,
    detail: str | None = None,
    receipt: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What is told of an ended task, and remembered so that an acknowledgement can be told beside it."""
    told: dict[str, Any] = {**echo, "status": "ended", "disposition": disposition, "reason": reason}
    if detail is not None:
        told["detail"] = detail
    if task is not None:
        _tell_work(told, task)
    if receipt is not None:
        told["receipt"] = receipt
    if task is None:  # it ended with its dispatch
        told["dispatched_at"] = rfc3339(ended_at_ms)
    told["ended_at"] = rfc3339(ended_at_ms)
    return told


def receipt_of(task: TaskRow) -> dict[str, Any]:
    """What a task that is stopped had done, as a `Receipt`."""
    done, failed, in_flight = (task.get(name, []) for name in ("done", "failed", "in_flight"))
    begun = {*done, *failed, *in_flight}  # type: ignore[misc]
    planned = task.get("policy", {}).get("plan", [])
    receipt = {
        "done": done,
        "failed": failed,
        "in_flight": in_flight,
        "not_attempted": [step for step in planned if step not in begun],
    }
    return {name: steps for name, steps in receipt.items() if steps}


def erased_status(session_id: str, task_id: str) -> Output:
    """The tombstone of a task's status."""
    return Output("tasks", task_key(session_id, task_id), None, [])


def task_key(session_id: str, task_id: str) -> bytes:
    """Key on the tasks topic: the JSON array of session and task, so that no two pairs share one."""
    return orjson.dumps([session_id, task_id])


def command(
    command_type: str,
    source: str,
    session_id: str,
    task_id: str,
    task: TaskRow | None,
    fields: dict[str, Any],
    now_ms: int,
) -> Output:
    """A record of the commands topic: `task.cancel`, `task.redispatch`, `effect.cleared` or `effect.refused`."""
    echo = task["echo"] if task is not None else {}
    name = orjson.dumps([session_id, task_id, command_type, fields])
    body = {
        "type": command_type,
        "source": source,
        "event_id": output_event_id(name),
        "session_id": session_id,
        "occurred_at": rfc3339(now_ms),
        "task_id": task_id,
        **echo,
        **fields,
    }
    return _output("commands", session_id.encode(), body, task.get("trace") if task is not None else None)


def judged_fields(place: Place, now_ms: int) -> dict[str, Any]:
    """`judged` of an answer to a proposed effect."""
    return _judged(place, now_ms)


def _status_head(source: str, session_id: str, task_id: str, echo: dict[str, Any], now_ms: int) -> dict[str, Any]:
    return {
        "type": "task.status",
        "source": source,
        "session_id": session_id,
        "occurred_at": rfc3339(now_ms),
        "task_id": task_id,
        **echo,
    }


def _tell_work(body: dict[str, Any], task: TaskRow) -> None:
    body["dispatched_at"] = rfc3339(task["at"])
    if "parent" in task:
        body["parent_task_id"] = task["parent"]
    if "steps" in task:
        body["steps_started"], body["steps_completed"] = task["steps"]
    for name in ("progress", "message", "checkpoint", "taken"):
        if name in task:
            body[name] = task[name]
    body |= task.get("said", {})


def _status(body: dict[str, Any], traceparent: str | None, name: bytes | None = None) -> Output:
    without_id = orjson.dumps(body)
    event_id = output_event_id(name or without_id)
    session_id, source = body["session_id"], body["source"]
    return Output(
        "tasks",
        task_key(session_id, body["task_id"]),
        b'%s,"event_id":"%s"}' % (without_id[:-1], event_id.encode()),
        headers_of("task.status", source, event_id, session_id, body["occurred_at"], traceparent),
    )


def _output(role: Role, key: bytes, body: dict[str, Any], traceparent: str | None) -> Output:
    headers = headers_of(
        body["type"], body["source"], body["event_id"], body["session_id"], body["occurred_at"], traceparent
    )
    return Output(role, key, _encode(body), headers)
