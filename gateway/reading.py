"""What clients read: facets, tasks and the inbox, from the rows that the owning worker has committed."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from starlette.responses import Response

from gateway.config import Limits
from gateway.feed import Feed, watching
from gateway.outcomes import Outcomes
from gateway.problems import Problem
from gateway.publisher import Position, parse_position
from gateway.reads import NoReader, SessionReader, SessionState
from gateway.request import Handler, Request, json_response, tagged

MAX_WAIT_SECONDS: Final = 60.0
REREAD_SECONDS: Final = 2.0
"""Longest time between two reads of a task while a request waits for it."""
AT_LEAST_SECONDS: Final = 5.0
"""How long a read waits for its `at_least`."""


class Reading:
    """The handlers of requests that read a session's state."""

    def __init__(self, feed: Feed, outcomes: Outcomes, limits: Limits) -> None:
        self.reader: SessionReader = NoReader()
        self._feed = feed
        self._outcomes = outcomes
        self._limits = limits
        self.handlers: dict[tuple[str, tuple[str, ...]], Handler] = {
            ("GET", ("context",)): self._read_context,
            ("GET", ("tasks",)): self._read_tasks,
            ("GET", ("tasks", "{task}")): self._read_task,
            ("GET", ("inbox",)): self._read_inbox,
        }

    async def _read_context(self, request: Request) -> Response:
        state = await self._state(request)
        names, prefix = request.query.getlist("facet"), request.query.get("prefix")
        facets = state.facets
        if names:
            facets = {name: facets[name] for name in names if name in facets}
        if prefix is not None:
            facets = {name: value for name, value in facets.items() if name.startswith(prefix)}
        return tagged(request, {"facets": facets, "position": _reached(state)})

    async def _read_tasks(self, request: Request) -> Response:
        state = await self._state(request)
        return tagged(request, {"tasks": state.tasks, "position": _reached(state)})

    async def _read_task(self, request: Request) -> Response:
        """One task. With `wait` and the `ETag` last seen: when it has changed, or after that many seconds."""
        wait = request.seconds("wait", MAX_WAIT_SECONDS)
        deadline = time.monotonic() + wait
        response = await self._task(request)
        if not wait or response.status_code not in {304, 404}:
            return response
        async with watching(self._feed, request.session_id, self._limits.buffer_bytes) as watcher:
            while response.status_code in {304, 404} and time.monotonic() < deadline:
                left = max(0.0, deadline - time.monotonic())
                with suppress(TimeoutError):  # read again, whether something came or not
                    async with asyncio.timeout(min(REREAD_SECONDS, left)):
                        await watcher.wait()
                watcher.take()
                response = await self._task(request)
        return response

    async def _task(self, request: Request) -> Response:
        state = await self._state(request)
        for task in state.tasks:
            if task["task_id"] == request.resource_id:
                held = [each for each in state.held if each["task_id"] == request.resource_id]
                status = {**task, **({"held": held[0]} if held else {})}
                response = tagged(request, status)
                if response.status_code == 304 or task["status"] != "ended":
                    return response
                # It follows from the status, so the tag of the status is that of both.
                outcome = await self._outcomes.of(request.session_id, state.partition, task)
                if task["disposition"] == "delivered":
                    status["results"] = outcome.results
                if outcome.receipt is not None:
                    status["receipt"] = outcome.receipt
                return json_response(status, 200, {"ETag": response.headers["etag"]})
        detail = "the session has no such task, or it ended too long ago; a dispatch shows when it has been folded"
        return Problem("not_found", detail).response()

    async def _read_inbox(self, request: Request) -> Response:
        """Results that are held, and delivered results without an acknowledgement."""
        state = await self._state(request)
        unacknowledged = [
            task for task in state.tasks if task.get("disposition") == "delivered" and task.get("acknowledged") is None
        ]
        body = {"held": state.held, "unacknowledged": unacknowledged, "position": _reached(state)}
        return tagged(request, body)

    async def _state(self, request: Request) -> SessionState:
        """The session's committed state. With `at_least`, only once an event at that position is in it."""
        request.grant.require(request.session_id, "read")
        text = request.query.get("at_least")
        if text is None:
            return await self.reader.read(request.session_id)
        position = parse_position(text)
        if position.partition != self._feed.partition_of(request.session_id):
            raise Problem("invalid_request", "at_least: the position is of another session's partition")
        deadline = time.monotonic() + AT_LEAST_SECONDS
        while True:
            state = await self.reader.read(request.session_id)
            if state.positions.get(position.role, 0) > position.offset:
                return state
            if time.monotonic() > deadline:
                detail = f"the gate did not reach {position} within {AT_LEAST_SECONDS:g} s"
                raise Problem("state_unavailable", detail, retry_after_seconds=1)
            await asyncio.sleep(0.02)


def _reached(state: SessionState) -> str:
    """The position before which every context event is in the state."""
    return str(Position("context", state.partition, state.positions.get("context", 0)))
