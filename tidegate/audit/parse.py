"""From decoded events to the shapes of `logs`: what is needed of each, and digests of what must stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import orjson

from schemas.events import TaskDispatched
from schemas.fields import Part
from schemas.topics import Role
from tidegate.audit.logs import JudgedPart, Output, Result, ResultPart, Task
from tidegate.audit.oracle import unsupported_field

_NOT_CONTENT: Final = ("type", "source", "event_id", "session_id", "occurred_at", "task_id")
_CONTENT: Final = {
    name: field.get_default(call_default_factory=True)
    for name, field in TaskDispatched.model_fields.items()
    if name not in _NOT_CONTENT
}
_ATTRIBUTES: Final = {
    "ce_type": "type",
    "ce_source": "source",
    "ce_id": "event_id",
    "ce_subject": "session_id",
    "ce_time": "occurred_at",
}
_PART: Final = {name: field.get_default() for name, field in Part.model_fields.items()}


class Record(Protocol):
    """What is used of a Kafka record. `timestamp_type` 1 is the broker's time."""

    @property
    def offset(self) -> int: ...  # noqa: D102 - Kafka's own words
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def timestamp_type(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...  # noqa: D102


def completed(record: Record) -> Any:
    """The JSON value in a record, its envelope completed from CloudEvents headers; None where there is none.

    A field that the body states wins over the header.
    """
    try:
        body = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return None
    if isinstance(body, dict):
        for name, value in record.headers:
            if name in _ATTRIBUTES:
                body.setdefault(_ATTRIBUTES[name], (value or b"").decode(errors="replace"))
    return body


def task_of(role: Role, record: Record, body: dict[str, Any]) -> Task | None:
    """The task in a `task.dispatched` event, or None if it is not of the contract's shape."""
    snapshot, depends_on = body.get("snapshot", {}), body.get("depends_on", [])
    if type(body.get("task_id")) is not str or type(snapshot) is not dict or type(depends_on) is not list:
        return None
    content = [body.get(name, default) for name, default in _CONTENT.items()]
    return Task(
        role=role,
        offset=record.offset,
        at_ms=record.timestamp,
        digest=_digest(content),
        snapshot=snapshot,
        depends_on=depends_on,
        request_id=body.get("request_id"),
        on_stale=body.get("on_stale", "withhold"),
        on_stale_failure=body.get("on_stale_failure", "annotate"),
        when_absent=body.get("when_absent", "deliver"),
        unsupported=unsupported_field(body),
    )


def _digest(content: Any) -> int:
    return hash(orjson.dumps(content, option=orjson.OPT_SORT_KEYS))


def _part_digest(part: dict[str, Any]) -> int:
    return _digest([part.get(name, default) for name, default in _PART.items()])


def result_of(role: Role, record: Record, body: dict[str, Any]) -> Result | None:
    """The result in a `task.result` event, or None if it is not of the contract's shape."""
    try:
        parts = [
            ResultPart(part["part_id"], part.get("depends_on"), part.get("on_stale"), _part_digest(part))
            for part in body["parts"]
        ]
        reads = body.get("reads") or {}
        content = [body["outcome"], [part.digest for part in parts], reads, body.get("error")]
        if type(body["task_id"]) is not str or not parts:
            return None
        return Result(
            role=role,
            offset=record.offset,
            at_ms=record.timestamp,
            broker_time=record.timestamp_type == 1,
            source=body["source"],
            event_id=body["event_id"],
            outcome=body["outcome"],
            parts=parts,
            reads=reads,
            digest=_digest(content),
        )
    except (LookupError, TypeError, AttributeError):
        return None


def output_of(role: Role, record: Record, body: dict[str, Any]) -> Output:
    """The output in a `result.delivered` or `result.withheld` event. LookupError, TypeError if neither."""
    verdict, result = body["verdict"], body["result"]
    judged = verdict["judged"]
    return Output(
        role=role,
        offset=record.offset,
        source=result["source"],
        event_id=result["event_id"],
        result_offset=result["offset"],
        carried=[(part["part_id"], _part_digest(part)) for part in body["parts"]],
        snapshot=body.get("snapshot") or {},
        digest=_digest(verdict),
        decision=verdict["decision"],
        reason=verdict["reason"],
        disposition=verdict.get("disposition"),
        partition=judged["partition"],
        context_offset=judged["context_offset"],
        steps_offset=judged["steps_offset"],
        at=judged["at"],
        parts=[
            JudgedPart(
                part["part_id"],
                part["decision"],
                part["reason"],
                part.get("annotated", False),
                part.get("differences") or [],
                part.get("differences_omitted", 0),
            )
            for part in verdict["parts"]
        ],
    )
