"""What the topics tell of an ended task and the workers' rows do not keep: its deliveries, whole, and its receipt.

They are found by the broker's timestamps: a task's records lie between its dispatch and its last status.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from gateway.frames import event_of, session_of
from gateway.problems import Problem
from schemas.topics import Role, topic_name

AT_ONCE: Final = 4
"""Lookups of one instance at the same time: each has a consumer."""
SLACK_MS: Final = 5_000
"""The leaders of two topics may have clocks that differ."""
TRIES: Final = 5
RETRY_SECONDS: Final = 0.1
"""A row is committed at once, and the end of the transaction reaches each topic a little later."""
MAX_SECONDS: Final = 5.0
CACHE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """Deliveries as on the event stream, oldest first, and the receipt of a task that was stopped."""

    results: list[dict[str, Any]]
    receipt: dict[str, Any] | None
    size_bytes: int


class Outcomes:
    """Finds outcomes, and keeps the latest ones: an ended task's do not change."""

    def __init__(self, new_consumer: Callable[[str], Any], topic_prefix: str, max_records: int) -> None:
        self._new_consumer = new_consumer
        self._prefix = topic_prefix
        self._max_records = max_records
        self._found: OrderedDict[tuple[str, str, str], Outcome] = OrderedDict()
        self._size_bytes = 0
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def of(self, session_id: str, partition: int, status: dict[str, Any]) -> Outcome:
        """The outcome of a task by its last status. Empty where records are gone, or further apart than is searched.

        Raises `Problem` (503) if Kafka does not answer in time.
        """
        name = (session_id, str(status["task_id"]), str(status["ended_at"]))
        known = self._found.get(name)
        if known is not None:
            self._found.move_to_end(name)
            return known
        try:
            async with asyncio.timeout(MAX_SECONDS), self._turn:
                outcome = await self._search(session_id, partition, status)
        except (KafkaError, TimeoutError) as error:
            raise Problem("kafka_unavailable", "Kafka does not answer in time", retry_after_seconds=1) from error
        if outcome.size_bytes:
            self._keep(name, outcome)
        return outcome

    def _keep(self, name: tuple[str, str, str], outcome: Outcome) -> None:
        if name not in self._found:
            self._found[name] = outcome
            self._size_bytes += outcome.size_bytes
        while self._size_bytes > CACHE_BYTES:
            self._size_bytes -= self._found.popitem(last=False)[1].size_bytes

    async def _search(self, session_id: str, partition: int, status: dict[str, Any]) -> Outcome:
        task_id = str(status["task_id"])
        ended_ms = _milliseconds(status["ended_at"])
        begun_ms = _milliseconds(status.get("dispatched_at") or status["ended_at"])
        results: list[dict[str, Any]] = []
        receipts: list[dict[str, Any]] = []
        written_ms: list[int] = []
        size_bytes = 0

        def is_last_status(record: Any) -> bool:
            if session_of("tasks", record.key) != session_id or not record.value:
                return False
            body = orjson.loads(record.value)
            if body["task_id"] != task_id or body["status"] != "ended":
                return False
            written_ms.append(record.timestamp)
            if body.get("receipt"):
                receipts.append(body["receipt"])
            return True

        def is_last_delivery(record: Any) -> bool:
            nonlocal size_bytes
            if written_ms and record.timestamp > written_ms[0] + SLACK_MS:
                return True
            if session_of(lane, record.key) != session_id:
                return False
            event = event_of(lane, record.value)
            body = orjson.loads(event[1]) if event is not None else {}
            if body.get("task_id") != task_id:
                return False
            results.append(body)
            size_bytes += len(record.value)
            return body["verdict"].get("disposition") is not None

        lane: Role = "delivered.cold" if status.get("lane") == "cold" else "delivered"
        consumer = self._new_consumer("outcomes")
        await consumer.start()
        try:
            for attempt in range(TRIES):
                await asyncio.sleep(RETRY_SECONDS * bool(attempt))
                await self._read(consumer, "tasks", partition, ended_ms - SLACK_MS, is_last_status)
                if written_ms:
                    break
            if status.get("disposition") == "delivered":
                for attempt in range(TRIES):
                    await asyncio.sleep(RETRY_SECONDS * bool(attempt))
                    results.clear()
                    size_bytes = 0
                    if await self._read(consumer, lane, partition, begun_ms - SLACK_MS, is_last_delivery):
                        break
        finally:
            await consumer.stop()
        receipt = receipts[0] if receipts else None
        return Outcome(results, receipt, size_bytes + len(orjson.dumps(receipt)) * bool(receipt))

    async def _read(
        self, consumer: Any, role: Role, partition: int, since_ms: int, is_last: Callable[[Any], bool]
    ) -> bool:
        """Read committed records from a time on, up to the one that `is_last` names; whether there was one."""
        tp = TopicPartition(topic_name(role, self._prefix), partition)
        consumer.assign([tp])
        begin = (await consumer.offsets_for_times({tp: max(0, since_ms)}))[tp]
        end = (await consumer.end_offsets([tp]))[tp]
        if begin is None:
            return False
        consumer.seek(tp, begin.offset)
        records = 0
        while records < self._max_records and await consumer.position(tp) < end:
            for record in (await consumer.getmany(tp, timeout_ms=200)).get(tp, ()):
                records += 1
                if is_last(record):
                    return True
        return records >= self._max_records


def _milliseconds(instant: str) -> int:
    return int(datetime.fromisoformat(instant).timestamp() * 1000)
