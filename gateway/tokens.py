"""Who is asking, and for which sessions: bearer tokens (JWT) and stream tickets.

Source: RFC 7519 (JWT), RFC 8725 (best practices), RFC 6750 (bearer tokens in HTTP).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, TypeGuard

import aiohttp
import jwt
import structlog

from gateway.config import TokenConfig
from gateway.problems import Problem

_log = structlog.get_logger(__name__)

Action = Literal["read", "context", "dispatch", "cancel", "acknowledge", "cause"]
ACTIONS: Final[tuple[Action, ...]] = ("read", "context", "dispatch", "cancel", "acknowledge", "cause")
"""`cause`: write context changes that count as a task's own work. For agents: whoever has it can keep a task fresh."""

ASYMMETRIC: Final = ("RS256", "ES256")
TICKET_AUDIENCE: Final = "tidegate-stream-ticket"
JWKS_REFETCH_SECONDS: Final = 10.0
"""Least time between two fetches: anyone can send a token with an unknown key id."""
MAX_JWKS_BYTES: Final = 256 * 1024
MAX_TOKEN_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token allows. `holder` identifies it for limits, without being the token.

    A session pattern is a session id, `prefix/*` for every session that begins with `prefix/`, or `*` for all.
    """

    holder: str
    sessions: tuple[str, ...]
    actions: frozenset[str]
    expires_at: float
    tenant: str | None = None

    def covers(self, session_id: str) -> bool:
        """Whether the session is one of the token's."""
        if self.tenant is not None and not session_id.startswith(f"{self.tenant}/"):
            return False
        return any(
            pattern in {session_id, "*"} or (pattern.endswith("/*") and session_id.startswith(pattern[:-1]))
            for pattern in self.sessions
        )

    def require(self, session_id: str, action: Action) -> None:
        """Raise `Problem` unless the token allows `action` in the session."""
        if not self.covers(session_id) or action not in self.actions:
            # one text for both cases, so that it does not reveal which sessions a token covers
            raise Problem("forbidden", f"the token does not allow {action!r} in this session")


@dataclass(frozen=True, slots=True)
class Anyone(Grant):
    """The grant where no authentication is asked for."""

    def covers(self, session_id: str) -> bool:
        """Every session."""
        return bool(session_id)


ANYONE: Final = Anyone("unauthenticated", (), frozenset(ACTIONS), float("inf"))

FetchJson = Callable[[str], Awaitable[Any]]


async def fetch_json(url: str) -> Any:
    """The JSON document at an address. Raises `aiohttp.ClientError`, `TimeoutError` or `ValueError`."""
    timeout = aiohttp.ClientTimeout(total=5.0)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, allow_redirects=False) as response:
        response.raise_for_status()
        body = await response.content.read(MAX_JWKS_BYTES + 1)
        if len(body) > MAX_JWKS_BYTES:
            raise ValueError(f"the key set has more than {MAX_JWKS_BYTES} bytes")
        return jwt.PyJWKSet.from_json(body.decode())


class KeySet:
    """The keys at a JWKS address, fetched when they are old or a key id is unknown, but not too often."""

    def __init__(self, url: str, max_age_seconds: float, fetch: FetchJson = fetch_json) -> None:
        self._url = url
        self._max_age = max_age_seconds
        self._fetch = fetch
        self._keys: dict[str, Any] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def key(self, key_id: str, now: float) -> Any:
        """The key with an id; None if it is unknown. Known keys are used while the address does not answer."""
        if key_id not in self._keys or now - self._fetched_at > self._max_age:
            await self._refresh(key_id, now)
        return self._keys.get(key_id)

    async def _refresh(self, key_id: str, now: float) -> None:
        async with self._lock:
            if now - self._tried_at < JWKS_REFETCH_SECONDS or (
                key_id in self._keys and now - self._fetched_at <= self._max_age
            ):
                return
            self._tried_at = now
            try:
                found = await self._fetch(self._url)
                self._keys = {key.key_id: key for key in found.keys if key.key_id}
                self._fetched_at = now
            except (aiohttp.ClientError, TimeoutError, ValueError, jwt.PyJWTError) as error:
                _log.warning("jwks_not_fetched", error=type(error).__name__, known_keys=len(self._keys))


class Verifier:
    """Turns a bearer token into a grant."""

    def __init__(self, config: TokenConfig, fetch: FetchJson = fetch_json) -> None:
        self._config = config
        self._key_set = KeySet(config.jwks_url, config.jwks_max_age_seconds, fetch) if config.jwks_url else None

    async def grant(self, token: str) -> Grant:
        """What the token allows. Raises `Problem` (401) if it is not valid, expired, or has another audience."""
        if len(token) > MAX_TOKEN_BYTES:
            raise unauthorized("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            key = await self._key(algorithm, header.get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=[str(algorithm)],  # `_key` gives a key for this very algorithm, or refuses it
                audience=self._config.audience,
                issuer=self._config.issuer,
                leeway=self._config.leeway_seconds,
                options={"require": ["exp", "aud", *(["iss"] if self._config.issuer else [])]},
            )
        except jwt.PyJWTError as error:
            raise unauthorized(_reason(error)) from None
        return self._grant_of(token, claims)

    async def _key(self, algorithm: Any, key_id: Any) -> Any:
        config = self._config
        if algorithm == "HS256" and config.secret:
            return config.secret
        if algorithm in ASYMMETRIC and config.public_key:
            return config.public_key
        if algorithm in ASYMMETRIC and self._key_set is not None and isinstance(key_id, str):
            key = await self._key_set.key(key_id, time.monotonic())
            if key is not None and key.algorithm_name == algorithm:
                return key
            raise unauthorized("the token's key is not known")
        raise unauthorized("the token's algorithm is not accepted")

    def _grant_of(self, token: str, claims: dict[str, Any]) -> Grant:
        granted = claims.get(self._config.claim)
        if not isinstance(granted, dict):
            raise unauthorized(f"the token has no object {self._config.claim!r}")
        sessions, actions, tenant = granted.get("sessions"), granted.get("actions"), granted.get("tenant")
        if not _are_texts(sessions) or not _are_texts(actions) or not (tenant is None or _is_name(tenant)):
            raise unauthorized(f"{self._config.claim!r} in the token must have lists `sessions` and `actions`")
        if self._config.require_tenant and tenant is None:
            raise unauthorized(f"{self._config.claim!r} in the token must have a `tenant`")
        subject = claims.get("sub")
        holder = f"{claims.get('iss', '')}|{subject}" if subject else sha256(token.encode()).hexdigest()[:32]
        return Grant(holder, tuple(sessions), frozenset(actions), float(claims["exp"]), tenant)


class Tickets:
    """Stream tickets: they stand in the address of an `EventSource`, which cannot send headers.

    A ticket opens the event stream of one session, as long as the token that it was made with is valid, on any
    instance that has the same secret. It allows nothing else.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def issue(self, grant: Grant, session_id: str, longest_seconds: float = 86_400.0) -> tuple[str, float]:
        """A ticket for one session's events, and when it ends (seconds since 1970)."""
        expires_at = min(grant.expires_at, time.time() + longest_seconds)
        claims = {"aud": TICKET_AUDIENCE, "exp": int(expires_at), "sub": grant.holder, "session": session_id}
        return jwt.encode(claims, self._secret, algorithm="HS256"), float(int(expires_at))

    def grant(self, ticket: str) -> Grant:
        """What the ticket allows. Raises `Problem` (401)."""
        if len(ticket) > MAX_TOKEN_BYTES:
            raise unauthorized("the ticket is too long")
        try:
            claims = jwt.decode(
                ticket,
                self._secret,
                algorithms=["HS256"],
                audience=TICKET_AUDIENCE,
                options={"require": ["exp", "aud", "sub", "session"]},
            )
        except jwt.PyJWTError as error:
            raise unauthorized(_reason(error)) from None
        return Grant(str(claims["sub"]), (str(claims["session"]),), frozenset({"read"}), float(claims["exp"]))


def bearer(authorization: str | None) -> str:
    """The token in an `Authorization` header. Raises `Problem` (401)."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthorized("no bearer token in the Authorization header", error=None)
    return token.strip()


def unauthorized(reason: str, error: str | None = "invalid_token") -> Problem:
    """The problem of a missing or invalid token."""
    challenge = 'Bearer realm="tidegate"' + (f', error="{error}"' if error else "")
    return Problem("unauthorized", reason, headers={"WWW-Authenticate": challenge})


def _reason(error: jwt.PyJWTError) -> str:
    # only fixed texts: some messages of the library quote the token
    reasons: dict[type[Exception], str] = {
        jwt.ExpiredSignatureError: "the token has expired",
        jwt.InvalidAudienceError: "the token is meant for another audience",
        jwt.InvalidIssuerError: "the token is from another issuer",
        jwt.InvalidSignatureError: "the token's signature is wrong",
        jwt.ImmatureSignatureError: "the token is not valid yet",
        jwt.MissingRequiredClaimError: "the token lacks a claim that is required",
    }
    return reasons.get(type(error), "the token is not a valid JWT")


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(each, str) and each for each in value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "/" not in value
