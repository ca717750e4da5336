"""Waiting for a condition, never for a time: every test says what it waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

POLL_SECONDS: Final = 0.05


async def wait_for(
    condition: Callable[[], Awaitable[T]],
    timeout_seconds: float,
    describe: str,
    state: Callable[[], object] = str,
) -> T:
    """The first true answer of `condition`; after the timeout the test fails, saying what was waited for."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds:.0f} s: {describe}. {state()}")
        await asyncio.sleep(POLL_SECONDS)
