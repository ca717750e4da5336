"""A batch that cannot be unpacked is one record, refused with its bytes, and keeps its place in the log."""

from __future__ import annotations

from types import SimpleNamespace

from projections.decode import Batch, Refusal
from streams.unreadable import refused_if_unreadable, unreadable


def test_it_is_refused_as_it_came() -> None:
    head = SimpleNamespace(base_offset=10, next_offset=15, max_timestamp=1234)
    batch = unreadable("context", 3, 9, head, b"raw", "too large")
    assert (batch.start, batch.end, batch.offsets, batch.values) == (9, 15, [10], [b"raw"])
    refusals: list[Refusal] = []
    left = refused_if_unreadable(batch, refusals)
    assert (left.start, left.end, len(left)) == (9, 15, 0)
    (refusal,) = refusals
    assert (refusal.error, refusal.batch.values[refusal.index]) == ("unreadable_batch", b"raw")
    assert refusal.detail == "too large; the value is Kafka's record batch of the offsets 10 to 14"


def test_any_other_is_left_as_it_is() -> None:
    batch = Batch("context", 0, 0, 1, [0], [0], [None], [b"{}"], [[]])
    refusals: list[Refusal] = []
    assert refused_if_unreadable(batch, refusals) is batch
    assert refusals == []
