"""The ASGI application: what one instance holds, and which handler answers a request.

It routes on the raw path, because session ids contain slashes (`gateway.routing`).
"""

from __future__ import annotations

import time
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.access import Access
from gateway.config import GatewayConfig
from gateway.event_streams import EventStreams
from gateway.feed import Feed
from gateway.frames import frame
from gateway.metrics import Metrics
from gateway.outcomes import Outcomes
from gateway.owners import Owners
from gateway.page import page_file
from gateway.problems import Problem
from gateway.publisher import Publisher
from gateway.reading import Reading
from gateway.reads import WorkerReader
from gateway.request import Request, json_response
from gateway.routing import ROUTES, Route, match
from gateway.writing import Writing
from schemas.topics import topic_name

_log = structlog.get_logger(__name__)

SECURITY_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Gateway:
    """One instance: the ASGI application and what it holds."""

    def __init__(self, config: GatewayConfig) -> None:
        self.metrics = Metrics()
        self.feed = Feed(config, self.metrics)
        self.publisher = Publisher(config)
        outcomes = Outcomes(self.feed.new_consumer, config.topic_prefix, config.limits.catch_up_records)
        self._access = Access(config)
        self._reading = Reading(self.feed, outcomes, config.limits)
        self._streams = EventStreams(config, self._access, self.feed, self.publisher, self.metrics)
        writing = Writing(self.publisher, self.feed, config.limits)
        self._handlers = {**writing.handlers, **self._reading.handlers, **self._streams.handlers}
        self.is_draining = False
        self._config = config

    async def start(self) -> None:
        """Connect to Kafka. Raises `KafkaError` if no broker answers or a topic is missing."""
        await self.publisher.start()
        await self.feed.start()
        config = self._config
        if config.query_secret is not None:
            owners = Owners(self.feed.admin, config.group_id, topic_name("context", config.topic_prefix))
            self._reading.reader = WorkerReader(owners, config.query_secret, self.feed.partition_of, config.query_tls)

    async def stop(self) -> None:
        """End all streams and disconnect."""
        await self.feed.stop()
        await self.publisher.stop()
        await self._reading.reader.stop()

    @property
    def open_streams(self) -> int:
        """How many event streams are open."""
        return self._streams.total

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests and its streams are fed."""
        return not self.is_draining and self.feed.is_alive()

    def drain(self) -> None:
        """Accept no more requests, and send `reconnect` to every stream: another instance resumes it at its cursor."""
        self.is_draining = True
        self.feed.close_all("drain", frame("reconnect", b'{"reason":"this instance is shutting down"}', None))

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        began = time.monotonic()
        headers = Headers(scope=scope)
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        template, status = "other", 500
        origin = headers.get("origin")
        try:
            if self._config.unauthenticated:
                self._access.require_local(headers)
            route = match(raw_path)
            if route is None:
                response = await self._without_session(scope, raw_path)
            else:
                template = route.template
                if scope["method"] == "OPTIONS":
                    response = self._access.preflight(route, origin)
                elif route.name == ("events",) and scope["method"] == "GET":
                    if self.is_draining:
                        raise Problem("draining", "connect again; another instance answers", retry_after_seconds=1)
                    await self._streams.open(scope, receive, send, route, origin)
                    return
                else:
                    response = await self._answer(scope, receive, route)
        except Problem as problem:
            self.metrics.refused.labels(problem.code).inc()
            response = problem.response()
        except Exception as error:  # noqa: BLE001 - the last resort: the client gets no detail, the log no payload
            _log.exception("request_failed", route=template, method=scope["method"], error=type(error).__name__)
            response = Problem("internal", "the gateway failed; the log has the details").response()
        status = response.status_code
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        self._access.allow_origin(response.headers, origin)
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)
        self.metrics.requests.labels(template, scope["method"], str(status)).observe(time.monotonic() - began)

    async def _answer(self, scope: Scope, receive: Receive, route: Route) -> Response:
        allowed = ROUTES[route.name]
        if scope["method"] not in allowed:
            detail = f"{scope['method']} {route.template}: allowed are {', '.join(allowed)}"
            raise Problem("method_not_allowed", detail, headers={"Allow": ", ".join(allowed)})
        if self.is_draining:
            raise Problem("draining", "repeat the request; another instance answers", retry_after_seconds=1)
        headers = Headers(scope=scope)
        grant = await self._access.grant(headers)
        self._access.take_one(grant, scope)
        return await self._handlers[scope["method"], route.name](Request(scope, receive, route, grant))

    async def _without_session(self, scope: Scope, raw_path: bytes) -> Response:
        method = scope["method"]
        if method in {"GET", "HEAD"}:
            if self._config.page and (file := page_file(raw_path)) is not None:
                return file
            if raw_path == b"/healthz":
                return json_response({"healthy": True})
            if raw_path == b"/readyz":
                ready = self.is_ready
                return json_response({"ready": ready, "draining": self.is_draining}, 200 if ready else 503)
        raise Problem("not_found", "there is nothing at this path")
