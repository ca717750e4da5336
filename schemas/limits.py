"""Bounds that the models cannot state: sizes in UTF-8 bytes (models count characters), sizes of whole objects, nesting.

Whether a record keeps them depends on nothing but the record.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import orjson

from schemas.explain import too_long
from schemas.fields import (
    MAX_EVENT_BYTES,
    MAX_INLINE_PART_BYTES,
    MAX_METADATA_BYTES,
    MAX_NAME_BYTES,
    MAX_NESTING,
    MAX_SNAPSHOT_BYTES,
    MAX_TEXT_BYTES,
    MAX_URI_BYTES,
    MAX_VALUE_BYTES,
)

SMALL_BYTES: Final = MAX_METADATA_BYTES
"""A record of plain ASCII up to this size cannot break any bound of size."""
UNBOUNDED_BYTES: Final = MAX_NAME_BYTES + 100
"""A record of plain ASCII up to this size cannot break any bound but that of `parts` and that of numbers in `metadata`:
its type, its time and the names of the fields that every event has take more than 100 bytes."""
SHALLOW_BYTES: Final = 2 * (MAX_NESTING + 1)
"""A record up to this size cannot nest too deep."""

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
_NAME_LISTS: Final = ("unset", "depends_on", "plan")


_TEXT_IN_QUOTES: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_BRACES_AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))


def exceeded(event: Any, value: bytes) -> str | None:
    """The first bound that `event` (decoded from `value`) breaks, as a sentence; None where it keeps all."""
    if is_nested_too_deep(value):
        return f"event: arrays and objects inside each other, at most {MAX_NESTING} deep; flatten it, or send a text"
    metadata = getattr(event, "metadata", None)
    if metadata:
        try:
            orjson.dumps(metadata)
        except TypeError as error:  # an integer that most languages cannot hold, and the row's bytes neither
            return f"metadata: {error}; write large numbers as texts"
    parts = getattr(event, "parts", ())
    if len(parts) > 1 and len({part.part_id for part in parts}) < len(parts):
        names = [part.part_id for part in parts]
        again = next(name for index, name in enumerate(names) if name in names[:index])
        return f"parts: two have the same part_id, {again[:64]!r}; give every part of a result its own"
    if is_small(value):
        return None
    if len(value) > MAX_EVENT_BYTES:
        return f"event: {len(value)} bytes, at most {MAX_EVENT_BYTES}; use payload_ref for large parts"
    try:
        value.decode()  # payloads were not looked into
    except UnicodeDecodeError as error:
        return f"event: not UTF-8: {error.reason} at byte {error.start}"
    for field, size, limit in _sizes(event):
        if isinstance(size, str):
            if _utf8(size) > limit:
                return too_long(field, size, limit)
        elif size > limit:
            return f"{field}: {size} bytes as JSON, at most {limit}; {_REMEDIES[field.rsplit('.', maxsplit=1)[-1]]}"
    return None


def is_small(value: bytes) -> bool:
    """Whether the record cannot break any bound of size: its characters are bytes, and few."""
    return len(value) <= SMALL_BYTES and value.isascii() and b"\\u" not in value


def is_nested_too_deep(value: bytes) -> bool:
    """Whether valid JSON nests deeper than the contract allows."""
    if len(value) <= SHALLOW_BYTES or value.count(b"[") + value.count(b"{") <= MAX_NESTING + 1:
        return False
    brackets = _TEXT_IN_QUOTES.sub(b"", value).translate(_BRACES_AS_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_NESTING + 1):  # each time what is innermost falls away
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


_REMEDIES: Final = {
    "snapshot": "depend on fewer facets, or on shorter values, such as digests",
    "reads": "name fewer facets, or shorter values, such as digests",
    "metadata": "keep it elsewhere, and send a reference",
    "payload": "keep it elsewhere, and send payload_ref",
}


def _sizes(event: Any) -> Iterator[tuple[str, int | str, int]]:
    """What has a limit: texts, and the sizes of objects as JSON."""
    for field in _NAMES:
        yield field, getattr(event, field, None) or "", MAX_NAME_BYTES
    for field in _TEXTS:
        yield field, getattr(event, field, None) or "", MAX_TEXT_BYTES
    yield "destination", getattr(event, "destination", None) or "", MAX_VALUE_BYTES
    for field in _NAME_LISTS:
        for name in getattr(event, field, ()):
            yield field, name or "", MAX_NAME_BYTES
    for field in ("set", *_FACETS):
        facets = getattr(event, field, {})
        for name, facet_value in facets.items():
            yield f"{field}.{name[:32]}", name or "", MAX_NAME_BYTES
            yield f"{field}.{name[:32]}", facet_value or "", MAX_VALUE_BYTES
        if field in _FACETS:
            yield field, len(msgspec.json.encode(facets)), MAX_SNAPSHOT_BYTES
    yield "metadata", len(msgspec.json.encode(getattr(event, "metadata", None))), MAX_METADATA_BYTES
    for index, part in enumerate(getattr(event, "parts", ())):
        yield f"parts.{index}.part_id", part.part_id or "", MAX_NAME_BYTES
        yield f"parts.{index}.content_type", part.content_type or "", MAX_NAME_BYTES
        for name in part.depends_on or ():
            yield f"parts.{index}.depends_on", name or "", MAX_NAME_BYTES
        payload = part.payload
        yield f"parts.{index}.payload", 0 if payload is None else len(bytes(payload)), MAX_INLINE_PART_BYTES
        if part.payload_ref is not None:
            yield f"parts.{index}.payload_ref.uri", part.payload_ref.uri or "", MAX_URI_BYTES
    error = getattr(event, "error", None)
    if error is not None:
        yield "error.code", error.code or "", MAX_NAME_BYTES
        yield "error.message", error.message or "", MAX_TEXT_BYTES
    checkpoint = getattr(event, "checkpoint", None)
    yield "checkpoint.uri", (checkpoint.uri or "") if checkpoint is not None else "", MAX_URI_BYTES
    cause = getattr(event, "cause", None)
    yield "cause.task_id", (cause.task_id or "") if cause is not None else "", MAX_NAME_BYTES
    for part_id in getattr(event, "part_ids", None) or ():
        yield "part_ids", part_id or "", MAX_NAME_BYTES


def _utf8(text: str | None) -> int:
    return len(text.encode()) if text else 0
