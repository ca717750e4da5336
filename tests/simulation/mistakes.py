"""Known mistakes, each planted into the engine: a simulation that does not find them shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from aiokafka import TopicPartition

from projections.decode import Batch
from projections.partition import Partition
from streams.assignment import Assignment
from streams.cut import PendingCut
from streams.intake import Intake
from streams.member import GroupMember
from streams.probing import Search
from streams.recovery import Recovery
from streams.task import PartitionTask
from streams.work import StagedWork
from tests.simulation.client import SimulatedCluster, SimulatedFetches, SimulatedLog


class Mistake(NamedTuple):
    """How to plant it, and a seed whose schedule has found it."""

    plant: Callable[[], AbstractContextManager[Any]]
    found_by: int


def commits_without_a_generation() -> AbstractContextManager[Any]:
    """Rule 1: with generation -1 a broker fences nobody."""
    write = SimulatedLog.write

    async def unfenced(log: SimulatedLog, batches: Any, offsets: Any, member: GroupMember) -> None:
        await write(log, batches, offsets, member._replace(generation=-1, member_id=""))

    return patch.object(SimulatedLog, "write", unfenced)


def commits_as_the_member_of_now() -> AbstractContextManager[Any]:
    """Rule 1: who commits is captured with the assignment and the work, not asked for when the offsets are sent."""
    write = SimulatedLog.write

    async def late(log: SimulatedLog, batches: Any, offsets: Any, member: GroupMember) -> None:
        now = member._replace(generation=log._broker.generation)
        now = now._replace(member_id=next(iter(log._broker.members), ""))
        await write(log, batches, offsets, now)

    return patch.object(SimulatedLog, "write", late)


@contextmanager
def commits_no_offsets_after_timers() -> Iterator[None]:
    """Rule 2: a transaction that commits no offset is not fenced at all."""
    stage = PartitionTask.stage

    def without(task: PartitionTask) -> StagedWork:
        before = dict(task._committed)
        staged = stage(task)
        return replace(staged, offsets=staged.offsets if staged.applied != before else {})

    def merged(staged: Sequence[StagedWork]) -> tuple[dict[Any, Any], dict[Any, Any]]:
        batches: dict[TopicPartition, list[Any]] = {}
        offsets: dict[TopicPartition, int] = {}
        for work in staged:
            offsets |= work.offsets
            for tp, of_partition in work.batches.items():
                batches.setdefault(tp, []).extend(of_partition)
        return batches, offsets

    with patch.object(PartitionTask, "stage", without), patch("streams.cycle._merged", merged):
        yield


def writes_while_the_group_rebalances() -> AbstractContextManager[Any]:
    """Rule 3: what is begun after the revocation is refused, and with it the work of all partitions."""
    return patch.object(Assignment, "revoke", lambda _assignment: None)


def takes_unstable_offsets() -> AbstractContextManager[Any]:
    """Rule 4: a transaction whose offsets are pending may still commit."""

    async def unstable(cluster: SimulatedCluster, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return await cluster._network.ask(lambda: cluster._broker.fetch_offsets(partitions, require_stable=False))

    return patch.object(SimulatedCluster, "stable_offsets", unstable)


def restores_to_the_last_stable_offset() -> AbstractContextManager[Any]:
    """Rule 4: the changelog's marker can come after that of the offsets."""
    read = SimulatedCluster.read

    async def short(cluster: SimulatedCluster, partition: int, end: int, take: Any) -> Any:
        log = cluster._broker.log(TopicPartition(cluster._config.topic("sessions.changelog"), partition))
        return await read(cluster, partition, min(end, log.stable_end), take)

    return patch.object(SimulatedCluster, "read", short)


def keeps_rows_after_a_failed_transaction() -> AbstractContextManager[Any]:
    """Rule 5: the rows have changed already, and what they led to is not written again."""
    return patch.multiple(Assignment, suspend=_nothing, resume=_nothing, restart=_nothing)


def puts_rows_back_after_a_commit() -> AbstractContextManager[Any]:
    """What became of a transaction is not known by its error: its commit may have got through."""
    return patch.object(PartitionTask, "resume", _go_on)


def believes_offsets_that_did_not_move() -> AbstractContextManager[Any]:
    """A transaction of a timer leaves the offsets as they were, whether it was committed or not."""
    resume = PartitionTask.resume

    def believe(task: PartitionTask, stable: Mapping[TopicPartition, int]) -> bool:
        suspended = task._suspended
        if suspended is not None and suspended.staged is not None:
            at = suspended.taken.committed
            if all(at.get(role) == applied for role, applied in suspended.staged.applied.items()):
                return _go_on(task, stable)
        return resume(task, stable)

    return patch.object(PartitionTask, "resume", believe)


def _go_on(task: PartitionTask, _stable: Mapping[TopicPartition, int]) -> bool:
    assert task._suspended is not None
    task.begin(task._suspended.taken)
    return True


def keeps_what_was_folded_before_a_record_raised() -> AbstractContextManager[Any]:
    """Its neighbours are folded twice, and half of what it led to is written."""
    return patch.object(Partition, "roll_back", lambda _partition: None)


def blames_the_last_record_of_a_piece() -> AbstractContextManager[Any]:
    """Any other record of the piece may be the one that raises, or the state that they lead to together."""
    failed = Search.failed

    def hasty(search: Search, work: Any, records: int, reached: Any, failure: Any) -> bool:
        return failed(search, work, min(records, 1), reached, failure)

    return patch.object(Search, "failed", hasty)


def _nothing(_assignment: Assignment, _tasks: object) -> None:
    return


def goes_on_without_opening_again() -> AbstractContextManager[Any]:
    """Rule 5: the transaction that failed is still open, and the next one commits what is in it."""

    async def nothing(_recovery: Recovery) -> None:
        return

    return patch.object(Recovery, "open", nothing)


def keeps_partitions_over_a_gap() -> AbstractContextManager[Any]:
    """What a worker owned before it was removed from the group, somebody else has worked on since."""
    return patch.object(GroupMember, "continues", lambda _member, earlier: earlier is not None)


def leaves_open_transactions_alone() -> AbstractContextManager[Any]:
    """Nothing is lost, but a partition waits for a dead worker's transaction to time out."""

    async def nothing(_cluster: SimulatedCluster, _partition: TopicPartition) -> None:
        return

    return patch.object(SimulatedCluster, "end_those_on", nothing)


def judges_without_a_barrier() -> AbstractContextManager[Any]:
    """A gate that lags delivers what the context contradicts."""
    return patch.object(PendingCut, "may_decide", lambda cut, _applied: cut.ends is not None)


def asks_the_barrier_for_the_last_stable_offset() -> AbstractContextManager[Any]:
    """An open transaction hides context that was acknowledged before it."""

    async def stable(cluster: SimulatedCluster, partitions: Any) -> Mapping[TopicPartition, int]:
        wanted = list(partitions)
        return await cluster._network.ask(lambda: {tp: cluster._broker.log(tp).stable_end for tp in wanted})

    return patch.object(SimulatedCluster, "end_offsets", stable)


def believes_a_leader_that_catches_up() -> AbstractContextManager[Any]:
    """A new leader does not know at once how much was acknowledged before it: what it shows may end too early."""

    async def early(cluster: SimulatedCluster, partitions: Any) -> Mapping[TopicPartition, int]:
        wanted, broker = list(partitions), cluster._broker

        def ends() -> dict[TopicPartition, int]:
            logs = {tp: broker.log(tp) for tp in wanted if tp not in broker.leaderless}
            return {tp: log.end if log.lagging_from is None else log.lagging_from for tp, log in logs.items()}

        return await cluster._network.ask(ends, retriable=True)

    return patch.object(SimulatedCluster, "end_offsets", early)


def folds_whatever_comes() -> AbstractContextManager[Any]:
    """Batches are taken for a continuation of what is queued, whatever position they begin at."""

    def any_batch(intake: Intake, batch: Batch) -> None:
        if intake.ends:
            (intake._context if batch.role == "context" else intake._logs[batch.role]).append(batch)
            intake.ends[batch.role] = batch.end
            intake._changed(batch.role, batch.size_bytes)

    return patch.object(Intake, "offer", any_batch)


@contextmanager
def forgets_to_seek_after_a_rebalance() -> Iterator[None]:
    """Rule 8: the consumer's own position is not the one to go on from."""
    seek = PartitionTask.seek

    def badly(task: PartitionTask) -> None:
        seek(task)
        fetches: Any = task._context.fetches
        assert isinstance(fetches, SimulatedFetches)
        for role, tp in task._inputs.items():
            if role == "steps":
                fetches._positions[tp] += 1
                task._intake.ends[role] += 1

    with patch.object(PartitionTask, "seek", badly):
        yield


MISTAKES: Final[Mapping[str, Mistake]] = {
    plant.__name__: Mistake(plant, found_by)
    for plant, found_by in (
        (commits_without_a_generation, 26),
        (commits_as_the_member_of_now, 26),
        (commits_no_offsets_after_timers, 199),
        (writes_while_the_group_rebalances, 15),
        (takes_unstable_offsets, 4),
        (restores_to_the_last_stable_offset, 7),
        (keeps_rows_after_a_failed_transaction, 4),
        (puts_rows_back_after_a_commit, 57),
        (believes_offsets_that_did_not_move, 57),
        (keeps_what_was_folded_before_a_record_raised, 4),
        (blames_the_last_record_of_a_piece, 4),
        (goes_on_without_opening_again, 1),
        (keeps_partitions_over_a_gap, 33),
        (leaves_open_transactions_alone, 5),
        (judges_without_a_barrier, 1),
        (asks_the_barrier_for_the_last_stable_offset, 1),
        (believes_a_leader_that_catches_up, 5),
        (folds_whatever_comes, 2),
        (forgets_to_seek_after_a_rebalance, 4),
    )
}
