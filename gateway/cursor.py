"""Where a stream stands: one position on each output topic, of one partition.

The text form is the id of a server-sent event, so a client that sends it resumes after that event, on any
instance. It names the topics by a fingerprint of their ids: a topic that was deleted and created again has other
records at the same offsets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from schemas.identity import digest
from schemas.topics import Role

STREAM_ROLES: Final[tuple[Role, ...]] = ("delivered", "delivered.cold", "withheld", "tasks", "commands")
"""The topics a stream reads, in the order of a cursor's positions."""

_TEXT: Final = re.compile(r"1-([0-9a-f]{8})-(\d{1,5})((?:-\d{1,19}){5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next offset to read on each of `STREAM_ROLES`, in one partition."""

    fingerprint: str
    partition: int
    positions: tuple[int, ...]

    def __str__(self) -> str:
        """The text form."""
        return cursor_text(self.fingerprint, self.partition, self.positions)


def cursor_text(fingerprint: str, partition: int, positions: Sequence[int]) -> str:
    """The text form of a cursor, without making one."""
    return f"1-{fingerprint}-{partition}-" + "-".join(map(str, positions))


def parse_cursor(text: str) -> Cursor | None:
    """The cursor that a text stands for; None if it is not one."""
    found = _TEXT.fullmatch(text)
    if found is None:
        return None
    positions = tuple(int(each) for each in found[3].split("-")[1:])
    return Cursor(found[1], int(found[2]), positions) if max(positions) < 2**63 else None


def fingerprint_of(topic_ids: Sequence[bytes]) -> str:
    """Eight hexadecimal digits that stand for these topics."""
    return digest(b"".join(topic_ids))[:8]
