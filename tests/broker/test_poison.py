"""Records the gate cannot use reach the DLQ byte for byte, and everything around them is folded and committed.

A gate that decodes a batch in one call loses the batch to one bad record; one that skips what raises loses the record;
one that re-serializes changes its bytes. An output beyond the broker's limit fails the whole transaction again and
again (or, where a failed batch is not awaited, is lost while the rest is committed).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaProducer

from schemas.topics import Role
from tests.broker.events import body, changed, dispatched, returned, sessions_on
from tests.broker.harness import Gate
from tests.broker.outputs import Output, Outputs
from tidegate.settings import Settings

MakeSettings = Callable[..., Settings]
Raw = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]

FRESH: Final = ("delivered", "fresh")
STALE: Final = ("withheld", "stale")
KIB: Final = 1024

pytestmark = pytest.mark.timeout(120)


def _letter(outputs: Outputs, gate: Gate, role: Role, offset: int) -> Output:
    """The only DLQ record about this input."""
    origin = (gate.topic(role).encode(), str(offset).encode())
    found = [
        each
        for each in outputs.of("dlq")
        if (each.headers["tidegate_origin_topic"], each.headers["tidegate_origin_offset"]) == origin
    ]
    assert len(found) == 1, f"{len(found)} DLQ records for {role} {offset}"
    return found[0]


def _assert_untouched(letter: Output, raw: Raw, error: str) -> None:
    key, value, headers = raw
    assert (letter.key, letter.value) == (key, value)
    assert letter.headers["tidegate_error"].decode() == error
    assert letter.headers["tidegate_error_detail"]
    assert letter.headers["tidegate_origin_timestamp"].isdigit()
    assert {name: letter.headers[name] for name, _ in headers} == dict(headers)


async def _bad_in_the_middle(make_settings: MakeSettings, tmp_path: Path) -> None:
    """One fetched batch: good records, and between them everything that is not an event of the contract."""
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        user = "user"
        good = body(changed(user, {"a": "1"}))
        bad: list[Raw] = [
            (b"user", b"not json at all", [("x-trace", b"\x00\xff")]),
            (b"user", b"\xff\xfe broken utf-8", []),
            (b"user", good[:-1], []),  # half an object
            (b"user", good + b"," + good, []),  # two of them: together with the neighbours still a list
            (b"user", good.replace(b'"context.changed"', b'"context.unheard_of"'), []),
            (b"user", good.replace(b'"set":{"a":"1"}', b'"set":{"a":1}'), []),
            (b"user", good.replace(b'"a":"1"', b'"a":"' + b"x" * 2000 + b'"'), []),
            (b"user", b"", []),
            (b"user", None, []),
            (b"somebody else", good, []),
            (None, b"[]", [("kept", b"as it is")]),
        ]
        records: list[Raw] = []
        for number, each in enumerate(bad):
            around = (changed(user, {f"before-{number}": "1"}), changed(user, {f"after-{number}": "1"}))
            records += [(b"user", body(around[0]), []), each, (b"user", body(around[1]), [])]
        offsets = await gate.write_raw("context", 0, *records)
        names = [f"{side}-{number}" for number in range(len(bad)) for side in ("before", "after")]
        # one task for each neighbour: stale only if that neighbour was folded
        for name in names:
            await gate.send(dispatched(user, name, {name: "0"}), returned(user, name))
        await gate.start("worker")
        await outputs.until(lambda: len(outputs.decided(names)) == len(names), 30, "every result is judged")
        assert outputs.decided(names) == dict.fromkeys(names, STALE)
        await gate.drained(30)
        await outputs.until(lambda: len(outputs.of("dlq")) >= len(bad), 20, "bad records reach the DLQ")
        assert len(outputs.of("dlq")) == len(bad)
        for number, each in enumerate(bad):
            letter = _letter(outputs, gate, "context", offsets[3 * number + 1])
            _assert_untouched(letter, each, "empty_value" if each[1] is None else "invalid_event")
        await gate.audit(tasks=len(names))


def test_bad_records_in_the_middle_of_a_batch(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_bad_in_the_middle(make_settings, tmp_path))


def _parts(count: int, payload: Any) -> list[dict[str, Any]]:
    return [{"part_id": f"part-{number}", "kind": "show", "payload": payload} for number in range(count)]


async def _too_large(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        tasks = [*(f"small-{number}" for number in range(20)), "largest", "too-large", "explained"]
        snapshots: dict[str, dict[str, str | None]] = {"explained": {f"doc/{number}": "1" for number in range(40)}}
        await gate.send(*(dispatched("user", task, snapshots.get(task, {"view/tab-1": "1"})) for task in tasks))
        await gate.send(*(changed("user", {facet: "\x01" * 1024}) for facet in snapshots["explained"]))
        largest = body(returned("user", "largest", parts=_parts(3, "y" * (250 * KIB))))
        assert 750 * KIB < len(largest) <= 768 * KIB
        # within the broker's limit, but nothing could be added to it
        too_large = body(returned("user", "too-large", parts=_parts(4, "y" * (255 * KIB))))
        assert 1000 * KIB < len(too_large) < 1024 * KIB
        # within every limit, but its verdict tells what differs, for each part: 1 KiB of control characters as 6 KiB
        parts = _parts(3, "y" * (240 * KIB)) + _parts(64, "y")[3:]
        explained = body(returned("user", "explained", parts=parts))
        assert len(explained) < 768 * KIB < len(explained) + 64 * 6 * KIB
        around: list[Raw] = [(b"user", body(returned("user", task)), ()) for task in tasks[:20]]
        records: list[Raw] = [*around[:10], (b"user", explained, [("x-trace", b"1")]), *around[10:]]
        offsets = await gate.write_raw("results", 0, *records)
        (largest_offset,) = await gate.write_raw("results", 0, (b"user", largest, ()))
        (too_large_offset,) = await gate.write_raw("results", 0, (b"user", too_large, [("x-trace", b"2")]))
        await gate.start("worker")
        judged = tasks[:21]
        await outputs.until(lambda: len(outputs.decided(judged)) == len(judged), 30, "all others are judged")
        assert outputs.decided(tasks) == dict.fromkeys(judged, FRESH)
        await gate.drained(30)
        delivered = outputs.verdict("largest")
        assert delivered is not None
        assert delivered.body["result"]["offset"] == largest_offset
        assert [part["payload"] for part in delivered.body["parts"]] == ["y" * (250 * KIB)] * 3
        await outputs.until(lambda: len(outputs.of("dlq")) >= 2, 20, "both reach the DLQ")
        assert len(outputs.of("dlq")) == 2
        _assert_untouched(_letter(outputs, gate, "results", offsets[10]), records[10], "output_too_large")
        letter = _letter(outputs, gate, "results", too_large_offset)
        _assert_untouched(letter, (b"user", too_large, [("x-trace", b"2")]), "invalid_event")
        # their tasks are still open: results that fit end them
        await gate.send(returned("user", "explained"), returned("user", "too-large"))
        await outputs.until(lambda: len(outputs.decided(tasks)) == len(tasks), 20, "smaller results end the tasks")
        assert outputs.decided(["explained", "too-large"]) == {"explained": STALE, "too-large": FRESH}
        await gate.audit(tasks=len(tasks))


def test_results_whose_output_would_be_too_large(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_too_large(make_settings, tmp_path))


async def _larger_than_its_topic(make_settings: MakeSettings, tmp_path: Path) -> None:
    """A topic's limit is of what a batch takes when it is compressed: more can come than could be written as it is."""
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        await gate.start("worker")
        value = b'{"padding":"' + b"y" * (3 * 1024 * KIB) + b'"}'
        producer = AIOKafkaProducer(
            **gate.settings.kafka_kwargs(), compression_type="gzip", max_request_size=8 * 1024 * KIB
        )
        async with producer:
            sent = await producer.send_and_wait(gate.topic("context"), value, key=b"user", partition=0)
        await outputs.until(lambda: outputs.of("dlq"), 20, "it reaches the DLQ")
        _assert_untouched(_letter(outputs, gate, "context", sent.offset), (b"user", value, ()), "invalid_event")
        await gate.send(dispatched("user", "task", {}), returned("user", "task"))
        await outputs.until(lambda: outputs.verdict("task"), 20, "the partition goes on")
        await gate.drained(20)


def test_a_compressed_record_larger_than_its_topic_takes(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_larger_than_its_topic(make_settings, tmp_path))


async def _contradictions(make_settings: MakeSettings, tmp_path: Path) -> None:
    """One identity, two contents: the first counts, the second is an error, and neither is taken for a repeat."""
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        await gate.start("worker")
        first = dispatched("user", "task", {"view/tab-1": "1"})
        result = returned("user", "task")
        await gate.send(first, first, dispatched("user", "task", {"view/tab-1": "1"}))  # repeats
        (other,) = await gate.send(dispatched("user", "task", {"view/tab-1": "2"}))
        await gate.send(result, result, returned("user", "task"))  # repeats, one with a new event id
        contradiction = returned("user", "task", event_id=result.event_id, outcome="failed")
        (contradicting,) = await gate.send(contradiction)
        await outputs.until(lambda: len(outputs.of("dlq")) >= 2, 20, "both contradictions reach the DLQ")
        await gate.drained(20)
        assert len(outputs.of("dlq")) == 2
        assert _letter(outputs, gate, "steps", other.offset).headers["tidegate_error"] == b"dispatch_conflict"
        letter = _letter(outputs, gate, "results", contradicting.offset)
        _assert_untouched(letter, (b"user", body(contradiction), ()), "identity_conflict")
        await outputs.until(lambda: outputs.verdict("task"), 20, "a verdict, and one only")
        assert outputs.decided(["task"]) == {"task": FRESH}
        await gate.audit(tasks=1)


def test_contradictions_are_errors_and_repeats_are_not(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_contradictions(make_settings, tmp_path))


async def _misrouted(make_settings: MakeSettings, tmp_path: Path) -> None:
    """A producer with another partitioner. Judged where it was found, the result would miss the context."""
    async with Gate(make_settings(partitions=3), tmp_path) as gate, gate.outputs() as outputs:
        (worker,) = await gate.start("worker")
        lost, found = sessions_on(0, 3, 1, "lost")[0], sessions_on(1, 3, 1, "found")[0]
        await gate.send(changed(lost, {"view/tab-1": "1"}), dispatched(lost, "task", {"view/tab-1": "1"}))
        await gate.send(changed(found, {"view/tab-1": "1"}), dispatched(found, "other", {"view/tab-1": "1"}))
        await gate.drained(20)
        change = body(changed(lost, {"view/tab-1": "2"}))
        (at,) = await gate.write_raw("context", 2, (None, change, [("x-trace", b"1")]))
        await gate.drained(20)  # sent on, and folded where it belongs
        result = body(returned(lost, "task"))
        await gate.write_raw("results", 1, (lost.encode(), result, []))
        await gate.send(returned(found, "other"))
        await outputs.until(lambda: len(outputs.decided(["task", "other"])) == 2, 20, "both results are judged")
        assert outputs.decided(["task", "other"]) == {"task": STALE, "other": FRESH}
        verdict = outputs.verdict("task")
        assert verdict is not None
        assert (verdict.partition, verdict.body["verdict"]["judged"]["partition"]) == (0, 0)
        copies = [record for record in await gate.read("context") if record.partition == 0 and record.value == change]
        assert len(copies) == 1
        assert copies[0].key == lost.encode()
        assert dict(copies[0].headers) == {
            "x-trace": b"1",
            "tidegate_forwarded_from": f"{gate.topic('context')}/2/{at}".encode(),
        }
        assert worker.metric("tidegate_misrouted_records_total") == 2
        assert outputs.of("dlq") == []
        await gate.drained(20)
        await gate.audit(tasks=2)


def test_a_misrouted_record_is_sent_on_and_judged_at_home(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_misrouted(make_settings, tmp_path))
