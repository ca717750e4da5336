"""Errors as problem details. Source: RFC 9457."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:tidegate:problem:"

TITLES: Final[dict[str, tuple[int, str]]] = {
    "invalid_request": (400, "The request cannot be understood"),
    "unauthorized": (401, "A valid bearer token is needed"),
    "forbidden": (403, "The token does not allow this"),
    "not_found": (404, "There is no such resource"),
    "method_not_allowed": (405, "The resource does not support this method"),
    "not_acceptable": (406, "The resource has no such representation"),
    "body_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "The body must be JSON"),
    "invalid_event": (422, "The event breaks the contract"),
    "idempotency_conflict": (422, "The key was used with another body"),
    "too_many_requests": (429, "The token has used up its share"),
    "too_many_streams": (429, "The token has too many open streams"),
    "internal": (500, "The gateway failed"),
    "kafka_unavailable": (503, "Kafka does not acknowledge at the moment"),
    "state_unavailable": (503, "The state of this session cannot be read at the moment"),
    "draining": (503, "This instance is shutting down"),
    "overloaded": (503, "This instance is at its limit"),
}
"""By code: the status and what the code means."""


class Problem(Exception):  # noqa: N818 - the field calls it a problem
    """An error that is reported to the client. `detail` gives the place, the value, the limit and the remedy."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        retry_after_seconds: float | None = None,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.status, self.title = TITLES[code]
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members
        if retry_after_seconds is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after_seconds)))

    def response(self) -> Response:
        """The response that reports it."""
        body = {
            "type": TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(orjson.dumps(body), HTTPStatus(self.status), headers, MEDIA_TYPE)
