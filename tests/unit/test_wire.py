"""The structs that decode at speed take and refuse what the models do, and read the same from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from schemas.events import INPUT_EVENTS, ContextChanged, Event, SessionErased, TaskDispatched, TaskResult
from schemas.generate import examples
from schemas.wire import OPAQUE, decoder, event_type, fields_in_order, struct_of
from tests.unit.event_strategies import bodies, edges, objects, spoiled

EXAMPLES = examples()
ENVELOPE = {"source": "app", "event_id": "e-1", "session_id": "s-1", "occurred_at": "2025-01-01T00:00:00Z"}

every_event = pytest.mark.parametrize("model", INPUT_EVENTS, ids=lambda model: model.__name__)


def from_model(model: type[Event], value: bytes) -> Event | None:
    try:
        return model.model_validate_json(value)
    except ValidationError:
        return None


def from_struct(model: type[Event], value: bytes) -> Any:
    try:
        return decoder((model,)).decode(value)
    except msgspec.DecodeError:
        return None


def same(struct: Any, model: BaseModel) -> bool:
    """Whether the struct's fields are the model's, objects in them included."""
    return all(
        _same_value(getattr(struct, name), getattr(model, name), (type(model).__name__, name))
        for name in type(model).model_fields
        if name != "type"
    )


def _same_value(mine: Any, theirs: Any, place: tuple[str, str]) -> bool:
    if place in OPAQUE:
        return bool((None if mine is None else json.loads(bytes(mine))) == theirs)
    if isinstance(theirs, BaseModel):
        return same(mine, theirs)
    if isinstance(theirs, list):
        return len(mine) == len(theirs) and all(_same_value(a, b, place) for a, b in zip(mine, theirs, strict=True))
    if isinstance(theirs, datetime):  # what is finer than a microsecond one cuts off, the other rounds
        return bool(abs(mine - theirs) <= timedelta(microseconds=1))
    return bool(mine == theirs and type(mine) is type(theirs))


def check(model: type[Event], body: Any) -> bool:
    """Both take the body and read the same, or both refuse it. Whether they take it."""
    value = json.dumps(body).encode()
    struct, told = from_struct(model, value), from_model(model, value)
    assert (struct is None) == (told is None), f"the struct says {struct}, the model {told}"
    assert told is None or same(struct, told)
    return told is not None


@every_event
@given(data=st.data())
def test_valid_events_are_taken_and_read_the_same(model: type[Event], data: st.DataObject) -> None:
    assert check(model, data.draw(bodies(model)))


@every_event
@given(data=st.data())
def test_spoiled_events_are_taken_or_refused_alike(model: type[Event], data: st.DataObject) -> None:
    check(model, data.draw(spoiled(model)))


@every_event
def test_values_at_their_bounds_are_taken_or_refused_alike(model: type[Event]) -> None:
    body = EXAMPLES[event_type(struct_of(model))]
    assert check(model, body)
    answers = set()
    for target, kind in objects(body, model):
        for name in kind.model_fields.keys() - {"type"}:
            for edge in edges(kind, name):
                with changed(target, name, edge):
                    answers.add(check(model, body))
    assert answers == {True, False}


@contextmanager
def changed(target: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    before = dict(target)
    target[name] = value
    yield
    target.clear()
    target.update(before)


@every_event
def test_bytes_that_are_no_object_are_refused_alike(model: type[Event]) -> None:
    whole = json.dumps({"type": struct_of(model).__struct_config__.tag, **ENVELOPE})
    for text in ("", "null", "[]", "1", '"x"', "{", f"{whole}{{}}", whole[:-1], f"\ufeff{whole}", whole.upper()):
        value = text.encode()
        assert from_model(model, value) is None
        assert from_struct(model, value) is None


@every_event
@pytest.mark.parametrize("kind", [..., "", "context.change", None, 7, ["task.result"]])
def test_an_event_of_another_type_or_none_is_refused(model: type[Event], kind: Any) -> None:
    body = {"type": kind, **ENVELOPE}
    if kind is ...:
        del body["type"]
    assert not check(model, body)


def test_texts_are_counted_in_characters_here_and_in_bytes_by_the_limits() -> None:
    names = ["é" * 256, "é" * 257, "\U0001f6eb" * 256, "\U0001f6eb" * 257]
    taken = [check(SessionErased, {"type": "session.erased", **ENVELOPE, "session_id": name}) for name in names]
    assert taken == [True, False, True, False]


def test_types_are_not_converted() -> None:
    base = {"type": "task.dispatched", **ENVELOPE, "task_id": "t", "task_type": "search"}
    for field, value in (
        ("protected", "true"),
        ("protected", 1),
        ("attempt", "1"),
        ("attempt", 1.0),
        ("attempt", True),
        ("while_stale_grace_seconds", "5"),
        ("deadline_at", 1735689600),
        ("deadline_at", "1735689600"),
        ("task_id", 7),
        ("snapshot", [["view/tab-1", "7"]]),
        ("depends_on", "view/tab-1"),
    ):
        assert not check(TaskDispatched, {**base, field: value}), (field, value)
    assert check(TaskDispatched, {**base, "while_stale_grace_seconds": 5})


def test_a_payload_stays_as_it_came() -> None:
    payload = '{ "big":123456789012345678901234567890 ,"huge":1e400,"a":1.0, "a":"\\u00e9" }'
    part = f'{{"part_id":"p","kind":"show","payload":{payload}}}'
    head = json.dumps({"type": "task.result", **ENVELOPE, "task_id": "t", "outcome": "completed"})
    event = from_struct(TaskResult, f'{head[:-1]},"parts":[{part}]}}'.encode())
    assert bytes(event.parts[0].payload) == payload.encode()
    assert payload.encode() in msgspec.json.encode(event)


def test_a_payload_of_null_is_there_and_none_is_not() -> None:
    def parts(**more: Any) -> Any:
        body = {"type": "task.result", **ENVELOPE, "task_id": "t", "outcome": "completed"}
        value = json.dumps({**body, "parts": [{"part_id": "p", "kind": "show", **more}]}).encode()
        return from_struct(TaskResult, value).parts[0].payload

    assert bytes(parts(payload=None)) == b"null"
    assert parts() is None


def test_the_last_of_two_equal_names_counts_in_both() -> None:
    head = json.dumps({"type": "context.changed", **ENVELOPE})[:-1]
    value = f'{head},"set":{{"a":"1","a":"2"}},"source":"z"}}'.encode()
    told = ContextChanged.model_validate_json(value)
    assert from_struct(ContextChanged, value).set == told.set == {"a": "2"}
    assert from_struct(ContextChanged, value).source == told.source == "z"


def test_a_struct_belongs_to_one_model_and_knows_its_type() -> None:
    assert struct_of(TaskResult) is struct_of(TaskResult)
    assert event_type(struct_of(TaskResult)) == "task.result"
    assert len({event_type(struct_of(model)) for model in INPUT_EVENTS}) == len(INPUT_EVENTS)


def test_all_fields_are_read_at_once_in_an_order_that_is_checked() -> None:
    event = decoder((ContextChanged,)).decode(json.dumps(EXAMPLES["context.changed"]))
    names = struct_of(ContextChanged).__struct_fields__
    assert fields_in_order(ContextChanged, *names)(event) == tuple(getattr(event, name) for name in names)
    with pytest.raises(TypeError, match="has the fields source, event_id"):
        fields_in_order(ContextChanged, *reversed(names))
