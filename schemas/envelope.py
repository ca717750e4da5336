"""CloudEvents 1.0 in Kafka's binary mode: attributes as `ce_*` headers, in and out.

The JSON body is self-contained; headers repeat it for tools that route by them, and may stand in for it on input.
Source: CloudEvents Kafka protocol binding 1.0.2, section 3.2.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import orjson

Headers = Sequence[tuple[str, bytes]]

CONTENT_TYPE: Final = (("content-type", b"application/json"), ("ce_specversion", b"1.0"))
TRACEPARENT: Final = "traceparent"

_ATTRIBUTES: Final[Mapping[str, str]] = {
    "ce_type": "type",
    "ce_source": "source",
    "ce_id": "event_id",
    "ce_subject": "session_id",
    "ce_time": "occurred_at",
}


def headers_of(  # noqa: PLR0913 - one argument for each attribute
    event_type: str, source: str, event_id: str, session_id: str, occurred_at: str, traceparent: str | None = None
) -> list[tuple[str, bytes]]:
    """The headers of an output event; `occurred_at` in RFC 3339."""
    headers = [
        *CONTENT_TYPE,
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_id", event_id.encode()),
        ("ce_subject", session_id.encode()),
        ("ce_time", occurred_at.encode()),
    ]
    if traceparent is not None:
        headers.append((TRACEPARENT, traceparent.encode()))
    return headers


def traceparent_of(headers: Headers) -> str | None:
    """The W3C trace context header, where there is one that is ASCII text."""
    for name, value in headers:
        if name == TRACEPARENT and value and value.isascii():
            return value.decode()
    return None


def completed_from_headers(value: bytes, headers: Headers) -> bytes | None:
    """The body with the envelope fields that only its `ce_*` headers state; None where headers add nothing.

    A field that the body states wins over the header.
    """
    attributes = {_ATTRIBUTES[name]: text.decode(errors="replace") for name, text in headers if name in _ATTRIBUTES}
    if not attributes:
        return None
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict) or attributes.keys() <= body.keys():
        return None
    return orjson.dumps({**attributes, **body})
