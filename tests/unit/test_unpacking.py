"""Whatever a producer has put into a batch is read, or refused whole: no batch can stop its partition."""

from __future__ import annotations

import gzip
from typing import Any, Final

import cramjam
import pytest
from aiokafka.codec import lz4_encode, snappy_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from streams.batches import BatchWriter, Compression, header_block
from streams.unpacking import (
    MAX_UNPACKED_BYTES,
    FetchedRecords,
    UnreadableBatchError,
    records_of,
)

CODECS: Final[tuple[Compression, ...]] = ("none", "gzip", "snappy", "lz4", "zstd")
PACK: Final[dict[Compression, Any]] = {
    "gzip": gzip.compress,
    "snappy": snappy_encode,
    "lz4": lz4_encode,
    "zstd": lambda data: bytes(cramjam.zstd.compress(data)),
}


def built(
    compression: Compression, *records: tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]
) -> bytes:
    writer = BatchWriter(compression)
    for key, value, headers in records:
        writer.add(key, value, header_block(headers))
    return b"".join(batch._build() for batch in writer.batches())


def read(data: bytes) -> list[Any]:
    fetched, found = FetchedRecords(data), []
    while fetched.has_next():
        batch = fetched.next_batch()
        found += records_of(batch, fetched.raw)
    return found


def shown(records: list[Any]) -> list[Any]:
    return [(each.offset, each.timestamp, each.key, each.value, list(each.headers)) for each in records]


@pytest.mark.parametrize("compression", CODECS)
def test_records_are_those_that_aiokafka_reads(compression: Compression) -> None:
    data = built(compression, (b"a", b"1" * 5000, [("h", b"x"), ("n", None)]), (None, None, []), (b"c", b"", []))
    theirs = list(MemoryRecords(data).next_batch())
    assert shown(read(data)) == shown(theirs)
    assert len(theirs) == 3


def test_each_batch_of_a_fetch_is_read() -> None:
    first, second = built("zstd", (b"a", b"1", [])), built("none", (b"b", b"2", []), (b"c", b"3", []))
    assert [record.key for record in read(first + second)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("compression", CODECS)
def test_a_header_name_that_is_not_utf8_is_read_escaped(compression: Compression) -> None:
    good = built(compression, (b"a", b"1", [("before", b"x")]), (b"b", b"2", [("name", b"y"), ("after", None)]))
    # the builder takes text only: put the bytes into the finished batch, or into what is packed
    if compression == "none":
        data = good.replace(b"name", b"n\xffm\xfe")
    else:
        plain = built("none", (b"a", b"1", [("before", b"x")]), (b"b", b"2", [("name", b"y"), ("after", None)]))
        data = packed(compression, plain[61:].replace(b"name", b"n\xffm\xfe"), count=2)
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(data).next_batch())
    first, second = read(data)
    assert (first.key, first.value, list(first.headers)) == (b"a", b"1", [("before", b"x")])
    assert (second.offset, second.key, second.value) == (1, b"b", b"2")
    assert second.headers == [("n\\xffm\\xfe", b"y"), ("after", None)]


def packed(compression: Compression, records: bytes, count: int) -> bytes:
    """A batch with these records, packed. Its checksum is wrong."""
    head = bytearray(built(compression, *[(b"k", b"v", [])] * count)[:61])
    content: bytes = PACK[compression](records)
    head[8:12] = (49 + len(content)).to_bytes(4, "big")
    return bytes(head) + content


@pytest.mark.parametrize("compression", CODECS[1:])
def test_what_unpacks_to_more_than_the_bound_is_refused(compression: Compression) -> None:
    data = packed(compression, b"\0" * (MAX_UNPACKED_BYTES + 1), count=1)
    assert len(data) < MAX_UNPACKED_BYTES / 15
    with pytest.raises(UnreadableBatchError, match="more than 33,554,432 bytes"):
        read(data)


@pytest.mark.parametrize("compression", CODECS[1:])
def test_what_is_not_packed_as_it_says_is_refused(compression: Compression) -> None:
    data = bytearray(built(compression, (b"a", b"1" * 5000, [])))
    data[65:75] = b"\x01" * 10
    with pytest.raises(UnreadableBatchError):
        read(bytes(data))


@pytest.mark.parametrize("compression", CODECS[1:])
def test_records_that_are_none_are_refused(compression: Compression) -> None:
    with pytest.raises(UnreadableBatchError):
        read(packed(compression, b"\x80" * 300, count=3))


def test_a_batch_of_the_builder_that_others_use_is_read() -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=4, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    builder.append(0, 1234, b"k", b"v" * 100, [("h", b"1")])
    (record,) = read(bytes(builder.build()))
    assert (record.timestamp, record.key, record.headers) == (1234, b"k", [("h", b"1")])
