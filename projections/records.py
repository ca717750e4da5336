"""Rows as bytes on the changelog, in the current format; older formats are read, unknown ones refused."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from projections import format_1
from projections.rows import FORMAT, Change, Facet, RowFields, RowHead, SessionRow, Task, new_row

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_row: Final = msgspec.msgpack.Decoder(SessionRow).decode
_decode_task: Final = msgspec.msgpack.Decoder(Task).decode
_decode_head: Final = msgspec.msgpack.Decoder(RowHead).decode
_decode_change: Final = msgspec.msgpack.Decoder(Change).decode
_decode_any: Final[Any] = msgspec.msgpack.Decoder().decode


_BEGINNING: Final = _encode(new_row())[:2]
"""Of a row that this version wrote: how many fields it has, and the format."""


class UnknownFormatError(ValueError):
    """A record was written by a version of the gate that this one does not know."""


def row_to_bytes(row: SessionRow | RowFields) -> bytes:
    """The row, or one with these fields. Equal rows that the same events built in the same order are equal bytes."""
    return _encode(row)


def task_to_bytes(task: Task) -> bytes:
    """The task as a record of its own."""
    return _encode(task)


def row_from_bytes(raw: bytes, tasks: Mapping[str, bytes] | None = None) -> SessionRow:
    """The session's row, with the records of its tasks if they are apart from it.

    Raises `ValueError` if there are not as many of these as the row says, and `UnknownFormatError`.
    """
    if format_1.is_format_1(raw):
        try:
            row = format_1.row_from_bytes(raw)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _unreadable(raw, error) from error
    else:
        try:
            row = _decode_row(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreadable(raw, error) from error
        if not raw.startswith(_BEGINNING) and row.format != FORMAT:
            raise _unreadable(raw, None)
    if tasks or len(row.tasks) != row.open_tasks:
        found = [(task_id, task_from_bytes(task)) for task_id, task in (tasks or {}).items()]
        if len(found) != row.open_tasks or row.tasks:
            raise ValueError(
                f"the row says that {row.open_tasks} open tasks have records of their own, but {len(found)} do"
            )
        row.tasks = dict(sorted(found, key=_position))
    return row


def task_from_bytes(raw: bytes) -> Task:
    """An open task that has a record of its own. Raises `UnknownFormatError`."""
    if format_1.is_format_1(raw):
        try:
            return format_1.task_from_bytes(raw)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _unreadable(raw, error) from error
    try:
        task = _decode_task(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(raw, error) from error
    if task.format != FORMAT:
        raise _unreadable(raw, None)
    return task


def head_from_bytes(raw: bytes) -> RowHead:
    """The first fields of a row. Raises `UnknownFormatError`."""
    if format_1.is_format_1(raw):
        try:
            return format_1.head_from_bytes(raw)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _unreadable(raw, error) from error
    try:
        head = _decode_head(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(raw, error) from error
    if head.format != FORMAT:
        raise _unreadable(raw, None)
    return head


def change_of(facet: Facet) -> Change:
    """The event that changed the facet last. The facet's value is known."""
    return _decode_change(facet.change)


def change_of_bytes(change: bytes) -> Change:
    """An encoded change of a facet."""
    return _decode_change(change)


def expired_change_to_bytes(change: bytes, expired_at: int) -> bytes:
    """The encoded change of an event whose lease has run out."""
    made = _decode_change(change)
    return _encode((made.offset, made.timestamp, made.source, made.event_id, expired_at))


def change_to_bytes(offset: int, timestamp: int, source: str, event_id: str) -> bytes:
    """The fields of a `Change`, as `change_of` reads them."""
    return _encode((offset, timestamp, source, event_id))


def _position(named: tuple[str, Task]) -> int:
    return named[1].position


def _unreadable(raw: bytes, error: Exception | None) -> UnknownFormatError:
    try:
        found = _decode_any(raw)[0]
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, LookupError):
        return UnknownFormatError(f"a row of {len(raw)} bytes cannot be read: {error}")
    if found == FORMAT and error is not None:
        return UnknownFormatError(f"a row of {len(raw)} bytes and format {FORMAT} cannot be read: {error}")
    return UnknownFormatError(
        f"a row has format {found}, but this version reads formats 1 and {FORMAT}:"
        " go back to the version that wrote it, or to a newer one"
    )
