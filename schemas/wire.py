"""Decoding at speed: a struct for every event model, with the model's fields, bounds and defaults.

Derived from the models, never written by hand, so the models stay the one source; a test shows that both accept and
refuse the same. One event of 240 bytes, validated, costs 0.8 µs this way, and 2.7 µs through pydantic; and because a
call for each record is that cheap, one bad record never touches its neighbours. Code is typed against the models, whose
attributes the structs have.

Payloads are not parsed: they stay the producer's bytes (`msgspec.Raw`) and go out as they came in.
"""

from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
import msgspec
from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo

OPAQUE: Final = frozenset({("Part", "payload")})
"""(model, field) pairs whose value is kept as bytes."""

_BOUNDS: Final = {
    annotated_types.MinLen: ("min_length", "min_length"),
    annotated_types.MaxLen: ("max_length", "max_length"),
    annotated_types.Ge: ("ge", "ge"),
    annotated_types.Gt: ("gt", "gt"),
    annotated_types.Le: ("le", "le"),
    annotated_types.Lt: ("lt", "lt"),
}

_structs: dict[type[BaseModel], type[msgspec.Struct]] = {}


def struct_of(model: type[BaseModel]) -> type[msgspec.Struct]:
    """The struct that decodes what `model` describes. The same struct for the same model."""
    if model not in _structs:
        _structs[model] = _derive(model)
    return _structs[model]


def event_type(struct: type[Any]) -> str:
    """The `type` of the events that a struct decodes."""
    return str(struct.__struct_config__.tag)


fields_of: Final[Any] = msgspec.structs.astuple
"""The values of a struct's fields. Compiled code needs 20 ns to read one field and 60 to 80 to read all of them, so
where it needs many it reads all at once. Callers bind this function to a module-level `Final` name: looking up a name
from a module that is not compiled takes as long as reading a field."""


def fields_in_order(model: type[BaseModel], *names: str) -> Any:
    """`fields_of`, for code that unpacks every field of the model's events: these, in this order.

    Raises `TypeError` if the model has others. Unpacking all fields costs compiled code a fifth of picking some.
    """
    fields = struct_of(model).__struct_fields__
    if fields != names:
        raise TypeError(f"{model.__name__} has the fields {', '.join(fields)}: unpack them in this order")
    return fields_of


class _Nothing(msgspec.Struct, tag_field="type", tag=""):
    """Can never be decoded. It makes a union of a single event: alone, that would not be asked for its `type`."""

    impossible: Annotated[int, msgspec.Meta(gt=0, lt=1)]


def decoder(models: tuple[type[BaseModel], ...]) -> msgspec.json.Decoder[Any]:
    """Decodes one JSON event of any of `models`, told apart by `type`; raises `msgspec.DecodeError`."""
    return msgspec.json.Decoder(Union[(_Nothing, *map(struct_of, models))])


def _derive(model: type[BaseModel]) -> type[msgspec.Struct]:
    tag: str | None = None
    fields: list[tuple[str, Any, Any]] = []
    for name, field in model.model_fields.items():
        if name == "type":
            (tag,) = get_args(field.annotation)
            continue
        annotation = msgspec.Raw if (model.__name__, name) in OPAQUE else _converted(field.annotation, field.metadata)
        default = msgspec.NODEFAULT if field.is_required() else field.default
        fields.append((name, annotation, default))
    return msgspec.defstruct(
        model.__name__,
        fields,
        tag_field="type" if tag is not None else None,
        tag=tag,
        kw_only=True,
        gc=False,
        omit_defaults=True,
    )


def _converted(annotation: Any, metadata: list[Any]) -> Any:
    if annotation is AwareDatetime:
        return Annotated[datetime, msgspec.Meta(tz=True)]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _converted(arguments[0], [*_metadata_of(arguments[1:]), *metadata])
    if origin in (Union, UnionType):
        # bounds of an optional field belong to its value
        members = [member if member is NoneType else _converted(member, metadata) for member in _flattened(arguments)]
        return Union[tuple(members)]  # noqa: UP007 - built from a tuple
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return struct_of(annotation)
    if origin in (list, dict):
        inner = origin[tuple(_converted(argument, []) for argument in arguments)]
        return _bounded(inner, metadata)
    if origin is Literal or annotation in (str, int, float, bool):
        return _bounded(annotation, metadata)
    return Any  # a JSON value


def _flattened(arguments: tuple[Any, ...]) -> list[Any]:
    flat: list[Any] = []
    for argument in arguments:
        inner = get_args(argument) if get_origin(argument) in (Union, UnionType) else (argument,)
        flat += inner
    return flat


def _metadata_of(annotations: tuple[Any, ...]) -> list[Any]:
    metadata: list[Any] = []
    for annotation in annotations:
        metadata += annotation.metadata if isinstance(annotation, FieldInfo) else [annotation]
    return metadata


def _bounded(annotation: Any, metadata: list[Any]) -> Any:
    bounds: dict[str, Any] = {}
    for each in metadata:
        known = _BOUNDS.get(type(each))
        if known is not None:
            bounds[known[0]] = getattr(each, known[1])
        elif (pattern := getattr(each, "pattern", None)) is not None:
            bounds["pattern"] = pattern
    return Annotated[annotation, msgspec.Meta(**bounds)] if bounds else annotation
