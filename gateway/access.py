"""Whether a request is answered: by its token or ticket, its rate, and the page it comes from."""

from __future__ import annotations

import time
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from gateway.config import LOCAL_HOSTS, GatewayConfig
from gateway.limits import RateLimit
from gateway.problems import Problem
from gateway.routing import ROUTES, Route
from gateway.tokens import ANYONE, Grant, Tickets, Verifier, bearer, unauthorized


class Access:
    """What a request has to show before a handler sees it."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._verifier = Verifier(config.tokens)
        self._tickets = Tickets(config.ticket_secret) if config.ticket_secret else None
        self._rates = RateLimit(config.limits.requests_per_second, config.limits.burst)

    def require_local(self, headers: Headers) -> None:
        """Without authentication, refuse what another site's page sends through this machine's browser.

        It comes with that site's `Origin`, or, where a name was pointed at this machine, with its `Host`.
        """
        host = headers.get("host", "")
        if _host_name(host) not in LOCAL_HOSTS:
            raise Problem("forbidden", f"without authentication only localhost is answered, not {host[:100]!r}")
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}", *self._config.cors_origins}:
            raise Problem("forbidden", "a page of another origin may not use a gateway without authentication")

    async def grant(self, headers: Headers) -> Grant:
        """What the request's token allows. Raises `Problem`."""
        if self._config.unauthenticated:
            return ANYONE
        return await self._verifier.grant(bearer(headers.get("authorization")))

    def take_one(self, grant: Grant, scope: Scope) -> None:
        """Count a request of the token's holder. Raises `Problem` if it sends too many."""
        holder = grant.holder
        if grant is ANYONE and scope.get("client"):
            holder = str(scope["client"][0])
        wait = self._rates.wait_seconds(holder, time.monotonic())
        if wait:
            per_second = self._config.limits.requests_per_second
            detail = f"more than {per_second:g} requests per second; try again in {wait:.1f} s"
            raise Problem("too_many_requests", detail, retry_after_seconds=wait)

    def stream_grant_of(self, ticket: str) -> Grant:
        """What a stream ticket allows. Raises `Problem`."""
        if self._tickets is None:
            raise unauthorized("stream tickets are turned off")
        return self._tickets.grant(ticket)

    def issue_ticket(self, grant: Grant, session_id: str) -> tuple[str, float]:
        """A ticket for the session's stream, and when it expires. Raises `Problem`."""
        if self._tickets is None:
            raise Problem("not_found", "stream tickets are turned off: no ticket secret is set")
        return self._tickets.issue(grant, session_id)

    # Cross-origin requests

    def allow_origin(self, headers: Any, origin: str | None) -> None:
        """Let scripts of an allowed origin read the response."""
        if origin is not None and origin in self._config.cors_origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "Location, Retry-After, ETag"
            headers["Vary"] = "Origin"

    def preflight(self, route: Route, origin: str | None) -> Response:
        """What a browser may send from this origin. Raises `Problem` if nothing."""
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


def _host_name(host: str) -> str:
    """The name in a `Host` header, without the port."""
    name = host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdecimal() else host
    return name.strip("[]")
