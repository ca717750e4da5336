"""The recent records of one partition, in memory, and the streams that follow it. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.cursor import STREAM_ROLES, cursor_text
from gateway.frames import event_of, frame, position_frame, session_of
from gateway.subscriber import Subscriber

_OVERHEAD_BYTES: Final = 200


@dataclass(frozen=True, slots=True)
class Kept:
    """A record in the tail. `role` is an index into `STREAM_ROLES`."""

    role: int
    offset: int
    session_id: str
    value: bytes | None


class Tail:
    """What was read of one partition since `start`, up to `positions`. Both are one offset for each stream role.

    Every record is handed to the streams of its session at once and kept as long as there is room.
    """

    def __init__(self, fingerprint: str, partition: int, positions: Iterable[int]) -> None:
        self.fingerprint = fingerprint
        self.partition = partition
        self.positions = list(positions)
        self.start = list(self.positions)
        self.size_bytes = 0
        self.idle_since: float | None = None
        self.subscribers: dict[str, set[Subscriber]] = {}
        self._kept: deque[Kept] = deque()

    def cursor(self) -> str:
        """Where a stream stands that has got everything."""
        return cursor_text(self.fingerprint, self.partition, self.positions)

    def add(self, role: int, offset: int, key: bytes | None, value: bytes | None) -> int:
        """Take in the next record of a topic; returns how many streams got it. One that is known is left out."""
        if offset < self.positions[role]:
            return 0
        self.positions[role] = offset + 1
        session_id = session_of(STREAM_ROLES[role], key)
        if session_id is None:
            return 0
        kept = Kept(role, offset, session_id, value)
        self._kept.append(kept)
        self.size_bytes += _OVERHEAD_BYTES + len(value or b"")
        following = self.subscribers.get(session_id)
        if not following:
            return 0
        event = event_of(STREAM_ROLES[role], value)
        if event is None:
            return 0
        name, data, replaces = event
        block = frame(name, data, self.cursor())
        for each in following:
            each.put(block, replaces)
            each.events_out += 1
        return len(following)

    def advance(self, role: int, position: int) -> None:
        """Move past offsets without records: markers and aborted records also take offsets."""
        self.positions[role] = max(self.positions[role], position)

    def trim(self, limit_bytes: int) -> None:
        """Drop the oldest records until the rest fits."""
        while self.size_bytes > limit_bytes and self._kept:
            dropped = self._kept.popleft()
            self.size_bytes -= _OVERHEAD_BYTES + len(dropped.value or b"")
            self.start[dropped.role] = dropped.offset + 1

    def covers(self, positions: Iterable[int]) -> bool:
        """Whether a stream at these positions can resume from the tail alone."""
        return all(position >= start for position, start in zip(positions, self.start, strict=True))

    def since(self, session_id: str, positions: Iterable[int]) -> Iterator[tuple[int, int, bytes | None]]:
        """The session's kept records from `positions` on: role, offset and value."""
        at = tuple(positions)
        for kept in self._kept:
            if kept.session_id == session_id and kept.offset >= at[kept.role]:
                yield kept.role, kept.offset, kept.value

    def follow(self, subscriber: Subscriber, positions: Iterable[int]) -> None:
        """Give a stream what it has missed since `positions`, and from now on everything of its session."""
        replay(
            subscriber, self.fingerprint, self.partition, list(positions), self.since(subscriber.session_id, positions)
        )
        subscriber.put(position_frame(self.cursor()))
        self.subscribers.setdefault(subscriber.session_id, set()).add(subscriber)
        self.idle_since = None

    def leave(self, subscriber: Subscriber, now: float) -> None:
        """End a stream. Harmless if it does not follow."""
        following = self.subscribers.get(subscriber.session_id)
        if following is not None:
            following.discard(subscriber)
            if not following:
                del self.subscribers[subscriber.session_id]
        if not self.subscribers:
            self.idle_since = now

    def everyone(self) -> list[Subscriber]:
        """All streams of the partition."""
        return [each for following in self.subscribers.values() for each in following]


def replay(
    subscriber: Subscriber,
    fingerprint: str,
    partition: int,
    positions: list[int],
    records: Iterable[tuple[int, int, bytes | None]],
) -> None:
    """Put older records into a stream that stands at `positions`, which move along."""
    for role, offset, value in records:
        positions[role] = offset + 1
        event = event_of(STREAM_ROLES[role], value)
        if event is not None:
            name, data, replaces = event
            subscriber.put(frame(name, data, cursor_text(fingerprint, partition, positions)), replaces)
            subscriber.events_out += 1
