"""The ASGI application: routes, who may do what, and what each request becomes.

It routes on the raw path, because session ids contain slashes (`gateway.routing`).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

import orjson
import structlog
from aiokafka.errors import KafkaError
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.agui import Translator
from gateway.bodies import AcknowledgementBody, CancelBody, CancelManyBody, ContextBody, DispatchBody, parse
from gateway.config import LOCAL_HOSTS, GatewayConfig
from gateway.feed import Feed
from gateway.frames import frame
from gateway.limits import RateLimit, StreamCount
from gateway.metrics import Metrics
from gateway.outcomes import Outcomes
from gateway.owners import Owners
from gateway.page import page_file
from gateway.problems import Problem
from gateway.publisher import Position, Publisher, derived_id, parse_position
from gateway.reads import NoReader, SessionReader, SessionState, WorkerReader
from gateway.routing import ROUTES, Route, encode_id, match
from gateway.streaming import stream
from gateway.subscriber import Subscriber
from gateway.tokens import ANYONE, Grant, Tickets, Verifier, bearer, unauthorized
from schemas.fields import MAX_NAME_BYTES
from schemas.topics import Role, topic_name

_log = structlog.get_logger(__name__)

MAX_WAIT_SECONDS: Final = 60.0
REREAD_SECONDS: Final = 2.0
"""Longest time between two reads of a task while a request waits for it."""
AT_LEAST_SECONDS: Final = 5.0
PRESENCE_SECONDS: Final = 60.0
"""The lease on presence that an open stream renews three times as often."""
DISCARDED_BYTES: Final = 4 * 1024 * 1024
MAX_KEYS: Final = 10_000
"""Idempotency keys whose bodies this instance remembers, to find conflicts at once."""
JSON: Final = "application/json"
SECURITY_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

Handler = Callable[["Request"], Awaitable[Response]]


class Request:
    """One request to a resource of a session, with what the routes ask of it."""

    def __init__(self, scope: Scope, receive: Receive, route: Route, grant: Grant) -> None:
        self.method: str = scope["method"]
        self.headers = Headers(scope=scope)
        self.query = QueryParams(scope["query_string"])
        self.route = route
        self.grant = grant
        self.session_id = route.session_id
        self._receive = receive

    @property
    def resource_id(self) -> str:
        """The id of the task or result in the path."""
        if self.route.resource_id is None:
            raise RuntimeError(f"{self.route.template} has no second id")
        return self.route.resource_id

    @property
    def idempotency_key(self) -> str | None:
        """The `Idempotency-Key` header. Raises `Problem` if it is too long."""
        key = self.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key.encode()) <= MAX_NAME_BYTES:
            raise Problem("invalid_request", f"Idempotency-Key: it must have 1 to {MAX_NAME_BYTES} bytes")
        return key

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `Problem` if it is too large or not JSON by its type."""
        kind = self.headers.get("content-type", JSON).split(";")[0].strip().lower()
        if kind != JSON and not kind.endswith("+json"):
            raise Problem("unsupported_media_type", f"Content-Type is {kind[:100]!r}; send application/json")
        too_large = Problem(
            "body_too_large", f"a body has at most {limit_bytes} bytes", headers={"Connection": "close"}
        )
        body = bytearray()
        discarded = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            if discarded or len(body) + len(message.get("body", b"")) > limit_bytes:
                # A client that is still sending does not see an answer, so a little more is read and dropped.
                discarded += len(body) + len(message.get("body", b""))
                body.clear()
                if discarded > DISCARDED_BYTES:
                    raise too_large
            else:
                body += message.get("body", b"")
            if not message.get("more_body"):
                if discarded:
                    raise too_large
                return bytes(body)

    def seconds(self, name: str, longest: float) -> float:
        """A query parameter that is a number of seconds, 0 if absent. Raises `Problem`."""
        text = self.query.get(name, "0")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= longest:
            raise Problem("invalid_request", f"{name}: {text[:32]!r} is not a number from 0 to {longest:g}")
        return value


class Gateway:
    """One instance: the ASGI application and what it holds."""

    def __init__(self, config: GatewayConfig) -> None:
        self.metrics = Metrics()
        self.feed = Feed(config, self.metrics)
        self.publisher = Publisher(config)
        self._outcomes = Outcomes(self.feed.new_consumer, config.topic_prefix, config.limits.catch_up_records)
        self.reader: SessionReader = NoReader()
        self.is_draining = False
        self._config = config
        self._verifier = Verifier(config.tokens)
        self._tickets = Tickets(config.ticket_secret) if config.ticket_secret else None
        self._rates = RateLimit(config.limits.requests_per_second, config.limits.burst)
        self._streams = StreamCount(config.limits.streams_per_token, config.limits.streams)
        self._keys: OrderedDict[str, bytes] = OrderedDict()
        self._handlers: dict[tuple[str, tuple[str, ...]], Handler] = {
            ("POST", ("context",)): self._write_context,
            ("POST", ("tasks",)): self._dispatch,
            ("POST", ("tasks", "{task}", "cancel")): self._cancel,
            ("POST", ("cancel",)): self._cancel_many,
            ("POST", ("results", "{result}", "acknowledgement")): self._acknowledge,
            ("POST", ("tickets",)): self._issue_ticket,
            ("GET", ("context",)): self._read_context,
            ("GET", ("tasks",)): self._read_tasks,
            ("GET", ("tasks", "{task}")): self._read_task,
            ("GET", ("inbox",)): self._read_inbox,
        }

    async def start(self) -> None:
        """Connect to Kafka. Raises `KafkaError` if no broker answers or a topic is missing."""
        await self.publisher.start()
        await self.feed.start()
        config = self._config
        if config.query_secret is not None:
            owners = Owners(self.feed.admin, config.group_id, topic_name("context", config.topic_prefix))
            self.reader = WorkerReader(owners, config.query_secret, self.feed.partition_of, config.query_tls)

    async def stop(self) -> None:
        """End all streams and disconnect."""
        await self.feed.stop()
        await self.publisher.stop()
        await self.reader.stop()

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
                self._require_local(headers)
            route = match(raw_path)
            if route is None:
                response = await self._without_session(scope, raw_path)
            else:
                template = route.template
                if scope["method"] == "OPTIONS":
                    response = self._preflight(route, origin)
                elif route.name == ("events",) and scope["method"] == "GET":
                    await self._stream(scope, receive, send, route, origin)
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
        self._allow_origin(response.headers, origin)
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)
        self.metrics.requests.labels(template, scope["method"], str(status)).observe(time.monotonic() - began)

    def _require_local(self, headers: Headers) -> None:
        """Without authentication, refuse what another site's page sends through this machine's browser.

        It comes with that site's `Origin`, or, where a name was pointed at this machine, with its `Host`.
        """
        host = headers.get("host", "")
        if _host_name(host) not in LOCAL_HOSTS:
            raise Problem("forbidden", f"without authentication only localhost is answered, not {host[:100]!r}")
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}", *self._config.cors_origins}:
            raise Problem("forbidden", "a page of another origin may not use a gateway without authentication")

    async def _answer(self, scope: Scope, receive: Receive, route: Route) -> Response:
        allowed = ROUTES[route.name]
        if scope["method"] not in allowed:
            detail = f"{scope['method']} {route.template}: allowed are {', '.join(allowed)}"
            raise Problem("method_not_allowed", detail, headers={"Allow": ", ".join(allowed)})
        if self.is_draining:
            raise Problem("draining", "repeat the request; another instance answers", retry_after_seconds=1)
        headers = Headers(scope=scope)
        grant = await self._grant(headers)
        self._take_one(grant, scope)
        return await self._handlers[scope["method"], route.name](Request(scope, receive, route, grant))

    async def _grant(self, headers: Headers) -> Grant:
        if self._config.unauthenticated:
            return ANYONE
        return await self._verifier.grant(bearer(headers.get("authorization")))

    def _take_one(self, grant: Grant, scope: Scope) -> None:
        holder = grant.holder
        if grant is ANYONE and scope.get("client"):
            holder = str(scope["client"][0])
        wait = self._rates.wait_seconds(holder, time.monotonic())
        if wait:
            per_second = self._config.limits.requests_per_second
            detail = f"more than {per_second:g} requests per second; try again in {wait:.1f} s"
            raise Problem("too_many_requests", detail, retry_after_seconds=wait)

    async def _without_session(self, scope: Scope, raw_path: bytes) -> Response:
        method = scope["method"]
        if method in {"GET", "HEAD"}:
            if self._config.page and (file := page_file(raw_path)) is not None:
                return file
            if raw_path == b"/healthz":
                return _json({"healthy": True})
            if raw_path == b"/readyz":
                ready = self.is_ready
                return _json({"ready": ready, "draining": self.is_draining}, 200 if ready else 503)
        raise Problem("not_found", "there is nothing at this path")

    # Writing

    async def _write_context(self, request: Request) -> Response:
        request.grant.require(request.session_id, "context")
        body = parse(await request.body(self._config.limits.body_bytes), ContextBody)
        if body.get("cause") is not None:
            request.grant.require(request.session_id, "cause")
        position = await self._publish(request, "context", {"type": "context.changed", **body}, "context")
        return _json({"position": str(position)}, 200)

    async def _dispatch(self, request: Request) -> Response:
        request.grant.require(request.session_id, "dispatch")
        raw = await request.body(self._config.limits.body_bytes)
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
        return _json({"task_id": task_id, "position": str(position)}, 202, {"Location": location})

    async def _cancel(self, request: Request) -> Response:
        request.grant.require(request.session_id, "cancel")
        wait = request.seconds("wait", 60.0)
        body = parse(await request.body(self._config.limits.body_bytes), CancelBody)
        event = {"type": "task.cancel_requested", "task_id": request.resource_id, **body}
        if not wait:
            position = await self._publish(request, "context", event, "cancel")
            return _json({"task_id": request.resource_id, "position": str(position)}, 202)
        return await self._cancel_and_wait(request, event, wait)

    async def _cancel_many(self, request: Request) -> Response:
        request.grant.require(request.session_id, "cancel")
        body = parse(await request.body(self._config.limits.body_bytes), CancelManyBody)
        named = [name for name in ("request_id", "slot") if body.get(name) is not None] + ["all"] * bool(
            body.get("all")
        )
        if len(named) != 1:
            found = " and ".join(named) or "none of them"
            raise Problem("invalid_event", f"exactly one of request_id, slot and all: {found}; name one")
        position = await self._publish(request, "context", {"type": "task.cancel_requested", **body}, "cancel")
        return _json({"position": str(position)}, 202)

    async def _cancel_and_wait(self, request: Request, event: dict[str, Any], wait: float) -> Response:
        """Follow the session before the request is written, so that its answer cannot be missed."""
        request.grant.require(request.session_id, "read")
        watcher = Subscriber(request.session_id, self._config.limits.buffer_bytes)
        await self._follow(watcher)
        try:
            position = await self._publish(request, "context", event, "cancel")
            status = await _ended_status(watcher, request.resource_id, wait)
        finally:
            self.feed.unsubscribe(watcher)
        answer = {"task_id": request.resource_id, "position": str(position)}
        if status is None:
            return _json(answer, 202)
        return _json({**answer, "status": status, "receipt": status.get("receipt")}, 200)

    async def _acknowledge(self, request: Request) -> Response:
        request.grant.require(request.session_id, "acknowledge")
        body = parse(await request.body(self._config.limits.body_bytes), AcknowledgementBody)
        event = {"type": "result.acknowledged", "result_event_id": request.resource_id, **body}
        position = await self._publish(request, "context", event, "acknowledge")
        return _json({"position": str(position)}, 202)

    async def _publish(
        self, request: Request, role: Role, event: dict[str, Any], kind: str, event_id: str | None = None
    ) -> Position:
        key = request.idempotency_key
        if event_id is None and key is not None:
            self._require_same(f"{kind}\0{request.session_id}\0{key}", event)
            event_id = derived_id(kind, request.session_id, key)
        traceparent = request.headers.get("traceparent")
        return await self.publisher.publish(role, request.session_id, event, event_id=event_id, traceparent=traceparent)

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

    # Reading

    async def _read_context(self, request: Request) -> Response:
        state = await self._state(request)
        names, prefix = request.query.getlist("facet"), request.query.get("prefix")
        facets = state.facets
        if names:
            facets = {name: facets[name] for name in names if name in facets}
        if prefix is not None:
            facets = {name: value for name, value in facets.items() if name.startswith(prefix)}
        return _tagged(request, {"facets": facets, "position": _reached(state)})

    async def _read_tasks(self, request: Request) -> Response:
        state = await self._state(request)
        return _tagged(request, {"tasks": state.tasks, "position": _reached(state)})

    async def _read_task(self, request: Request) -> Response:
        """One task. With `wait` and the `ETag` last seen: when it has changed, or after that many seconds."""
        wait = request.seconds("wait", MAX_WAIT_SECONDS)
        deadline = time.monotonic() + wait
        response = await self._task(request)
        if not wait or response.status_code not in {304, 404}:
            return response
        watcher = Subscriber(request.session_id, self._config.limits.buffer_bytes)
        await self._follow(watcher)
        try:
            while response.status_code in {304, 404} and time.monotonic() < deadline:
                try:
                    async with asyncio.timeout(min(REREAD_SECONDS, max(0.0, deadline - time.monotonic()))):
                        await watcher.wait()
                except TimeoutError:
                    pass
                watcher.take()
                response = await self._task(request)
        finally:
            self.feed.unsubscribe(watcher)
        return response

    async def _task(self, request: Request) -> Response:
        state = await self._state(request)
        for task in state.tasks:
            if task["task_id"] == request.resource_id:
                held = [each for each in state.held if each["task_id"] == request.resource_id]
                status = {**task, **({"held": held[0]} if held else {})}
                response = _tagged(request, status)
                if response.status_code == 304 or task["status"] != "ended":
                    return response
                # It follows from the status, so the tag of the status is that of both.
                outcome = await self._outcomes.of(request.session_id, state.partition, task)
                if task["disposition"] == "delivered":
                    status["results"] = outcome.results
                if outcome.receipt is not None:
                    status["receipt"] = outcome.receipt
                return _json(status, 200, {"ETag": response.headers["etag"]})
        detail = "the session has no such task, or it ended too long ago; a dispatch shows when it has been folded"
        return Problem("not_found", detail).response()

    async def _read_inbox(self, request: Request) -> Response:
        """Results that are held, and delivered results without an acknowledgement."""
        state = await self._state(request)
        unacknowledged = [
            task for task in state.tasks if task.get("disposition") == "delivered" and task.get("acknowledged") is None
        ]
        body = {"held": state.held, "unacknowledged": unacknowledged, "position": _reached(state)}
        return _tagged(request, body)

    async def _state(self, request: Request) -> SessionState:
        """The session's committed state. With `at_least`, only once an event at that position is in it."""
        request.grant.require(request.session_id, "read")
        text = request.query.get("at_least")
        if text is None:
            return await self.reader.read(request.session_id)
        position = parse_position(text)
        if position.partition != self.feed.partition_of(request.session_id):
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

    async def _follow(self, watcher: Subscriber) -> None:
        try:
            await self.feed.subscribe(watcher, None)
        except KafkaError as error:
            raise Problem("kafka_unavailable", "Kafka does not answer", retry_after_seconds=1) from error

    # Streams

    async def _issue_ticket(self, request: Request) -> Response:
        request.grant.require(request.session_id, "read")
        if self._tickets is None:
            raise Problem("not_found", "stream tickets are turned off: no ticket secret is set")
        ticket, expires_at = self._tickets.issue(request.grant, request.session_id)
        return _json({"ticket": ticket, "expires_at": expires_at}, 201)

    async def _stream(self, scope: Scope, receive: Receive, send: Send, route: Route, origin: str | None) -> None:
        headers, query = Headers(scope=scope), QueryParams(scope["query_string"])
        if self.is_draining:
            raise Problem("draining", "connect again; another instance answers", retry_after_seconds=1)
        ticket = query.get("ticket")
        if ticket is not None and not self._config.unauthenticated:
            if self._tickets is None:
                raise unauthorized("stream tickets are turned off")
            grant = self._tickets.grant(ticket)
        else:
            grant = await self._grant(headers)
        grant.require(route.session_id, "read")
        self._take_one(grant, scope)
        form = query.get("format", "tidegate")
        if form not in {"tidegate", "ag-ui"} or (form == "ag-ui" and not query.get("task")):
            raise Problem("invalid_request", "format: `tidegate`, or `ag-ui` with a `task`")
        translator = Translator(route.session_id, query["task"]) if form == "ag-ui" else None
        if self._streams.is_full():
            raise Problem("overloaded", "this instance has as many streams as it takes", retry_after_seconds=5)
        if not self._streams.enter(grant.holder):
            limit = self._config.limits.streams_per_token
            detail = f"the token's holder has {limit} open streams; close one"
            raise Problem("too_many_streams", detail, retry_after_seconds=5)
        subscriber = Subscriber(route.session_id, self._config.limits.buffer_bytes, grant.expires_at)
        cursor = headers.get("last-event-id") or query.get("last_event_id")
        extra: dict[str, str] = {}
        self._allow_origin(extra, origin)
        raw = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
        client = query.get("client")
        presence: asyncio.Task[None] | None = None
        if client and "context" in grant.actions:
            presence = asyncio.get_running_loop().create_task(self._keep_present(route.session_id, client))
        try:
            await stream(self.feed, self.metrics, subscriber, cursor, raw, receive, send, translator)
        finally:
            self._streams.leave(grant.holder)
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
                await self.publisher.publish("context", session_id, event, event_id=None, traceparent=None)
            except Problem as problem:
                _log.info("presence_not_renewed", problem=problem.code)
            await asyncio.sleep(PRESENCE_SECONDS / 3)

    # Cross-origin requests

    def _allow_origin(self, headers: Any, origin: str | None) -> None:
        if origin is not None and origin in self._config.cors_origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "Location, Retry-After, ETag"
            headers["Vary"] = "Origin"

    def _preflight(self, route: Route, origin: str | None) -> Response:
        if origin is None or origin not in self._config.cors_origins:
            raise Problem("forbidden", "cross-origin requests from this origin are not allowed")
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Methods": ", ".join(ROUTES[route.name]),
                "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-None-Match,"
                " Last-Event-ID, traceparent",
                "Access-Control-Max-Age": "600",
            },
        )


async def _ended_status(watcher: Subscriber, task_id: str, wait_seconds: float) -> dict[str, Any] | None:
    """The task's last status; None if it does not come in time."""
    try:
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
    except TimeoutError:
        pass
    return None


def _host_name(host: str) -> str:
    """The name in a `Host` header, without the port."""
    name = host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdecimal() else host
    return name.strip("[]")


def _reached(state: SessionState) -> str:
    """The position before which every context event is in the state."""
    return str(Position("context", state.partition, state.positions.get("context", 0)))


def _tagged(request: Request, body: dict[str, Any]) -> Response:
    """A response with an `ETag` of its content, or 304 if the client has it. The position does not count."""
    content = {name: value for name, value in body.items() if name != "position"}
    tag = f'"{sha256(orjson.dumps(content)).hexdigest()[:24]}"'
    known = request.headers.get("if-none-match", "")
    if tag in [each.strip().removeprefix("W/") for each in known.split(",")]:
        return Response(status_code=304, headers={"ETag": tag})
    return _json(body, 200, {"ETag": tag})


def _json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, JSON)
