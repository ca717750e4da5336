"""What one gateway instance is configured with. The command line makes it from settings."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, Final

LOCAL_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """Which bearer tokens are accepted. Without any key none is.

    `secret` verifies HS256, `public_key` (PEM) and the keys at `jwks_url` verify RS256 and ES256.
    `claim` names the claim that holds the grant; `audience` must be among the token's `aud`.
    """

    secret: str | None = None
    public_key: str | None = None
    jwks_url: str | None = None
    audience: str = "tidegate"
    issuer: str | None = None
    claim: str = "tidegate"
    require_tenant: bool = False
    leeway_seconds: float = 10.0
    jwks_max_age_seconds: float = 300.0

    @property
    def has_keys(self) -> bool:
        """Whether any token can be verified."""
        return bool(self.secret or self.public_key or self.jwks_url)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one token, one stream and one instance may use."""

    body_bytes: int = 768 * 1024
    requests_per_second: float = 50.0
    burst: int = 100
    streams_per_token: int = 16
    streams: int = 10_000
    pending_writes: int = 1_000
    buffer_bytes: int = 2 * 1024 * 1024
    """Of one stream. A slower client is disconnected and resumes. At least one record fits in any case."""
    tail_bytes: int = 64 * 1024 * 1024
    """Of all partitions together: recent records, from which streams resume without Kafka."""
    catch_up_records: int = 50_000
    """How far behind the tail a cursor may be; beyond it the client gets `reset`."""
    catch_up_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The configuration of one instance.

    `kafka`: keyword arguments for any aiokafka client. `source`: the `source` of the events it writes.
    `ticket_secret` signs stream tickets and must be the same on every instance; None turns tickets off.
    `query_secret` signs requests to the workers' read endpoint; with `query_tls` they are made over mutual TLS.
    """

    kafka: dict[str, Any]
    topic_prefix: str = "tidegate"
    group_id: str = "tidegate"
    source: str = "gateway"
    host: str = "127.0.0.1"
    port: int = 8080
    tokens: TokenConfig = field(default_factory=TokenConfig)
    unauthenticated: bool = False
    ticket_secret: str | None = None
    query_secret: str | None = None
    query_tls: ssl.SSLContext | None = None
    cors_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    heartbeat_seconds: float = 15.0
    idle_partition_seconds: float = 60.0
    drain_seconds: float = 5.0
    request_timeout_seconds: float = 20.0
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9464
    page: bool = False

    def __post_init__(self) -> None:
        """Refuse combinations that would leave the gateway open."""
        if self.unauthenticated and self.host not in LOCAL_HOSTS:
            raise ValueError(f"unauthenticated access is possible on localhost only, not on {self.host}")
        if not self.unauthenticated and not self.tokens.has_keys:
            raise ValueError("no key to verify tokens with: set a secret, a public key or a JWKS address")
