"""Fragments of JSON that are built once and spliced into every record that repeats them."""

from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any, Final

import msgspec


def quoted(text: str) -> str:
    """A string as JSON, as `orjson.dumps` writes it, without the way through bytes."""
    return _quote(text)


def json_of(value: Any) -> str:
    """A JSON value, or a part of an event, as JSON."""
    return _encode(value).decode()


def members_of(values: dict[str, Any]) -> str:
    """The members of a JSON object, without its braces."""
    return _encode(values)[1:-1].decode()


_quote: Final[Callable[[str], str]] = encode_basestring
_encode: Final = msgspec.json.Encoder().encode
