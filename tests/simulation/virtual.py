"""An event loop whose time passes only while everything waits: hours in a second, and the same way each time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

BEGAN_MS = 1_764_000_000_000


class DeadlockError(Exception):
    """Everything waits, and nothing will ever happen."""


class _VirtualSelector(selectors.SelectSelector):
    """Waits for nothing: the time that would have passed has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise DeadlockError
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Virtual time, in seconds since the loop was made."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class VirtualClock:
    """What the engine asks for the time. `jump_ms`: how far a broker's clock is ahead."""

    def __init__(self) -> None:
        self.jump_ms = 0

    def now_ms(self) -> int:
        return BEGAN_MS + int(self.monotonic() * 1000) + self.jump_ms

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def cpu(self) -> float:
        return 0.0  # whatever it is, a seed's schedule must not depend on it


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run in virtual time, and cancel whatever is left at the end."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
