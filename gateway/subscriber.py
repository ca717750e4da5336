"""One open stream: a bounded queue between the feed, which never waits, and a connection, which may be slow."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

Reason = Literal["slow", "drain", "unauthorized", "gone", "failed", "ended"]
_OVERHEAD_BYTES: Final = 100
_numbers: Final = itertools.count()


class Subscriber:
    """What the feed puts in and the connection takes out.

    A subscriber that falls more than `limit_bytes` behind is closed as `slow`; one record always fits.
    """

    __slots__ = (
        "_bytes",
        "_limit",
        "_progress",
        "_queue",
        "_wake",
        "closed",
        "events_out",
        "expires_at",
        "number",
        "on_slow",
        "session_id",
    )

    def __init__(self, session_id: str, limit_bytes: int, expires_at: float = float("inf")) -> None:
        self.number = next(_numbers)
        self.session_id = session_id
        self.expires_at = expires_at
        self.closed: Reason | None = None
        self.events_out = 0
        self.on_slow: Callable[[], None] | None = None
        """Cuts the connection: whoever sends waits for a client that does not read."""
        self._limit = limit_bytes
        self._bytes = 0
        self._queue: deque[list[bytes]] = deque()
        self._progress: dict[str, list[bytes]] | None = None
        self._wake: asyncio.Future[None] | None = None

    def put(self, block: bytes, replaces: str | None = None) -> None:
        """Queue a block; with `replaces`, instead of an earlier one of the same name that was not sent yet.

        The earlier one is emptied where it stands, and the new one goes to the end: a block moves the client's cursor,
        which must not pass what is still queued.
        """
        if self.closed is not None:
            return
        if self._bytes and self._bytes + len(block) > self._limit:
            self.close("slow")
            return
        cell = [block]
        if replaces is not None:
            if self._progress is None:
                self._progress = {}
            earlier = self._progress.get(replaces)
            if earlier is not None:
                self._bytes -= len(earlier[0]) + _OVERHEAD_BYTES
                earlier[0] = b""
            self._progress[replaces] = cell
        self._queue.append(cell)
        self._bytes += len(block) + _OVERHEAD_BYTES
        self.wake()

    @property
    def has_blocks(self) -> bool:
        """Whether something is queued."""
        return bool(self._queue)

    def take(self) -> bytes:
        """Everything queued, in order."""
        taken = b"".join(cell[0] for cell in self._queue)
        self._queue.clear()
        self._progress = None
        self._bytes = 0
        return taken

    def close(self, reason: Reason) -> None:
        """End the stream; the first reason stays. What is queued may still be taken, except from a slow one."""
        if self.closed is None:
            self.closed = reason
            if reason == "slow":
                self.take()
                if self.on_slow is not None:
                    self.on_slow()
        self.wake()

    def wake(self) -> None:
        """Let `wait` return."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def wait(self) -> None:
        """Return when something is queued or the stream is closed."""
        if self._queue or self.closed is not None:
            return
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None
