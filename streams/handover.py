"""Taking a partition over: fence, restore, read the committed offsets, and say where to seek. In this order.

Without the fence first, a zombie's transaction can still commit after the offsets were read (seen in 40 of 200
hand-overs). Runs in the background, never inside a rebalance callback: heartbeats start only after that returns.
"""

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import TopicPartition

from projections.partition import Partition
from projections.records import UnknownFormatError
from schemas.topics import Role
from streams.barrier import Barrier
from streams.changelog import Progress, restore
from streams.config import FOLDED_ROLES, EngineConfig
from streams.control import Control
from streams.errors import LostInputError, RestoreError
from streams.fetching import Flow
from streams.forward import Forwarder, home_check
from streams.metrics import Metrics
from streams.transaction import TransactionWriter

_log = structlog.get_logger(__name__)

REBUILD: Final = (
    "To rebuild the rows from the inputs, stop all workers, delete the group's offsets and recreate the changelog"
    " topic; docs/operations.md has the steps."
)


@dataclass(slots=True)
class Surroundings:
    """What the partitions of one worker share."""

    flow: Flow
    barrier: Barrier
    control: Control
    forwarder: Forwarder
    metrics: Metrics
    partition_count: int
    in_background: Callable[[Coroutine[Any, Any, None]], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """A partition taken over: its rows, its producer, and by role the positions folded up to and committed."""

    partition: Partition
    writer: TransactionWriter
    applied: dict[Role, int]
    committed: dict[Role, int]


async def take_over(config: EngineConfig, number: int, around: Surroundings) -> Taken:
    """Become the owner of a partition.

    Raises `KafkaError` where the broker does not answer, `RestoreError` where the changelog is not whole or does not
    agree with the offsets, and `LostInputError` where the place to go on from is no longer on the broker. Cancelled or
    failed, it closes its producer.
    """
    began = time.monotonic()
    writer = TransactionWriter(config, number)
    try:
        await writer.fence()
        partition = Partition(number, config.rules, home_check(number, around.partition_count))
        progress, records = await _restore(config, partition)
        committed, begin = await _places(config, number, around.control)
        applied = _starting_point(config, number, progress, committed, begin)
    except BaseException:
        around.in_background(writer.stop())
        raise
    seconds = time.monotonic() - began
    around.metrics.restored(seconds, partition.store.session_count)
    _log.info(
        "partition_taken_over",
        partition=number,
        sessions=partition.store.session_count,
        changelog_records=records,
        seconds=round(seconds, 3),
        **applied,
    )
    return Taken(partition, writer, applied, committed)


async def _restore(config: EngineConfig, partition: Partition) -> tuple[Progress | None, int]:
    changelog = config.topic("sessions.changelog")
    try:
        restored = await restore(config, partition.number, partition.restore)
        partition.settle()
    except UnknownFormatError as error:
        raise RestoreError(f"partition {partition.number} of {changelog}: {error}") from error
    except ValueError as error:
        raise RestoreError(
            f"partition {partition.number}: {error}. The changelog {changelog} is not whole. {REBUILD}"
        ) from error
    return restored


async def _places(config: EngineConfig, number: int, control: Control) -> tuple[dict[Role, int], dict[Role, int]]:
    partitions: dict[Role, TopicPartition] = {role: TopicPartition(config.topic(role), number) for role in FOLDED_ROLES}
    committed = await control.committed_offsets(list(partitions.values()))
    begin = await control.beginning_offsets(list(partitions.values()))
    return (
        {role: committed[tp] for role, tp in partitions.items() if tp in committed},
        {role: begin[tp] for role, tp in partitions.items()},
    )


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
