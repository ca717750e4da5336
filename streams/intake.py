"""The fetched batches of one partition that wait to be folded or decided: each continues the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import structlog
from aiokafka import TopicPartition

from projections.decode import Batch
from projections.merge import LogQueue, Run, next_run
from schemas.fields import Lane
from schemas.topics import Role
from streams.config import RESULTS, STEPS
from streams.context import FetchControl

_log = structlog.get_logger(__name__)


class Intake:
    """One queue for each input topic, and the position that it ends at.

    Context is taken in whole batches. Steps and results of a lane are taken in runs, in the order of their merge.
    """

    def __init__(self, inputs: Mapping[Role, TopicPartition], fetches: FetchControl) -> None:
        self._inputs = inputs
        self._fetches = fetches
        self._context: deque[Batch] = deque()
        self._logs: dict[Role, LogQueue] = {role: LogQueue() for role in inputs if role != "context"}
        self.ends: dict[Role, int] = {}
        """By role: the position after what has been queued. Empty while nothing is taken in."""

    def start(self, positions: Mapping[Role, int]) -> None:
        """Have the consumers read from these positions; what was queued is forgotten."""
        self._clear()
        self.ends = dict(positions)
        self._logs = {role: LogQueue(position) for role, position in positions.items() if role != "context"}
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
        if role == "context":
            self._context.append(batch)
        else:
            self._logs[role].append(batch)
        self.ends[role] = batch.end
        self._changed(role, batch.size_bytes)

    @property
    def size_bytes(self) -> int:
        """What waits."""
        return sum(self._fetches.queued_bytes.get((tp.topic, tp.partition), 0) for tp in self._inputs.values())

    def has(self, *roles: Role) -> bool:
        """Whether batches of one of these topics wait."""
        return any(self._context if role == "context" else self._logs[role] for role in roles)

    def take(self, limit: int | None = None) -> Batch:
        """The next batch of context; with a limit, only so many of its records. The rest stays."""
        queue = self._context
        batch = queue.popleft()
        if limit is not None and len(batch) > limit:
            whole, batch = batch, next(batch.pieces(limit))
            rest = whole.since(batch.end)
            rest.size_bytes = whole.size_bytes - batch.size_bytes
            queue.appendleft(rest)
        self._changed("context", -batch.size_bytes)
        return batch

    def next_run(self, lane: Lane, ends: Mapping[Role, int], limit: int) -> Run | None:
        """The next records of the lane's steps and results, see `projections.merge`."""
        steps, results = STEPS[lane], RESULTS[lane]
        return next_run(self._logs[steps], self._logs[results], ends[steps], ends[results], limit)

    def taken(self, run: Run) -> int:
        """The run has been decided. Returns the position that its topic has been applied to."""
        role, log = run.batch.role, self._logs[run.batch.role]
        self._changed(role, -log.take(run.stop))
        return log.position

    def position(self, role: Role) -> int:
        """The position that a lane's topic has been applied to."""
        return self._logs[role].position

    def _clear(self) -> None:
        self._context.clear()
        self._logs = {role: LogQueue() for role in self._logs}
        for role, tp in self._inputs.items():
            self._changed(role, -self._fetches.queued_bytes.get((tp.topic, tp.partition), 0))

    def _changed(self, role: Role, size_bytes: int) -> None:
        tp = self._inputs[role]
        name = tp.topic, tp.partition
        self._fetches.queued_bytes[name] = self._fetches.queued_bytes.get(name, 0) + size_bytes
