"""How many records to work on before the event loop has a turn, as measured: what a record costs is up to producers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from streams.interfaces import Clock

PIECE_SECONDS: Final = 0.02
"""CPU of one piece. Heartbeats, health checks and answers to cuts wait meanwhile."""
MOST_RECORDS: Final = 4096
SLOW_SECONDS: Final = 2.0
"""CPU of a piece that was expected to take a hundredth of it: a record in it is to be found, and refused."""


class TooSlowError(Exception):
    """A record takes so long that a transaction with it might time out, again and again."""


class Pace:
    """Of one partition. `records` is how many take about `PIECE_SECONDS`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.records = MOST_RECORDS // 4

    @contextmanager
    def measured(self, records: int) -> Iterator[None]:
        """Measure the work on so many records. Raises `TooSlowError` after it."""
        began = self._clock.cpu()
        yield
        seconds = self._clock.cpu() - began
        if seconds > SLOW_SECONDS:
            self.records = 1
            raise TooSlowError
        if records >= self.records or seconds > PIECE_SECONDS:
            self.records = max(1, min(MOST_RECORDS, int(records * PIECE_SECONDS / max(seconds, 1e-6))))
