"""How much one token holder may use: a token bucket for requests, a count for open streams."""

from __future__ import annotations

from collections import Counter
from typing import Final

MAX_HOLDERS: Final = 100_000
"""Buckets that are kept. A full bucket is as good as none, so the oldest ones are dropped first."""


class RateLimit:
    """Requests per second for each holder, with a burst."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_seconds(self, holder: str, now: float) -> float:
        """Take one request at the time `now`: 0.0 if it is allowed, else the time to wait, and then none is taken."""
        tokens, at = self._buckets.pop(holder, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        allowed = tokens >= 1.0
        self._buckets[holder] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > MAX_HOLDERS:
            del self._buckets[next(iter(self._buckets))]
        return 0.0 if allowed else (1.0 - tokens) / self._per_second


class StreamCount:
    """Open streams, of each holder and in all."""

    def __init__(self, per_holder: int, in_all: int) -> None:
        self._per_holder = per_holder
        self._in_all = in_all
        self._open: Counter[str] = Counter()
        self.total = 0

    def is_full(self) -> bool:
        """Whether this instance takes no further stream."""
        return self.total >= self._in_all

    def enter(self, holder: str) -> bool:
        """Count one more stream; False if the holder has as many as it may."""
        if self._open[holder] >= self._per_holder:
            return False
        self._open[holder] += 1
        self.total += 1
        return True

    def leave(self, holder: str) -> None:
        """Count one stream less."""
        self._open[holder] -= 1
        self.total -= 1
        if not self._open[holder]:
            del self._open[holder]
