"""Record batches hold what they were given, in its order, in as few batches as their size allows, compressed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args

import pytest
from aiokafka.record import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import Envelope
from streams.batches import (
    BATCH_BYTES,
    NO_HEADERS,
    BatchWriter,
    Compression,
    EnvelopeEncoder,
    RecordBatch,
    header_block,
    varint,
)

Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]
TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LONG: Final = "x" * 20_000
"""Longer than the lengths whose encoding is looked up."""


def written(records: Sequence[Record], compression: Compression = "none") -> list[RecordBatch]:
    writer = BatchWriter(compression)
    for key, value, headers in records:
        writer.add(key, value, header_block(headers))
    return writer.batches()


def read(batch: RecordBatch) -> tuple[int, list[Record]]:
    """The compression's code, and the records, as aiokafka's consumer reads them."""
    records: Any = MemoryRecords(bytes(batch._build()))
    found = records.next_batch()
    assert not records.has_next()
    assert found.is_transactional
    assert found.validate_crc()
    code = found.compression_type
    return code, [(record.key, record.value, list(record.headers)) for record in found]


@pytest.mark.parametrize(("code", "compression"), list(enumerate(get_args(Compression))))
def test_a_reader_finds_what_was_written(code: int, compression: Compression) -> None:
    records: list[Record] = [(b"%d" % number, b"value" * 20, [("h", b"%d" % number)]) for number in range(50)]
    records += [(b"gone", None, []), (None, b"keyless", []), (b"", b"", [("", b""), ("null", None), ("ü", b"\xff")])]
    records += [(LONG.encode(), LONG.encode(), [(LONG, LONG.encode())])]

    (batch,) = written(records, compression)

    assert batch.record_count() == len(records)
    size = batch.size()
    assert read(batch) == (code, records)
    assert len(batch._build()) == size


def test_no_records_make_no_batch() -> None:
    assert written([]) == []


def test_a_batch_holds_so_many_bytes_and_a_larger_record_has_its_own() -> None:
    records: list[Record] = [
        (b"a", b"x" * 300_000, []),
        (b"b", b"x" * 300_000, []),
        (b"large", b"x" * (2 * BATCH_BYTES), []),
        (b"c", b"x", []),
        (b"d", b"x", []),
    ]

    found = [read(batch)[1] for batch in written(records)]

    assert [[key for key, _, _ in batch] for batch in found] == [[b"a"], [b"b"], [b"large"], [b"c", b"d"]]
    assert [record for batch in found for record in batch] == records


def test_the_producer_s_state_is_in_the_batch_that_is_sent() -> None:
    (batch,) = written([(b"a", b"x", [])])
    batch.close()
    assert batch.closed()
    batch._set_producer_state(producer_id=2**40, producer_epoch=7, base_sequence=12)
    found: Any = MemoryRecords(bytes(batch._build())).next_batch()
    assert (found.producer_id, found.producer_epoch, found.base_sequence) == (2**40, 7, 12)
    assert found.validate_crc()


@given(st.integers(-(2**62), 2**62))
def test_a_varint_is_read_back(number: int) -> None:
    shift = result = 0
    for byte in varint(number):
        result |= (byte & 127) << shift
        shift += 7
    assert (result >> 1) ^ -(result & 1) == number


# Headers of outputs


@pytest.mark.parametrize("trace", [None, TRACE])
@pytest.mark.parametrize("session", ["s", "sé/1", "s" * 300])
def test_an_envelope_is_encoded_as_its_headers_are(session: str, trace: str | None) -> None:
    encoder = EnvelopeEncoder()
    for event_type in ("task.status", "result.delivered", "task.status"):
        for occurred_at in ("2025-11-24T16:00:00.123Z", "2025-11-24T16:00:00.124Z"):
            for event_id in ("1", "d41d8cd9-1"):
                envelope = Envelope(event_type, "gäte", event_id, session.encode(), occurred_at, trace)
                assert encoder.encode(envelope) == header_block(envelope.headers())


def test_no_headers_are_a_block_of_their_own() -> None:
    assert header_block([]) == NO_HEADERS
