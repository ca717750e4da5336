"""Broker timestamps as text."""

from datetime import UTC, datetime


def rfc3339(timestamp_ms: int) -> str:
    """`1764000000123` as `2025-11-24T16:00:00.123Z`."""
    moment = datetime.fromtimestamp(timestamp_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{timestamp_ms % 1000:03d}Z"
