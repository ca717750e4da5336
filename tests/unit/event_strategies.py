"""Events as hypothesis draws them: valid ones from the models' own fields and bounds, and ways to spoil them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, JsonValue
from pydantic.fields import FieldInfo

from schemas.events import Event

MAX_DRAWN = 12
"""Longest text or list drawn where a bound allows more. Bounds themselves are tried with `edges`."""

_offsets = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))])
instants = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis wants bounds without a zone
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=_offsets,
).map(lambda moment: moment.isoformat())

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=MAX_DRAWN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)

wrong_values = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        -1,
        0.5,
        1.0,
        10**30,
        "",
        "x",
        "1",
        "true",
        [],
        ["x"],
        [None],
        [1],
        {},
        {"x": "y"},
        {"": 1},
    ]
)


def bodies(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Valid JSON bodies of the model; fields that are not required come and go."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in model.model_fields.items():
        strategy = _drawn(field.annotation, list(field.metadata))
        (required if field.is_required() else optional)[name] = strategy
    return st.fixed_dictionaries(required, optional=optional)


@st.composite
def spoiled(draw: st.DrawFn, model: type[Event]) -> dict[str, Any]:
    """A body that was valid, with one thing changed somewhere: mostly it is not valid any more."""
    body = draw(bodies(model))
    target, kind = draw(st.sampled_from(objects(body, model)))
    name = draw(st.sampled_from(list(kind.model_fields)))
    how = draw(st.sampled_from(["missing", "wrong", "null", "extra", "edge"]))
    if how == "missing":
        target.pop(name, None)
    elif how == "wrong":
        target[name] = draw(wrong_values)
    elif how == "null":
        target[name] = None
    elif how == "extra":
        target["a_field_of_version_1_dot_9"] = draw(json_values)
    else:
        target[name] = draw(st.sampled_from(edges(kind, name) or [None]))
    return body


def edges(model: type[BaseModel], name: str) -> list[Any]:
    """Values just within and just beyond the field's bounds."""
    field = model.model_fields[name]
    return _edges(field.annotation, list(field.metadata))


def objects(body: dict[str, Any], model: type[BaseModel]) -> list[tuple[dict[str, Any], type[BaseModel]]]:
    """The body and every object in it that has a model of its own, with its model."""
    found = [(body, model)]
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        value = body.get(name)
        if inner is not None and value is not None:
            for each in value if isinstance(value, list) else [value]:
                found += objects(each, inner)
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for argument in get_args(annotation) if (model := _model_in(argument)) is not None), None)


def _drawn(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is AwareDatetime:
        return instants
    if annotation is JsonValue or isinstance(annotation, type(JsonValue)):
        return json_values
    if origin is Annotated:
        return _drawn(arguments[0], [*_flat(arguments[1:]), *metadata])
    if origin in (Union, UnionType):
        return st.one_of([st.none() if each is NoneType else _drawn(each, metadata) for each in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return bodies(annotation)
    low, high, pattern = _bound(metadata, "min_length", 0), _bound(metadata, "max_length", None), _pattern(metadata)
    if annotation is str:
        if pattern is not None:
            return st.from_regex(pattern, fullmatch=True)
        return st.text(min_size=low, max_size=min(high or MAX_DRAWN, MAX_DRAWN))
    if origin is list:
        return st.lists(_drawn(arguments[0], []), min_size=low, max_size=3)
    if origin is dict:
        return st.dictionaries(_drawn(arguments[0], []), _drawn(arguments[1], []), max_size=3)
    if annotation is bool:
        return st.booleans()
    least, most = _bound(metadata, "ge", None), _bound(metadata, "le", None)
    above = _bound(metadata, "gt", None)
    if annotation is int:
        return st.integers(least, most)
    if annotation is float:
        floats = st.floats(above if least is None else least, most, exclude_min=above is not None, allow_nan=False)
        return floats | st.just(1)
    raise AssertionError(f"no strategy for {annotation}")


def _edges(annotation: Any, metadata: list[Any]) -> list[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _edges(arguments[0], [*_flat(arguments[1:]), *metadata])
    if origin in (Union, UnionType):
        return [edge for each in arguments if each is not NoneType for edge in _edges(each, metadata)]
    if origin is Literal:
        return [*arguments, "no such word", str(arguments[0]).upper()]
    if annotation is AwareDatetime:
        return [
            "2025-01-01T00:00:00Z",
            "2025-01-01t00:00:00.123456789z",
            "2025-01-01T00:00:00",
            "2025-01-01",
            "2025-01-01T00:00Z",
            "2025-02-30T00:00:00Z",
            "1735689600",
            1735689600,
        ]
    most, least = _bound(metadata, "max_length", None), _bound(metadata, "min_length", 0)
    if annotation is str:
        if (pattern := _pattern(metadata)) is not None:
            assert pattern == r"^[0-9a-f]{64}$"
            return ["a" * 64, "a" * 63, "a" * 65, "A" * 64, "a" * 64 + "\n", "g" * 64]
        lengths = [least, least - 1] + ([most, most + 1] if most is not None else [])
        return [letter * length for length in lengths if length >= 0 for letter in ("x", "é", "€", "\U0001f6eb")]
    if origin is list:
        item = _edges(arguments[0], []) or [{}]
        short = [[item[0]] * length for length in (least, least - 1) if length >= 0]
        return [*short, *([[item[0]] * most, [item[0]] * (most + 1)] if most is not None else []), [item[-1]]]
    if origin is dict:
        count = most or 1
        return [{str(number): "v" for number in range(size)} for size in (0, count, count + 1)] + [{"": "v"}, {"k": 1}]
    bounds = [_bound(metadata, name, None) for name in ("ge", "gt", "le")]
    return [bound + step for bound in bounds if bound is not None for step in (-1, 0, 1)]


def _flat(annotations: tuple[Any, ...]) -> list[Any]:
    return [each for one in annotations for each in (one.metadata if isinstance(one, FieldInfo) else [one])]


def _bound(metadata: list[Any], name: str, default: Any) -> Any:
    return next((getattr(each, name) for each in metadata if hasattr(each, name) and _is_bound(each)), default)


def _is_bound(annotation: Any) -> bool:
    return isinstance(annotation, annotated_types.BaseMetadata)


def _pattern(metadata: list[Any]) -> str | None:
    return next((each.pattern for each in metadata if getattr(each, "pattern", None)), None)
