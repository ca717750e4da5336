"""What the gate wrote, read as its consumers read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.topics import Role, topic_name
from tests.broker.waiting import T, wait_for
from tidegate.settings import Settings

OUTPUT_ROLES: Final[tuple[Role, ...]] = ("delivered", "withheld", "tasks", "dlq")


@dataclass(frozen=True, slots=True)
class Output:
    """One record the gate wrote. `body` is None for a tombstone and in the DLQ."""

    role: Role
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    body: Any


class Outputs:
    """A `read_committed` reader of everything the gate writes, from the beginning on.

    `keep=False` keeps no bodies, for loads of which only the counts matter.
    """

    def __init__(self, settings: Settings, *, keep: bool = True) -> None:
        self._settings = settings
        self._keep = keep
        self._roles = {topic_name(role, settings.topic_prefix): role for role in OUTPUT_ROLES}
        self._consumer: Any = AIOKafkaConsumer(
            **settings.kafka_kwargs(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=4 * 1024 * 1024,
            request_timeout_ms=120_000,
        )
        self.records: list[Output] = []
        self.verdicts: Counter[str] = Counter()
        """Verdicts by the event id of the result they are about: one for a result all of whose parts went one way."""
        self.endings: Counter[str] = Counter()
        """Statuses that say `ended`, by task."""
        self.decisions: Counter[tuple[str, str]] = Counter()
        """Verdicts by decision and reason."""

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        partitions = [
            TopicPartition(topic, number) for topic in self._roles for number in range(self._settings.partitions)
        ]
        self._consumer.assign(partitions)
        for tp, offset in (await self._consumer.beginning_offsets(partitions)).items():
            self._consumer.seek(tp, offset)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def poll(self) -> None:
        """Take in what has arrived."""
        for tp, records in (await self._consumer.getmany(timeout_ms=20)).items():
            for record in records:
                self._take(self._roles[tp.topic], tp.partition, record)

    def _take(self, role: Role, partition: int, record: Any) -> None:
        parsed = None if role == "dlq" or record.value is None else orjson.loads(record.value)
        if parsed is not None and role == "tasks":
            if parsed["status"] == "ended":
                self.endings[parsed["task_id"]] += 1
        elif parsed is not None:
            self.verdicts[parsed["result"]["event_id"]] += 1
            self.decisions[parsed["verdict"]["decision"], parsed["verdict"]["reason"]] += 1
        if self._keep:
            headers = dict(record.headers)
            self.records.append(Output(role, partition, record.offset, record.key, record.value, headers, parsed))

    async def until(
        self, condition: Callable[[], T], timeout_seconds: float, describe: str, state: Callable[[], object] = str
    ) -> T:
        """Take in what arrives until `condition` is true; its value."""

        async def check() -> T:
            await self.poll()
            return condition()

        return await wait_for(check, timeout_seconds, describe, state)

    def of(self, role: Role) -> list[Output]:
        """What was written to one topic."""
        return [record for record in self.records if record.role == role]

    def verdict(self, task_id: str) -> Output | None:
        """The only output about the task's result, or None. Fails where there is more than one."""
        found = [
            each for each in self.records if each.role in {"delivered", "withheld"} and each.body["task_id"] == task_id
        ]
        assert len(found) <= 1, f"{len(found)} verdicts for {task_id}: {found}"
        return found[0] if found else None

    def decided(self, task_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Decision and reason of the tasks that have a verdict."""
        wanted = set(task_ids)
        return {
            each.body["task_id"]: (each.body["verdict"]["decision"], each.body["verdict"]["reason"])
            for each in self.records
            if each.role in {"delivered", "withheld"} and each.body["task_id"] in wanted
        }
