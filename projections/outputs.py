"""From decisions to records: the events the gate writes, as key, value and headers for a topic.

Nothing is decided here. Every output has its own event id; the same decision taken again has the same one.
"""

from typing import Any, Final, NamedTuple

import orjson

from projections.gate import DELIVERED, WITHHELD, Judgement, Place
from projections.row import TaskRow
from schemas.envelope import headers_of
from schemas.identity import output_event_id
from schemas.outputs import MAX_DIFFERENCES
from schemas.times import rfc3339
from schemas.topics import Role
from schemas.wire import Event

MAX_OUTPUT_BYTES: Final = 1_000_000
"""Largest value of an output record: the broker's default limit of 1,048,588 bytes less room for key, headers and batch."""


class Output(NamedTuple):
    """One record to write. `value` is None for a tombstone."""

    role: Role
    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]


class JudgedResult(NamedTuple):
    """A result and everything its outputs say about it. `task` is None where the dispatch is unknown or ended."""

    event: Event
    offset: int
    timestamp: int
    traceparent: str | None
    echo: dict[str, Any]
    task: TaskRow | None
    judgement: Judgement
    disposition: str | None


def result_outputs(source: str, judged: JudgedResult, place: Place, now_ms: int) -> list[Output]:
    """`result.delivered` with the delivered parts, `result.withheld` with the withheld ones; one or both."""
    judgement = judged.judgement
    verdict = {
        "decision": judgement.decision,
        "reason": judgement.reason,
        "parts": judgement.parts,
        "judged": {
            "partition": place.partition,
            "context_offset": place.context_offset,
            "steps_offset": place.steps_offset,
            "at": rfc3339(now_ms),
        },
        "disposition": judged.disposition,
    }
    decisions = [part["decision"] for part in judgement.parts]
    outputs = []
    if DELIVERED in decisions:
        outputs.append(_result_output(source, judged, verdict, DELIVERED, now_ms))
    if WITHHELD in decisions:
        outputs.append(_result_output(source, judged, verdict, WITHHELD, now_ms))
    return outputs


def _result_output(source: str, judged: JudgedResult, verdict: dict[str, Any], decision: str, now_ms: int) -> Output:
    event, task = judged.event, judged.task
    session_id, task_id = event["session_id"], event["task_id"]
    event_type = f"result.{decision}"
    body: dict[str, Any] = {
        "type": event_type,
        "source": source,
        "event_id": output_event_id(
            session_id, task_id, event["source"], event["event_id"], event_type, judged.judgement.reason
        ),
        "session_id": session_id,
        "occurred_at": rfc3339(now_ms),
        "task_id": task_id,
        **judged.echo,
        "outcome": event["outcome"],
        "parts": [
            part
            for part, part_verdict in zip(event["parts"], judged.judgement.parts, strict=True)
            if part_verdict["decision"] == decision
        ],
        "result": {
            "source": event["source"],
            "event_id": event["event_id"],
            "offset": judged.offset,
            "at": rfc3339(judged.timestamp),
        },
        "verdict": verdict,
    }
    if event.get("error"):
        body["error"] = event["error"]
    if task is not None:
        body["snapshot"] = task["expected"]
        valid_until = task.get("policy", {}).get("valid_until")
        if valid_until is not None and decision == DELIVERED:
            body["valid_until"] = valid_until
    role: Role = "delivered" if decision == DELIVERED else "withheld"
    return _output(role, session_id.encode(), body, judged.traceparent)


def running_status(source: str, session_id: str, task_id: str, task: TaskRow, now_ms: int) -> Output:
    """`task.status` of a running task."""
    body = {"status": "running", **_work_of(task)}
    stale = task.get("stale")
    if stale:
        body["stale"] = True
        body["stale_facets"] = stale[:MAX_DIFFERENCES]
    return _status(source, session_id, task_id, task["echo"], body, now_ms, task.get("trace"))


def ended_status(  # noqa: PLR0913 - one argument for each thing told
    source: str,
    session_id: str,
    task_id: str,
    echo: dict[str, Any],
    task: TaskRow | None,
    disposition: str,
    reason: str,
    ended_at_ms: int,
    now_ms: int,
    detail: str | None = None,
) -> Output:
    """`task.status` with the task's one disposition. The last status of the task."""
    body: dict[str, Any] = {"status": "ended", "disposition": disposition, "reason": reason}
    if detail is not None:
        body["detail"] = detail
    if task is not None:
        body |= _work_of(task)
    body["ended_at"] = rfc3339(ended_at_ms)
    return _status(source, session_id, task_id, echo, body, now_ms, task.get("trace") if task else None)


def erased_status(session_id: str, task_id: str) -> Output:
    """The tombstone of a task's status."""
    return Output("tasks", task_key(session_id, task_id), None, [])


def task_key(session_id: str, task_id: str) -> bytes:
    """Key on the tasks topic: the JSON array of session and task, so that no two pairs share one."""
    return orjson.dumps([session_id, task_id])


def _work_of(task: TaskRow) -> dict[str, Any]:
    told: dict[str, Any] = {"dispatched_at": rfc3339(task["at"])}
    steps = task.get("steps")
    if steps is not None:
        told["steps_started"], told["steps_completed"] = steps
    for name in ("progress", "message", "checkpoint", "taken"):
        if name in task:
            told[name] = task[name]  # type: ignore[literal-required]
    return told


def _status(  # noqa: PLR0913 - one argument for each thing told
    source: str,
    session_id: str,
    task_id: str,
    echo: dict[str, Any],
    work: dict[str, Any],
    now_ms: int,
    traceparent: str | None,
) -> Output:
    body = {
        "type": "task.status",
        "source": source,
        "session_id": session_id,
        "occurred_at": rfc3339(now_ms),
        "task_id": task_id,
        **echo,
        **work,
    }
    body["event_id"] = output_event_id(session_id, task_id, orjson.dumps(body))
    return _output("tasks", task_key(session_id, task_id), body, traceparent)


def _output(role: Role, key: bytes, body: dict[str, Any], traceparent: str | None) -> Output:
    headers = headers_of(
        body["type"], body["source"], body["event_id"], body["session_id"], body["occurred_at"], traceparent
    )
    return Output(role, key, orjson.dumps(body), headers)
