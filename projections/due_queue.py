"""When things fall due: one entry in the heap for each thing, however often its time is put off."""

import heapq
from collections.abc import Hashable
from typing import Any, Final

_SPARE: Final = 64
"""Outdated entries that are tolerated before the heap is built anew."""


class DueQueue:
    """The due times (ms) of things that are named by a key. Keys must be comparable with each other.

    A time that is put off leaves the heap as it is: the entry is moved when it comes up. An hour of heartbeats of 101
    sessions left 360,000 entries when each new time was pushed.
    """

    def __init__(self) -> None:
        self._due: dict[Any, int] = {}
        self._queued: dict[Any, int] = {}
        """By key, the time of its earliest entry in the heap. Never later than the due time."""
        self._heap: list[tuple[int, Any]] = []

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._due

    @property
    def entry_count(self) -> int:
        """Entries in the heap, outdated ones included."""
        return len(self._heap)

    def get(self, key: Hashable) -> int | None:
        """When the key falls due; None if it does not."""
        return self._due.get(key)

    def set(self, key: Hashable, due_ms: int | None) -> None:
        """Set or remove the due time of a key."""
        if due_ms is None:
            self._due.pop(key, None)
            return
        self._due[key] = due_ms
        queued = self._queued.get(key)
        if queued is None or due_ms < queued:
            self._queued[key] = due_ms
            heapq.heappush(self._heap, (due_ms, key))
            if len(self._heap) > 2 * len(self._due) + _SPARE:
                self._rebuild()

    def first(self) -> tuple[int, Any] | None:
        """The earliest due time and its key; None if nothing falls due."""
        heap, dues, queued = self._heap, self._due, self._queued
        while heap:
            entry = heap[0]
            at, key = entry
            due = dues.get(key)
            if due is None or queued.get(key) != at:
                heapq.heappop(heap)
                if queued.get(key) == at:
                    del queued[key]
            elif due > at:
                queued[key] = due
                heapq.heapreplace(heap, (due, key))
            else:
                return entry
        return None

    def next_due_ms(self) -> int | None:
        """The earliest due time of all."""
        first = self.first()
        return None if first is None else first[0]

    def take_due(self, now_ms: int) -> list[Any]:
        """Remove and return the keys that are due at `now_ms`, earliest first."""
        found: list[Any] = []
        while (first := self.first()) is not None and first[0] <= now_ms:
            found.append(first[1])
            del self._due[first[1]]
        return found

    def _rebuild(self) -> None:
        self._heap = [(due, key) for key, due in self._due.items()]
        self._queued = dict(self._due)
        heapq.heapify(self._heap)
