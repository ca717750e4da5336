"""A fixed piece of work of the pipeline's kind, in none of its code: the measure that machines have in common.

CPU seconds differ from machine to machine, and on one machine from minute to minute. How many of these pieces of work
an event costs differs far less. **Never change what it does**: the committed figure would mean something else.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec
import orjson
from aiokafka.producer.message_accumulator import BatchBuilder

ROWS: Final = 250
RECORDS: Final = 1000
"""In one piece of work."""


class _Set(msgspec.Struct, tag="set", tag_field="type"):
    source: str
    event_id: str
    session_id: str
    occurred_at: str
    set: dict[str, str]


class _Note(msgspec.Struct, tag="note", tag_field="type"):
    source: str
    event_id: str
    session_id: str
    occurred_at: str
    task_id: str
    names: list[str]


class Reference:
    """The work: records are decoded, change dictionaries, and what changed is encoded and put into a record batch."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(_Set | _Note).decode
        self._records = [_record(number) for number in range(RECORDS)]
        self._rows: dict[str, dict[str, Any]] = {}
        for _ in range(3):  # until the rows have stopped growing
            self.work()

    def work(self) -> None:
        """One piece of work."""
        changed: dict[str, None] = {}
        for offset, value in enumerate(self._records):
            event = self._decode(value)
            row = self._rows.get(event.session_id)
            if row is None:
                row = self._rows[event.session_id] = {"at": 0, "facets": {}, "tasks": {}}
            if type(event) is _Set:
                _fold_set(row, event, offset)
            else:
                _fold_note(row, event)
            changed[event.session_id] = None
        self._write(changed)

    def _write(self, changed: dict[str, None]) -> None:
        builder = BatchBuilder(1 << 22, 0, is_transactional=1)
        for session_id in changed:
            value = orjson.dumps(self._rows[session_id])
            identity = hashlib.sha1(value, usedforsecurity=False).hexdigest()
            headers = [("id", f"{identity[:8]}-{identity[8:12]}".encode()), ("type", b"row")]
            builder.append(timestamp=None, key=session_id.encode(), value=value, headers=headers)
            self._rows[session_id] = orjson.loads(value)
        builder._build()


def _fold_set(row: dict[str, Any], event: _Set, offset: int) -> None:
    facets = row["facets"]
    for name, value in event.set.items():
        known = facets.get(name)
        if known is None or known[0] != value or known[1] != offset:
            facets[name] = [value, offset, 1_750_000_000_000 + offset, event.source, event.event_id, None]
    row["at"] = max(row["at"], offset)


def _fold_note(row: dict[str, Any], event: _Note) -> None:
    task = row["tasks"].get(event.task_id)
    if task is None:
        task = row["tasks"][event.task_id] = {"names": [], "expected": {}}
    task["names"] = [*task["names"], *event.names][-8:]
    task["expected"] = {**task["expected"], event.names[0]: event.event_id}


def _record(number: int) -> bytes:
    head = (
        f'"source":"web","event_id":"7a1d4c3e-9b52-{number:012x}","session_id":"reference/user-{number % ROWS:06d}",'
        f'"occurred_at":"2025-06-02T08:30:00Z",'
    )
    if number // ROWS % 2:
        return f'{{"type":"set",{head}"set":{{"view/{number % 3}":"page?at={number:08x}"}}}}'.encode()
    return f'{{"type":"note",{head}"task_id":"task-{number % 3}","names":["calendar/{number % 5}"]}}'.encode()
