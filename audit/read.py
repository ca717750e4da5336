"""Read the topics of a prefix, committed records only, up to ends fixed at the start. Nothing is judged here.

The order in which positions are asked for makes a running gate harmless: first the group's committed offsets, then the
outputs' ends, once every transaction under way at that time has ended, last the inputs' ends. So whatever was committed
has its outputs in sight, and whatever an output is about is in sight, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest

from audit.collect import OUTPUT_ROLES, PartitionLogs
from audit.config import AuditConfig
from audit.errors import AuditError
from audit.logs import Bounds
from schemas.topics import INPUT_ROLES, Role, topic_name

ROLES: Final[tuple[Role, ...]] = (*OUTPUT_ROLES, *INPUT_ROLES)
RECORDS_AT_ONCE: Final = 500_000
"""Partitions are read and checked in groups of about so many records, which bounds memory."""

_FETCH_BYTES: Final = 4 * 1024 * 1024
_STUCK_SECONDS: Final = 60.0

Offsets = dict[TopicPartition, int]


@dataclass(slots=True)
class Extent:
    """How much there is to read: bounds per partition, and what was found out on the way."""

    partitions: int
    bounds: dict[int, dict[Role, Bounds]]
    now_ms: int
    gate_running: bool
    has_offsets: bool
    """Whether the group has any committed offset on these topics."""
    open_outputs: list[str]
    """Output topic partitions whose open transaction did not end in time."""

    @property
    def records(self) -> int:
        """An upper bound of the number of records to read."""
        return sum(each.end - each.beginning for bounds in self.bounds.values() for each in bounds.values())

    def groups(self) -> list[list[int]]:
        """The partitions in groups of about `RECORDS_AT_ONCE` records."""
        groups: list[list[int]] = [[]]
        size = 0
        for partition, bounds in self.bounds.items():
            records = sum(each.end - each.beginning for each in bounds.values())
            if groups[-1] and size + records > RECORDS_AT_ONCE:
                groups.append([])
                size = 0
            groups[-1].append(partition)
            size += records
        return groups


class Reader:
    """Reads the topics of a prefix. Made by `reader`."""

    def __init__(self, config: AuditConfig, consumer: Any, latest: Any, admin: Any) -> None:
        self._config = config
        self._consumer = consumer
        self._latest = latest
        self._admin = admin

    async def extent(self) -> Extent:
        """The bounds of every topic partition. Raises `AuditError` if a topic is missing or counts differ."""
        partitions = await self._partitions()
        tps = {role: [TopicPartition(self._name(role), each) for each in range(partitions)] for role in ROLES}
        outputs = [tp for role in OUTPUT_ROLES for tp in tps[role]]
        inputs = [tp for role in INPUT_ROLES for tp in tps[role]]
        now_ms = time.time_ns() // 1_000_000
        committed, gate_running = await self._group()
        settled, open_outputs = await self._settle(outputs)
        ends = await self._consumer.end_offsets(outputs)
        ends |= await self._consumer.end_offsets(inputs)
        begins = await self._consumer.beginning_offsets(outputs + inputs)
        bounds = {
            partition: {
                role: Bounds(
                    beginning=begins[tps[role][partition]],
                    end=ends[tps[role][partition]],
                    committed=committed.get(tps[role][partition]),
                    settled=settled.get(tps[role][partition], 0),
                )
                for role in ROLES
            }
            for partition in range(partitions)
        }
        has_offsets = any(tp in committed for tp in inputs)
        return Extent(partitions, bounds, now_ms, gate_running, has_offsets, open_outputs)

    async def read(self, roles: Sequence[Role], logs: Sequence[PartitionLogs], progress: Callable[[int], None]) -> None:
        """Give every committed record of those topics and partitions to its logs; `progress` is told how many.

        Raises `AuditError` if the broker deletes records meanwhile. Cancelled, it leaves the logs half filled.
        """
        wanted = {
            TopicPartition(self._name(role), each.partition): (role, each)
            for each in logs
            for role in roles
            if each.bounds[role].beginning < each.bounds[role].end
        }
        if not wanted:
            return
        self._consumer.assign(list(wanted))
        for tp, (role, each) in wanted.items():
            # An explicit place: resetting to the beginning races with the reset policy.
            self._consumer.seek(tp, each.bounds[role].beginning)
        moved_at = time.monotonic()
        while wanted:
            for tp, records in (await self._consumer.getmany(timeout_ms=100)).items():
                if tp in wanted:
                    role, each = wanted[tp]
                    each.add(role, records)
                    progress(len(records))
                    moved_at = time.monotonic()
            finished = []
            for tp, (role, each) in wanted.items():
                if await self._consumer.position(tp) >= each.bounds[role].end:
                    finished.append(tp)
            for tp in finished:
                del wanted[tp]
                moved_at = time.monotonic()
            if time.monotonic() - moved_at > _STUCK_SECONDS:
                raise AuditError(
                    f"Nothing more comes from {', '.join(f'{tp.topic}/{tp.partition}' for tp in wanted)}.",
                    "Are the brokers that lead these partitions up?",
                )

    def _name(self, role: Role) -> str:
        return topic_name(role, self._config.topic_prefix)

    async def _partitions(self) -> int:
        names = [self._name(role) for role in ROLES]
        # All topics, not these: aiokafka lets the broker create the ones it is asked for, if it may.
        described = await self._admin.describe_topics()
        found = {topic["topic"]: len(topic["partitions"]) for topic in described}
        missing = [name for name in names if name not in found]
        if missing:
            raise AuditError(
                f"There is nothing to audit at {self._config.bootstrap_servers}: missing {', '.join(missing)}.",
                "Is TIDEGATE_TOPIC_PREFIX right? `tidegate topics create` makes the topics.",
            )
        counts = {found[name] for name in names}
        if len(counts) > 1:
            raise AuditError(
                f"The topics differ in their number of partitions: {sorted(counts)}.",
                "`tidegate topics check` tells which.",
            )
        return counts.pop()

    async def _group(self) -> tuple[Offsets, bool]:
        """The group's committed offsets, and whether it has members."""
        deadline = time.monotonic() + self._config.request_timeout_seconds
        while True:
            try:
                return await self._ask_group()
            except KafkaError as error:
                # The first question about any group makes the broker create the topic it keeps them on.
                if not error.retriable or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def _ask_group(self) -> tuple[Offsets, bool]:
        group_id = self._config.group_id
        coordinator = await self._admin.find_coordinator(group_id)
        # Not `list_consumer_group_offsets`: while the coordinator loads, that answers with no offsets and no error.
        answer = await self._admin._send_request(OffsetFetchRequest(group_id, None), coordinator)
        if answer.error_code:
            raise for_code(answer.error_code)(f"committed offsets of group {group_id}")
        committed = {}
        for topic, partitions in answer.topics:
            for partition, offset, _, code in partitions:
                if code:
                    raise for_code(code)(f"committed offset of {topic}/{partition}")
                if offset >= 0:
                    committed[TopicPartition(topic, partition)] = offset
        (described,) = await self._admin.describe_consumer_groups([group_id], coordinator)
        return committed, any(group[5] for group in described.groups)

    async def _settle(self, outputs: list[TopicPartition]) -> tuple[Offsets, list[str]]:
        """Ends of the outputs below which every transaction has ended; those where one would not are named."""
        settled: Offsets = await self._latest.end_offsets(outputs)
        deadline = time.monotonic() + 2 * self._config.transaction_timeout_seconds + 5
        while True:
            stable: Offsets = await self._consumer.end_offsets(outputs)
            unstable = [tp for tp in outputs if stable[tp] < settled[tp]]
            if not unstable:
                return settled, []
            if time.monotonic() > deadline:
                settled |= {tp: stable[tp] for tp in unstable}
                return settled, [f"{tp.topic}/{tp.partition}" for tp in unstable]
            await asyncio.sleep(0.05)


@asynccontextmanager
async def reader(config: AuditConfig) -> AsyncIterator[Reader]:
    """A connected reader. Raises `KafkaError` or `TimeoutError` if the broker cannot be reached, now or later on.

    Cancelled, it closes its connections.
    """
    kafka = config.kafka
    timeout_ms = int(config.request_timeout_seconds * 1000)
    common: dict[str, Any] = {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "request_timeout_ms": timeout_ms,
        "retry_backoff_ms": 20,
        "fetch_max_wait_ms": 50,
        "max_partition_fetch_bytes": _FETCH_BYTES,
        "check_crcs": False,
    }
    consumer = AIOKafkaConsumer(**kafka, **common, isolation_level="read_committed")
    latest = AIOKafkaConsumer(**kafka, **common, isolation_level="read_uncommitted")
    admin = AIOKafkaAdminClient(**kafka, request_timeout_ms=timeout_ms)
    try:
        await consumer.start()
        await latest.start()
        await admin.start()
        yield Reader(config, consumer, latest, admin)
    except OffsetOutOfRangeError as error:
        raise AuditError(
            f"The broker deleted records while they were read: {error}", "Run the audit again; check the retention."
        ) from error
    finally:
        for client in (admin.close, latest.stop, consumer.stop):
            with suppress(KafkaError):
                await client()
