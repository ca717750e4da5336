"""The AsyncAPI 3.0 document, built from the models and the topic registry.

Responsible for the document's shape; `schemas.generate` writes it. The application it describes is the gate: it
receives what other services send, and sends what they receive. The changelog is the gate's own and not part of it.
Source: AsyncAPI 3.0.0; Kafka bindings 0.5.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from pydantic.json_schema import models_json_schema

from schemas.events import INPUT_EVENTS, Event
from schemas.outputs import OUTPUT_EVENTS
from schemas.topics import Role, Topic, topics

KAFKA: Final = "0.5.0"
PRIVATE: Final[frozenset[Role]] = frozenset({"sessions.changelog"})
UNDECODABLE: Final = "undecodable"

_DESCRIPTION: Final = """\
A gate over Kafka that decides, when an agent's result returns, whether it is still relevant.

The application described here is the gate: where it receives, other services send; where it sends, they receive.
Every topic has the same number of partitions, and every record is keyed by its session id, partitioned by murmur2.
Topic names begin with a prefix that can be configured; `tidegate` is its default.
Version 1 grows by adding: ignore fields that are not known.
"""

_HEADERS: Final = {
    "type": "object",
    "title": "Headers",
    "description": "CloudEvents 1.0 in binary mode: optional on what the gate receives, always there on what it sends. "
    "The body says the same; on input a header stands in for a field the body lacks.",
    "properties": {
        "ce_id": {"type": "string", "description": "As `event_id`."},
        "ce_source": {"type": "string", "description": "As `source`."},
        "ce_type": {"type": "string", "description": "As `type`."},
        "ce_subject": {"type": "string", "description": "As `session_id`."},
        "ce_time": {"type": "string", "description": "As `occurred_at`."},
        "ce_specversion": {"type": "string", "const": "1.0"},
        "content-type": {"type": "string", "description": "`application/json`."},
        "traceparent": {
            "type": "string",
            "description": "W3C trace context, carried from the dispatch to every output.",
        },
    },
}

_DLQ_HEADERS: Final = {
    "type": "object",
    "title": "DlqHeaders",
    "description": "The record's own headers, and these.",
    "required": [
        "tidegate_error",
        "tidegate_error_detail",
        "tidegate_origin_topic",
        "tidegate_origin_partition",
        "tidegate_origin_offset",
        "tidegate_origin_timestamp",
    ],
    "properties": {
        "tidegate_error": {"type": "string", "description": "Short code of what was wrong."},
        "tidegate_error_detail": {"type": "string", "description": "What was wrong, for people."},
        "tidegate_origin_topic": {"type": "string", "description": "The topic the record was read from."},
        "tidegate_origin_partition": {"type": "string", "description": "The partition, decimal."},
        "tidegate_origin_offset": {"type": "string", "description": "The offset, decimal."},
        "tidegate_origin_timestamp": {
            "type": "string",
            "description": "The broker's timestamp in milliseconds, decimal.",
        },
        "tidegate_judged": {
            "type": "string",
            "description": "Where the logs stood when this was refused for what came before it: `Judged`, JSON.",
        },
    },
}

_KEY: Final = {"type": "string", "description": "The session id, UTF-8. It decides the partition (murmur2)."}
_TASK_KEY: Final = {
    "type": "string",
    "description": "A JSON array of session id and task id, in the session's partition.",
}


def type_of(model: type[Event]) -> str:
    """The value of the model's `type` field: `task.result`."""
    (value,) = get_args(model.model_fields["type"].annotation)
    return str(value)


def document(examples: Mapping[str, Any]) -> dict[str, Any]:
    """The whole document. `examples` maps event types to an example of the body."""
    public = [topic for topic in topics() if topic.role not in PRIVATE]
    return {
        "asyncapi": "3.0.0",
        "id": "urn:tidegate:v1",
        "info": {
            "title": "Tidegate",
            "version": "1.0.0",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.role: _channel(topic) for topic in public},
        "operations": {f"{_action(topic)}.{topic.role}": _operation(topic) for topic in public},
        "components": {
            "messages": {
                **{type_of(model): _message(model, examples) for model in (*INPUT_EVENTS, *OUTPUT_EVENTS)},
                UNDECODABLE: _undecodable(),
            },
            "schemas": {"Headers": _HEADERS, "DlqHeaders": _DLQ_HEADERS, **_schemas()},
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    return {
        "address": topic.name,
        "title": topic.role,
        "description": f"Written by {topic.written_by}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _messages_on(topic)},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "topicConfiguration": _topic_configuration(topic.config),
                "bindingVersion": KAFKA,
            }
        },
    }


def _operation(topic: Topic) -> dict[str, Any]:
    verb = "reads" if topic.is_input else "writes"
    return {
        "action": _action(topic),
        "channel": {"$ref": f"#/channels/{topic.role}"},
        "summary": f"The gate {verb} {topic.name}.",
        "messages": [{"$ref": f"#/channels/{topic.role}/messages/{name}"} for name in _messages_on(topic)],
    }


def _message(model: type[Event], examples: Mapping[str, Any]) -> dict[str, Any]:
    name = type_of(model)
    key = _TASK_KEY if name == "task.status" else _KEY
    message: dict[str, Any] = {
        "name": name,
        "title": name,
        "summary": model.__doc__,
        "headers": {"$ref": "#/components/schemas/Headers"},
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
        "bindings": {"kafka": {"key": key, "bindingVersion": KAFKA}},
    }
    if name in examples:
        message["examples"] = [{"name": name, "payload": examples[name]}]
    return message


def _undecodable() -> dict[str, Any]:
    return {
        "name": UNDECODABLE,
        "title": UNDECODABLE,
        "summary": "An input record that could not be understood or obeyed: key and value untouched, byte for byte.",
        "contentType": "application/octet-stream",
        "headers": {"$ref": "#/components/schemas/DlqHeaders"},
        "payload": {},
        "bindings": {"kafka": {"key": {"description": "The record's own key, if any."}, "bindingVersion": KAFKA}},
    }


def _messages_on(topic: Topic) -> tuple[str, ...]:
    return (UNDECODABLE,) if topic.role == "dlq" else topic.event_types


def _action(topic: Topic) -> str:
    return "receive" if topic.is_input else "send"


def _topic_configuration(config: Mapping[str, str]) -> dict[str, Any]:
    typed: dict[str, Any] = {name: int(value) if value.isdecimal() else value for name, value in config.items()}
    typed["cleanup.policy"] = config["cleanup.policy"].split(",")
    return typed


def _schemas() -> dict[str, Any]:
    """The models' schemas, named by class. A reference with a description beside it is wrapped, as draft 7 wants it."""
    models = [(model, "validation") for model in (*INPUT_EVENTS, *OUTPUT_EVENTS)]
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return {name: _without_siblings(schema) for name, schema in sorted(schemas["$defs"].items())}


def _without_siblings(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_siblings(item) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str) and len(node) > 1:
        rest = {name: _without_siblings(value) for name, value in node.items() if name != "$ref"}
        return {"allOf": [{"$ref": reference}], **rest}
    return {name: _without_siblings(value) for name, value in node.items()}
