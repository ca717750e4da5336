"""A simulated worker's connections: the engine's interfaces over the simulated broker, with latency and faults.

A request can get lost before or after it took effect. A frozen worker's requests wait; a dead one's never arrive. So a
worker can stop at every await that has an effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from random import Random
from typing import TypeVar, cast

from aiokafka import TopicPartition
from aiokafka.errors import ConcurrentTransactions, KafkaConnectionError, KafkaTimeoutError
from aiokafka.record.memory_records import MemoryRecords

from projections.decode import Batch
from schemas.topics import Role
from streams.batches import RecordBatch
from streams.changelog import ChangelogReader
from streams.config import FOLDED_ROLES, EngineConfig
from streams.interfaces import Restored, UnwritableError
from streams.member import GroupMember
from tests.simulation.broker import Broker, Record

T = TypeVar("T")


class Network:
    """How one worker reaches the broker."""

    def __init__(self, broker: Broker, random: Random) -> None:
        self.broker = broker
        self.random = random
        self.is_dead = False
        self.lost_share = 0.0
        """Of requests that get lost, before or after they took effect."""
        self.loses_an_answer = False
        """Whether the next request of a transaction takes effect, and its sender does not hear so."""
        self.loses_a_timer = False
        """The same of the end of the next transaction that moves no offset: one of a timer."""
        self.is_writing = False
        self.trap: tuple[int, Callable[[], None]] | None = None
        """What happens to the worker within a transaction, after so many more of its requests."""
        self.thawed = asyncio.Event()
        self.thawed.set()

    async def ask(self, effect: Callable[[], T], *, retriable: bool = False) -> T:
        """Carry a request out. Raises `KafkaConnectionError` where it, or its answer, gets lost."""
        while True:
            await self._pass()
            if self.loses_an_answer and self.is_writing and not retriable:
                self.loses_an_answer = False
                effect()
                raise KafkaConnectionError("unanswered")
            if self.random.random() < self.lost_share:
                if self.random.random() < 0.5:
                    effect()
                await self._pass()
                if retriable:
                    continue
                raise KafkaConnectionError("lost")
            answer = effect()
            await self._pass()
            return answer

    async def _pass(self) -> None:
        if self.is_writing and self.trap is not None:
            left, strike = self.trap
            self.trap = (left - 1, strike) if left else None
            if not left:
                strike()
        await asyncio.sleep(self.random.uniform(0.0, 0.004))
        await self.thawed.wait()
        if self.is_dead:
            await asyncio.Event().wait()


MARKERS_SECONDS = 1.0
"""How long a log waits for the markers of its last transaction before it takes another id."""
STUCK_SECONDS = 1.0


class SimulatedLog:
    """`TransactionLog`. Its ids begin with `name`; the one in use is in `own_ids`."""

    def __init__(self, network: Network, name: str, own_ids: set[str], timeout_seconds: float) -> None:
        self.transactional_id = name
        self._own_ids = own_ids
        self._network = network
        self._broker = network.broker
        self._timeout_seconds = timeout_seconds
        self._epoch = -1
        self._begun: set[TopicPartition] | None = None
        self._begun_at = 0.0
        self._ended: set[TopicPartition] = set()
        """The partitions of the last transaction."""

    async def open(self) -> None:
        self._begun = None
        self._own_ids.discard(self.transactional_id)
        try:
            async with asyncio.timeout(MARKERS_SECONDS):
                _, self._epoch = await self._again(lambda: self._broker.init_producer(self.transactional_id))
        except TimeoutError:
            self.transactional_id += "'"
            _, self._epoch = await self._again(lambda: self._broker.init_producer(self.transactional_id))
        self._own_ids.add(self.transactional_id)

    async def close(self) -> None:
        self._own_ids.discard(self.transactional_id)

    def begin(self, partitions: Iterable[TopicPartition]) -> None:
        if self._begun is None:
            self._begun, self._begun_at = set(), self._broker.clock.monotonic()
        self._begun |= set(partitions)

    @property
    def is_overdue(self) -> bool:
        return self._begun is not None and self._broker.clock.monotonic() - self._begun_at > self._timeout_seconds / 3

    async def abandon(self) -> None:
        self._begun = None

    async def write(
        self,
        batches: Mapping[TopicPartition, Sequence[RecordBatch]],
        offsets: Mapping[TopicPartition, int],
        member: GroupMember,
    ) -> None:
        self.begin(batches)
        self._network.is_writing = True
        try:
            await self._write(batches, offsets, member)
        finally:
            self._network.is_writing = False

    async def _write(
        self,
        batches: Mapping[TopicPartition, Sequence[RecordBatch]],
        offsets: Mapping[TopicPartition, int],
        member: GroupMember,
    ) -> None:
        name, epoch, ask = self.transactional_id, self._epoch, self._network.ask
        added = set(self._begun or ())
        try:
            async with asyncio.timeout(MARKERS_SECONDS):
                await self._again(lambda: self._broker.add(name, epoch, added))
        except TimeoutError:
            stuck = self._broker.leaderless & (self._ended | added)
            raise UnwritableError(stuck) if stuck else KafkaTimeoutError from None
        self._ended = added
        stuck = self._broker.leaderless & batches.keys()
        for tp, of_partition in batches.items():
            if tp in stuck:
                continue
            records = records_of(of_partition)
            await ask(lambda tp=tp, sent=records: self._broker.produce(name, epoch, tp, sent))  # type: ignore[misc]
        if stuck:
            await asyncio.sleep(STUCK_SECONDS)
            raise UnwritableError(stuck) if len(stuck) < len(batches) else KafkaTimeoutError
        if offsets:
            await ask(lambda: self._broker.commit_offsets(name, epoch, dict(offsets), member))
        is_timer = all(self._broker.offsets.get(tp) == at for tp, at in offsets.items())
        if self._network.loses_a_timer and is_timer:
            self._network.loses_a_timer, self._network.loses_an_answer = False, True
        await ask(lambda: self._broker.end_transaction(name, epoch, commit=True))
        self._begun = None

    async def _again(self, effect: Callable[[], T]) -> T:
        while True:
            try:
                return await self._network.ask(effect)
            except ConcurrentTransactions:
                await asyncio.sleep(0.002)


def records_of(batches: Iterable[RecordBatch]) -> list[Record]:
    """The records that a broker reads in the bytes of batches."""
    found: list[Record] = []
    for batch in batches:
        read = MemoryRecords(batch._build())
        while (part := read.next_batch()) is not None:
            assert part.validate_crc()
            found += [(record.key, record.value, cast(list[tuple[str, bytes]], record.headers)) for record in part]
    return found


class SimulatedCluster:
    """`EndOffsets`, `CommittedOffsets`, `OpenTransactions` and `Changelog`."""

    def __init__(self, config: EngineConfig, network: Network, own_ids: Container[str]) -> None:
        self._config = config
        self._network = network
        self._broker = network.broker
        self._own_ids = own_ids

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        wanted = list(partitions)
        return await self._network.ask(
            lambda: {tp: self._broker.log(tp).end for tp in wanted if self._broker.knows_its_end(tp)}, retriable=True
        )

    async def stable_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._network.ask(lambda: self._broker.fetch_offsets(partitions, require_stable=True))

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._network.ask(lambda: dict.fromkeys(partitions, 0))

    async def fence(self, transactional_id: str) -> None:
        while True:
            try:
                await self._network.ask(lambda: self._broker.init_producer(transactional_id))
            except ConcurrentTransactions:
                await asyncio.sleep(0.01)
            else:
                return

    async def end_those_on(self, partition: TopicPartition) -> None:
        for transactional_id in await self._network.ask(lambda: self._broker.ongoing_on(partition)):
            if transactional_id not in self._own_ids:
                await self.fence(transactional_id)

    async def read(self, partition: int, end: int, take: Callable[[bytes, bytes | None], None]) -> Restored:
        tp = TopicPartition(self._config.topic("sessions.changelog"), partition)
        log = self._broker.log(tp)
        reader, position = ChangelogReader(take), 0
        while position < end:
            begin = position
            await self._broker.led(tp)
            position = max(begin, await self._network.ask(lambda: log.stable_end))
            for entry in log.committed(begin, position):
                reader.read(entry.key or b"", entry.value)
            await asyncio.sleep(0.02)
        return reader.restored()


class SimulatedFetches:
    """`FetchControl`, and the consumers that obey it."""

    def __init__(self, config: EngineConfig, network: Network) -> None:
        self.joined: set[int] = set()
        self.queued_bytes: dict[tuple[str, int], int] = {}
        self._config = config
        self._network = network
        self._positions: dict[TopicPartition, int] = {}

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._positions[TopicPartition(topic, partition)] = offset

    async def fetch(self) -> list[Batch]:
        """What a fetch of some of the partitions brings; now and then it comes from an earlier position."""
        found = []
        random = self._network.random
        for number in sorted(self.joined):
            for role in FOLDED_ROLES:
                tp = TopicPartition(self._config.topic(role), number)
                if random.random() < 0.3 or tp not in self._positions or tp in self._network.broker.leaderless:
                    continue
                if random.random() < 0.02:  # a buffer from before a seek: what it holds is known, or leaves a hole
                    moved = max(0, self._positions[tp] + random.randint(-5, 3))
                    if moved < self._network.broker.log(tp).stable_end:  # else it would hold nothing
                        self._positions[tp] = moved
                batch = self._batch(role, tp, random.randint(1, 40))
                if batch is not None:
                    found.append(batch)
        return await self._network.ask(lambda: found, retriable=True)

    def _batch(self, role: Role, tp: TopicPartition, limit: int) -> Batch | None:
        log, start = self._network.broker.log(tp), self._positions[tp]
        end = min(log.stable_end, start + limit)
        if end <= start:
            return None
        self._positions[tp] = end
        entries = log.committed(start, end)
        return Batch(
            role,
            tp.partition,
            start,
            end,
            [entry.offset for entry in entries],
            [entry.timestamp for entry in entries],
            [entry.key for entry in entries],
            [entry.value for entry in entries],
            [entry.headers for entry in entries],
            sum(len(entry.value or b"") for entry in entries),
        )
