"""Writes events, and returns when Kafka has acknowledged them on all in-sync replicas."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from gateway.bodies import encode
from gateway.config import GatewayConfig
from gateway.problems import Problem
from schemas.envelope import TRACEPARENT, Envelope
from schemas.identity import output_event_id
from schemas.topics import Role, topic_name

_log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS: Final = 2.0
_POSITION: Final = re.compile(r"([a-z.]{1,20}):(\d{1,5}):(\d{1,19})", re.ASCII)
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """Where an event is: the topic's role, partition and offset."""

    role: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """As in answers, and in `at_least`: `context:3:17`."""
        return f"{self.role}:{self.partition}:{self.offset}"


def parse_position(text: str) -> Position:
    """The position that a text stands for. Raises `Problem`."""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise Problem("invalid_request", f"not a position: {text[:64]!r}; take one from an answer, as `context:3:17`")
    return Position(found[1], int(found[2]), int(found[3]))


def derived_id(kind: str, session_id: str, key: str) -> str:
    """The id that an idempotency key stands for in a session: the same on every instance."""
    return output_event_id(f"{kind}\0{session_id}\0{key}".encode())


class Publisher:
    """One idempotent producer for everything this instance writes."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._pending = 0
        self._producer = AIOKafkaProducer(
            **config.kafka,
            client_id=f"{config.group_id}-gateway",
            enable_idempotence=True,
            acks="all",
            max_request_size=1024 * 1024,
            request_timeout_ms=int(config.request_timeout_seconds * 1000),
            retry_backoff_ms=20,
        )

    async def start(self) -> None:
        """Connect. Raises `KafkaError` if no broker answers."""
        await self._producer.start()

    async def stop(self) -> None:
        """Wait for what is under way, and disconnect."""
        await self._producer.stop()

    async def publish(
        self, role: Role, session_id: str, fields: dict[str, Any], *, event_id: str | None, traceparent: str | None
    ) -> Position:
        """Write one event; returns its position when Kafka has acknowledged it.

        Raises `Problem`: 422 if the event breaks the contract, 503 if Kafka does not acknowledge in time; the event may
        then be there or not, and the same request with the same idempotency key is safe. Cancelled, it may be written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = {
            "source": self._config.source,
            "event_id": event_id or str(uuid4()),
            "session_id": session_id,
            "occurred_at": now,
            **fields,
        }
        value = encode(event)
        if self._pending >= self._config.limits.pending_writes:
            detail = f"{self._pending} writes wait for Kafka; try again later"
            raise Problem("overloaded", detail, retry_after_seconds=RETRY_AFTER_SECONDS)
        key = session_id.encode()
        trace = traceparent if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) else None
        envelope = Envelope(event["type"], event["source"], event["event_id"], key, now)
        headers = [*envelope.headers(), *([(TRACEPARENT, trace.encode())] if trace else [])]
        self._pending += 1
        try:
            async with asyncio.timeout(self._config.request_timeout_seconds):
                sent = await self._producer.send_and_wait(
                    topic_name(role, self._config.topic_prefix), value, key=key, headers=headers
                )
        except (KafkaError, TimeoutError) as error:
            _log.warning("event_not_acknowledged", role=role, error=type(error).__name__)
            detail = (
                "Kafka did not acknowledge the event; it may be written or not. Repeat the request with the same"
                " Idempotency-Key."
            )
            raise Problem("kafka_unavailable", detail, retry_after_seconds=RETRY_AFTER_SECONDS) from error
        finally:
            self._pending -= 1
        return Position(role, sent.partition, sent.offset)
