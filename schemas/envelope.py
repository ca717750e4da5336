"""CloudEvents 1.0 in Kafka's binary mode: attributes as `ce_*` headers, in and out.

The JSON body is self-contained; headers repeat it for tools that route by them, and may stand in for it on input.
Source: CloudEvents Kafka protocol binding 1.0.2, section 3.2.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson
from mypy_extensions import mypyc_attr

Headers = Sequence[tuple[str, Any]]
"""Names and values of a record's headers. A value is bytes, or None: Kafka allows null."""

CONTENT_TYPE: Final = (("content-type", b"application/json"), ("ce_specversion", b"1.0"))
TRACEPARENT: Final = "traceparent"
FORWARDED_FROM: Final = "tidegate_forwarded_from"
"""Set on a record that was found on the wrong partition and sent on: `topic/partition/offset` where it was found."""
MAX_TRACEPARENT_BYTES: Final = 256
"""Version 00 has 55, later ones may have more. Kept with the task, so it must have an end."""

_ATTRIBUTES: Final[Mapping[str, str]] = {
    "ce_type": "type",
    "ce_source": "source",
    "ce_id": "event_id",
    "ce_subject": "session_id",
    "ce_time": "occurred_at",
}


@mypyc_attr(acyclic=True)
class Envelope:
    """What the headers of an output event say. `session_key` is the session id in UTF-8, `occurred_at` RFC 3339."""

    def __init__(
        self,
        event_type: str,
        source: str,
        event_id: str,
        session_key: bytes,
        occurred_at: str,
        traceparent: str | None = None,
    ) -> None:
        self.event_type = event_type
        self.source = source
        self.event_id = event_id
        self.session_key = session_key
        self.occurred_at = occurred_at
        self.traceparent = traceparent

    def headers(self) -> list[tuple[str, bytes]]:
        """The headers, as names and values."""
        headers = [
            *CONTENT_TYPE,
            ("ce_type", self.event_type.encode()),
            ("ce_source", self.source.encode()),
            ("ce_time", self.occurred_at.encode()),
            ("ce_id", self.event_id.encode()),
            ("ce_subject", self.session_key),
        ]
        if self.traceparent is not None:
            headers.append((TRACEPARENT, self.traceparent.encode()))
        return headers


RESERVED: Final = "tidegate_"
"""Names of headers that begin so are the gate's."""


def producers_headers(headers: Headers) -> list[tuple[str, Any]]:
    """The headers without those whose names are the gate's: what a producer writes there must not pass for its word."""
    return [(name, value) for name, value in headers if not name.lower().startswith(RESERVED)]


def traceparent_of(headers: Headers) -> str | None:
    """The W3C trace context header, where there is one that is ASCII text of bounded length."""
    for name, value in headers:
        if name == TRACEPARENT and value and len(value) <= MAX_TRACEPARENT_BYTES and value.isascii():
            return str(value, "ascii")
    return None


def was_forwarded(headers: Headers) -> bool:
    """Whether the record was sent on from a wrong partition."""
    return any(name == FORWARDED_FROM for name, _ in headers)


def completed_from_headers(value: bytes, headers: Headers) -> bytes | None:
    """The body with the envelope fields that only its `ce_*` headers state; None where headers add nothing.

    A field that the body states wins over the header. The rest of the body stays as it is, byte for byte. A header
    without text says nothing.
    """
    attributes: dict[str, str] = {}
    for name, text in headers:
        if name in _ATTRIBUTES and text:
            try:
                attributes[_ATTRIBUTES[name]] = text.decode()
            except UnicodeDecodeError:
                continue
    if not attributes:
        return None
    try:
        body = _fields_of(value)
    except (msgspec.DecodeError, RecursionError):
        return None
    missing = {name: text for name, text in attributes.items() if name not in body}
    if not missing:
        return None
    begin = value.index(b"{") + 1
    return b"{%s%s%s" % (orjson.dumps(missing)[1:-1], b"," if body else b"", value[begin:])


_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
