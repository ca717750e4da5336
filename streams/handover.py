"""Taking a partition over: what it needs before its first event is folded. The order of the steps matters.

1. Workers of the version before the group's generation fenced transactions are fenced by their transactional id.
2. The committed offsets are fetched, stable ones only: a transaction whose offsets are pending may still commit.
3. The changelog's high watermark is asked for, and the rows are read, committed ones only, up to there. The last stable
   offset would not do: markers on the changelog can be written later than those of the offsets (2.4 % of commits, up to
   1.2 s), and restores that ended there were wrong three times in 41.
4. The caller seeks to the restored positions.

Steps 2 and 3 wait for open transactions. Those of owners that are gone are ended. Runs in the background, never inside
a rebalance callback: heartbeats start only after that returns, and a 12 s restore in a 6 s session made two workers
evict each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from projections.partition import Partition
from projections.records import UnknownFormatError
from schemas.topics import Role
from streams.config import FOLDED_ROLES, EngineConfig
from streams.context import WorkerContext
from streams.errors import LostInputError, RestoreError
from streams.failure import Failure
from streams.home import home_check
from streams.interfaces import Layout, Progress
from streams.kafka_protocol import UnstableOffsetCommitError

_log = structlog.get_logger(__name__)
T = TypeVar("T")

REBUILD: Final = (
    "To rebuild the rows from the inputs, stop all workers, delete the group's offsets and recreate the changelog"
    " topic; docs/operations.md has the steps."
)

UNSTABLE_RETRY_SECONDS: Final = 0.005
FIRST_LOOK_SECONDS: Final = 0.3
"""How long a step may wait before open transactions of others are looked for: a commit's markers take 10 ms."""
NEXT_LOOK_SECONDS: Final = 1.0
TRUNCATED_RETRY_SECONDS: Final = 3.0
LEADER_RETRY_SECONDS: Final = 0.25


class OwnedByAnotherError(KafkaError):
    """What was read does not fit together, because the partition's owner went on meanwhile.

    A worker that slept through a rebalance does not know that it is not the owner. The next assignment tells it.
    """


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A partition taken over: its rows, and by role the positions folded up to and committed.

    With a `failure`, nobody may work on it until an operator asks for it. `end` is where its changelog was read to.
    """

    partition: Partition
    applied: dict[Role, int]
    committed: dict[Role, int]
    failure: Failure | None = None
    end: int = 0


async def take_over(context: WorkerContext, number: int) -> TakenOver:
    """Become the owner of a partition.

    Raises `KafkaError` or `TimeoutError` where the broker does not answer, `OwnedByAnotherError` (a `KafkaError`) where
    this worker is not the owner any more, `RestoreError` where the changelog is not whole or does not agree with the
    offsets, and `LostInputError` where the place to go on from is no longer on the broker. Cancelled, it leaves nothing
    behind.
    """
    config = context.config
    began = context.clock.monotonic()
    await context.open_transactions.fence(_transactional_id_of_old_workers(config, number))
    changelog, inputs = _changelog(config, number), _inputs(config, number)
    stable = await stable_offsets(context, number)
    committed = {role: stable[tp] for role, tp in inputs.items() if tp in stable}
    end = (await _ends(context, [changelog]))[changelog]
    partition = Partition(number, config.rules, home_check(number, context.layout.partition_count))
    try:
        read = context.changelog.read(number, end, partition.restore)
        restored = await _unblocked(context, changelog, read)
    except UnknownFormatError as error:
        raise RestoreError(f"partition {number} of {changelog.topic}: {error}") from error
    begin = await context.committed_offsets.beginning_offsets(list(inputs.values()))
    check_layout(config, number, restored.layout, context.layout)
    try:
        _settle(config, partition)
        applied = _starting_point(
            config, number, restored.progress, committed, {role: begin[tp] for role, tp in inputs.items()}
        )
    except (RestoreError, LostInputError) as error:
        if await stable_offsets(context, number) != stable:
            raise OwnedByAnotherError(f"partition {number}: somebody else commits offsets") from error
        raise
    await _check_ends(context, inputs, applied)
    seconds = context.clock.monotonic() - began
    context.metrics.restored(seconds, partition.store.session_count)
    _log.info(
        "partition_taken_over",
        partition=number,
        sessions=partition.store.session_count,
        changelog_records=restored.records,
        seconds=round(seconds, 3),
        **applied,
    )
    return TakenOver(partition, applied, committed, restored.failure, end)


def _transactional_id_of_old_workers(config: EngineConfig, number: int) -> str:
    """Of workers of the version that had a producer for each partition: they commit without a generation."""
    return f"{config.group_id}-{number}"


def _inputs(config: EngineConfig, number: int) -> dict[Role, TopicPartition]:
    return {role: TopicPartition(config.topic(role), number) for role in FOLDED_ROLES}


def _changelog(config: EngineConfig, number: int) -> TopicPartition:
    return TopicPartition(config.topic("sessions.changelog"), number)


async def stable_offsets(context: WorkerContext, number: int) -> dict[TopicPartition, int]:
    """The committed offsets of a partition's inputs, once no transaction can change them any more.

    Raises `KafkaError` where the broker does not answer.
    """
    inputs = list(_inputs(context.config, number).values())

    async def ask() -> dict[TopicPartition, int]:
        while True:
            try:
                return await context.committed_offsets.stable_offsets(inputs)
            except UnstableOffsetCommitError:
                await asyncio.sleep(UNSTABLE_RETRY_SECONDS)

    return await _unblocked(context, _changelog(context.config, number), ask())


async def _unblocked(context: WorkerContext, changelog: TopicPartition, step: Coroutine[Any, Any, T]) -> T:
    """What the step returns. While it takes its time, ongoing transactions on the changelog are ended.

    Nobody but the partition's owner may have one there, and that is this worker now.
    """
    task = asyncio.get_running_loop().create_task(step)
    try:
        wait = FIRST_LOOK_SECONDS
        while not (await asyncio.wait([task], timeout=wait))[0]:
            await context.open_transactions.end_those_on(changelog)
            wait = NEXT_LOOK_SECONDS
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _settle(config: EngineConfig, partition: Partition) -> None:
    try:
        partition.settle()
    except ValueError as error:
        raise RestoreError(
            f"partition {partition.number}: {error}. The changelog {config.topic('sessions.changelog')} is not whole."
            f" {REBUILD}"
        ) from error


def check_layout(config: EngineConfig, number: int, folded: Layout | None, found: Layout) -> None:
    """Raise `LostInputError` where the inputs are not those whose events the rows of a partition were folded from."""
    if folded is None:
        return
    if folded.partition_count != found.partition_count:
        raise LostInputError(
            f"partition {number}: its rows were folded from topics with {folded.partition_count} partitions, and now"
            f" there are {found.partition_count}: sessions would be looked for on other partitions than those that"
            " have their rows. The partition count cannot be changed in place; docs/operations.md tells how to grow."
        )
    for role, topic_id in folded.topic_ids.items():
        if found.topic_ids.get(role, topic_id) != topic_id:
            raise LostInputError(
                f"{config.topic(role)} was deleted and created again since partition {number} was folded: the committed"
                " offset is one of the old topic, and records of the new one would be skipped. docs/operations.md tells"
                " how to go on."
            )


async def _ends(context: WorkerContext, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """The end offsets of all of these partitions, once each has a leader."""
    wanted, found = list(partitions), dict[TopicPartition, int]()
    while len(found) < len(wanted):
        found = await context.end_offsets.end_offsets(wanted)
        if len(found) < len(wanted):
            await asyncio.sleep(LEADER_RETRY_SECONDS)
    return found


async def _check_ends(
    context: WorkerContext, inputs: Mapping[Role, TopicPartition], applied: Mapping[Role, int]
) -> None:
    """Raise `LostInputError` where a log ends before the position that was folded up to.

    A leader that was just elected may not know of the end yet: what it says is asked for again.
    """
    for is_last in (False, True):
        ends = await _ends(context, inputs.values())
        cut = [role for role, tp in inputs.items() if ends[tp] < applied[role]]
        if not cut:
            return
        if is_last:
            tp = inputs[cut[0]]
            raise LostInputError(
                f"{tp.topic}, partition {tp.partition}: folded up to offset {applied[cut[0]]}, but the log ends at"
                f" {ends[tp]}: it was truncated, or the topic was created again. What is written from now on would be"
                " skipped. docs/operations.md tells how to go on."
            )
        await asyncio.sleep(TRUNCATED_RETRY_SECONDS)


def _starting_point(
    config: EngineConfig,
    number: int,
    progress: Progress | None,
    committed: dict[Role, int],
    begin: dict[Role, int],
) -> dict[Role, int]:
    """Where to go on, by role.

    The progress row and the group's committed offsets were written in the same transactions, so they are equal. Group
    offsets expire when a group is idle for long: then the progress row alone counts. Neither: begin at the beginning.
    """
    applied: dict[Role, int] = {}
    for role in FOLDED_ROLES:
        restored = progress.get(role) if progress is not None else None
        known = committed.get(role)
        if known is not None and restored != known:
            raise RestoreError(
                f"partition {number}: the restored rows reach offset {restored} of {config.topic(role)}, but group"
                f" {config.group_id!r} has committed {known}. The changelog {config.topic('sessions.changelog')} was"
                f" cut short, or the group's offsets were changed by hand. {REBUILD}"
            )
        place = restored if restored is not None else begin[role]
        if restored is not None and place < begin[role]:
            raise LostInputError(
                f"{config.topic(role)}, partition {number}: folded up to offset {place}, but the topic begins at"
                f" {begin[role]}: records were deleted before they were folded. Its retention is too short;"
                " docs/operations.md tells how to go on."
            )
        applied[role] = place
    return applied
