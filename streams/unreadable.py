"""A producer's batch that cannot be unpacked: one record, refused as it came."""

from __future__ import annotations

from typing import Any

from projections.decode import Batch, Refusal
from schemas.topics import Role


def unreadable(role: Role, partition: int, start: int, batch: Any, raw: bytes, reason: str) -> Batch:
    """The batch that aiokafka has read the head of, as one record: its value is what the broker keeps, head and all."""
    offsets = f"{batch.base_offset} to {batch.next_offset - 1}"
    return Batch(
        role,
        partition,
        start,
        batch.next_offset,
        [max(start, batch.base_offset)],
        [batch.max_timestamp],
        [None],
        [raw],
        [[]],
        len(raw),
        f"{reason}; the value is Kafka's record batch of the offsets {offsets}",
    )


def refused_if_unreadable(batch: Batch, refusals: list[Refusal]) -> Batch:
    """The batch; of one that cannot be unpacked, its place in the log: what it holds is added to `refusals`."""
    if not batch.unreadable:
        return batch
    refusals.append(Refusal(batch, 0, "unreadable_batch", batch.unreadable))
    return Batch(batch.role, batch.partition, batch.start, batch.end, [], [], [], [], [])
