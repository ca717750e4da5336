"""Kafka's record batches of the records of one transaction, for one partition of one topic.

Responsible for their size, their timestamp and how they are compressed. Rows are much alike, and nobody but the gate
reads them: under load zstd makes a fifth of them, at no cost to the worker that could be measured (bench/PROFILE.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final, Literal, get_args

from aiokafka.producer.message_accumulator import BatchBuilder

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]

ROWS: Final[Compression] = "zstd"
"""How the changelog is compressed."""

UNTOUCHED: Final[Compression] = "gzip"
"""How inputs are compressed that are written again as they came: dead letters, and records on their way to their
partition. Every client reads gzip; and what a producer compressed need not fit into a topic any other way."""

BATCH_BYTES: Final = 512 * 1024
"""Of records in a batch, before they are compressed; a larger record has one of its own."""

Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
"""Key, value and headers."""

_CODES: Final = {name: code for code, name in enumerate(get_args(Compression))}


def batches(records: Iterable[Record], compression: Compression) -> Iterator[BatchBuilder]:
    """As few transactional batches as hold `records`, in their order; aiokafka compresses each when it is sent."""
    now_ms = time.time_ns() // 1_000_000  # once: the builder would ask for each record
    builder = _empty(compression)
    for key, value, headers in records:
        if builder.append(timestamp=now_ms, key=key, value=value, headers=headers) is not None:
            continue
        yield builder
        builder = _empty(compression)
        if builder.append(timestamp=now_ms, key=key, value=value, headers=headers) is None:
            raise ValueError("an empty batch refused a record")
    if builder.record_count():
        yield builder


def _empty(compression: Compression) -> BatchBuilder:
    return BatchBuilder(BATCH_BYTES, _CODES[compression], is_transactional=1)
