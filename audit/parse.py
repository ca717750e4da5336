"""From decoded events to the shapes of `logs`: what is needed of each, and digests of what must stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from audit.json_equality import digest_of, load
from audit.logs import (
    Answer,
    CancelRequest,
    JudgedAt,
    JudgedPart,
    Outdated,
    Output,
    Proposal,
    Redispatch,
    Result,
    ResultPart,
    Sign,
    Task,
    Unmatched,
)
from schemas.events import TaskDispatched
from schemas.fields import Part
from schemas.topics import Role

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
        body = load(record.value or b"")
    except ValueError:
        return None
    if isinstance(body, dict):
        for name, value in record.headers:
            if name in _ATTRIBUTES:
                body.setdefault(_ATTRIBUTES[name], (value or b"").decode(errors="replace"))
    return body


def task_of(role: Role, record: Record, body: dict[str, Any]) -> Task | None:
    """The task in a `task.dispatched` event, or None if it is not of the contract's shape."""
    try:
        return _task_of(role, record, body)
    except (TypeError, ValueError, AttributeError):
        return None


def on_lane(role: Role, body: dict[str, Any]) -> bool:
    """Whether a dispatch was met on the steps topic of the lane it names."""
    lane = "cold" if role == "steps.cold" else "hot"
    return bool(body.get("lane", "hot") == lane)


def _task_of(role: Role, record: Record, body: dict[str, Any]) -> Task | None:
    snapshot, depends_on = body.get("snapshot", {}), body.get("depends_on", [])
    if type(body.get("task_id")) is not str or type(snapshot) is not dict or type(depends_on) is not list:
        return None
    said = {name: body.get(name, default) for name, default in _CONTENT.items()}
    deadline_ms = _earlier(
        None if said["deadline_at"] is None else instant_ms(said["deadline_at"]),
        None if said["deadline_seconds"] is None else record.timestamp + (_ms(said["deadline_seconds"]) or 0),
    )
    return Task(
        role=role,
        offset=record.offset,
        at_ms=record.timestamp,
        digest=_dispatch_digest(said),
        deadlines=(said["deadline_at"], said["deadline_seconds"]),
        snapshot=snapshot,
        depends_on=depends_on,
        request_id=said["request_id"],
        on_stale=said["on_stale"],
        on_stale_failure=said["on_stale_failure"],
        when_absent=said["when_absent"],
        slot=said["slot"],
        on_newer=said["on_newer"],
        protected=said["protected"],
        parent=None if said["detached"] else said["parent_task_id"],
        independent=said["independent"],
        detached_from=said["parent_task_id"] if said["detached"] else None,
        while_stale_grace_ms=_ms(said["while_stale_grace_seconds"]) if said["while_stale"] == "cancel" else None,
        deadline_ms=deadline_ms,
        start_ms=_ms(said["start_timeout_seconds"]),
        delivers_late=said["on_late"] == "deliver",
        watch_ms=_ms(said["watch_seconds"]),
        heartbeat_ms=_ms(said["heartbeat_timeout_seconds"]),
        scope_grace_ms=_ms(said["scope_grace_seconds"]),
        hold_ttl_ms=_ms(said["hold_ttl_seconds"]),
        attempt=said["attempt"],
        max_redispatches=said["max_redispatches"],
        plan=said["plan"],
        size_bytes=len(record.value or b""),
    )


def instant_ms(text: str) -> int:
    """Milliseconds since the epoch of a time in RFC 3339. Raises ValueError if it is none."""
    return round(datetime.fromisoformat(text.upper()).timestamp() * 1000)


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


def extension_of(role: Role, record: Record, body: dict[str, Any]) -> Sign | None:
    """The new deadline in a `task.extended` event, or None if it does not say exactly one."""
    at, seconds = body.get("deadline_at"), body.get("deadline_seconds")
    if (at is None) == (seconds is None):
        return None
    deadline_ms = instant_ms(at) if at is not None else record.timestamp + (_ms(seconds) or 0)
    return Sign(role, record.offset, record.timestamp, deadline_ms=deadline_ms)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


_SECONDS: Final = (
    "heartbeat_timeout_seconds",
    "scope_grace_seconds",
    "hold_ttl_seconds",
    "while_stale_grace_seconds",
    "deadline_seconds",
    "start_timeout_seconds",
    "watch_seconds",
)


def _dispatch_digest(said: dict[str, Any]) -> int:
    """Of what two dispatches of one task must agree in: times to the millisecond."""
    content = dict(said)
    for name in _SECONDS:
        content[name] = _ms(content[name])
    if content["while_stale"] != "cancel":
        content["while_stale_grace_seconds"] = None
    for name in ("deadline_at", "valid_until"):
        content[name] = None if content[name] is None else instant_ms(content[name])
    content["metadata"] = _integers_as_such(content["metadata"])
    return digest_of([*content.values()])


def digest_of_dispatch(dispatch: dict[str, Any], task: Task) -> int:
    """The digest of the task's dispatch as a command repeats it: with the attempt that the dispatch itself named.

    A command states a deadline as a time. If it is the task's, it stands for what the dispatch said of it.
    """
    said = {name: dispatch.get(name, default) for name, default in _CONTENT.items()}
    told = said["deadline_at"]
    if told is not None and instant_ms(told) == task.deadline_ms:
        said["deadline_at"], said["deadline_seconds"] = task.deadlines
    return _dispatch_digest({**said, "attempt": task.attempt})


def _integers_as_such(value: Any) -> Any:
    """A JSON value in which 1.0 is 1: metadata is compared by value, as doubles."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {name: _integers_as_such(each) for name, each in value.items()}
    return [_integers_as_such(each) for each in value] if isinstance(value, list) else value


def _part_digest(part: dict[str, Any]) -> int:
    return digest_of([part.get(name, default) for name, default in _PART.items()])


def result_of(role: Role, record: Record, body: dict[str, Any]) -> Result | None:
    """The result in a `task.result` event, or None if it is not of the contract's shape."""
    try:
        parts = [
            ResultPart(part["part_id"], part.get("depends_on"), part.get("on_stale"), _part_digest(part))
            for part in body["parts"]
        ]
        reads = body.get("reads") or {}
        is_final = body.get("final", True) is not False
        content = [body["outcome"], [part.digest for part in parts], reads, body.get("error"), is_final]
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
            digest=digest_of(content),
            final=is_final,
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
        digest=digest_of(verdict),
        decision=verdict["decision"],
        reason=verdict["reason"],
        disposition=verdict.get("disposition"),
        partition=judged["partition"],
        context_offset=judged["context_offset"],
        steps_offset=judged["steps_offset"],
        at_ms=instant_ms(judged["at"]),
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
        final=body.get("final", True),
        late=verdict.get("late", False),
        shadow=(body["shadow"]["decision"], body["shadow"]["reason"]) if body.get("shadow") else None,
    )


def proposal_of(role: Role, record: Record, body: dict[str, Any]) -> Proposal | None:
    """The proposal in a `task.effect_proposed` event, or None if it is not of the contract's shape."""
    task_id, effect, reads = body.get("task_id"), body.get("effect"), body.get("reads") or {}
    if type(task_id) is not str or type(effect) is not str or type(reads) is not dict:
        return None
    return Proposal(
        task_id,
        role,
        record.offset,
        record.timestamp,
        record.timestamp_type == 1,
        effect,
        reads,
        body["source"],
        body["event_id"],
        body.get("fingerprint"),
        body.get("allow_duplicate", False),
    )


def answer_of(record: Record, body: dict[str, Any]) -> Answer:
    """The answer in an `effect.cleared` or `effect.refused` event. LookupError, TypeError if neither."""
    judged, proposal, first = body["judged"], body.get("proposal"), body.get("first_cleared")
    return Answer(
        body["idempotency_key"],
        body["task_id"],
        record.offset,
        body["effect"],
        body["reason"] if body["type"] == "effect.refused" else None,
        body.get("differences") or [],
        judged["partition"],
        judged["context_offset"],
        judged["steps_offset"],
        (proposal["source"], proposal["event_id"], proposal["offset"]) if proposal else None,
        body.get("repeat", False),
        (first["context_offset"], first["steps_offset"]) if first else None,
        body.get("conflicts_with"),
    )


def cancel_of(record: Record, body: dict[str, Any]) -> CancelRequest | None:
    """The wish in a `task.cancel_requested` event, or None if it does not say exactly one thing."""
    named = [body.get(name) for name in ("task_id", "request_id", "slot")]
    if any(type(each) is not str for each in named if each is not None):
        return None
    if sum(each is not None for each in named) + bool(body.get("all", False)) != 1:
        return None
    is_broker_time = record.timestamp_type == 1
    return CancelRequest(record.offset, record.timestamp, is_broker_time, body["source"], body["event_id"], *named)


def unmatched_of(record: Record, body: dict[str, Any]) -> Unmatched:
    """The answer in a `task.cancel_unmatched` event. LookupError if it is none."""
    requested = body["requested"]
    return Unmatched(record.offset, requested["offset"], requested["source"], requested["event_id"])


def contradicts_itself(body: dict[str, Any]) -> bool:
    """Whether an event of the contract's shape breaks a rule that is about several of its fields."""
    if body["type"] == "task.cancel_requested":
        named = [body.get(name) for name in ("task_id", "request_id", "slot")]
        return sum(each is not None for each in named) + bool(body.get("all", False)) != 1
    if body["type"] == "context.changed":
        changed = {*body.get("set", {}), *body.get("unset", ())}
        if not (set(body.get("versions", {})) <= changed and _leases(body) <= body.get("set", {}).keys()):
            return True
        return any(is_unknown_value(name, value) for name, value in body.get("set", {}).items())
    if body["type"] == "task.extended":
        return (body.get("deadline_at") is None) == (body.get("deadline_seconds") is None)
    return False


def _leases(body: dict[str, Any]) -> set[str]:
    return set(body.get("expires_in_seconds", {}))


def is_unknown_value(name: str, value: Any) -> bool:
    """Whether a reserved facet has a value that the contract does not have."""
    if name == "session":
        return value not in ("open", "closed")
    return name.startswith("presence/") and value not in ("present", "absent")


def outdated_of(record: Record, body: dict[str, Any]) -> Outdated:
    """What a `result.outdated` event tells. LookupError if it is none."""
    result = body["result"]
    return Outdated(record.offset, result["source"], result["event_id"], body["part_ids"], body["differences"])


def redispatch_of(record: Record, body: dict[str, Any]) -> Redispatch:
    """The command in a `task.redispatch` event. LookupError if it is none."""
    judged = body.get("judged")
    return Redispatch(
        record.offset,
        body["new_task_id"],
        body["attempt"],
        body["snapshot"],
        body.get("dispatch"),
        judged_at_of(judged) if judged is not None else None,
        record.timestamp,
    )


def judged_at_of(judged: dict[str, Any]) -> JudgedAt:
    """A `judged` that says of which lane it is. LookupError if it is none."""
    steps: Role = "steps.cold" if judged.get("lane") == "cold" else "steps"
    return JudgedAt(judged["partition"], steps, judged["context_offset"], judged["steps_offset"])
