"""Batches and records that broke workers, one after the other, because each new owner read them again.

Every test ends with a verdict: the partition has gone on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import cramjam
import psutil
import pytest

from schemas.topics import MAX_INPUT_BYTES, Role
from streams.batches import BatchWriter, RecordBatch, header_block, varint
from testing.process import Worker
from tests.broker.events import body, changed, dispatched, returned, sessions_on
from tests.broker.harness import Gate
from tests.broker.outputs import Outputs
from tidegate.settings import Settings

MakeSettings = Callable[..., Settings]

MIB: Final = 1024 * 1024
ZSTD: Final = 4

pytestmark = pytest.mark.timeout(120)


class RawBatch(RecordBatch):
    """A batch whose records are these bytes, packed or not, as any producer may write it."""

    def __init__(self, records: bytes, count: int, codec: int = 0) -> None:
        super().__init__([records], count, "none", time.time_ns() // 1_000_000)
        self._attributes = codec


def encoded(*records: tuple[bytes | None, bytes | None, list[tuple[str, Any]]]) -> bytes:
    """Records as they stand in a batch."""
    writer = BatchWriter("none")
    for key, value, headers in records:
        writer.add(key, value, header_block(headers))
    (batch,) = writer.batches()
    return b"".join(batch._records)


async def _write(gate: Gate, role: Role, partition: int, batch: RecordBatch) -> int:
    sent: Any = await gate.producer.send_batch(batch, gate.topic(role), partition=partition)
    return int((await sent).offset)


async def _goes_on(gate: Gate, outputs: Outputs, task: str = "task", session: str = "user") -> None:
    await gate.send(dispatched(session, task, {}), returned(session, task))
    await outputs.until(lambda: outputs.verdict(task), 30, "the partition goes on")
    await gate.drained(20)


async def _most_memory(worker: Worker) -> int:
    """The most that a worker has held, in bytes, until this is cancelled."""
    most, process = 0, psutil.Process(worker.pid)
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.01)
    return most


async def _header_name(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        await gate.start("worker")
        good = body(changed("user", {"view": "1"}))
        records = encoded((b"user", good, [("name", b"x")]), (b"user", b"no event", [("name", b"x")]))
        await _write(gate, "context", 0, RawBatch(records.replace(b"name", b"n\xffm\xfe"), 2))
        await gate.send(dispatched("user", "stale", {"view": "0"}), returned("user", "stale"))
        await outputs.until(lambda: outputs.verdict("stale"), 30, "the good one was folded")
        assert outputs.decided(["stale"]) == {"stale": ("withheld", "stale")}
        await outputs.until(lambda: outputs.of("dlq"), 20, "the bad one is refused")
        (letter,) = outputs.of("dlq")
        assert letter.value == b"no event"
        assert letter.headers["n\\xffm\\xfe"] == b"x"
        await _goes_on(gate, outputs)


def test_a_header_name_that_is_not_utf8(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_header_name(make_settings, tmp_path))


def _zeros(count: int) -> bytes:
    """A record with so many zeros for its value, packed."""
    content = b"\0\0\0" + varint(-1) + varint(count)  # attributes, time and place, no key
    compressor = cramjam.zstd.Compressor()
    compressor.compress(varint(len(content) + count + 1) + content)
    for _ in range(count // MIB):
        compressor.compress(bytes(MIB))
    compressor.compress(varint(0))  # no headers
    return bytes(compressor.finish())


async def _one_gigabyte(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        (worker,) = await gate.start("worker")
        await _goes_on(gate, outputs, "before")
        packed = _zeros(1024 * MIB)
        assert len(packed) < 64 * 1024
        offset = await _write(gate, "context", 0, RawBatch(packed, 1, ZSTD))
        memory = asyncio.create_task(_most_memory(worker))
        await outputs.until(lambda: outputs.of("dlq"), 30, "it is refused")
        memory.cancel()
        most = await memory
        (letter,) = outputs.of("dlq")
        assert letter.headers["tidegate_error"] == b"unreadable_batch"
        assert letter.headers["tidegate_origin_offset"] == str(offset).encode()
        assert letter.value is not None
        assert letter.value.endswith(packed)  # as it came
        assert most < 400 * MIB
        await _goes_on(gate, outputs)


def test_a_record_that_unpacks_to_a_gigabyte(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_one_gigabyte(make_settings, tmp_path))


async def _no_room(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=3), tmp_path) as gate, gate.outputs() as outputs:
        await gate.start("worker")
        (lost,) = sessions_on(0, 3, 1, "lost")
        value = body(changed(lost, {"view": "1"}))
        overhead = 61 + len(encoded((lost.encode(), value, [("x", b"")])))
        full = [("x", Random(1).randbytes(MAX_INPUT_BYTES - overhead - 20))]
        records = encoded((lost.encode(), value, full))
        assert MAX_INPUT_BYTES >= 61 + len(records) > MAX_INPUT_BYTES - 20
        await _write(gate, "context", 2, RawBatch(records, 1))
        await outputs.until(lambda: outputs.of("dlq"), 30, "it is refused")
        (letter,) = outputs.of("dlq")
        assert (letter.partition, letter.headers["tidegate_error"]) == (2, b"forward_too_large")
        assert (letter.value, letter.headers["x"]) == (value, full[0][1])
        for partition in range(3):
            (session,) = sessions_on(partition, 3, 1, "other")
            await _goes_on(gate, outputs, f"task-{partition}", session)
        await gate.audit(tasks=3)


def test_a_misrouted_record_without_room_for_another_header(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_no_room(make_settings, tmp_path))


async def _headers(make_settings: MakeSettings, tmp_path: Path) -> None:
    """Small on the broker, 2 MB each in memory: an open transaction keeps everything behind it waiting."""
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        (worker,) = await gate.start("worker")
        await _goes_on(gate, outputs, "before")
        async with gate.transactional("holder") as producer:
            await producer.begin_transaction()
            await gate.send_with(producer, changed("user", {"view": "1"}))
            headers = [(f"header-{number}", b"\0" * 4096) for number in range(500)]
            for number in range(300):
                event = body(returned("user", f"task-{number}"))
                packed = bytes(cramjam.zstd.compress(encoded((b"user", event, headers))))
                await _write(gate, "results", 0, RawBatch(packed, 1, ZSTD))
            memory = asyncio.create_task(_most_memory(worker))
            await asyncio.sleep(5.0)
            memory.cancel()
            most = await memory
            assert most < 500 * MIB
            await producer.commit_transaction()
        await gate.drained(60, "everything is judged or refused")
        await _goes_on(gate, outputs)


@pytest.mark.long  # 40 s of unpacking
def test_records_whose_headers_unpack_to_megabytes(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_headers(make_settings, tmp_path))


async def _many_problems(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        await gate.start("worker")
        facets = b",".join(b'"%d":1' % number for number in range(90_000))
        good = body(changed("user", {"a": "1"}))
        await gate.write_raw("context", 0, (b"user", good.replace(b'"a":"1"', facets), []))
        await outputs.until(lambda: outputs.of("dlq"), 20, "it is refused")
        await _goes_on(gate, outputs)
        await gate.audit(tasks=1)


def test_a_record_that_is_invalid_in_90_000_places(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_many_problems(make_settings, tmp_path))
