"""A partition's part of a transaction, and what is kept of the partition until the outcome is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from projections.changes import Changes
from projections.partition import Partition
from schemas.topics import Role
from streams.handover import TakenOver
from streams.staging import StagedBatches
from streams.tally import Tally

if TYPE_CHECKING:
    from streams.task import PartitionTask


@dataclass(frozen=True, slots=True)
class StagedWork:
    """A partition's part of a transaction: what it writes, and what is true once that is committed."""

    task: PartitionTask
    partition: Partition
    batches: StagedBatches
    offsets: dict[TopicPartition, int]
    applied: dict[Role, int]
    changes: Changes
    tally: Tally


@dataclass(frozen=True, slots=True)
class Suspended:
    """A partition as it was last committed, and its part of the transaction after that, whose outcome is unknown."""

    taken: TakenOver
    staged: StagedWork | None

    def was_aborted(self, inputs: Mapping[Role, TopicPartition], stable: Mapping[TopicPartition, int]) -> bool:
        """Whether stable offsets show that the transaction was aborted. It must have ended.

        One that moved no offset cannot be told by them: False, as for one that was committed after all.
        """
        if self.staged is None:
            return True
        before = {inputs[role]: at for role, at in self.taken.committed.items()}
        moved = [tp for tp, at in self.staged.offsets.items() if at != before.get(tp)]
        return bool(moved) and all(stable.get(tp) == before.get(tp) for tp in moved)
