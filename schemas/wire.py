"""What an event looks like once decoded in bulk: the models' fields and bounds, as plain dictionaries.

Derived from the models, never written by hand. Building dictionaries instead of model instances takes less than half
the time of decoding (1.3 against 3.1 µs per event of 206 bytes). Absent optional fields stay absent; see the models for
their defaults.
"""

from types import UnionType
from typing import Annotated, Any, NotRequired, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

Event = dict[str, Any]
"""One decoded event; its fields are those of the model that its `type` names."""


def wire_type(model: type[BaseModel]) -> Any:
    """The TypedDict with the fields, bounds and optionality of `model`, nested models included."""
    annotations: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        annotation = _without_models(field.annotation)
        if field.metadata:
            annotation = Annotated[(annotation, *field.metadata)]
        annotations[name] = annotation if field.is_required() else NotRequired[annotation]
    typed_dict = TypedDict(model.__name__, annotations)  # type: ignore[misc]
    typed_dict.__pydantic_config__ = ConfigDict(extra="ignore")  # type: ignore[attr-defined]
    return typed_dict


def list_adapter(models: tuple[type[BaseModel], ...]) -> TypeAdapter[list[Event]]:
    """Validates a JSON list of events of any of `models`, told apart by `type`."""
    return TypeAdapter(list[_union(models)])  # type: ignore[misc]


def event_adapter(models: tuple[type[BaseModel], ...]) -> TypeAdapter[Event]:
    """Validates one event of any of `models`, told apart by `type`."""
    return cast("TypeAdapter[Event]", TypeAdapter(_union(models)))


def _union(models: tuple[type[BaseModel], ...]) -> Any:
    wires = tuple(wire_type(model) for model in models)
    if len(wires) == 1:
        return wires[0]
    return Annotated[Union[wires], Field(discriminator="type")]  # noqa: UP007 - built from a tuple


def _without_models(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return wire_type(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(_without_models(arguments[0]), *arguments[1:])]
    if origin in (Union, UnionType):
        return Union[tuple(_without_models(argument) for argument in arguments)]  # noqa: UP007
    if origin in (list, dict):
        return origin[tuple(_without_models(argument) for argument in arguments)]
    return annotation
