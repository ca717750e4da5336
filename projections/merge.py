"""The order in which steps and results are decided: by the broker's timestamps, without reordering either log.

Kafka keeps no order between topics. The two logs of a lane are merged by timestamp, so that what follows does not
depend on which of them was fetched first. At one timestamp, a result comes before a dispatch and after all else: the
answer of a task was there before the task that follows it, and what a task did before its answer.
"""

from collections import deque
from typing import Final, NamedTuple

from projections.decode import Batch

_DISPATCHED: Final = b"task.dispatched"
_NEVER: Final = 1 << 62


class Run(NamedTuple):
    """Records `start` to `stop` of a batch, to be decided one after the other."""

    batch: Batch
    start: int
    stop: int


class LogQueue:
    """Fetched records of one topic partition that have not been decided, and the position they begin at."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        """Every record below it has been decided."""
        self.end = position
        """Every record below it has been fetched."""
        self._batches: deque[Batch] = deque()
        self._index = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def append(self, batch: Batch) -> None:
        """One more batch, which begins where the last one ends."""
        self.end = batch.end
        if len(batch):
            self._batches.append(batch)
        elif not self._batches:
            self.position = batch.end

    def head_below(self, end: int) -> tuple[Batch, int] | None:
        """The next record, if its offset is below `end`: its batch, and its place there."""
        if not self._batches:
            return None
        batch = self._batches[0]
        return (batch, self._index) if batch.offsets[self._index] < end else None

    def take(self, stop: int) -> int:
        """The first batch has been decided up to `stop`. Returns the bytes that are not queued any more."""
        batch = self._batches[0]
        if stop < len(batch):
            self._index = stop
            self.position = batch.offsets[stop]
            return 0
        self._index = 0
        self._batches.popleft()
        self.position = self._batches[0].start if self._batches else self.end
        return batch.size_bytes


def next_run(steps: LogQueue, results: LogQueue, steps_end: int, results_end: int, limit: int) -> Run | None:
    """The next records below the ends, at most `limit`; None if none is left, or it is unknown which they are.

    It is unknown while a log has records below its end that have not been fetched, and none that have.
    """
    step, result = steps.head_below(steps_end), results.head_below(results_end)
    if (step is None and steps.end < steps_end) or (result is None and results.end < results_end):
        return None
    if step is None:
        return None if result is None else _run(result, _NEVER, results_end, limit)
    if result is None:
        return _run(step, _NEVER, steps_end, limit)
    step_ms, result_ms = step[0].timestamps[step[1]], result[0].timestamps[result[1]]
    if step_ms < result_ms or (step_ms == result_ms and not _is_dispatch(step[0], step[1])):
        return _steps_run(step, result_ms, steps_end, limit)
    return _run(result, step_ms + 1 if _is_dispatch(step[0], step[1]) else step_ms, results_end, limit)


def _run(head: tuple[Batch, int], before_ms: int, end: int, limit: int) -> Run:
    """Records with timestamps before this one."""
    batch, start = head
    timestamps, offsets = batch.timestamps, batch.offsets
    stop, last = start + 1, min(len(timestamps), start + limit)
    while stop < last and timestamps[stop] < before_ms and offsets[stop] < end:
        stop += 1
    return Run(batch, start, stop)


def _steps_run(head: tuple[Batch, int], result_ms: int, end: int, limit: int) -> Run:
    """Records that come before a result with this timestamp."""
    batch, start = head
    timestamps, offsets = batch.timestamps, batch.offsets
    stop, last = start + 1, min(len(timestamps), start + limit)
    while stop < last and offsets[stop] < end:
        at_ms = timestamps[stop]
        if at_ms > result_ms or (at_ms == result_ms and _is_dispatch(batch, stop)):
            break
        stop += 1
    return Run(batch, start, stop)


def _is_dispatch(batch: Batch, index: int) -> bool:
    """Whether a record of the steps topic looks like a dispatch. Decides between equal timestamps only."""
    value = batch.values[index]
    if value is not None and _DISPATCHED in value:
        return True
    return any(name == "ce_type" and text == _DISPATCHED for name, text in batch.headers[index])
