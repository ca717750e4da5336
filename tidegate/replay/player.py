"""Plays planned sessions through a running gate, and collects its verdicts. What is played is `tidegate.replay.plan`.

As in life, a service goes on when the broker has acknowledged its event: whatever happened before an answer in its
session is acknowledged before the answer is produced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.topics import topic_name
from tidegate.errors import TidegateError
from tidegate.replay.conversations import Conversation
from tidegate.replay.ledger import Ledger
from tidegate.replay.plan import Options, plan
from tidegate.settings import Settings
from tidegate.topics import describe_topics

_POLL_MS = 200
_SESSIONS_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Start:
    """A session to be played: its number in the run, and when it starts, in the conversations' own seconds."""

    number: int
    session_id: str
    conversation: Conversation
    at_seconds: float


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it. `seconds` from the first event to the last answer's acknowledgement."""

    ledger: Ledger
    events: int
    seconds: float


class Player:
    """Plays sessions on the broker of `settings`.

    speed: how many of the conversations' seconds pass in one; 0 waits for nothing but acknowledgements.
    verdict_timeout_seconds: how long to wait for outstanding verdicts after the last answer or verdict.
    on_verdict: called after each one.
    """

    def __init__(
        self,
        settings: Settings,
        options: Options,
        *,
        speed: float,
        verdict_timeout_seconds: float,
        on_verdict: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._options = options
        self._speed = speed
        self._verdict_timeout_seconds = verdict_timeout_seconds
        self._on_verdict = on_verdict
        self._ledger = Ledger()
        self._events = 0
        self._last_sign = 0.0
        self._judged = asyncio.Event()
        self._topics = {role: topic_name(role, settings.topic_prefix) for role in ("context", "steps", "results")}
        self._delivered = topic_name("delivered", settings.topic_prefix)
        self._withheld = topic_name("withheld", settings.topic_prefix)
        self._dlq = topic_name("dlq", settings.topic_prefix)

    async def play(self, starts: Sequence[Start], run: str) -> Played:
        """Play them all; every session id begins with `run`, and only verdicts on such sessions are looked at.

        Returns when every answer has its verdict, or none has come for the timeout. Raises `TidegateError` if the
        topics are missing or the broker fails. Cancelled, it leaves the sessions where they are.
        """
        partitions = await self._partitions()
        consumer = AIOKafkaConsumer(
            **self._settings.kafka_kwargs(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            fetch_max_wait_ms=_POLL_MS,
        )
        producer = AIOKafkaProducer(
            **self._settings.kafka_kwargs(), enable_idempotence=True, acks="all", linger_ms=0, retry_backoff_ms=20
        )
        try:
            await consumer.start()
            await producer.start()
            await self._go_to_end(consumer, partitions)
            return await self._run(producer, consumer, starts, run.encode())
        except KafkaError as error:
            raise _broker_failed(self._settings, error) from error
        except ExceptionGroup as group:
            first = group.exceptions[0]
            if isinstance(first, KafkaError):
                raise _broker_failed(self._settings, first) from group
            raise first from group
        finally:
            await asyncio.gather(producer.stop(), consumer.stop(), return_exceptions=True)

    async def _partitions(self) -> list[TopicPartition]:
        wanted = [*self._topics.values(), self._delivered, self._withheld, self._dlq]
        found = await describe_topics(self._settings, wanted)
        missing = [topic for topic in wanted if topic not in found]
        if missing:
            raise TidegateError(
                f"There is no topic {missing[0]} on {self._settings.bootstrap_servers}.",
                "`tidegate topics create` makes the gate's topics, and `tidegate worker` runs the gate.",
            )
        return [
            TopicPartition(topic, number)
            for topic in (self._delivered, self._withheld, self._dlq)
            for number in range(found[topic].partitions)
        ]

    async def _go_to_end(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        for partition, offset in (await consumer.end_offsets(partitions)).items():
            consumer.seek(partition, offset)
        for partition in partitions:
            await consumer.position(partition)

    async def _run(
        self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, starts: Sequence[Start], run: bytes
    ) -> Played:
        began = time.monotonic()
        free = asyncio.Semaphore(_SESSIONS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(consumer, run))
            sessions = [group.create_task(self._session(producer, start, began, free)) for start in starts]
            await asyncio.wait(sessions)
            seconds = time.monotonic() - began
            self._last_sign = time.monotonic()
            while self._ledger.missing and time.monotonic() < self._last_sign + self._verdict_timeout_seconds:
                self._judged.clear()
                try:
                    await asyncio.wait_for(self._judged.wait(), _POLL_MS / 1000)
                except TimeoutError:
                    continue
            watching.cancel()
        return Played(self._ledger, self._events, seconds)

    async def _session(self, producer: AIOKafkaProducer, start: Start, began: float, free: asyncio.Semaphore) -> None:
        await self._until(began, start.at_seconds)
        async with free:
            planned = plan(start.conversation, start.session_id, self._options, start.number)
            answers = iter(planned.answers)
            key = start.session_id.encode()
            for event in planned.events:
                await self._until(began, start.at_seconds + event.at_seconds)
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                value = orjson.dumps({**event.body, "occurred_at": now})
                if event.role == "results":
                    self._ledger.produced(next(answers), time.monotonic())
                await producer.send_and_wait(self._topics[event.role], value, key=key)
                self._events += 1

    async def _until(self, began: float, at_seconds: float) -> None:
        if self._speed:
            wait = began + at_seconds / self._speed - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)

    async def _watch(self, consumer: AIOKafkaConsumer, run: bytes) -> None:
        while True:
            batches = await consumer.getmany(timeout_ms=_POLL_MS)
            now = time.monotonic()
            for partition, records in batches.items():
                for record in records:
                    if not (record.key or b"").startswith(run):
                        continue
                    if partition.topic == self._dlq:
                        self._ledger.refused.append(_refusal(record))
                        continue
                    self._ledger.judged(orjson.loads(record.value), now)
                    self._last_sign = now
                    self._judged.set()
                    self._on_verdict()


def _refusal(record: Any) -> str:
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    return f"{headers.get('tidegate_error')}: {headers.get('tidegate_error_detail')} (DLQ offset {record.offset})"


def _broker_failed(settings: Settings, error: Exception) -> TidegateError:
    return TidegateError(
        f"The broker at {settings.bootstrap_servers} failed: {str(error) or type(error).__name__}.",
        "Is it running there? `tidegate broker` starts one on this machine; TIDEGATE_BOOTSTRAP_SERVERS names another.",
    )
