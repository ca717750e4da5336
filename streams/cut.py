"""Cuts: end offsets that a partition has asked the broker for, and what may be decided below them.

A decision needs a cut that was asked for after its record had been fetched. One cut serves everything that had been
fetched by then. While it is worked on, the next one is asked for, so that a backlog never waits for an answer. What
comes when all records below a cut have been decided (cancels, timers) waits for the ends of the oldest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from projections.partition import Partition
from schemas.fields import Lane
from schemas.topics import Role
from streams.config import FOLDED_ROLES, HOT_ROLES, RESULTS, STEPS
from streams.intake import Intake
from streams.interfaces import Clock
from streams.metrics import LANES

ROLES: Final[Mapping[Lane, tuple[Role, ...]]] = {"hot": HOT_ROLES, "cold": FOLDED_ROLES}
"""The topics whose ends make a lane's cut. The cold lane may wait for the hot one, the hot one waits for no other."""

REPLACED_SECONDS: Final = 1.0
"""How often to ask up to when steps have been folded, if nothing else asks: former values are kept until then."""


@dataclass(slots=True)
class PendingCut:
    """One question. `covers`: what had been fetched of the lane's steps and results, below these positions.

    `asked_ms` is the wall clock when it was asked, `asked_at` the monotonic one. `ends` is None until the broker has
    answered.
    """

    lane: Lane
    covers: Mapping[Role, int]
    asked_ms: int
    asked_at: float
    context_fetched: int
    """The context below this offset had been fetched by then."""
    newest_ms: int
    """The newest timestamp of the context that had been folded by then: records that come later are not older."""
    ends: Mapping[Role, int] | None = None
    is_counted: bool = False
    """Whether its wait has been counted."""

    @property
    def roles(self) -> tuple[Role, ...]:
        """The topics whose ends it asks for."""
        return ROLES[self.lane]

    def may_decide(self, applied: Mapping[Role, int]) -> bool:
        """Whether everything else below the ends has been applied: the context, and for the cold lane the hot one."""
        ends = self.ends
        return ends is not None and all(applied[role] >= end for role, end in ends.items() if role not in self.covers)

    def has_left(self, applied: Mapping[Role, int]) -> bool:
        """Whether records that it covers have not been decided."""
        ends = self.ends
        return ends is None or any(applied[role] < min(end, ends[role]) for role, end in self.covers.items())

    def is_reached(self, applied: Mapping[Role, int]) -> bool:
        """Whether everything below the ends has been applied."""
        return self.ends is not None and all(applied[role] >= end for role, end in self.ends.items())

    def waits_for(self, applied: Mapping[Role, int]) -> str:
        """`answer` of the broker, the role of a topic that has not been applied up to its end, or its `turn`."""
        if self.ends is None:
            return "answer"
        return next((role for role, end in self.ends.items() if applied[role] < end), "turn")


class LaneCuts:
    """Those of one lane: the one that records are decided below, the next one, and the oldest that is not reached."""

    def __init__(self) -> None:
        self.working: PendingCut | None = None
        self.next: PendingCut | None = None
        self.oldest: PendingCut | None = None

    def advance(self, applied: Mapping[Role, int]) -> PendingCut | None:
        """The cut that records may be decided below now; None if there is none, or something else comes first."""
        if self.working is not None and not self.working.has_left(applied):
            self.working = None
        if self.working is None and self.next is not None and self.next.ends is not None:
            self.working, self.next = self.next, None
            if self.oldest is None:
                self.oldest = self.working
        return self.working if self.working is not None and self.working.may_decide(applied) else None

    def reached(self, applied: Mapping[Role, int]) -> PendingCut | None:
        """The oldest cut, if everything below it has been applied."""
        return self.oldest if self.oldest is not None and self.oldest.is_reached(applied) else None

    def done(self) -> None:
        """What waited for the oldest cut has been done."""
        self.oldest = self.working if self.working is not self.oldest else None

    @property
    def pending(self) -> list[PendingCut]:
        """All of them."""
        return [cut for cut in (self.oldest, self.working, self.next) if cut is not None]


class Cuts:
    """Those of one partition."""

    def __init__(self, clock: Clock) -> None:
        self.of_lane: Mapping[Lane, LaneCuts] = {lane: LaneCuts() for lane in LANES}
        self._clock = clock
        self._last_cold = clock.monotonic()

    def oldest(self, applied: Mapping[Role, int]) -> tuple[str, float] | None:
        """What the oldest cut waits for (`answer`, a topic's role, or `turn`), and when it was asked for."""
        pending = [cut for cuts in self.of_lane.values() for cut in cuts.pending]
        if not pending:
            return None
        cut = min(pending, key=lambda each: each.asked_at)
        return cut.waits_for(applied), cut.asked_at

    def new(self, partition: Partition, intake: Intake) -> Iterator[PendingCut]:
        """Cuts that are needed and have not been asked for yet."""
        for lane, cuts in self.of_lane.items():
            if cuts.next is None and (self._has_fetched(cuts, lane, intake) or self._is_due(cuts, lane, partition)):
                covers = {role: intake.ends[role] for role in (STEPS[lane], RESULTS[lane])}
                context, now = intake.ends["context"], self._clock.monotonic()
                cuts.next = PendingCut(lane, covers, self._clock.now_ms(), now, context, partition.newest_ms)
                if lane == "cold":
                    self._last_cold = cuts.next.asked_at
                yield cuts.next

    def _has_fetched(self, cuts: LaneCuts, lane: Lane, intake: Intake) -> bool:
        """Whether records were fetched that no cut covers."""
        roles = (STEPS[lane], RESULTS[lane])
        if not intake.has(*roles):
            return False
        working = cuts.working
        return working is None or any(intake.ends[role] > working.covers[role] for role in roles)

    def _is_due(self, cuts: LaneCuts, lane: Lane, partition: Partition) -> bool:
        """Whether something is to be done that no record brings."""
        if cuts.oldest is not None:
            return False
        is_cold = lane == "cold"
        if partition.has_cancels(cold=is_cold) or (partition.has_idle if is_cold else partition.has_ready):
            return True
        due = partition.next_due_ms(hot_only=not is_cold)
        if due is not None and due < self._clock.now_ms():
            return True
        seconds = self._clock.monotonic() - self._last_cold
        return is_cold and partition.keeps_replaced and seconds >= REPLACED_SECONDS
