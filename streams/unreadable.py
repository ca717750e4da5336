"""A producer's batch that cannot be unpacked: one record, refused as it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.decode import Batch, Refusal
from schemas.topics import Role


@dataclass(slots=True)
class UnreadableBatch(Batch):
    """Its only value is the batch as the broker keeps it, head and all; `reason` says why it cannot be unpacked."""

    reason: str = ""

    def refuse(self, refusals: list[Refusal]) -> Batch:
        """Add it to `refusals`. Returns what is left: its place in the log."""
        refusals.append(Refusal(self, 0, "unreadable_batch", self.reason))
        return Batch(self.role, self.partition, self.start, self.end, [], [], [], [], [])


def unreadable(role: Role, partition: int, start: int, batch: Any, raw: bytes, reason: str) -> UnreadableBatch:
    """The batch that aiokafka has read the head of."""
    detail = (
        f"{reason}; the value is Kafka's record batch of the offsets {batch.base_offset} to {batch.next_offset - 1}"
    )
    return UnreadableBatch(
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
        detail,
    )
