"""Which resource a raw path names. Session ids contain slashes, so the path is split before it is decoded.

An id in a path is either percent-encoded as one segment (`acme%2Fuser-7`), or `~` and its base64url form without
padding (`~YWNtZS91c2VyLTc`). The second form survives proxies that decode `%2F` and clients that resolve `..`.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as BinasciiError
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from gateway.problems import Problem
from schemas.fields import MAX_NAME_BYTES

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_BASE64URL: Final = re.compile(rb"[A-Za-z0-9_-]*")

ROUTES: Final[dict[tuple[str, ...], tuple[str, ...]]] = {
    ("context",): ("GET", "POST"),
    ("tasks",): ("GET", "POST"),
    ("tasks", "{task}"): ("GET",),
    ("tasks", "{task}", "cancel"): ("POST",),
    ("results", "{result}", "acknowledgement"): ("POST",),
    ("cancel",): ("POST",),
    ("inbox",): ("GET",),
    ("events",): ("GET",),
    ("tickets",): ("POST",),
}
"""What follows `/v1/sessions/{session}/`, with the methods it has."""


@dataclass(frozen=True, slots=True)
class Route:
    """A resource of one session. `template` is its path with names instead of ids: a bounded metric label."""

    template: str
    name: tuple[str, ...]
    session_id: str
    resource_id: str | None = None


def match(raw_path: bytes) -> Route | None:
    """The route of a raw path; None if it is not one of a session. Raises `Problem` if an id in it is malformed."""
    segments = raw_path.split(b"/")
    if segments[:3] != [b"", b"v1", b"sessions"] or len(segments) < 5:
        return None
    rest = segments[4:]
    for name in ROUTES:
        if len(name) == len(rest) and all(
            part.startswith("{") or part.encode() == segment for part, segment in zip(name, rest, strict=True)
        ):
            template = "/v1/sessions/{session}/" + "/".join(name)
            inner = decode_id(rest[1], name[1].strip("{}")) if len(name) > 1 else None
            return Route(template, name, decode_id(segments[3], "session"), inner)
    return None


def decode_id(segment: bytes, what: str) -> str:
    """The id that a path segment stands for. Raises `Problem`."""
    try:
        if segment.startswith((b"~", b"%7E", b"%7e")):
            encoded = segment[1:] if segment.startswith(b"~") else segment[3:]
            if not _BASE64URL.fullmatch(encoded):
                raise Problem("invalid_request", f"{what} in the path: not base64url without padding after ~")
            raw = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        else:
            raw = unquote_to_bytes(segment)
        text = raw.decode()
    except (UnicodeDecodeError, BinasciiError) as error:
        raise Problem("invalid_request", f"{what} in the path: not UTF-8 ({error})") from error
    if not 1 <= len(raw) <= MAX_NAME_BYTES:
        raise Problem("invalid_request", f"{what} in the path: {len(raw)} bytes; it must have 1 to {MAX_NAME_BYTES}")
    return text


def encode_id(text: str) -> str:
    """The path segment for an id: itself if it is plain, else `~` and base64url."""
    if _PLAIN.fullmatch(text):
        return quote(text)
    return "~" + urlsafe_b64encode(text.encode()).decode().rstrip("=")
