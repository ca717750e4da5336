"""Fragments of JSON that are built once and spliced into every record that repeats them."""

from typing import Any, Final

import msgspec
import orjson


def quoted(text: str) -> str:
    """A string as JSON."""
    return _dumps(text).decode()


def json_of(value: Any) -> str:
    """A JSON value, or a part of an event, as JSON."""
    return _encode(value).decode()


def members_of(values: dict[str, Any]) -> str:
    """The members of a JSON object, without its braces."""
    return _encode(values)[1:-1].decode()


_dumps: Final = orjson.dumps
_encode: Final = msgspec.json.Encoder().encode
