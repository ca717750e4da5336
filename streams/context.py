"""What the partitions of one worker share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from streams.config import EngineConfig
from streams.interfaces import Changelog, Clock, CommittedOffsets, EndOffsets, Layout, OpenTransactions
from streams.metrics import Metrics


class FetchControl(Protocol):
    """What is told to the fetching consumers: who has joined, where to read, how much is queued."""

    joined: set[int]
    queued_bytes: dict[tuple[str, int], int]

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read the partition from `offset` on."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The worker's connections, as interfaces, and what it knows of the topics. `wake` has the cycle look again."""

    config: EngineConfig
    fetches: FetchControl
    end_offsets: EndOffsets
    committed_offsets: CommittedOffsets
    open_transactions: OpenTransactions
    changelog: Changelog
    clock: Clock
    metrics: Metrics
    layout: Layout
    wake: Callable[[], None]
