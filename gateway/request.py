"""A request to a resource of a session as the handlers see it, and what they answer with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final

import orjson
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope

from gateway.problems import Problem
from gateway.routing import Route
from gateway.tokens import Grant
from schemas.fields import MAX_NAME_BYTES

DISCARDED_BYTES: Final = 4 * 1024 * 1024
"""Of a body that is too large: read and dropped, so that a client that is still sending sees the answer."""
JSON: Final = "application/json"


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


Handler = Callable[[Request], Awaitable[Response]]


def tagged(request: Request, body: dict[str, Any]) -> Response:
    """A response with an `ETag` of its content, or 304 if the client has it. The position does not count."""
    content = {name: value for name, value in body.items() if name != "position"}
    tag = f'"{sha256(orjson.dumps(content)).hexdigest()[:24]}"'
    known = request.headers.get("if-none-match", "")
    if tag in [each.strip().removeprefix("W/") for each in known.split(",")]:
        return Response(status_code=304, headers={"ETag": tag})
    return json_response(body, 200, {"ETag": tag})


def json_response(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response whose body is JSON."""
    return Response(orjson.dumps(body), status, headers, JSON)
