"""What fits into a topic: records that the gate passes on as they came are measured here before they are written.

What the gate itself publishes is bounded by `projections.publish`, and rows by `projections.budget`. A forwarded record
and a dead letter have the producer's own key, value and headers, and the gate's headers besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from schemas.envelope import Headers
from schemas.topics import MAX_INPUT_BYTES, Role, topics
from streams.batches import UNTOUCHED, BatchWriter, header_block
from streams.config import EngineConfig

CERTAIN_BYTES: Final = 512 * 1024
"""A record up to this size fits wherever it may have come from; it is not measured."""


def limits(config: EngineConfig) -> Mapping[Role, int]:
    """The largest batch that each topic of the contract takes, in bytes."""
    return {
        topic.role: int(topic.config.get("max.message.bytes", MAX_INPUT_BYTES)) for topic in topics(config.topic_prefix)
    }


def excess(key: bytes | None, value: bytes | None, headers: Headers, limit: int) -> int:
    """How many bytes a record, as it is written, has too many for a limit; 0 where it fits."""
    block = header_block(headers)
    if (len(key) if key is not None else 0) + (len(value) if value is not None else 0) + len(block) <= CERTAIN_BYTES:
        return 0
    writer = BatchWriter(UNTOUCHED)
    writer.add(key, value, block)
    (batch,) = writer.batches()
    return max(0, len(batch._build()) - limit)
