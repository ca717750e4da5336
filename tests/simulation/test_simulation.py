"""The engine on a simulated broker: some seeds of `make simulate`, and the mistakes that a simulation has to find."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Final

import pytest
import structlog

from tests.simulation import virtual
from tests.simulation.mistakes import MISTAKES
from tests.simulation.schedule import simulate

SECONDS: Final = 45.0
"""Of schedules in a run of the tests; each takes half a second."""
SEEDS: Final = 10_000_000
TRIES: Final = 400
"""Schedules in which a planted mistake has to be found, where the seed that found it does not any more."""

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(processors=[_drop])
    yield
    structlog.reset_defaults()


def _drop(_logger: object, _name: str, _event: object) -> str:
    raise structlog.DropEvent


def test_schedules_of_many_seeds() -> None:
    until = time.monotonic() + SECONDS
    first = 0 if os.environ.get("CI") else time.time_ns() % SEEDS  # CI repeats itself, developers' runs explore
    for seed in range(first, first + SEEDS):
        outcome = simulate(seed)
        assert outcome.problems == [], f"again: python -m tests.simulation 1 {seed}"
        if time.monotonic() > until:
            break


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert simulate(7) == simulate(7)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found(name: str) -> None:
    mistake = MISTAKES[name]
    with mistake.plant():
        for seed in (mistake.found_by, *range(TRIES)):
            if simulate(seed).problems:
                return
    raise AssertionError(f"{name} passed {TRIES} schedules")


def test_virtual_time_passes_only_while_everything_waits() -> None:
    async def wait() -> float:
        await asyncio.gather(*(asyncio.sleep(seconds) for seconds in (3600.0, 7200.0)))
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert virtual.run(wait()) == pytest.approx(7200.0)
    assert time.monotonic() - began < 60.0


def test_a_deadlock_is_told() -> None:
    with pytest.raises(virtual.DeadlockError):
        virtual.run(asyncio.Event().wait())
