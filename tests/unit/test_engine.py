"""What a worker says of itself, and that nothing it lives on can end unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from streams.config import EngineConfig
from streams.engine import Engine
from streams.errors import FatalError
from streams.metrics import Metrics


@asynccontextmanager
async def engine(*states: str) -> AsyncIterator[Engine]:
    made = Engine(EngineConfig({"bootstrap_servers": "127.0.0.1:1"}), Metrics())
    tasks = {number: SimpleNamespace(state=state) for number, state in enumerate(states)}
    made._assignment = SimpleNamespace(tasks=tasks, is_known=True)  # type: ignore[assignment]
    try:
        yield made
    finally:
        await made._disconnect()


@pytest.mark.parametrize(
    ("states", "is_ready"),
    [
        ((), True),
        (("running", "running"), True),
        (("running", "failed"), True),  # a rollout is not held up by one bad partition
        (("failed",), True),
        (("running", "restoring"), False),
        (("starting",), False),
    ],
)
def test_it_is_ready_once_every_partition_runs_or_has_failed(states: tuple[str, ...], *, is_ready: bool) -> None:
    async def run() -> tuple[bool, Any]:
        async with engine(*states) as made:
            return made.ready()

    ready, details = asyncio.run(run())
    assert ready is is_ready
    assert details["partitions"] == {str(number): state for number, state in enumerate(states)}


def test_work_that_ends_or_fails_is_fatal() -> None:
    async def ends() -> None:
        return

    async def fails() -> None:
        raise ValueError("boom")

    async def run(work: Any) -> BaseException | None:
        async with engine() as made:
            made._supervise_endless(work)
            await asyncio.wait([made.fatal], timeout=5)
            return made.fatal.exception()

    error = asyncio.run(run(ends()))
    assert isinstance(error, FatalError)
    assert "ends has ended" in str(error)
    assert isinstance(asyncio.run(run(fails())), ValueError)
