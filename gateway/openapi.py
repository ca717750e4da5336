"""`python -m gateway.openapi`: the OpenAPI document of the HTTP API, generated from the routes and the models.

Committed as `gateway/openapi.json`; a test shows that it is current. Source: OpenAPI 3.1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.bodies import (
    AcknowledgementBody,
    CancelBody,
    CancelManyBody,
    ContextBody,
    DispatchBody,
)
from gateway.frames import EVENT_NAMES
from gateway.problems import MEDIA_TYPE, TITLES
from gateway.routing import ROUTES
from schemas.fields import MAX_NAME_BYTES
from schemas.outputs import TaskStatus

FILE: Final = Path(__file__).parent / "openapi.json"
_REFERENCE: Final = "#/components/schemas/{model}"

_SESSION: Final = (
    "The session id, percent-encoded as one segment (`acme%2Fuser-7`), or `~` and its base64url form without padding"
    " (`~YWNtZS91c2VyLTc`), which also survives proxies that decode `%2F`."
)
_POSITION: Final = {
    "type": "string",
    "examples": ["context:3:17"],
    "description": "Where an event is: topic role, partition and offset.",
}
_TEXT: Final = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_BYTES}
_FACETS: Final = {"type": "object", "additionalProperties": {"type": ["string", "null"]}}

_Key = tuple[str, tuple[str, ...]]


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": _TEXT, "description": description}


_KEY_HEADER: Final = _header(
    "Idempotency-Key", "The same key in a session is the same event, however often it is sent."
)
_TAG_HEADER: Final = {
    **_header("If-None-Match", "The `ETag` last seen: 304 if nothing has changed."),
    "schema": {"type": "string"},
}
_AT_LEAST: Final = _query(
    "at_least", _POSITION, "A position from an earlier answer: answered once the event there is in the state."
)
_TASK_LIST: Final = {"type": "array", "items": {"$ref": "#/components/schemas/TaskState"}}
_HELD_RESULT: Final = _object(
    task_id=_TEXT, waiting_for=_TEXT, outcome=_TEXT, parts={"type": "array", "items": {"type": "object"}}
)
_HELD: Final = {"type": "array", "items": _HELD_RESULT}
_DETAIL: Final = {
    "description": "A task's status, with what belongs to it.",
    "allOf": [
        {"$ref": "#/components/schemas/TaskState"},
        {
            "type": "object",
            "properties": {
                "held": {**_HELD_RESULT, "description": "Its result, while parts of it wait."},
                "results": {
                    "type": "array",
                    "items": {"type": "object"},
                    "description": "Of a task that was delivered: its deliveries as on the event stream, oldest first."
                    " Empty if they are not on Kafka any more.",
                },
            },
        },
    ],
}

_STREAM: Final = (
    f"Server-sent events, without end. Their names: {', '.join(EVENT_NAMES)}. Each `id` is a position to resume at;"
    " blocks with only an `id` are heartbeats."
)
# summary, body model, success status, its description, its schema, further parameters, further problems
_OPERATIONS: Final[dict[_Key, tuple[str, type[BaseModel] | None, int, str, Any, list[Any], tuple[str, ...]]]] = {
    ("POST", ("context",)): (
        "Set and unset facets",
        ContextBody,
        200,
        "Kafka has acknowledged the event, at this position.",
        _object(position=_POSITION),
        [_KEY_HEADER],
        ("invalid_event", "idempotency_conflict", "kafka_unavailable"),
    ),
    ("GET", ("context",)): (
        "Read facets",
        None,
        200,
        "The facets, and the position that they stand at.",
        _object(facets=_FACETS, position=_POSITION),
        [
            _query("facet", {"type": "array", "items": _TEXT}, "Only these facets."),
            _query("prefix", {"type": "string"}, "Only facets whose names begin so."),
            _AT_LEAST,
            _TAG_HEADER,
        ],
        ("state_unavailable",),
    ),
    ("POST", ("tasks",)): (
        "Hand a task to an agent",
        DispatchBody,
        202,
        "Kafka has acknowledged the dispatch. `Location` is the task's.",
        _object(task_id=_TEXT, position=_POSITION),
        [_KEY_HEADER],
        ("invalid_event", "idempotency_conflict", "kafka_unavailable"),
    ),
    ("GET", ("tasks",)): (
        "List tasks",
        None,
        200,
        "Open tasks, and the last ones that ended, the newest first.",
        _object(tasks=_TASK_LIST, position=_POSITION),
        [_AT_LEAST, _TAG_HEADER],
        ("state_unavailable",),
    ),
    ("GET", ("tasks", "{task}")): (
        "Read a task",
        None,
        200,
        "The task's status; once it has ended, with its receipt, or with what was delivered.",
        {"$ref": "#/components/schemas/TaskDetail"},
        [
            _query(
                "wait",
                {"type": "number", "minimum": 0, "maximum": 60},
                "Seconds to wait for a change, with `If-None-Match`, or for the task to appear.",
            ),
            _AT_LEAST,
            _TAG_HEADER,
        ],
        ("state_unavailable", "kafka_unavailable"),
    ),
    ("POST", ("tasks", "{task}", "cancel")): (
        "Cancel a task and its children",
        CancelBody,
        202,
        "Kafka has acknowledged the request.",
        _object(task_id=_TEXT, position=_POSITION),
        [
            _KEY_HEADER,
            _query(
                "wait",
                {"type": "number", "minimum": 0, "maximum": 60},
                "Seconds to wait for the task's end; the answer is then a 200 with its status and receipt.",
            ),
        ],
        ("invalid_event", "idempotency_conflict", "kafka_unavailable"),
    ),
    ("POST", ("cancel",)): (
        "Cancel all tasks of a request or slot, or of the session",
        CancelManyBody,
        202,
        "Kafka has acknowledged the request.",
        _object(position=_POSITION),
        [_KEY_HEADER],
        ("invalid_event", "idempotency_conflict", "kafka_unavailable"),
    ),
    ("POST", ("results", "{result}", "acknowledgement")): (
        "Say what became of a delivered result",
        AcknowledgementBody,
        202,
        "Kafka has acknowledged the event.",
        _object(position=_POSITION),
        [_KEY_HEADER],
        ("invalid_event", "idempotency_conflict", "kafka_unavailable"),
    ),
    ("GET", ("inbox",)): (
        "Read what waits for the user",
        None,
        200,
        "Results that are held, and tasks whose delivered result has no acknowledgement.",
        _object(held=_HELD, unacknowledged=_TASK_LIST, position=_POSITION),
        [_AT_LEAST, _TAG_HEADER],
        ("state_unavailable",),
    ),
    ("GET", ("events",)): (
        "Follow the session's events",
        None,
        200,
        _STREAM,
        None,
        [
            _header("Last-Event-ID", "The last `id` that was received: the stream resumes after it."),
            _query("last_event_id", {"type": "string"}, "The same, for clients that cannot send the header."),
            _query("client", _TEXT, "Renew a lease on `presence/<client>` while the stream is open."),
            _query(
                "format", {"enum": ["tidegate", "ag-ui"]}, "`ag-ui`: the events of one `task` in AG-UI's event types."
            ),
            _query("task", _TEXT, "The task to follow, with `format=ag-ui`."),
            _query("ticket", {"type": "string"}, "A stream ticket, for clients that cannot send `Authorization`."),
        ],
        ("too_many_streams",),
    ),
    ("POST", ("tickets",)): (
        "Get a stream ticket",
        None,
        201,
        "A ticket for the session's events, valid as long as the token.",
        _object(ticket={"type": "string"}, expires_at={"type": "number"}),
        [],
        (),
    ),
}
_BODIES: Final = (
    ContextBody,
    DispatchBody,
    CancelBody,
    CancelManyBody,
    AcknowledgementBody,
)
_ALWAYS: Final = ("invalid_request", "unauthorized", "forbidden", "not_found", "too_many_requests", "overloaded")
_WITH_BODY: Final = ("body_too_large", "unsupported_media_type")


def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, Any] = {}
    for name, methods in ROUTES.items():
        path = "/v1/sessions/{session}/" + "/".join(name)
        inner = [part.strip("{}") for part in name if part.startswith("{")]
        item: dict[str, Any] = {
            "parameters": [
                {"name": "session", "in": "path", "required": True, "schema": _TEXT, "description": _SESSION},
                *[{"name": each, "in": "path", "required": True, "schema": _TEXT} for each in inner],
            ]
        }
        for method in methods:
            item[method.lower()] = _operation(method, name)
        paths[path] = item
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate gateway",
            "version": "1",
            "summary": "Context and tasks in, verdicts out.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": {**_schemas(), "Problem": _problem_schema(), "TaskState": _task_state(), "TaskDetail": _DETAIL},
        },
    }


def _operation(method: str, name: tuple[str, ...]) -> dict[str, Any]:
    summary, body, status, description, schema, parameters, problems = _OPERATIONS[method, name]
    success: dict[str, Any] = {"description": description}
    if name == ("events",):
        success["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    else:
        success["content"] = {"application/json": {"schema": schema}}
    if (method, name) == ("POST", ("tasks",)):
        success["headers"] = {"Location": {"schema": {"type": "string"}, "required": True}}
    responses: dict[str, Any] = {str(status): success}
    if name[-1] == "cancel":
        ended = _object(task_id=_TEXT, position=_POSITION, status={"$ref": "#/components/schemas/TaskState"})
        responses["200"] = {"description": "The task ended.", "content": {"application/json": {"schema": ended}}}
    if any(each is _TAG_HEADER for each in parameters):
        success["headers"] = {"ETag": {"schema": {"type": "string"}, "required": True}}
        responses["304"] = {"description": "Nothing has changed."}
    codes: dict[int, list[str]] = {}
    for code in (*_ALWAYS, *(_WITH_BODY if body else ()), *problems):
        codes.setdefault(TITLES[code][0], []).append(code)
    for number, told in sorted(codes.items()):
        text = "; ".join(f"`{code}`: {TITLES[code][1]}" for code in told)
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        responses[str(number)] = {"description": text, "content": content}
        if number in {429, 503}:
            responses[str(number)]["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()}_{'_'.join(part.strip('{}') for part in name)}",
        "summary": summary,
        "parameters": parameters,
        "responses": responses,
    }
    if body is not None:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        operation["requestBody"] = {
            "content": content,
            "required": body is not CancelBody,
        }
    return operation


def _schemas() -> dict[str, Any]:
    models = [(each, "validation") for each in _BODIES]
    _, definitions = models_json_schema(models, ref_template=_REFERENCE)  # type: ignore[arg-type]
    found: dict[str, Any] = definitions["$defs"]
    return found


def _task_state() -> dict[str, Any]:
    """A status as in answers: without the envelope of the record."""
    schema = TaskStatus.model_json_schema(ref_template=_REFERENCE)
    envelope = {"source", "session_id", "event_id", "occurred_at"}
    properties = {name: each for name, each in schema["properties"].items() if name not in envelope}
    definitions = schema.pop("$defs", {})
    shown = {"type": "object", "required": ["task_id", "status"], "properties": properties}
    inlined: dict[str, Any] = _inlined(shown, definitions)
    return inlined


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.rsplit("/", 1)[-1] in definitions:
            return _inlined(definitions[reference.rsplit("/", 1)[-1]], definitions)
        return {name: _inlined(each, definitions) for name, each in value.items()}
    return [_inlined(each, definitions) for each in value] if isinstance(value, list) else value


def _problem_schema() -> dict[str, Any]:
    return {
        **_object(
            type={"type": "string"}, title={"type": "string"}, status={"type": "integer"}, detail={"type": "string"}
        ),
        "description": "Problem details as in RFC 9457.",
    }


def text() -> bytes:
    """The document as it is committed."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    FILE.write_bytes(text())
    sys.stdout.write(f"{FILE}\n")
