"""What a transaction writes is measured before it is written: whatever came in, every record fits its topic."""

from __future__ import annotations

from random import Random
from typing import Any, Final

import pytest
from aiokafka import TopicPartition
from aiokafka.record.memory_records import MemoryRecords

from projections.changes import Changes
from projections.decode import Batch, Refusal
from schemas.topics import DLQ_MAX_MESSAGE_BYTES, MAX_INPUT_BYTES, Role
from streams.config import EngineConfig
from streams.home import partition_of
from streams.interfaces import Layout
from streams.staging import Stager

PARTITIONS: Final = 3
CONFIG: Final = EngineConfig({})
SESSION: Final = "user"
HOME: Final = partition_of(SESSION, PARTITIONS)
HERE: Final = (HOME + 1) % PARTITIONS
MOST: Final = MAX_INPUT_BYTES - 200


def noise(count: int) -> bytes:
    """Bytes that no compression makes smaller."""
    return Random(1).randbytes(count)


def batch(key: bytes | None, value: bytes | None, headers: list[tuple[str, Any]]) -> Batch:
    return Batch("context", HERE, 7, 8, [7], [1000], [key], [value], [headers])


def staged(changes: Changes) -> dict[TopicPartition, list[Any]]:
    """The records by topic partition; every batch is one that the topic takes."""
    found = {}
    for tp, batches in Stager(CONFIG, HERE, Layout(PARTITIONS, {})).batches(changes, {"context": 8}).items():
        limit = DLQ_MAX_MESSAGE_BYTES if tp.topic == CONFIG.topic("dlq") else MAX_INPUT_BYTES
        assert all(len(each._build()) <= limit for each in batches)
        found[tp] = [record for each in batches for record in (MemoryRecords(each._build()).next_batch() or ())]
    return found


def tp(role: Role, partition: int) -> TopicPartition:
    return TopicPartition(CONFIG.topic(role), partition)


def test_a_misrouted_record_goes_home_with_everything_it_has() -> None:
    changes = Changes()
    changes.misrouted = [(batch(SESSION.encode(), b"{}", [("x", b"1"), ("n", None)]), 0)]
    (record,) = staged(changes)[tp("context", HOME)]
    assert (record.key, record.value) == (SESSION.encode(), b"{}")
    origin = f"tidegate.context.v1/{HERE}/7".encode()
    assert list(record.headers) == [("x", b"1"), ("n", None), ("tidegate_forwarded_from", origin)]


def test_a_misrouted_record_that_has_no_room_for_another_header_is_refused() -> None:
    """A worker died of it, and the next one of the same record."""
    full = noise(MOST)
    changes = Changes()
    changes.misrouted = [(batch(SESSION.encode(), b"{}", [("x", full)]), 0)]
    found = staged(changes)
    assert tp("context", HOME) not in found
    assert changes.misrouted == []
    (letter,) = found[tp("dlq", HERE)]
    headers = dict(letter.headers)
    assert headers["tidegate_error"] == b"forward_too_large"
    assert headers["x"] == full


@pytest.mark.parametrize(
    ("key", "value", "header", "left_out"),
    [
        (100, MOST, MOST // 2, None),
        (100, MOST, MOST + 100_000, b"headers"),
        (100, 2 * MOST + 100_000, 10, b"headers, value"),
        (2 * MOST + 100_000, 10, 10, b"headers, value, key"),
    ],
)
def test_a_dead_letter_leaves_out_what_its_topic_does_not_take(
    key: int, value: int, header: int, left_out: bytes | None
) -> None:
    record = batch(noise(key), noise(value), [("x", noise(header))])
    changes = Changes()
    changes.refusals = [Refusal(record, 0, "invalid_event", "why")]
    (letter,) = staged(changes)[tp("dlq", HERE)]
    headers = dict(letter.headers)
    assert headers["tidegate_error"] == b"invalid_event"
    assert headers["tidegate_origin_offset"] == b"7"
    assert headers.get("tidegate_left_out") == left_out
    assert ("x" in headers) == (left_out is None)
    assert (letter.value is None) == (left_out is not None and b"value" in left_out)
    assert (letter.key is None) == (left_out is not None and b"key" in left_out)
