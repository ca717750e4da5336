"""Record batches hold what they were given, in its order, in as few batches as their size allows, compressed or not."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from aiokafka.record import MemoryRecords

from streams.batches import BATCH_BYTES, Compression, Record, batches


def _read(built: bytes) -> tuple[int, list[Record]]:
    """The compression's code, and the records."""
    records: Any = MemoryRecords(built)
    batch = records.next_batch()
    assert not records.has_next()
    assert batch.is_transactional
    code = batch.compression_type
    return code, [(record.key, record.value, list(record.headers)) for record in batch]


@pytest.mark.parametrize(("code", "compression"), list(enumerate(get_args(Compression))))
def test_a_reader_finds_what_was_written(code: int, compression: Compression) -> None:
    records: list[Record] = [(b"%d" % number, b"value" * 20, [("h", b"%d" % number)]) for number in range(50)]
    records += [(b"gone", None, []), (None, b"keyless", [])]

    (builder,) = batches(records, compression)

    assert _read(bytes(builder._build())) == (code, records)


def test_no_records_make_no_batch() -> None:
    assert list(batches([], "none")) == []


def test_a_batch_holds_so_many_bytes_and_a_larger_record_has_its_own() -> None:
    records: list[Record] = [
        (b"a", b"x" * 300_000, []),
        (b"b", b"x" * 300_000, []),
        (b"large", b"x" * (2 * BATCH_BYTES), []),
        (b"c", b"x", []),
        (b"d", b"x", []),
    ]

    built = [_read(bytes(builder._build()))[1] for builder in batches(records, "none")]

    assert [[key for key, _, _ in batch] for batch in built] == [[b"a"], [b"b"], [b"large"], [b"c", b"d"]]
    assert [record for batch in built for record in batch] == records
