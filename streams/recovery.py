"""What follows a failed transaction: what was committed is found out, and gone on from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced

from streams.assignment import Assignment, retry_seconds
from streams.context import WorkerContext
from streams.errors import NOT_ALLOWED, FatalError, not_allowed
from streams.interfaces import TransactionLog, UnwritableError
from streams.kafka_protocol import FencedInstanceIdError
from streams.member import GroupMember
from streams.sender import MEMBER_FENCED
from streams.task import PartitionTask
from streams.work import StagedWork

_log = structlog.get_logger(__name__)

SetApart = Callable[[Sequence[PartitionTask], frozenset[TopicPartition]], None]
"""Has partitions written apart from the others, until these topic partitions take records again."""


class Recovery:
    """Of one cycle, with its transaction log."""

    def __init__(
        self, context: WorkerContext, assignment: Assignment, log: TransactionLog, set_apart: SetApart | None
    ) -> None:
        self._context = context
        self._config = context.config
        self._assignment = assignment
        self._log = log
        self._set_apart = set_apart
        self._failures = 0
        """In a row. Not forgotten until a transaction is committed, whatever else works in between."""

    def succeeded(self) -> None:
        """A transaction was committed."""
        self._failures = 0

    async def start_afresh(
        self,
        error: BaseException,
        tasks: Sequence[PartitionTask],
        staged: Sequence[StagedWork],
        member: GroupMember | None,
    ) -> None:
        """Discard the producer, and have `tasks` go on from what was committed.

        Where this worker is still the owner, and the offsets show that the transaction was aborted, the committed rows
        are put back. Otherwise they are read again. `staged` is what the last transaction had, `member` who wrote it.
        """
        self._context.metrics.transaction_failed(error)
        self._raise_if_fatal(error)
        self._assignment.suspend(tasks)
        if isinstance(error, UnwritableError):
            self._part(error, tasks, staged)
        delay = retry_seconds(self._failures)
        self._failures += 1
        _log.warning("worker_starts_afresh", error=repr(error), retry_seconds=delay)
        await asyncio.sleep(delay)
        await self.open()  # ends the transaction that failed: nobody has to wait for its timeout
        left = [task for task in tasks if not task.is_apart or len(tasks) == 1]
        if isinstance(error, MEMBER_FENCED):
            await self._assignment.changed(member, self._config.session_timeout_seconds)
            self._assignment.restart(left)
        elif isinstance(error, ProducerFenced):  # by a new owner, or by the broker after the transaction's timeout
            await self._assignment.changed(member, self._config.heartbeat_interval_seconds + 0.5)
            self._assignment.restart(left)
        else:
            self._assignment.resume(left)

    def _raise_if_fatal(self, error: BaseException) -> None:
        if isinstance(error, NOT_ALLOWED):
            raise not_allowed(error) from error
        if isinstance(error, FencedInstanceIdError):
            raise FatalError(
                f"another worker has the instance id {self._config.instance_id!r}: give each one its own"
            ) from error
        if isinstance(error, MessageSizeTooLargeError):
            raise FatalError(f"the broker refuses what has to be written: {error!r}") from error

    def _part(self, error: UnwritableError, tasks: Sequence[PartitionTask], staged: Sequence[StagedWork]) -> None:
        """Have the partitions written apart that could not be written, so that the others go on."""
        numbers = {tp.partition for tp in error.partitions}
        writers = {work.task for work in staged if not error.partitions.isdisjoint(work.batches)}
        stuck = [task for task in tasks if task in writers or task.number in numbers]
        if self._set_apart is not None and len(stuck) < len(tasks):
            self._set_apart(stuck, error.partitions)

    async def open(self) -> None:
        """Open the log, as often as it takes. Raises `FatalError` where the user may not."""
        failures = 0
        while True:
            try:
                await self._log.open()
            except NOT_ALLOWED as error:
                raise not_allowed(error) from error
            except (KafkaError, OSError) as error:
                delay = retry_seconds(failures)
                failures += 1
                _log.warning("transactions_not_available", error=repr(error), retry_seconds=delay)
                await asyncio.sleep(delay)
            else:
                return
