"""Broker timestamps as text, to the millisecond and in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.times import rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("timestamp_ms", "text"),
    [
        (1764000000123, "2025-11-24T16:00:00.123Z"),
        (1764000000000, "2025-11-24T16:00:00.000Z"),
        (1764000000009, "2025-11-24T16:00:00.009Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1709251199999, "2024-02-29T23:59:59.999Z"),
    ],
)
def test_a_broker_timestamp_as_text(timestamp_ms: int, text: str) -> None:
    assert rfc3339(timestamp_ms) == text


@given(st.integers(min_value=-1, max_value=253_402_300_799_999))
def test_the_text_is_that_very_moment(timestamp_ms: int) -> None:
    text = rfc3339(timestamp_ms)
    assert datetime.fromisoformat(text) == EPOCH + timedelta(milliseconds=timestamp_ms)
    assert len(text) == 24
    assert text.endswith("Z")
