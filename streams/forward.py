"""Misrouted records sent on to their right partition, and the arithmetic that tells which that is.

A plain idempotent producer, awaited before the record's own offset is committed: a crash in between forwards it twice,
and repeats are known by their identity.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from schemas.decode import Batch, Decoder
from schemas.envelope import FORWARDED_FROM, producers_headers
from schemas.topics import Role
from streams.batches import UNTOUCHED
from streams.config import EngineConfig

_log = structlog.get_logger(__name__)


def partition_of(session_id: str, partition_count: int) -> int:
    """The partition of a session: murmur2 of its UTF-8 bytes, as Java, aiokafka and kafkajs compute it."""
    return int((murmur2(session_id.encode()) & 0x7FFFFFFF) % partition_count)


def home_check(partition: int, partition_count: int) -> Callable[[str], bool]:
    """Whether a session belongs to `partition`."""
    return lambda session_id: partition_of(session_id, partition_count) == partition


class Forwarder:
    """Sends misrouted records on."""

    def __init__(self, config: EngineConfig, partition_count: int) -> None:
        self._config = config
        self._partition_count = partition_count
        self._decoders: dict[Role, Decoder] = {}
        self._producer = AIOKafkaProducer(
            **config.kafka,
            client_id=f"{config.group_id}-forward",
            enable_idempotence=True,
            compression_type=UNTOUCHED,
            request_timeout_ms=int(config.request_timeout_seconds * 1000),
            retry_backoff_ms=20,
        )

    async def start(self) -> None:
        """Connect. Raises `KafkaConnectionError` where no broker answers."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is left and close."""
        await self._producer.stop()

    async def forward(self, misrouted: Sequence[tuple[Batch, int]]) -> None:
        """Send the records on, and wait until every one is acknowledged. Raises `KafkaError`."""
        sent = []
        for batch, index in misrouted:
            topic, session_id = self._config.topic(batch.role), self._session_of(batch, index)
            origin = f"{topic}/{batch.partition}/{batch.offsets[index]}"
            sent.append(
                await self._producer.send(
                    topic,
                    value=batch.values[index],
                    key=session_id.encode(),
                    partition=partition_of(session_id, self._partition_count),
                    headers=[*producers_headers(batch.headers[index]), (FORWARDED_FROM, origin.encode())],
                )
            )
        if sent:
            first, index = misrouted[0]
            _log.warning(
                "misrouted_records_forwarded",
                count=len(sent),
                topic=self._config.topic(first.role),
                partition=first.partition,
                first_offset=first.offsets[index],
                hint="producers must partition by murmur2 of the session id (librdkafka: partitioner=murmur2_random)",
            )
            await asyncio.gather(*sent)

    def _session_of(self, batch: Batch, index: int) -> str:
        """The session of a record that was decoded before: its key, if it has one, is the same."""
        key = batch.keys[index]
        if key is not None:
            return key.decode()
        decoder = self._decoders.get(batch.role)
        if decoder is None:
            decoder = self._decoders[batch.role] = Decoder(batch.role)
        session_id: str = decoder.event_of(batch.values[index] or b"", batch.headers[index]).session_id
        return session_id
