"""Request bodies: the contract's events without their envelope, so they grow as the contract does."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from gateway.problems import Problem
from schemas.events import (
    CONTEXT_EVENTS,
    STEP_EVENTS,
    ContextChanged,
    Event,
    ResultAcknowledged,
    TaskCancelRequested,
    TaskDispatched,
)
from schemas.fields import MAX_EVENT_BYTES
from schemas.limits import exceeded
from schemas.wire import decoder

_ENVELOPE: Final = frozenset({"type", *Event.model_fields})
MAX_PROBLEMS: Final = 10


def _body_of(name: str, model: type[Event], *, leave_out: set[str], optional: set[str], doc: str) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for field, description in model.model_fields.items():
        if field in _ENVELOPE or field in leave_out:
            continue
        if field in optional:
            annotation = description.rebuild_annotation()
            fields[field] = (annotation | None, FieldInfo(default=None, description=description.description))
        else:
            fields[field] = (description.rebuild_annotation(), description)
    config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
    return create_model(name, __config__=config, __doc__=doc, **fields)


ContextBody: Final = _body_of(
    "ContextWrite",
    ContextChanged,
    leave_out=set(),
    optional=set(),
    doc="Facets to set and to unset, with leases and versions.",
)
DispatchBody: Final = _body_of(
    "TaskDispatch",
    TaskDispatched,
    leave_out=set(),
    optional={"task_id"},
    doc="A task to hand to an agent. Without a `task_id` the gateway chooses one.",
)
CancelManyBody: Final = _body_of(
    "TasksCancel",
    TaskCancelRequested,
    leave_out={"task_id"},
    optional=set(),
    doc="Which tasks to cancel: exactly one of `request_id`, `slot` and `all`.",
)
CancelBody: Final = _body_of(
    "TaskCancel",
    TaskCancelRequested,
    leave_out={"task_id", "request_id", "slot", "all"},
    optional=set(),
    doc="A request to cancel the task.",
)
AcknowledgementBody: Final = _body_of(
    "Acknowledgement",
    ResultAcknowledged,
    leave_out={"result_event_id"},
    optional=set(),
    doc="What became of a delivered result, or of some of its parts.",
)
_DECODE: Final = decoder((*CONTEXT_EVENTS, *STEP_EVENTS)).decode


def parse(body: bytes, model: type[BaseModel]) -> dict[str, Any]:
    """The fields that a body states. Raises `Problem`: 400 if it is not JSON, 422 if it breaks the contract."""
    if not body and model is not CancelBody:
        raise Problem("invalid_request", "the body is missing; send a JSON object")
    try:
        fields = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise Problem("invalid_request", f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Problem("invalid_request", f"the body is a JSON {type(fields).__name__}; it must be an object")
    try:
        model.model_validate_json(body or b"{}")
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        told = [
            {"pointer": "/" + "/".join(str(place) for place in each["loc"]), "detail": each["msg"]}
            for each in problems[:MAX_PROBLEMS]
        ]
        detail = "; ".join(f"{each['pointer']}: {each['detail']}" for each in told[:3])
        raise Problem("invalid_event", detail, errors=told) from error
    return fields


def encode(event: dict[str, Any]) -> bytes:
    """An event as it is written to Kafka. Raises `Problem` (422) if it breaks a bound that models cannot state."""
    value = orjson.dumps(event)
    try:
        problem = exceeded(_DECODE(value), value)
    except msgspec.DecodeError as error:
        problem = str(error)
    if len(value) > MAX_EVENT_BYTES:
        problem = f"the event has {len(value)} bytes; at most {MAX_EVENT_BYTES} are allowed"
    if problem is not None:
        raise Problem("invalid_event", problem)
    return value
