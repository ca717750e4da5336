"""The life of one partition on a worker: taken over, suspended, gone on with, failed, given up. Does no I/O.

What is done with its records is `streams.task`.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from aiokafka import TopicPartition

from projections.decode import Refusal
from projections.partition import Partition
from schemas.topics import Role
from streams.config import FOLDED_ROLES
from streams.context import WorkerContext
from streams.cut import Cuts
from streams.failure import Failure
from streams.handover import TakenOver
from streams.intake import Intake
from streams.pace import Pace
from streams.partition_metrics import State
from streams.probing import Search, Work
from streams.staging import Stager
from streams.tally import Tally
from streams.work import StagedWork, Suspended

_log = structlog.get_logger(__name__)


class PartitionLife:
    """Where one partition stands: what is committed, what has been tried since, and what went wrong."""

    def __init__(self, number: int, context: WorkerContext) -> None:
        self.number = number
        self._config = context.config
        self._context = context
        self._clock = context.clock
        self._inputs = {role: TopicPartition(self._config.topic(role), number) for role in FOLDED_ROLES}
        self._stager = Stager(self._config, number, context.layout)
        self._intake = Intake(self._inputs, context.fetches)
        self._pace = Pace(context.clock)
        self.is_apart = False
        """Whether it is written by a producer of its own, because it could not be written with the others."""
        self._forget()
        self.set_state("starting")

    def _forget(self) -> None:
        self._partition: Partition | None = None
        self._suspended: Suspended | None = None
        self._staged: StagedWork | None = None
        self._written: dict[Role, int] = {}
        self._committed: dict[Role, int] = {}
        """The positions that the committed rows reach: of all topics, and of those with a committed offset."""
        self._search = Search()
        self._failure: Failure | None = None
        """What the partition is marked with, or about to be, because no single record is to blame for it."""
        self.known_end: int | None = None
        """Of a partition marked as failed: where its changelog was read to. Beyond that it may say something else."""
        self._last_commit = 0.0
        self._last_sweep = self._clock.monotonic()
        self._forget_attempt()

    def _forget_attempt(self) -> None:
        """Forget what has been folded and judged since the last transaction."""
        self._applied: dict[Role, int] = dict(self._written)
        self._reached: dict[Role, int] = dict(self._written)
        """Where the records end that were taken, those of work that has raised included."""
        self._doing: Work = "fold"
        self._cuts = Cuts(self._clock)
        self._has_judged = False
        self._refusals: list[Refusal] = []
        """Of records that were found to raise."""
        self._tally = Tally()

    # Its life

    def begin(self, taken: TakenOver) -> None:
        """The partition has been taken over: work begins, unless it is marked as failed."""
        self._forget()
        if taken.failure is not None:
            self._stay_failed(taken.failure, taken.end)
            return
        self._partition = taken.partition
        self._written, self._committed = dict(taken.applied), dict(taken.committed)
        self._forget_attempt()
        self._intake.start(self._written)
        self.set_state("running")
        self._context.wake()

    def seek(self) -> None:
        """Have the consumers read on where this partition's queues end."""
        self._intake.seek()

    def discard(self) -> None:
        """Forget everything; what is committed has to be taken over again."""
        self._intake.stop()
        self._forget()
        self.set_state("restoring")

    def suspend(self) -> None:
        """Forget what is not committed, and stop. `resume` goes on if the last transaction was aborted."""
        partition, staged, written, committed = self._partition, self._staged, self._written, self._committed
        if partition is None:
            return  # it is being taken over, or suspended already, or has failed
        partition.roll_back()
        self.discard()
        self._suspended = Suspended(TakenOver(partition, written, committed), staged)

    def resume(self, stable: Mapping[TopicPartition, int]) -> bool:
        """Go on from what was committed before it was suspended, if the stable offsets show that this is still so."""
        suspended = self._suspended
        if suspended is None or not suspended.was_aborted(self._inputs, stable):
            return False
        self.begin(suspended.taken)
        return True

    @property
    def committed_state(self) -> tuple[Partition, Mapping[Role, int]] | None:
        """The partition, and the positions that its committed rows reach; None while it is not running."""
        if self._partition is None or self.state != "running":
            return None
        return self._partition, self._committed

    @property
    def is_suspended(self) -> bool:
        """Whether it may be able to go on without being taken over again."""
        return self._suspended is not None

    @property
    def is_running(self) -> bool:
        """Whether it has been taken over."""
        return self._partition is not None

    def set_apart(self, *, yes: bool) -> None:
        """Have it written apart from the others, or with them again."""
        self.is_apart = yes

    def set_state(self, state: State) -> None:
        """Tell where it stands."""
        self.state: State = state
        self._context.metrics.state(self.number, state)

    # Failures of its own work

    def isolate(self, failure: Failure) -> None:
        """Its work has raised: forget what is not committed, and look for the record that is to blame.

        That one is refused. If there is none, the partition is marked as failed, and nobody works on it any more.
        """
        goes_on = self._search.failed(self._doing, self._tally.records, self._reached, failure)
        _log.error(
            "record_sought" if goes_on else "partition_failed",
            partition=self.number,
            error=failure.error,
            place=failure.place,
            records=self._tally.records,
        )
        self._known.roll_back()
        self._forget_attempt()
        if goes_on:
            self._intake.start(self._written)
        else:
            self._failure = failure
            self._intake.stop()
        self._context.wake()

    def _stay_failed(self, failure: Failure, known_end: int | None = None) -> None:
        self._intake.stop()
        self._forget()
        self._failure, self.known_end = failure, known_end
        self.set_state("failed")

    @property
    def _known(self) -> Partition:
        if self._partition is None:
            raise RuntimeError(f"partition {self.number} has not been taken over")
        return self._partition
