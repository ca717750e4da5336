"""`tidegate gateway`: one gateway instance, configured from the settings."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tidegate.errors import TidegateError
from tidegate.logs import configure
from tidegate.settings import Settings, load_settings

try:
    from gateway.config import GatewayConfig, Limits, TokenConfig
    from gateway.server import run
except ImportError as error:
    raise TidegateError(
        f"The gateway's dependencies are not installed: {error}", "Install them: pip install 'tidegate[gateway]'"
    ) from error


def run_gateway(*, unauthenticated: bool, page: bool) -> None:
    """Serve until a signal comes. Raises `TidegateError` if the settings do not fit together."""
    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    config = gateway_config(settings, unauthenticated=unauthenticated, page=page)
    try:
        asyncio.run(run(config))
    except OSError as error:
        raise TidegateError(
            f"Cannot serve at {config.host}:{config.port}, or metrics at {config.metrics_host}:{config.metrics_port}:"
            f" {error.strerror or error}.",
            "Set TIDEGATE_GATEWAY_PORT and TIDEGATE_METRICS_PORT to free ports (0 takes any).",
        ) from error


def gateway_config(settings: Settings, *, unauthenticated: bool = False, page: bool = False) -> GatewayConfig:
    """What the settings mean to the gateway. Raises `TidegateError`."""
    secret, ticket_secret = settings.gateway_jwt_secret, settings.gateway_ticket_secret
    query_secret = settings.query_secret
    tokens = TokenConfig(
        secret=secret.get_secret_value() if secret else None,
        public_key=_read(settings.gateway_jwt_public_key_file),
        jwks_url=settings.gateway_jwks_url,
        audience=settings.gateway_jwt_audience,
        issuer=settings.gateway_jwt_issuer,
        claim=settings.gateway_jwt_claim,
        require_tenant=settings.gateway_require_tenant,
    )
    limits = Limits(
        requests_per_second=settings.gateway_requests_per_second,
        burst=max(1, int(settings.gateway_requests_per_second * 2)),
        streams_per_token=settings.gateway_streams_per_token,
    )
    try:
        return GatewayConfig(
            kafka=settings.kafka_kwargs(),
            topic_prefix=settings.topic_prefix,
            group_id=settings.group_id,
            source=settings.gateway_source,
            host=settings.gateway_host,
            port=settings.gateway_port,
            tokens=tokens,
            unauthenticated=unauthenticated,
            ticket_secret=ticket_secret.get_secret_value() if ticket_secret else None,
            query_secret=query_secret.get_secret_value() if query_secret else None,
            query_tls=settings.query_tls(server=False),
            cors_origins=tuple(settings.gateway_cors_origins),
            limits=limits,
            heartbeat_seconds=settings.gateway_heartbeat_seconds,
            drain_seconds=settings.gateway_drain_seconds,
            request_timeout_seconds=settings.request_timeout_seconds,
            metrics_host=settings.metrics_host,
            metrics_port=settings.metrics_port,
            page=page,
        )
    except ValueError as error:
        raise TidegateError(
            f"The gateway cannot run with these settings: {error}.",
            "Set TIDEGATE_GATEWAY_JWT_SECRET, TIDEGATE_GATEWAY_JWT_PUBLIC_KEY_FILE or TIDEGATE_GATEWAY_JWKS_URL;"
            " to try it out on this machine: tidegate gateway --unauthenticated",
        ) from error


def _read(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text()
    except OSError as error:
        raise TidegateError(f"Cannot read {file}: {error}", "Check TIDEGATE_GATEWAY_JWT_PUBLIC_KEY_FILE.") from error
