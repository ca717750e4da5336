"""Where the current state of a session is read: an interface, so that the routes do not know who owns a partition."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import aiohttp
import orjson
import structlog
from yarl import URL

from gateway.owners import Owners
from gateway.problems import Problem
from schemas.queries import PATH, SIGNATURE_HEADER, is_signature, sign_answer, sign_request

_log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS: Final = 1.0


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
        """The session's state, empty if it is not known. Raises `Problem` (503) while it cannot be read."""

    async def stop(self) -> None:
        """Close what it holds open."""


class NoReader:
    """The reader of a gateway without a query secret."""

    async def read(self, session_id: str) -> SessionState:
        """Raise `Problem`: no worker may be asked."""
        del session_id
        raise Problem("state_unavailable", "this gateway is not configured to ask workers", retry_after_seconds=60)

    async def stop(self) -> None:
        """Nothing to close."""


class WorkerReader:
    """Asks the worker that owns the session's partition."""

    def __init__(
        self, owners: Owners, secret: str, partition_of: Callable[[str], int], tls: ssl.SSLContext | None = None
    ) -> None:
        self._owners = owners
        self._secret = secret
        self._partition_of = partition_of
        self._tls = tls
        self._http: aiohttp.ClientSession | None = None

    async def read(self, session_id: str) -> SessionState:
        """The session's committed state; an empty one if it is not known.

        Raises `Problem` (503) while the partition has no owner, moves, or its owner does not answer.
        """
        partition = self._partition_of(session_id)
        for attempt in range(2):
            address = await self._owners.address(partition, fresh=attempt > 0)
            if address is None:
                continue
            try:
                answer = await self._ask(address, session_id, partition)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                _log.info("owner_does_not_answer", partition=partition, error=type(error).__name__)
                continue
            if answer is not None:
                return SessionState(partition, answer["positions"], answer["facets"], answer["tasks"], answer["held"])
        detail = f"partition {partition} is moving or its worker does not answer; try again"
        raise Problem("state_unavailable", detail, retry_after_seconds=RETRY_AFTER_SECONDS)

    async def _ask(self, address: str, session_id: str, partition: int) -> dict[str, Any] | None:
        """The owner's answer; None if it does not own the partition. Raises `ValueError` if it is not signed."""
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0))
        at_ms, nonce = int(time.time() * 1000), secrets.token_hex(16)
        headers = {SIGNATURE_HEADER: sign_request(self._secret, session_id, at_ms, nonce)}
        query = {"session": session_id, "partition": str(partition), "at": str(at_ms), "nonce": nonce}
        url = URL(f"{'https' if self._tls else 'http'}://{address}{PATH}").with_query(query)
        async with self._http.get(url, headers=headers, allow_redirects=False, ssl=self._tls or True) as response:
            body = await response.read()
            expected = sign_answer(self._secret, nonce, response.status, body)
            if not is_signature(expected, response.headers.get(SIGNATURE_HEADER)):
                raise ValueError("the answer is not signed with the secret of this gateway")
            if response.status != 200:
                return None
            answer: dict[str, Any] = orjson.loads(body)
            return answer

    async def stop(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()
