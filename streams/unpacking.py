"""Records out of a fetched batch, whatever a producer has put into it: no batch stops its partition.

aiokafka unpacks a compressed batch whatever that needs: 9 kB of zeros become 1 GB. It also fails on a header whose name
is not UTF-8. Here unpacking is bounded, and such a name is read with its bytes escaped.
Source: https://kafka.apache.org/documentation/#recordbatch.

Leans on internals of aiokafka 0.14.0, which is pinned for that reason.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import cramjam
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords

MAX_UNPACKED_BYTES: Final = 32 * 1024 * 1024
"""Of one batch. A batch of 1 MiB of JSON that is packed well unpacks to 20 MiB."""
LIKELY_RATIO: Final = 16

_HEAD_BYTES: Final = 61
_LENGTH: Final = struct.Struct(">i")
_LENGTH_AT: Final = 8
_BEFORE_LENGTH_COUNTS: Final = 12
_ATTRIBUTES: Final = struct.Struct(">h")
_ATTRIBUTES_AT: Final = 21
_CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_TIMES: Final = struct.Struct(">qq")
_TIMES_AT: Final = 27
_COUNT: Final = struct.Struct(">i")
_COUNT_AT: Final = 57
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEAD_BYTES: Final = 16


class UnreadableBatchError(ValueError):
    """A batch that cannot be unpacked within the bound, or whose records are not what its head says."""


class ReadRecord(NamedTuple):
    """A record, with the attributes of aiokafka's."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class FetchedRecords:
    """aiokafka's `MemoryRecords`, which also keeps the bytes of the batch it gave last."""

    def __init__(self, data: Any) -> None:
        self.raw = b""
        self._data = bytes(data)
        self._records = MemoryRecords(self._data)
        self._at = 0

    def size_in_bytes(self) -> int:
        """Of everything fetched."""
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        """Whether there is another whole batch."""
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        """The next batch; None at the end."""
        batch = self._records.next_batch()
        if batch is not None:
            (length,) = _LENGTH.unpack_from(self._data, self._at + _LENGTH_AT)
            self.raw = self._data[self._at : self._at + _BEFORE_LENGTH_COUNTS + length]
            self._at += len(self.raw)
        return batch


fetcher.MemoryRecords = FetchedRecords


def records_of(batch: Any, raw: bytes) -> list[Any]:
    """The records of a batch that aiokafka has read the head of. Raises `UnreadableBatchError`."""
    try:
        if batch.magic >= 2 and batch.compression_type:
            raw = _without_compression(raw)
            batch = MemoryRecords(raw).next_batch()
        return list(batch)
    except UnicodeDecodeError:
        return _escaped(batch, raw)
    except (CorruptRecordException, ValueError, RuntimeError, IndexError, struct.error) as error:
        raise UnreadableBatchError(str(error)) from error


def _without_compression(raw: bytes) -> bytes:
    """The same batch as it would be without compression; its checksum is not computed again."""
    (attributes,) = _ATTRIBUTES.unpack_from(raw, _ATTRIBUTES_AT)
    unpacked = _UNPACK[attributes & _CODEC](raw[_HEAD_BYTES:])
    head = bytearray(raw[:_HEAD_BYTES])
    _LENGTH.pack_into(head, _LENGTH_AT, _HEAD_BYTES - _BEFORE_LENGTH_COUNTS + len(unpacked))
    _ATTRIBUTES.pack_into(head, _ATTRIBUTES_AT, attributes & ~_CODEC)
    return bytes(head) + unpacked


def _gunzipped(data: bytes) -> bytes:
    parts, left = [], MAX_UNPACKED_BYTES
    while data:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            parts.append(unpacker.decompress(data, left + 1))
        except zlib.error as error:
            raise UnreadableBatchError(f"gzip: {error}") from error
        left -= len(parts[-1])
        if left < 0:
            raise _too_large()
        if not unpacker.eof:
            raise UnreadableBatchError("gzip: the data ends too early")
        data = unpacker.unused_data
    return b"".join(parts)


def _unsnapped(data: bytes) -> bytes:
    chunks = [data]
    if data.startswith(_XERIAL):
        chunks, at = [], _XERIAL_HEAD_BYTES
        while at < len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            chunks.append(data[at + _LENGTH.size : at + _LENGTH.size + length])
            at += _LENGTH.size + length
    try:
        if sum(cramjam.snappy.decompress_raw_len(chunk) for chunk in chunks) > MAX_UNPACKED_BYTES:
            raise _too_large()
        return b"".join(bytes(cramjam.snappy.decompress_raw(chunk)) for chunk in chunks)
    except cramjam.DecompressionError as error:
        raise UnreadableBatchError(f"snappy: {error}") from error


def _unpacked_into(unpack_into: Callable[[bytes, Any], int]) -> Callable[[bytes], bytes]:
    def unpacked(data: bytes) -> bytes:
        likely = min(MAX_UNPACKED_BYTES, len(data) * LIKELY_RATIO + 1024)
        try:
            buffer = bytearray(likely)
            return bytes(memoryview(buffer)[: unpack_into(data, buffer)])
        except cramjam.DecompressionError:
            pass  # too large for that, most likely
        with mmap.mmap(-1, MAX_UNPACKED_BYTES) as pages:  # zeroed only as far as it is written
            try:
                return bytes(pages[: unpack_into(data, pages)])
            except cramjam.DecompressionError as error:
                raise UnreadableBatchError(f"{error}: broken, or {_too_large()}") from error

    return unpacked


def _too_large() -> UnreadableBatchError:
    return UnreadableBatchError(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")


_UNPACK: Final[dict[int, Callable[[bytes], bytes]]] = {
    1: _gunzipped,
    2: _unsnapped,
    3: _unpacked_into(cramjam.lz4.decompress_into),
    4: _unpacked_into(cramjam.zstd.decompress_into),
}


def _escaped(batch: Any, raw: bytes) -> list[ReadRecord]:
    try:
        return list(_read(batch, raw))
    except (ValueError, IndexError, struct.error) as error:
        raise UnreadableBatchError(str(error)) from error


def _read(batch: Any, raw: bytes) -> Iterable[ReadRecord]:
    """The records of an uncompressed batch, where aiokafka cannot read the name of a header."""
    (attributes,) = _ATTRIBUTES.unpack_from(raw, _ATTRIBUTES_AT)
    first_ms, max_ms = _TIMES.unpack_from(raw, _TIMES_AT)
    (count,) = _COUNT.unpack_from(raw, _COUNT_AT)
    cursor = _Cursor(raw, _HEAD_BYTES)
    for _ in range(count):
        cursor.varint()  # its length
        cursor.at += 1  # its attributes
        timestamp = first_ms + cursor.varint()
        offset = batch.base_offset + cursor.varint()
        key, value = cursor.sized(), cursor.sized()
        headers = []
        for _ in range(cursor.varint()):
            name = cursor.sized() or b""
            headers.append((name.decode(errors="backslashreplace"), cursor.sized()))
        yield ReadRecord(offset, max_ms if attributes & _LOG_APPEND_TIME else timestamp, key, value, headers)


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self.at = at
        self._data = data

    def varint(self) -> int:
        found = shift = 0
        while True:
            byte = self._data[self.at]
            self.at += 1
            found |= (byte & 127) << shift
            if byte < 128:
                return (found >> 1) ^ -(found & 1)
            shift += 7

    def sized(self) -> bytes | None:
        size = self.varint()
        if size < 0:
            return None
        found = self._data[self.at : self.at + size]
        self.at += size
        return found
