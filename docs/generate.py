"""`python -m docs.generate`: the tables in the documents that the code decides.

Replaces what stands between `<!-- generated: NAME -->` and `<!-- end -->` in each document; `--check` only names the
documents that differ. The text around the tables is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from aiokafka.partitioner import murmur2
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from bench import tables
from gateway import openapi
from gateway.metrics import Metrics as GatewayMetrics
from gateway.problems import TITLES
from schemas import fields, outputs
from schemas.asyncapi import type_of
from schemas.events import CONTEXT_EVENTS, RESULT_EVENTS, STEP_EVENTS, Event
from schemas.outputs import OUTPUT_EVENTS, JudgedResult, TaskEcho
from schemas.topics import topics
from streams.distribution import Distribution
from streams.metrics import Metrics
from tidegate.settings import ENV_PREFIX, Settings

DIRECTORY: Final = Path(__file__).parent
SAMPLE_KEYS: Final = (
    "session-1",
    "acme/user-7",
    "traffic-000042",
    "münchen/jürgen",
    "5f0c4a0e-7a1b-4c3d-9e2f-1a2b3c4d5e6f",
)
SHARED: Final[tuple[type[BaseModel], ...]] = (
    fields.Part,
    fields.PayloadRef,
    fields.Cause,
    fields.Checkpoint,
    fields.ResultError,
    outputs.Verdict,
    outputs.PartVerdict,
    outputs.Difference,
    outputs.ChangedBy,
    outputs.Judged,
    outputs.ResultIdentity,
    outputs.ProposalIdentity,
    outputs.OtherEffect,
    outputs.EventIdentity,
    outputs.Shadow,
    outputs.Receipt,
)
_SECTION: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NOT_EVENTS: Final[Mapping[str, str]] = {"dlq": "input records, untouched", "sessions.changelog": "private"}
_DAY_MS: Final = 86_400_000


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def topics_table() -> str:
    """The topic registry."""
    rows = []
    for topic in topics():
        retention = topic.config.get("retention.ms")
        kept = f"{int(retention) // _DAY_MS} days" if retention else "compacted: the newest of each key"
        types = ", ".join(f"`{name}`" for name in topic.event_types) or _NOT_EVENTS[topic.role]
        rows.append((f"`{topic.name}`", topic.written_by, types, kept))
    return table(("topic", "written by", "event types", "kept"), rows)


def partitions_table() -> str:
    """Session ids with the partition they belong to, to try another client against."""
    rows = []
    for key in SAMPLE_KEYS:
        number = murmur2(key.encode()) & 0x7FFFFFFF
        rows.append((f"`{key}`", str(number), str(number % 12)))
    return table(("session id", "murmur2 & 0x7fffffff", "of 12 partitions"), rows)


def event_sections(models: tuple[type[Event], ...]) -> Callable[[], str]:
    """A heading, a sentence and the table of fields for each event type."""

    def render() -> str:
        return "\n".join(
            f"### `{type_of(model)}`\n\n{_sentence(model)}\n\n{_inherited(model)}{_fields(model)}" for model in models
        )

    return render


def envelope_table() -> str:
    """The fields that every event has."""
    return _fields(Event)


def echo_tables() -> str:
    """The fields that outputs share."""
    return (
        f"### Every output about a task\n\n{_sentence(TaskEcho)}\n\n{_fields(TaskEcho)}\n"
        f"### Every judged result\n\n{_sentence(JudgedResult)}\n\n{_fields(JudgedResult)}"
    )


def shared_sections() -> str:
    """The objects that fields refer to."""
    return "\n".join(f"### {model.__name__}\n\n{_sentence(model)}\n\n{_fields(model)}" for model in SHARED)


def settings_table() -> str:
    """Every setting, by its variable."""
    return table(
        ("variable", "default", "what it does"),
        [
            (f"`{ENV_PREFIX}{name.upper()}`", _default_setting(Settings, name), str(field.description))
            for name, field in Settings.model_fields.items()
        ],
    )


def metrics_table() -> str:
    """Every metric of a worker, with its labels."""
    rows = []
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase | Distribution):
            (family,) = metric.collect()
            name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
            labels = ", ".join(f"`{label}`" for label in _labels(metric, family.name))
            rows.append((f"`{name}`", family.type, labels, family.documentation))
    return table(("metric", "type", "labels", "meaning"), rows)


def gateway_metrics_table() -> str:
    """Every metric of a gateway, with its labels."""
    rows = []
    for metric in vars(GatewayMetrics()).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.collect()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            rows.append((f"`{name}`", family.type, labels, family.documentation))
    return table(("metric", "type", "labels", "meaning"), rows)


def gateway_routes_table() -> str:
    """Every operation of the gateway's HTTP API."""
    rows = [
        (f"`{method.upper()} {path.removeprefix('/v1/sessions/{session}')}`", operation["summary"])
        for path, item in openapi.document()["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]
    return table(("below `/v1/sessions/{session}`", "what it does"), rows)


def gateway_problems_table() -> str:
    """Every problem that the gateway answers with."""
    rows = [(f"`{code}`", str(status), title) for code, (status, title) in TITLES.items()]
    return table(("code", "status", "meaning"), rows)


def example(name: str) -> Callable[[], str]:
    """A file of `docs/examples`, as code."""
    return lambda: f"```python\n{(DIRECTORY / 'examples' / name).read_text(encoding='utf-8')}```\n"


SECTIONS: Final[Mapping[str, Callable[[], str]]] = {
    "topics": topics_table,
    "partitions": partitions_table,
    "envelope": envelope_table,
    "context-events": event_sections(CONTEXT_EVENTS),
    "step-events": event_sections(STEP_EVENTS),
    "result-events": event_sections(RESULT_EVENTS),
    "echo": echo_tables,
    "output-events": event_sections(OUTPUT_EVENTS),
    "objects": shared_sections,
    "produce": example("produce.py"),
    "consume": example("consume.py"),
    "librdkafka": example("librdkafka.py"),
    "settings": settings_table,
    "metrics": metrics_table,
    "gateway-metrics": gateway_metrics_table,
    "gateway-routes": gateway_routes_table,
    "gateway-problems": gateway_problems_table,
    **tables.SECTIONS,
}


def filled_in(text: str) -> str:
    """The document with every generated section replaced. Raises `KeyError` for a section nobody knows."""
    return _SECTION.sub(lambda match: f"{match[1]}\n{SECTIONS[match[2]]()}\n{match[3]}", text)


def drifted() -> dict[Path, str]:
    """The documents that differ from what the code gives, with what they should be."""
    paths = [*DIRECTORY.parent.glob("README.md"), *sorted(DIRECTORY.glob("*.md"))]
    documents = {path: path.read_text(encoding="utf-8") for path in paths}
    return {path: new for path, old in documents.items() if (new := filled_in(old)) != old}


def main(arguments: list[str] | None = None) -> int:
    """Write what differs, or with `--check` only name it. Exit status 1 if anything differed with `--check`."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a document differs")
    check = parser.parse_args(arguments).check
    differing = drifted()
    for path, text in differing.items():
        name = path.relative_to(DIRECTORY.parent)
        if check:
            sys.stderr.write(f"{name} differs from the code; run `python -m docs.generate`\n")
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {name}\n")
    return 1 if check and differing else 0


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _inherited(model: type[Event]) -> str:
    if issubclass(model, JudgedResult):
        return "All fields of [every judged result](#every-judged-result), and:\n\n" if _own(model) else ""
    if issubclass(model, TaskEcho):
        return "All fields of [every output about a task](#every-output-about-a-task), and:\n\n"
    return ""


def _own(model: type[BaseModel]) -> list[str]:
    return [name for name in vars(model).get("__annotations__", {}) if name in model.model_fields and name != "type"]


def _fields(model: type[BaseModel]) -> str:
    own = _own(model)
    if not own:
        if issubclass(model, JudgedResult):
            return "The fields of [every judged result](#every-judged-result), no others.\n"
        return "It has no other fields.\n"
    schema = model.model_json_schema()
    required = schema.get("required", [])
    rows = []
    for name in own:
        field = schema["properties"][name]
        default = "required" if name in required else _code(field.get("default"))
        rows.append((f"`{name}`", _type(field), default, " ".join(str(field["description"]).split())))
    return table(("field", "type", "default", "meaning"), rows)


def _type(schema: Mapping[str, Any]) -> str:
    if not {"$ref", "anyOf", "enum", "type"} & schema.keys():
        return "any JSON"
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " · ".join(f"`{value}`" for value in schema["enum"])
    return _plain(schema)


def _plain(schema: Mapping[str, Any]) -> str:
    match schema["type"]:
        case "string" if schema.get("format") == "date-time":
            return "time"
        case "string" if "pattern" in schema:
            return "64 hexadecimal digits"
        case "string":
            return f"text{_at_most(schema, 'maxLength', ' bytes')}"
        case "array":
            return f"list of {_type(schema['items'])}{_at_most(schema, 'maxItems', '')}"
        case "object" if "propertyNames" in schema:
            return f"facet → {_type(schema['additionalProperties'])}{_at_most(schema, 'maxProperties', ' facets')}"
        case kind:
            return f"{kind}{_bounds(schema)}"


def _at_most(schema: Mapping[str, Any], name: str, unit: str) -> str:
    return f", up to {schema[name]}{unit}" if name in schema else ""


def _bounds(schema: Mapping[str, Any]) -> str:
    if "exclusiveMinimum" in schema:
        return f", above {schema['exclusiveMinimum']:g}, up to {schema['maximum']:g}"
    if "maximum" in schema:
        return f", {schema['minimum']:g} to {schema['maximum']:g}"
    return ""


def _code(value: Any) -> str:
    return f"`{orjson.dumps(value).decode()}`"


def _default_setting(settings: type[BaseSettings], name: str) -> str:
    field = settings.model_fields[name]
    if field.default_factory is not None:
        return "none" if field.default_factory is list else "per user"
    return (
        "none"
        if field.default is None
        else f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
    )


def _labels(metric: MetricWrapperBase | Distribution, name: str) -> tuple[str, ...]:
    if isinstance(metric, Distribution):
        return metric.labels
    kind = metric.collect()
    state = (name,) if any(family.type == "stateset" for family in kind) else ()
    return (*metric._labelnames, *state)


if __name__ == "__main__":
    sys.exit(main())
