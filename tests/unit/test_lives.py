"""Whole lives of tasks in memory, with crashes and outages: every rule holds, the audit agrees, nothing is left."""

from __future__ import annotations

import pytest

from tests.lives.memory import BEGAN_MS, Memory
from tests.lives.people import Lives
from tests.lives.told import KINDS


def live(seed: int, *, sessions: int, seconds: float, crashes_per_second: float) -> tuple[Lives, Memory]:
    lives = Lives(seed=seed, sessions=sessions, partitions=1, began=BEGAN_MS / 1000)
    memory = Memory(lives, seed, crashes_per_second)
    memory.run(seconds)
    return lives, memory


@pytest.mark.parametrize("crashes_per_second", [0.0, 0.5, 5.0])
def test_every_rule_holds_whatever_happens(crashes_per_second: float) -> None:
    lives, memory = live(6, sessions=60, seconds=15, crashes_per_second=crashes_per_second)

    assert memory.told.mistakes(lives) == []
    assert memory.audit().examples == {}
    assert memory.orphans() == []
    assert sorted(KINDS - memory.told.kinds.keys()) == [], "never came up: the load shows less than it says"
    assert (memory.crashes > 0) == (crashes_per_second > 0)


def test_the_same_seed_is_the_same_load() -> None:
    first, second = (live(2, sessions=10, seconds=3, crashes_per_second=1.0)[1] for _ in range(2))
    assert first.told.kinds == second.told.kinds
    assert first.topics == second.topics
