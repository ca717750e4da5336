"""What clients write: context, dispatches, requests to cancel, acknowledgements. Answered once Kafka has it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

import orjson
from starlette.responses import Response

from gateway.bodies import AcknowledgementBody, CancelBody, CancelManyBody, ContextBody, DispatchBody, parse
from gateway.config import Limits
from gateway.feed import Feed, watching
from gateway.problems import Problem
from gateway.publisher import Position, Publisher, derived_id
from gateway.request import Handler, Request, json_response
from gateway.routing import encode_id
from gateway.subscriber import Subscriber
from schemas.topics import Role

MAX_KEYS: Final = 10_000
"""Idempotency keys whose bodies this instance remembers, to find conflicts at once."""


class Writing:
    """The handlers of requests that write an event."""

    def __init__(self, publisher: Publisher, feed: Feed, limits: Limits) -> None:
        self._publisher = publisher
        self._feed = feed
        self._limits = limits
        self._keys: OrderedDict[str, bytes] = OrderedDict()
        self.handlers: dict[tuple[str, tuple[str, ...]], Handler] = {
            ("POST", ("context",)): self._write_context,
            ("POST", ("tasks",)): self._dispatch,
            ("POST", ("tasks", "{task}", "cancel")): self._cancel,
            ("POST", ("cancel",)): self._cancel_many,
            ("POST", ("results", "{result}", "acknowledgement")): self._acknowledge,
        }

    async def _write_context(self, request: Request) -> Response:
        request.grant.require(request.session_id, "context")
        body = parse(await request.body(self._limits.body_bytes), ContextBody)
        if body.get("cause") is not None:
            request.grant.require(request.session_id, "cause")
        position = await self._publish(request, "context", {"type": "context.changed", **body}, "context")
        return json_response({"position": str(position)}, 200)

    async def _dispatch(self, request: Request) -> Response:
        request.grant.require(request.session_id, "dispatch")
        raw = await request.body(self._limits.body_bytes)
        body = parse(raw, DispatchBody)
        session_id, key = request.session_id, request.idempotency_key
        task_id = body.pop("task_id", None)
        if task_id is None:
            task_id = derived_id("task", session_id, key) if key is not None else str(uuid4())
        self._require_same(f"task\0{session_id}\0{task_id}", body)
        role: Role = "steps.cold" if body.get("lane") == "cold" else "steps"
        event = {"type": "task.dispatched", "task_id": task_id, **body}
        # The event id follows from the task id: a repeated dispatch is the same event.
        event_id = derived_id("dispatch", session_id, task_id)
        position = await self._publish(request, role, event, "dispatch", event_id)
        location = f"/v1/sessions/{encode_id(session_id)}/tasks/{encode_id(task_id)}"
        return json_response({"task_id": task_id, "position": str(position)}, 202, {"Location": location})

    async def _cancel(self, request: Request) -> Response:
        request.grant.require(request.session_id, "cancel")
        wait = request.seconds("wait", 60.0)
        body = parse(await request.body(self._limits.body_bytes), CancelBody)
        event = {"type": "task.cancel_requested", "task_id": request.resource_id, **body}
        if not wait:
            position = await self._publish(request, "context", event, "cancel")
            return json_response({"task_id": request.resource_id, "position": str(position)}, 202)
        return await self._cancel_and_wait(request, event, wait)

    async def _cancel_many(self, request: Request) -> Response:
        request.grant.require(request.session_id, "cancel")
        body = parse(await request.body(self._limits.body_bytes), CancelManyBody)
        named = [name for name in ("request_id", "slot") if body.get(name) is not None] + ["all"] * bool(
            body.get("all")
        )
        if len(named) != 1:
            found = " and ".join(named) or "none of them"
            raise Problem("invalid_event", f"exactly one of request_id, slot and all: {found}; name one")
        position = await self._publish(request, "context", {"type": "task.cancel_requested", **body}, "cancel")
        return json_response({"position": str(position)}, 202)

    async def _cancel_and_wait(self, request: Request, event: dict[str, Any], wait: float) -> Response:
        """Follow the session before the request is written, so that its answer cannot be missed."""
        request.grant.require(request.session_id, "read")
        async with watching(self._feed, request.session_id, self._limits.buffer_bytes) as watcher:
            position = await self._publish(request, "context", event, "cancel")
            status = await _ended_status(watcher, request.resource_id, wait)
        answer = {"task_id": request.resource_id, "position": str(position)}
        if status is None:
            return json_response(answer, 202)
        return json_response({**answer, "status": status, "receipt": status.get("receipt")}, 200)

    async def _acknowledge(self, request: Request) -> Response:
        request.grant.require(request.session_id, "acknowledge")
        body = parse(await request.body(self._limits.body_bytes), AcknowledgementBody)
        event = {"type": "result.acknowledged", "result_event_id": request.resource_id, **body}
        position = await self._publish(request, "context", event, "acknowledge")
        return json_response({"position": str(position)}, 202)

    async def _publish(
        self, request: Request, role: Role, event: dict[str, Any], kind: str, event_id: str | None = None
    ) -> Position:
        key = request.idempotency_key
        if event_id is None and key is not None:
            self._require_same(f"{kind}\0{request.session_id}\0{key}", event)
            event_id = derived_id(kind, request.session_id, key)
        traceparent = request.headers.get("traceparent")
        return await self._publisher.publish(
            role, request.session_id, event, event_id=event_id, traceparent=traceparent
        )

    def _require_same(self, name: str, body: dict[str, Any]) -> None:
        """Raise `Problem` (422) if this instance has seen another body under the same name."""
        content = sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
        known = self._keys.get(name)
        if known is not None and known != content:
            detail = "the key or task id was used with another body before; the first request stands"
            raise Problem("idempotency_conflict", detail)
        self._keys[name] = content
        self._keys.move_to_end(name)
        if len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)


async def _ended_status(watcher: Subscriber, task_id: str, wait_seconds: float) -> dict[str, Any] | None:
    """The task's last status; None if it does not come in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_seconds):
            while watcher.closed is None:
                await watcher.wait()
                for block in watcher.take().split(b"\n\n"):
                    name, _, data = block.partition(b"\ndata: ")
                    if not data or b"event: running" in name:
                        continue
                    status: dict[str, Any] = orjson.loads(data)
                    is_of_task = status.get("type") == "task.status" and status["task_id"] == task_id
                    if is_of_task and status["status"] == "ended":
                        return status
    return None
