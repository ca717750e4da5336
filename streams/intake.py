"""The fetched batches of one partition that wait to be folded or judged: each continues the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import structlog
from aiokafka import TopicPartition

from schemas.decode import Batch
from schemas.topics import Role
from streams.context import FetchControl

_log = structlog.get_logger(__name__)


class Intake:
    """One queue for each input topic, and the position that it ends at."""

    def __init__(self, inputs: Mapping[Role, TopicPartition], fetches: FetchControl) -> None:
        self._inputs = inputs
        self._fetches = fetches
        self._queues: dict[Role, deque[Batch]] = {role: deque() for role in inputs}
        self._is_counted = True
        self.ends: dict[Role, int] = {}
        """By role: the position after what has been queued. Empty while nothing is taken in."""

    def start(self, positions: Mapping[Role, int]) -> None:
        """Have the consumers read from these positions; what was queued is forgotten."""
        self._clear()
        self.ends = dict(positions)
        self.seek()
        for tp in self._inputs.values():
            self._fetches.joined.add(tp.partition)

    def stop(self) -> None:
        """Take nothing in any more."""
        self._clear()
        self.ends = {}
        for tp in self._inputs.values():
            self._fetches.joined.discard(tp.partition)

    def seek(self) -> None:
        """Have the consumers read on where the queues end."""
        for role, position in self.ends.items():
            tp = self._inputs[role]
            self._fetches.seek(tp.topic, tp.partition, position)

    def offer(self, batch: Batch) -> None:
        """Queue a fetched batch if it continues what is queued; drop what was there before, seek back over a hole."""
        role = batch.role
        expected = self.ends.get(role)
        if expected is None or batch.end <= expected:
            return
        if batch.start > expected:
            tp = self._inputs[role]
            _log.info("hole_sought_back", topic=tp.topic, partition=tp.partition, expected=expected)
            self._fetches.seek(tp.topic, tp.partition, expected)
            return
        if batch.start < expected:
            batch = batch.since(expected)
        self._queues[role].append(batch)
        self.ends[role] = batch.end
        self._changed(role, batch.size_bytes)

    @property
    def size_bytes(self) -> int:
        """What waits."""
        return sum(self._fetches.queued_bytes.get((tp.topic, tp.partition), 0) for tp in self._inputs.values())

    def has(self, *roles: Role) -> bool:
        """Whether batches of one of these topics wait."""
        return any(self._queues[role] for role in roles)

    def begins_below(self, role: Role, position: int) -> bool:
        """Whether the next batch of a topic begins below a position."""
        queue = self._queues[role]
        return bool(queue) and queue[0].start < position

    def take(self, role: Role, limit: int | None = None) -> Batch:
        """The next batch of a topic; with a limit, only so many of its records. The rest stays."""
        queue = self._queues[role]
        batch = queue.popleft()
        if limit is not None and len(batch) > limit:
            whole, batch = batch, next(batch.pieces(limit))
            rest = whole.since(batch.end)
            rest.size_bytes = whole.size_bytes - batch.size_bytes
            queue.appendleft(rest)
        self._changed(role, -batch.size_bytes)
        return batch

    def hold_up_cold(self, *, yes: bool) -> None:
        """Whether cold work, of any partition, waits for what is queued here of the hot lane."""
        if yes != self._is_counted:
            hot = sum(batch.size_bytes for role in ("context", "steps") for batch in self._queues[role])
            self._fetches.hot_bytes += hot if yes else -hot
            self._is_counted = yes

    def _clear(self) -> None:
        for role, queue in self._queues.items():
            self._changed(role, -sum(batch.size_bytes for batch in queue))
            queue.clear()

    def _changed(self, role: Role, size_bytes: int) -> None:
        tp = self._inputs[role]
        name = tp.topic, tp.partition
        self._fetches.queued_bytes[name] = self._fetches.queued_bytes.get(name, 0) + size_bytes
        if self._is_counted and role in {"context", "steps"}:
            self._fetches.hot_bytes += size_bytes
