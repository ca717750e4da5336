"""Where the current state of a session is read: an interface, so that the routes do not know who owns a partition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.problems import Problem


@dataclass(frozen=True, slots=True)
class SessionState:
    """The committed state of one session, and how far the input topics had been folded then.

    `positions`: by role of the input topic, the offset up to which events are in the state. `tasks` are statuses as on
    the tasks topic, open ones first. `held` are results that wait, with the parts that do.
    """

    partition: int
    positions: dict[str, int]
    facets: dict[str, str | None]
    tasks: list[dict[str, Any]] = field(default_factory=list)
    held: list[dict[str, Any]] = field(default_factory=list)


class SessionReader(Protocol):
    """Answers questions about sessions from committed state."""

    async def read(self, session_id: str) -> SessionState:
        """The session's state; an empty one if it is not known. Raises `Problem` (503) while nobody can tell."""

    async def stop(self) -> None:
        """Close what it holds open."""


class NoReader:
    """Where no worker may be asked."""

    async def read(self, session_id: str) -> SessionState:
        """Raise `Problem`: there is nobody to ask."""
        del session_id
        raise Problem("state_unavailable", "this gateway is not configured to ask workers", retry_after_seconds=60)

    async def stop(self) -> None:
        """Nothing to close."""
