"""Bounds that the models cannot state: sizes in UTF-8 bytes (models count characters), and sizes of whole objects."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from schemas.fields import (
    MAX_EVENT_BYTES,
    MAX_INLINE_PART_BYTES,
    MAX_METADATA_BYTES,
    MAX_NAME_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_TEXT_BYTES,
    MAX_VALUE_BYTES,
)

SMALL_BYTES: Final = MAX_METADATA_BYTES
"""A record of plain ASCII up to this size cannot break any of these bounds."""

_NAMES: Final = (
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
_TEXTS: Final = ("message", "reason")
_FACETS: Final = ("snapshot", "reads")
_NAME_LISTS: Final = ("unset", "depends_on")


def exceeded(event: Any, value: bytes) -> str | None:
    """The first bound that `event` (decoded from `value`) breaks, as a sentence; None where it keeps all."""
    if len(value) > MAX_EVENT_BYTES:
        return f"event: {len(value)} bytes, at most {MAX_EVENT_BYTES}; use payload_ref for large parts"
    for field, size, limit in _sizes(event):
        if size > limit:
            return f"{field}: {size} bytes, at most {limit}"
    return None


def _sizes(event: Any) -> Iterator[tuple[str, int, int]]:
    for field in _NAMES:
        yield field, _utf8(getattr(event, field, None)), MAX_NAME_BYTES
    for field in _TEXTS:
        yield field, _utf8(getattr(event, field, None)), MAX_TEXT_BYTES
    yield "destination", _utf8(getattr(event, "destination", None)), MAX_VALUE_BYTES
    for field in _NAME_LISTS:
        for name in getattr(event, field, ()):
            yield field, _utf8(name), MAX_NAME_BYTES
    for field in ("set", *_FACETS):
        facets = getattr(event, field, {})
        for name, facet_value in facets.items():
            yield f"{field}.{name[:32]}", _utf8(name), MAX_NAME_BYTES
            yield f"{field}.{name[:32]}", _utf8(facet_value), MAX_VALUE_BYTES
        if field in _FACETS:
            yield field, len(msgspec.json.encode(facets)), MAX_SNAPSHOT_BYTES
    yield "metadata", len(msgspec.json.encode(getattr(event, "metadata", None))), MAX_METADATA_BYTES
    for index, part in enumerate(getattr(event, "parts", ())):
        yield f"parts.{index}.part_id", _utf8(part.part_id), MAX_NAME_BYTES
        yield f"parts.{index}.content_type", _utf8(part.content_type), MAX_NAME_BYTES
        for name in part.depends_on or ():
            yield f"parts.{index}.depends_on", _utf8(name), MAX_NAME_BYTES
        payload = part.payload
        yield f"parts.{index}.payload", 0 if payload is None else len(bytes(payload)), MAX_INLINE_PART_BYTES
    error = getattr(event, "error", None)
    if error is not None:
        yield "error.code", _utf8(error.code), MAX_NAME_BYTES
        yield "error.message", _utf8(error.message), MAX_TEXT_BYTES
    cause = getattr(event, "cause", None)
    yield "cause.task_id", _utf8(cause.task_id) if cause is not None else 0, MAX_NAME_BYTES
    for part_id in getattr(event, "part_ids", None) or ():
        yield "part_ids", _utf8(part_id), MAX_NAME_BYTES


def _utf8(text: str | None) -> int:
    return len(text.encode()) if text else 0
