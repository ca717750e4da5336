"""A simulated broker: logs with transactions, markers and last stable offsets, and what coordinators know.

Every method takes effect at once, as on the broker that carries it out; `tests.simulation.client` adds the network.
What matters here was seen on Kafka 4: markers of one transaction are written to each partition at its own time; offsets
are pending until their own marker; a commit with generation -1 is not fenced; a coordinator checks the generation, not
who owns a partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import (
    ConcurrentTransactions,
    IllegalGenerationError,
    InvalidTxnState,
    ProducerFenced,
    UnknownMemberIdError,
)

from streams.kafka_protocol import UnstableOffsetCommitError
from streams.member import GroupMember
from tests.simulation.virtual import VirtualClock

Record = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]
"""Key, value and headers."""


class Entry(NamedTuple):
    """One place in a log, as a consumer sees it; `control` is that of a transaction's marker."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    producer_id: int | None = None
    control: Literal["commit", "abort"] | None = None
    timestamp_type: int = 1


class Log:
    """A topic partition."""

    def __init__(self, clock: VirtualClock) -> None:
        self.entries: list[Entry] = []
        self.open: dict[int, int] = {}
        """The first offset of each producer's open transaction."""
        self.lagging_from: int | None = None
        """What a new leader shows until its followers have caught up: below this offset. None: everything."""
        self._compacted: set[int] = set()
        self._aborted: list[tuple[int, int, int]] = []
        self._clock = clock

    @property
    def end(self) -> int:
        """The high watermark."""
        return len(self.entries)

    @property
    def stable_end(self) -> int:
        """The last stable offset, as far as the leader shows it."""
        stable = min(self.open.values(), default=self.end)
        return stable if self.lagging_from is None else min(stable, self.lagging_from)

    def append(self, records: Iterable[Record], producer_id: int | None = None) -> None:
        for key, value, headers in records:
            if producer_id is not None:
                self.open.setdefault(producer_id, self.end)
            self.entries.append(Entry(self.end, self._clock.now_ms(), key, value, headers, producer_id))

    def mark(self, producer_id: int, control: Literal["commit", "abort"]) -> None:
        first = self.open.pop(producer_id, None)
        if first is not None and control == "abort":
            self._aborted.append((producer_id, first, self.end))
        self.entries.append(Entry(self.end, self._clock.now_ms(), None, None, (), producer_id, control))

    def committed(self, begin: int, end: int) -> list[Entry]:
        """Committed records from `begin` on, below `end` and the last stable offset."""
        return [
            entry
            for entry in self.entries[begin : min(end, self.stable_end)]
            if entry.control is None and entry.offset not in self._compacted and not self._is_aborted(entry)
        ]

    def compact(self, end: int) -> int:
        """Keep the last record of each key below `end`, as the cleaner does; how many are gone now."""
        latest: dict[bytes | None, int] = {}
        before = len(self._compacted)
        for entry in self.committed(0, end):
            if (older := latest.get(entry.key)) is not None:
                self._compacted.add(older)
            latest[entry.key] = entry.offset
        return len(self._compacted) - before

    def _is_aborted(self, entry: Entry) -> bool:
        return any(
            entry.producer_id == producer_id and first <= entry.offset < last
            for producer_id, first, last in self._aborted
        )


@dataclass(slots=True)
class Transaction:
    """What the coordinator knows of a transactional id."""

    transactional_id: str
    producer_id: int
    epoch: int = 0
    state: Literal["Empty", "Ongoing", "PrepareCommit", "PrepareAbort"] = "Empty"
    partitions: set[TopicPartition] = field(default_factory=set)
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    markers_left: int = 0
    began: float = 0.0


class Broker:
    """One broker, leader and coordinator of everything."""

    def __init__(self, random: Random, transaction_timeout_seconds: float, late_markers: float) -> None:
        self.clock = VirtualClock()
        self.logs: dict[TopicPartition, Log] = {}
        self.offsets: dict[TopicPartition, int] = {}
        self.leaderless: set[TopicPartition] = set()
        self.generation = 0
        self.members: set[str] = set()
        self._random = random
        self._timeout_seconds = transaction_timeout_seconds
        self._late_markers = late_markers
        self._transactions: dict[str, Transaction] = {}
        self._markers: set[asyncio.Task[None]] = set()

    def log(self, tp: TopicPartition) -> Log:
        found = self.logs.get(tp)
        if found is None:
            found = self.logs[tp] = Log(self.clock)
        return found

    def move_leader(self, tp: TopicPartition, random: Random) -> None:
        """Another replica leads: it has everything, and does not know yet how much of it is acknowledged."""
        log = self.log(tp)
        log.lagging_from = max(0, log.stable_end - random.randint(0, 20))

    def caught_up(self, tp: TopicPartition) -> None:
        """The followers of a new leader have everything."""
        self.log(tp).lagging_from = None

    def knows_its_end(self, tp: TopicPartition) -> bool:
        """Whether the partition's leader can say where it ends: `OFFSET_NOT_AVAILABLE` while a new one catches up."""
        return tp not in self.leaderless and self.log(tp).lagging_from is None

    async def led(self, tp: TopicPartition) -> None:
        """Wait until the partition has a leader."""
        while tp in self.leaderless:  # noqa: ASYNC110 - in virtual time it costs nothing
            await asyncio.sleep(0.05)

    # Transactions

    def init_producer(self, transactional_id: str) -> tuple[int, int]:
        """Fence the last producer of this id. Raises `ConcurrentTransactions` until its transaction has ended."""
        transaction = self._transactions.get(transactional_id)
        if transaction is None:
            transaction = Transaction(transactional_id, len(self._transactions) + 1)
            self._transactions[transactional_id] = transaction
        if transaction.state == "Ongoing":
            transaction.epoch += 1
            self._end(transaction, commit=False)
        if transaction.state != "Empty":
            raise ConcurrentTransactions
        transaction.epoch += 1
        return transaction.producer_id, transaction.epoch

    def add(self, transactional_id: str, epoch: int, partitions: Iterable[TopicPartition]) -> None:
        transaction = self._checked(transactional_id, epoch)
        if transaction.state == "Empty":
            transaction.state, transaction.began = "Ongoing", self.clock.monotonic()
        transaction.partitions |= set(partitions)

    def produce(self, transactional_id: str, epoch: int, tp: TopicPartition, records: Sequence[Record]) -> None:
        transaction = self._checked(transactional_id, epoch)
        if tp not in transaction.partitions:
            raise InvalidTxnState
        self.log(tp).append(records, transaction.producer_id)

    def commit_offsets(
        self, transactional_id: str, epoch: int, offsets: dict[TopicPartition, int], member: GroupMember
    ) -> None:
        transaction = self._checked(transactional_id, epoch)
        if transaction.state != "Ongoing":
            raise InvalidTxnState
        if member.generation >= 0 or member.member_id:
            if member.member_id not in self.members:
                raise UnknownMemberIdError
            if member.generation != self.generation:
                raise IllegalGenerationError
        transaction.offsets |= offsets

    def end_transaction(self, transactional_id: str, epoch: int, *, commit: bool) -> None:
        transaction = self._checked(transactional_id, epoch)
        if transaction.state == "Ongoing":
            self._end(transaction, commit=commit)

    def end_overdue(self) -> None:
        """What a broker does every ten seconds."""
        for transaction in self._transactions.values():
            if transaction.state == "Ongoing" and self.clock.monotonic() - transaction.began > self._timeout_seconds:
                transaction.epoch += 1
                self._end(transaction, commit=False)

    def ongoing_on(self, tp: TopicPartition) -> list[str]:
        """The transactional ids that hold up readers of a partition, and whose outcome is not decided."""
        return [
            transaction.transactional_id
            for transaction in self._transactions.values()
            if transaction.state == "Ongoing" and transaction.producer_id in self.log(tp).open
        ]

    def _checked(self, transactional_id: str, epoch: int) -> Transaction:
        transaction = self._transactions[transactional_id]
        if transaction.epoch != epoch:
            raise ProducerFenced
        if transaction.state in {"PrepareCommit", "PrepareAbort"}:
            raise ConcurrentTransactions
        return transaction

    def _end(self, transaction: Transaction, *, commit: bool) -> None:
        """Decide the outcome; markers follow, to each partition and to the offsets at its own time."""
        transaction.state = "PrepareCommit" if commit else "PrepareAbort"
        work = [self._mark(transaction, tp, commit=commit) for tp in sorted(transaction.partitions)]
        work.append(self._settle_offsets(transaction, commit=commit))
        transaction.markers_left = len(work)
        for each in work:
            task = asyncio.get_running_loop().create_task(each)
            self._markers.add(task)
            task.add_done_callback(self._markers.discard)

    async def _mark(self, transaction: Transaction, tp: TopicPartition, *, commit: bool) -> None:
        await self._marker_delay()
        await self.led(tp)
        self.log(tp).mark(transaction.producer_id, "commit" if commit else "abort")
        self._marked(transaction)

    async def _settle_offsets(self, transaction: Transaction, *, commit: bool) -> None:
        await self._marker_delay()
        if commit:
            self.offsets |= transaction.offsets
        transaction.offsets.clear()
        self._marked(transaction)

    async def _marker_delay(self) -> None:
        is_late = self._random.random() < self._late_markers
        await asyncio.sleep(self._random.uniform(0.1, 1.2) if is_late else self._random.uniform(0.0, 0.01))

    def _marked(self, transaction: Transaction) -> None:
        transaction.markers_left -= 1
        if not transaction.markers_left:
            transaction.state = "Empty"
            transaction.partitions.clear()

    # Offsets

    def fetch_offsets(self, partitions: Iterable[TopicPartition], *, require_stable: bool) -> dict[TopicPartition, int]:
        wanted = set(partitions)
        if require_stable and any(wanted & each.offsets.keys() for each in self._transactions.values()):
            raise UnstableOffsetCommitError
        return {tp: self.offsets[tp] for tp in wanted if tp in self.offsets}
