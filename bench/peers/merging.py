"""A partition's topics, merged in the order of their records' timestamps, as far as that order is known."""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter

Entry = tuple[int, int, int, bytes]
"""Timestamp (ms), number of the topic, offset, value."""

_timestamp = itemgetter(0)


class Merge:
    """What was fetched of one partition and waits for the other topics to be known up to there.

    A topic is known up to its last record fetched, or wholly while the consumer stands at its end. That is how Kafka
    Streams aligns too (`max.task.idle.ms=0`). The queues have no bound: a topic read far ahead of the others is kept.
    """

    def __init__(self, topics: int) -> None:
        self._waiting: list[list[Entry]] = [[] for _ in range(topics)]
        self._known_until = [-1] * topics
        self._at_end = [False] * topics

    def add(self, topic: int, timestamp: int, offset: int, value: bytes) -> None:
        """The next record of a topic."""
        self._waiting[topic].append((timestamp, topic, offset, value))
        self._at_end[topic] = False

    def reached_end(self, topic: int) -> None:
        """There is nothing more of this topic at present."""
        self._at_end[topic] = True

    def take(self) -> list[Entry]:
        """What can be processed now, in order."""
        for topic, waiting in enumerate(self._waiting):
            if waiting:
                self._known_until[topic] = waiting[-1][0]
        open_ended = [known for known, at_end in zip(self._known_until, self._at_end, strict=True) if not at_end]
        ready: list[Entry] = []
        for topic, waiting in enumerate(self._waiting):
            count = bisect_right(waiting, min(open_ended), key=_timestamp) if open_ended else len(waiting)
            ready += waiting[:count]
            self._waiting[topic] = waiting[count:]
        ready.sort(key=_timestamp)  # merges the runs it is made of
        return ready
