"""Bounds that pydantic cannot state: sizes in UTF-8 bytes, and sizes of whole objects.

A record of plain ASCII under 4 KiB cannot break any of them, so only the others are looked at one by one.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from schemas.fields import (
    MAX_EVENT_BYTES,
    MAX_INLINE_PART_BYTES,
    MAX_METADATA_BYTES,
    MAX_NAME_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_TEXT_BYTES,
    MAX_VALUE_BYTES,
)

SMALL_BYTES = MAX_METADATA_BYTES

_NAMES = (
    "source",
    "event_id",
    "session_id",
    "task_id",
    "task_type",
    "request_id",
    "slot",
    "parent_task_id",
    "step_id",
    "name",
    "idempotency_key",
    "effect",
    "result_event_id",
)
_TEXTS = ("message", "reason")
_FACETS = ("set", "snapshot", "reads")
_NAME_LISTS = ("unset", "depends_on")


def may_exceed(value: bytes) -> bool:
    """True where a record's size or characters make a look at every bound necessary."""
    return len(value) > SMALL_BYTES or not value.isascii() or b"\\u" in value


def exceeded(event: dict[str, Any], value: bytes) -> str | None:
    """The first bound that `event` (decoded from `value`) breaks, as a sentence; None where it keeps all."""
    if len(value) > MAX_EVENT_BYTES:
        return f"event: {len(value)} bytes, at most {MAX_EVENT_BYTES}"
    for field, size, limit in _sizes(event):
        if size > limit:
            return f"{field}: {size} bytes, at most {limit}"
    return None


def _sizes(event: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    for field in _NAMES:
        yield field, _utf8(event.get(field)), MAX_NAME_BYTES
    for field in _TEXTS:
        yield field, _utf8(event.get(field)), MAX_TEXT_BYTES
    yield "destination", _utf8(event.get("destination")), MAX_VALUE_BYTES
    for field in _NAME_LISTS:
        for name in event.get(field) or ():
            yield field, _utf8(name), MAX_NAME_BYTES
    for field in _FACETS:
        facets = event.get(field) or {}
        for name, facet_value in facets.items():
            yield f"{field}.{name[:32]}", _utf8(name), MAX_NAME_BYTES
            yield f"{field}.{name[:32]}", _utf8(facet_value), MAX_VALUE_BYTES
        if field != "set":
            yield field, len(orjson.dumps(facets)), MAX_SNAPSHOT_BYTES
    metadata = event.get("metadata")
    if metadata:
        yield "metadata", _json_bytes(metadata), MAX_METADATA_BYTES
    for index, part in enumerate(event.get("parts") or ()):
        yield f"parts.{index}.part_id", _utf8(part["part_id"]), MAX_NAME_BYTES
        yield f"parts.{index}.payload", _json_bytes(part.get("payload")), MAX_INLINE_PART_BYTES


def _utf8(text: str | None) -> int:
    return len(text.encode()) if text else 0


def _json_bytes(value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except TypeError:  # an integer beyond 64 bits: refused, because no output could carry it unchanged
        return MAX_EVENT_BYTES + 1
