"""Broker timestamps as text."""

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=4096)
def rfc3339(timestamp_ms: int) -> str:
    """`1764000000123` as `2025-11-24T16:00:00.123Z`."""
    seconds, milliseconds = divmod(timestamp_ms, 1000)
    return f"{_whole_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=4096)
def _whole_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
