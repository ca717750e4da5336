import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaError
from pydantic import ValidationError

from projections.decode import Batch, Decoder
from schemas import generate
from schemas.asyncapi import PRIVATE, UNDECODABLE, type_of
from schemas.events import INPUT_EVENTS, Event
from schemas.outputs import OUTPUT_EVENTS
from schemas.topics import Role, Topic, topics
from schemas.wire import event_type

MODELS: dict[str, type[Event]] = {type_of(model): model for model in (*INPUT_EVENTS, *OUTPUT_EVENTS)}
EXAMPLES = generate.examples()
ASYNCAPI: dict[str, Any] = orjson.loads((generate.DIRECTORY / "asyncapi.v1.json").read_bytes())

every_type = pytest.mark.parametrize("name", sorted(MODELS))
every_input = pytest.mark.parametrize(
    "topic", [each for each in topics() if each.is_input], ids=lambda topic: topic.role
)


def committed(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = orjson.loads((generate.DIRECTORY / "json" / f"{name}.v1.json").read_bytes())
    return schema


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            yield reference
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def resolved(document: Any, reference: str) -> Any:
    assert reference.startswith("#/"), reference
    for step in reference[2:].split("/"):
        document = document[step.replace("~1", "/").replace("~0", "~")]
    return document


def test_committed_files_are_what_the_models_give() -> None:
    assert [str(path) for path in generate.drifted()] == [], "run `make schemas`"


def test_generation_is_deterministic() -> None:
    assert generate.files() == generate.files()


def test_check_names_what_drifted_and_writing_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = EXAMPLES
    monkeypatch.setattr(generate, "DIRECTORY", tmp_path / "schemas")
    monkeypatch.setattr(generate, "examples", lambda: examples)
    (tmp_path / "schemas").mkdir()
    assert generate.main(["--check"]) == 1
    assert "task.result.v1.json differs" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    gone = tmp_path / "schemas" / "json" / "task.forgotten.v1.json"
    gone.write_text("{}")
    assert generate.main(["--check"]) == 1
    assert generate.main([]) == 0
    assert not gone.exists()


def test_every_type_of_the_registry_has_model_schema_and_example() -> None:
    registered = {name for topic in topics() for name in topic.event_types}
    assert registered == MODELS.keys() == EXAMPLES.keys()
    assert {path.name for path in (generate.DIRECTORY / "json").iterdir()} == {f"{name}.v1.json" for name in MODELS}


@every_type
def test_schema_is_valid_and_complete_in_itself(name: str) -> None:
    schema = committed(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == generate.DIALECT
    assert schema["title"] == schema["properties"]["type"]["const"] == name
    for reference in references(schema):
        resolved(schema, reference)


@every_type
def test_every_field_is_explained(name: str) -> None:
    schema = committed(name)
    for owner in (schema, *schema.get("$defs", {}).values()):
        assert owner.get("description") or not owner, owner
        for field, definition in owner.get("properties", {}).items():
            assert definition.get("description") or field == "type", f"{owner['title']}.{field}"


@every_type
def test_example_satisfies_schema_and_model(name: str) -> None:
    Draft202012Validator(committed(name)).validate(EXAMPLES[name])
    MODELS[name].model_validate(EXAMPLES[name], strict=False)


@every_type
def test_what_the_model_writes_satisfies_the_schema(name: str) -> None:
    written = MODELS[name].model_validate(EXAMPLES[name]).model_dump_json()
    Draft202012Validator(committed(name)).validate(orjson.loads(written))


@every_type
def test_schema_and_model_require_the_same_fields(name: str) -> None:
    schema, example = Draft202012Validator(committed(name)), EXAMPLES[name]
    for field in example:
        without = {key: value for key, value in example.items() if key != field}
        required = field in committed(name)["required"]
        assert schema.is_valid(without) is not required, field
        if required:
            with pytest.raises(ValidationError):
                MODELS[name].model_validate(without)
        else:
            MODELS[name].model_validate(without)


@every_type
def test_schema_and_model_refuse_the_same_values(name: str) -> None:
    for wrong in ({"session_id": ""}, {"session_id": "s" * 257}, {"source": None}, {"type": "something.else"}):
        broken = {**EXAMPLES[name], **wrong}
        with pytest.raises(SchemaError):
            Draft202012Validator(committed(name)).validate(broken)
        with pytest.raises(ValidationError):
            MODELS[name].model_validate(broken)


@every_type
def test_unknown_fields_are_no_error(name: str) -> None:
    grown = {**copy.deepcopy(EXAMPLES[name]), "added_in_a_later_version": {"any": "thing"}}
    Draft202012Validator(committed(name)).validate(grown)
    MODELS[name].model_validate(grown)


def without(event: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != field}


def decoded(role: Role, bodies: Sequence[Any]) -> list[str | None]:
    """The type of each body as the gate decodes it on this topic; None where it refuses it."""
    count = len(bodies)
    values: list[bytes | None] = [orjson.dumps(body) for body in bodies]
    keys: list[bytes | None] = [str(body.get("session_id")).encode() for body in bodies]
    batch = Batch(role, 0, 0, count, list(range(count)), [0] * count, keys, values, [()] * count)
    events = Decoder(role).decode(batch, [])
    return [None if event is None else event_type(type(event)) for event in events]


@every_input
def test_examples_are_decoded_by_the_gate(topic: Topic) -> None:
    assert decoded(topic.role, [EXAMPLES[name] for name in topic.event_types]) == list(topic.event_types)


@every_input
def test_gate_and_schema_take_the_same_events(topic: Topic) -> None:
    for name in topic.event_types:
        schema, example = committed(name), EXAMPLES[name]
        variants = [without(example, field) for field in example if field != "type"]
        for field, definition in schema["properties"].items():
            wrong: list[Any] = [None, 7, True, [], {}, [None], {"": ""}]
            if definition.get("format") != "date-time" and "date-time" not in str(definition):
                wrong += ["", "x" * 256, "x" * 257, "x" * 5000]  # formats are hints to a validator, rules to the gate
            variants += [{**example, field: value} for value in wrong]
        valid = [Draft202012Validator(schema).is_valid(variant) for variant in variants]
        taken = [each is not None for each in decoded(topic.role, variants)]
        differing = [variant for variant, one, other in zip(variants, valid, taken, strict=True) if one is not other]
        assert differing == []


@every_input
def test_gate_refuses_an_event_without_type(topic: Topic) -> None:
    bodies = [without(EXAMPLES[name], "type") for name in topic.event_types]
    assert decoded(topic.role, bodies) == [None] * len(bodies)


def test_asyncapi_references_resolve() -> None:
    found = set(references(ASYNCAPI))
    assert found
    for reference in found:
        assert resolved(ASYNCAPI, reference) is not None


def test_asyncapi_uses_everything_it_defines() -> None:
    found = set(references(ASYNCAPI))
    for section in ("messages", "schemas"):
        for name in ASYNCAPI["components"][section]:
            assert f"#/components/{section}/{name}" in found, name


def test_asyncapi_has_a_channel_and_an_operation_for_every_public_topic() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    for topic in topics():
        if topic.role in PRIVATE:
            assert topic.role not in ASYNCAPI["channels"]
            continue
        channel = ASYNCAPI["channels"][topic.role]
        kafka = channel["bindings"]["kafka"]
        assert channel["address"] == kafka["topic"] == topic.name
        assert kafka["topicConfiguration"].keys() == topic.config.keys()
        assert set(channel["messages"]) == set(topic.event_types or (UNDECODABLE,))
        action = "receive" if topic.is_input else "send"
        operation = ASYNCAPI["operations"][f"{action}.{topic.role}"]
        assert operation["action"] == action
        assert operation["channel"] == {"$ref": f"#/channels/{topic.role}"}
        assert len(operation["messages"]) == len(channel["messages"])
    assert len(ASYNCAPI["operations"]) == len(ASYNCAPI["channels"])


def test_asyncapi_messages_are_keyed_by_session_and_carry_an_example() -> None:
    for name, message in ASYNCAPI["components"]["messages"].items():
        key = message["bindings"]["kafka"]["key"]
        if name == UNDECODABLE:
            continue
        assert "session id" in key["description"]
        assert message["payload"] == {"$ref": f"#/components/schemas/{MODELS[name].__name__}"}
        assert message["examples"][0]["payload"] == EXAMPLES[name]


@every_type
def test_example_satisfies_the_asyncapi_schema_too(name: str) -> None:
    root = {"$schema": generate.DIALECT, **ASYNCAPI["components"]["messages"][name]["payload"], **ASYNCAPI}
    Draft202012Validator(root).validate(EXAMPLES[name])
