"""Who may not write any more is refused by a real broker, and what the dead have left open holds nobody up.

A worker that commits without its generation is not fenced at all: a zombie's verdicts are then written a second time.
One that waits for a dead worker's transaction to time out keeps users waiting for as long, and up to 10 s more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError, ProducerFenced

from schemas.topics import Role
from streams.batches import NO_HEADERS, BatchWriter, RecordBatch
from streams.changelog import PROGRESS_KEY
from streams.config import EngineConfig
from streams.member import GroupMember
from streams.sender import MEMBER_FENCED
from streams.transaction import KafkaTransactionLog
from testing.process import until_ready
from tests.broker.events import changed, dispatched, returned
from tests.broker.harness import Gate
from tests.broker.waiting import wait_for
from tidegate.engine_config import engine_config
from tidegate.settings import Settings

MakeSettings = Callable[..., Settings]

STALE: Final = ("withheld", "stale")
LONG_SECONDS: Final = 120.0
"""A transaction timeout that no test waits for."""
SOON_SECONDS: Final = 15.0

pytestmark = pytest.mark.timeout(120)


# ---- the transaction log alone


@asynccontextmanager
async def transaction_log(config: EngineConfig) -> AsyncIterator[KafkaTransactionLog]:
    log = KafkaTransactionLog(config, set())
    await log.open()
    try:
        yield log
    finally:
        await log.close()


def batches(*records: tuple[bytes, bytes]) -> list[RecordBatch]:
    writer = BatchWriter("none")
    for key, value in records:
        writer.add(key, value, NO_HEADERS)
    return writer.batches()


class Member:
    """A member of the group, by a consumer of its own."""

    def __init__(self, gate: Gate, assignor: type[RoundRobinPartitionAssignor] = RoundRobinPartitionAssignor) -> None:
        self._gate = gate
        self._consumer: Any = AIOKafkaConsumer(
            gate.topic("context"),
            **gate.settings.kafka_kwargs(),
            group_id=gate.settings.group_id,
            partition_assignment_strategy=[assignor],
            enable_auto_commit=False,
            session_timeout_ms=6000,
            heartbeat_interval_ms=200,
            auto_offset_reset="earliest",
        )

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._consumer.stop()

    def now(self) -> GroupMember:
        """As whom it may commit now."""
        coordinator = self._consumer._coordinator
        return GroupMember(self._gate.settings.group_id, coordinator.generation, coordinator.member_id)

    async def of_a_later_generation(self, than: GroupMember) -> GroupMember:
        async def rejoined() -> bool:
            await self._consumer.getmany(timeout_ms=50)
            return self.now().generation > than.generation

        await wait_for(rejoined, 30, "another generation")
        return self.now()


async def _zombie(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate:
        config = engine_config(gate.settings)
        rows, offsets = TopicPartition(gate.topic("sessions.changelog"), 0), TopicPartition(gate.topic("context"), 0)
        async with transaction_log(config) as log, Member(gate) as member:
            then = member.now()
            await log.write({rows: batches((b"first", b"1"))}, {offsets: 1}, then)
            async with Member(gate):
                now = await member.of_a_later_generation(then)
                for number, zombie in enumerate((then, now._replace(member_id="somebody-else"))):
                    with pytest.raises(MEMBER_FENCED):
                        await log.write({rows: batches((b"zombie", b"%d" % number))}, {offsets: 99}, zombie)
                    await log.open()
                await log.write({rows: batches((b"second", b"2"))}, {offsets: 2}, now)
            assert [record.key for record in await gate.read("sessions.changelog")] == [b"first", b"second"]
            tried = await gate.read("sessions.changelog", "read_uncommitted")
            assert [record.key for record in tried] == [b"first", b"zombie", b"zombie", b"second"]
            assert (await gate.progress.committed())[offsets] == 2


def test_a_transaction_of_an_earlier_generation_is_refused_whole(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_zombie(make_settings, tmp_path))


# ---- what the dead have left open


@asynccontextmanager
async def left_open(
    gate: Gate, transactional_id: str, *, offsets: dict[TopicPartition, int] | None = None
) -> AsyncIterator[AIOKafkaProducer]:
    """The unfinished transaction of a worker that stood still or died: a row, and perhaps offsets. Its producer."""
    producer: Any = AIOKafkaProducer(
        **gate.settings.kafka_kwargs(),
        transactional_id=transactional_id,
        transaction_timeout_ms=int(LONG_SECONDS * 1000),
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        topic = gate.topic("sessions.changelog")
        await producer.send_and_wait(topic, b'{"context":1000000}', key=PROGRESS_KEY, partition=0)
        if offsets:
            await producer.send_offsets_to_transaction(offsets, gate.settings.group_id)
        yield producer
    finally:
        producer._closed = True  # it has nothing more to say
        producer._sender.sender_task.cancel()
        await producer.client.close()


async def _works(gate: Gate, task: str) -> None:
    async with gate.outputs() as outputs:
        await gate.send(changed("user", {"view": "1"}), dispatched("user", task, {"view": "1"}))
        await gate.send(changed("user", {"view": "2"}))
        await gate.send(returned("user", task))
        await outputs.until(lambda: outputs.verdict(task), 20, "a verdict")
        assert outputs.decided([task]) == {task: STALE}
    await gate.drained(20)
    await gate.audit()


@pytest.mark.parametrize("has_offsets", [False, True], ids=["rows", "rows-and-offsets"])
def test_a_dead_workers_open_transaction_is_ended(
    make_settings: MakeSettings, tmp_path: Path, *, has_offsets: bool
) -> None:
    async def run() -> None:
        async with Gate(make_settings(partitions=1), tmp_path) as gate:
            offsets = {TopicPartition(gate.topic("context"), 0): 1_000_000} if has_offsets else None
            async with left_open(gate, f"{gate.settings.group_id}-worker-of-the-dead", offsets=offsets) as dead:
                began = time.monotonic()
                (worker,) = await gate.start("worker")
                assert time.monotonic() - began < SOON_SECONDS
                (told,) = worker.told("open_transaction_ended")
                assert told["transactional_id"] == f"{gate.settings.group_id}-worker-of-the-dead"
                await _works(gate, "task")
                with pytest.raises(KafkaError):  # whatever it does on waking comes too late
                    await dead.commit_transaction()
            await _works(gate, "another")

    asyncio.run(run())


# ---- upgrading from a version with a transactional producer for each partition


class OldAssignor(RoundRobinPartitionAssignor):
    name = "faust"


async def _old_owner(make_settings: MakeSettings, tmp_path: Path) -> None:
    """An old worker in the middle of a transaction, which it could commit without any generation."""
    async with Gate(make_settings(partitions=1), tmp_path) as gate:
        offsets = {TopicPartition(gate.topic(role), 0): 1_000_000 for role in _inputs()}
        async with left_open(gate, f"{gate.settings.group_id}-0", offsets=offsets) as old:
            await gate.start("worker")
            await _works(gate, "task")
            with pytest.raises(ProducerFenced):
                await old.commit_transaction()
            await _works(gate, "another")


def _inputs() -> tuple[Role, ...]:
    return ("context", "steps", "results")


def test_an_old_workers_transaction_is_fenced(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_old_owner(make_settings, tmp_path))


async def _old_group(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=2), tmp_path) as gate:
        async with Member(gate, OldAssignor):
            worker = gate.worker("worker").start()

            async def waits() -> bool:
                assert worker.is_alive
                return len(worker.told("waiting_for_old_workers")) >= 2

            await wait_for(waits, 30, "the worker waits", worker.log_text)
            assert worker.partitions() is None
        await until_ready([worker], SOON_SECONDS)
        assert worker.partitions() == {0: "running", 1: "running"}
        await _works(gate, "task")


def test_a_worker_joins_when_the_last_old_one_has_left(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_old_group(make_settings, tmp_path))
