"""Broker timestamps as text."""

from datetime import UTC, datetime
from typing import Final

_MILLISECONDS: Final[list[str]] = [f".{number:03d}Z" for number in range(1000)]
_seconds: Final[dict[int, str]] = {}
_MAX_SECONDS: Final = 4096
"""Whole seconds that are kept as text: an hour, as most times of a cycle are near each other."""


def rfc3339(timestamp_ms: int) -> str:
    """`1764000000123` as `2025-11-24T16:00:00.123Z`."""
    seconds = timestamp_ms // 1000
    text = _seconds.get(seconds)
    if text is None:
        if len(_seconds) >= _MAX_SECONDS:
            _seconds.clear()
        text = _seconds[seconds] = _text_of(seconds)
    return text + _MILLISECONDS[timestamp_ms % 1000]


def _text_of(seconds: int) -> str:
    """The second as text. A broker's clock may be anywhere: what no calendar has is its first or last second."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
    except (OverflowError, ValueError, OSError):
        return "9999-12-31T23:59:59" if seconds > 0 else "0001-01-01T00:00:00"
