"""What the engine needs of the world: small protocols, so that its logic runs on Kafka and on a simulated broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from schemas.topics import Role
from streams.batches import RecordBatch
from streams.failure import Failure
from streams.member import GroupMember

Progress = Mapping[Role, int]
"""The position folded up to, by the role of the input topic."""


class Layout(NamedTuple):
    """What the inputs are: how many partitions each has, and by role the id that the broker gave the topic.

    A topic that is deleted and created again has another id, and its offsets begin at 0 again.
    """

    partition_count: int
    topic_ids: Mapping[Role, str]


class Restored(NamedTuple):
    """What a partition's changelog says beside its rows.

    `progress` is None where no transaction was ever committed; with a `failure`, nobody may work on the partition.
    `layout` is that of the inputs that were folded; None in a changelog of an earlier version.
    """

    progress: Progress | None
    failure: Failure | None
    records: int
    layout: Layout | None = None


class Clock(Protocol):
    """Time."""

    def now_ms(self) -> int:
        """The wall clock, to be compared with the broker's timestamps."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def cpu(self) -> float:
        """Seconds of CPU that this thread has used."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """The wall clock."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def cpu(self) -> float:
        """Of this thread."""
        return time.thread_time()


class EndOffsets(Protocol):
    """Where logs end."""

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The high watermarks, read after this call was made, of those partitions that have a leader.

        Waits for the broker as long as it takes.
        """


class UnwritableError(KafkaError):
    """Some partitions of topics took no records, or no markers, in time: they lack a leader or replicas."""

    def __init__(self, partitions: Iterable[TopicPartition]) -> None:
        self.partitions = frozenset(partitions)
        named = sorted(f"{tp.topic}/{tp.partition}" for tp in self.partitions)
        super().__init__(", ".join(named))


class TransactionLog(Protocol):
    """Writes this worker's transactions, one at a time."""

    async def open(self) -> None:
        """Become ready for the first transaction, or again after an error: what was open is aborted.

        Raises `KafkaError`. Cancelled, it is to be called again.
        """

    def begin(self, partitions: Iterable[TopicPartition]) -> None:
        """Begin a transaction, or add to the one that was begun, while its caller waits for something else."""

    @property
    def is_overdue(self) -> bool:
        """Whether a transaction was begun so long ago that it has to be written or abandoned now."""

    async def abandon(self) -> None:
        """End a transaction that was begun and has nothing to write. Raises `KafkaError`."""

    async def write(
        self,
        batches: Mapping[TopicPartition, Sequence[RecordBatch]],
        offsets: Mapping[TopicPartition, int],
        member: GroupMember,
    ) -> None:
        """Write batches of records and commit offsets, all or nothing, as this member of the group.

        Raises `KafkaError`, `UnwritableError` in particular; whether the transaction was committed is then unknown
        until `open` has returned.
        """

    async def close(self) -> None:
        """Give the log up. What is open is left to whoever finds it."""


class CommittedOffsets(Protocol):
    """What the group has committed."""

    async def stable_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The committed offsets, of those partitions that have one.

        Raises `UnstableOffsetCommitError` where a transaction may still change one of them, other `KafkaError`s where
        the broker does not answer.
        """

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset of each log's first record. Raises `KafkaError`."""


class OpenTransactions(Protocol):
    """Transactions that others have left open."""

    async def fence(self, transactional_id: str) -> None:
        """Abort the open transaction of this id and make the next one of its owner fail. Raises `KafkaError`."""

    async def end_those_on(self, partition: TopicPartition) -> None:
        """Abort every ongoing transaction with records on the partition, but this worker's own. Raises `KafkaError`."""


class Changelog(Protocol):
    """The rows of partitions, as records."""

    async def read(self, partition: int, end: int, take: Callable[[bytes, bytes | None], None]) -> Restored:
        """Give every committed record below `end` but those about progress to `take`.

        Raises `KafkaError`. Cancelled, it closes its connection; `take` has then seen a part.
        """
