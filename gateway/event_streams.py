"""Requests for event streams: who may open one, how many there are, and the presence that an open one renews."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.access import Access
from gateway.agui import Translator
from gateway.config import GatewayConfig
from gateway.feed import Feed
from gateway.limits import StreamCount
from gateway.metrics import Metrics
from gateway.problems import Problem
from gateway.publisher import Publisher
from gateway.request import Handler, Request, json_response
from gateway.routing import Route
from gateway.streaming import stream
from gateway.subscriber import Subscriber

_log = structlog.get_logger(__name__)

PRESENCE_SECONDS: Final = 60.0
"""The lease on presence that an open stream renews three times as often."""


class EventStreams:
    """The open streams of one instance."""

    def __init__(
        self, config: GatewayConfig, access: Access, feed: Feed, publisher: Publisher, metrics: Metrics
    ) -> None:
        self._access = access
        self._feed = feed
        self._publisher = publisher
        self._metrics = metrics
        self._limits = config.limits
        self._is_open_to_all = config.unauthenticated
        self._count = StreamCount(config.limits.streams_per_token, config.limits.streams)
        self.handlers: dict[tuple[str, tuple[str, ...]], Handler] = {("POST", ("tickets",)): self._issue_ticket}

    @property
    def total(self) -> int:
        """How many are open."""
        return self._count.total

    async def _issue_ticket(self, request: Request) -> Response:
        request.grant.require(request.session_id, "read")
        ticket, expires_at = self._access.issue_ticket(request.grant, request.session_id)
        return json_response({"ticket": ticket, "expires_at": expires_at}, 201)

    async def open(self, scope: Scope, receive: Receive, send: Send, route: Route, origin: str | None) -> None:
        """Answer with the session's events until the client or the feed ends it. Raises `Problem` before it begins."""
        headers, query = Headers(scope=scope), QueryParams(scope["query_string"])
        ticket = query.get("ticket")
        if ticket is not None and not self._is_open_to_all:
            grant = self._access.stream_grant_of(ticket)
        else:
            grant = await self._access.grant(headers)
        grant.require(route.session_id, "read")
        self._access.take_one(grant, scope)
        form = query.get("format", "tidegate")
        if form not in {"tidegate", "ag-ui"} or (form == "ag-ui" and not query.get("task")):
            raise Problem("invalid_request", "format: `tidegate`, or `ag-ui` with a `task`")
        translator = Translator(route.session_id, query["task"]) if form == "ag-ui" else None
        if self._count.is_full():
            raise Problem("overloaded", "this instance has as many streams as it takes", retry_after_seconds=5)
        if not self._count.enter(grant.holder):
            limit = self._limits.streams_per_token
            detail = f"the token's holder has {limit} open streams; close one"
            raise Problem("too_many_streams", detail, retry_after_seconds=5)
        subscriber = Subscriber(route.session_id, self._limits.buffer_bytes, grant.expires_at)
        cursor = headers.get("last-event-id") or query.get("last_event_id")
        extra: dict[str, str] = {}
        self._access.allow_origin(extra, origin)
        raw = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
        client = query.get("client")
        presence: asyncio.Task[None] | None = None
        if client and "context" in grant.actions:
            presence = asyncio.get_running_loop().create_task(self._keep_present(route.session_id, client))
        try:
            await stream(self._feed, self._metrics, subscriber, cursor, raw, receive, send, translator)
        finally:
            self._count.leave(grant.holder)
            if presence is not None:
                presence.cancel()

    async def _keep_present(self, session_id: str, client: str) -> None:
        """Renew the lease on `presence/<client>` until cancelled. Then nothing is written: the lease lapses.

        A grace period here could write `absent` after the client has connected to another instance.
        """
        facet = f"presence/{client}"
        event = {"type": "context.changed", "set": {facet: "present"}, "expires_in_seconds": {facet: PRESENCE_SECONDS}}
        while True:
            try:
                await self._publisher.publish("context", session_id, event, event_id=None, traceparent=None)
            except Problem as problem:
                _log.info("presence_not_renewed", problem=problem.code)
            await asyncio.sleep(PRESENCE_SECONDS / 3)
