"""A pending barrier: end offsets that a partition has asked for, and whether it has folded up to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.topics import Role


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

    def is_reached(self, applied: Mapping[Role, int]) -> bool:
        """Whether everything below the ends has been applied."""
        return self.ends is not None and all(applied[role] >= end for role, end in self.ends.items())

    def is_blocked(self, applied: Mapping[Role, int]) -> bool:
        """Whether the broker has answered and something below the ends has not been applied yet."""
        return self.ends is not None and not self.is_reached(applied)
