"""Pending barriers: end offsets that a partition has asked for, and whether it has folded up to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from projections.partition import Partition
from schemas.fields import Lane
from schemas.topics import Role
from streams.config import FOLDED_ROLES, HOT_ROLES, RESULTS, STEPS
from streams.intake import Intake
from streams.interfaces import Clock
from streams.metrics import LANES

Timers = Literal["hot", "all"]
"""Timers that no record of the cold lane can keep from falling due, or all of them."""

TIMERS: Final[Mapping[Timers, tuple[Role, ...]]] = {"hot": HOT_ROLES, "all": FOLDED_ROLES}
"""The topics whose ends a barrier for them has."""


@dataclass(slots=True)
class PendingBarrier:
    """Of one partition, for one lane or for timers.

    `covers`: the results that had been fetched when it was asked, below this position. `folded`: the steps that had
    been folded by then. `asked_ms` is the wall clock then, `asked_at` the monotonic one. `ends` is None until the
    broker has answered.
    """

    roles: tuple[Role, ...]
    covers: int
    folded: int
    asked_ms: int
    asked_at: float
    ends: Mapping[Role, int] | None = None
    is_told: bool = False
    """Whether its wait has been counted."""
    is_answered: bool = False
    """Whether what had waited for it was judged in a transaction of its own."""

    def is_reached(self, applied: Mapping[Role, int]) -> bool:
        """Whether everything below the ends has been applied."""
        return self.ends is not None and all(applied[role] >= end for role, end in self.ends.items())

    def waits_for(self, applied: Mapping[Role, int]) -> str:
        """`answer` of the broker, the role of a topic that has not been applied up to its end, or its `turn`."""
        if self.ends is None:
            return "answer"
        return next((role for role, end in self.ends.items() if applied[role] < end), "turn")

    def is_blocked(self, applied: Mapping[Role, int]) -> bool:
        """Whether the broker has answered and something below the ends has not been applied yet."""
        return self.ends is not None and not self.is_reached(applied)


class Barriers:
    """Those of one partition."""

    def oldest(self, applied: Mapping[Role, int]) -> tuple[str, float] | None:
        """What the oldest barrier waits for (`answer`, a topic's role, or `turn`), and when it was asked for."""
        pending = [*self.of_lane.values(), *self.of_timers.values()]
        if not pending:
            return None
        barrier = min(pending, key=lambda each: each.asked_at)
        return barrier.waits_for(applied), barrier.asked_at

    def __init__(self, clock: Clock) -> None:
        self.of_lane: dict[Lane, PendingBarrier] = {}
        self.of_timers: dict[Timers, PendingBarrier] = {}
        self._clock = clock

    def is_work_reached(self, lane: Lane, applied: Mapping[Role, int]) -> bool:
        """Whether work without records may be done: results of the lane that waited, or timers."""
        barrier = self.of_lane.get(lane)
        if barrier is not None and not barrier.is_answered and barrier.is_reached(applied):
            return True
        return any(each.is_reached(applied) for each in self.of_timers.values())

    def new(self, partition: Partition, intake: Intake, applied: Mapping[Role, int]) -> Iterator[PendingBarrier]:
        """Barriers that are needed and have not been asked for yet: for results, ready ones, proposals and timers."""
        for lane in LANES:
            if lane not in self.of_lane and (
                intake.has(RESULTS[lane])
                or partition.has_proposals(STEPS[lane])
                or (lane == "hot" and partition.has_ready)
            ):
                roles: tuple[Role, ...] = ("context", STEPS[lane])
                barrier = self.of_lane[lane] = self._new(lane, roles, intake, applied)
                yield barrier
        for timers, roles in TIMERS.items():
            due = partition.next_due_ms(hot_only=timers == "hot")
            is_due = due is not None and due <= self._clock.now_ms()
            if timers not in self.of_timers and (is_due or (timers == "all" and partition.has_idle)):
                barrier = self.of_timers[timers] = self._new("hot", roles, intake, applied)
                yield barrier

    def _new(self, lane: Lane, roles: tuple[Role, ...], intake: Intake, applied: Mapping[Role, int]) -> PendingBarrier:
        covers, folded = intake.ends[RESULTS[lane]], applied[STEPS[lane]]
        return PendingBarrier(roles, covers, folded, self._clock.now_ms(), self._clock.monotonic())
