"""Plays planned sessions through a running gate, and collects its verdicts. What is played is `local.replay.plan`.

As in life, a service goes on when the broker has acknowledged its event, and a conversation when its answer has come:
what happened before an answer is acknowledged before it is produced, and what happens after it waits for the verdict.
Without the latter, compressed time would let a user reply to what has not been shown yet.
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

from local.replay.conversations import Conversation
from local.replay.ledger import Ledger
from local.replay.plan import AnswerId, Options, plan
from schemas.topics import topic_name
from tidegate.errors import TidegateError
from tidegate.refusals import unanswered
from tidegate.settings import Settings
from tidegate.topics import describe_topics

_POLL_SECONDS = 0.2
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
    verdict_timeout_seconds: how long to go on with outstanding answers and no verdict.
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
        self._judged_at = 0.0
        self._waiting: dict[AnswerId, asyncio.Event] = {}
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
            fetch_max_wait_ms=int(_POLL_SECONDS * 1000),
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
            raise unanswered(self._settings, error) from error
        except ExceptionGroup as group:
            first = group.exceptions[0]
            if isinstance(first, KafkaError):
                raise unanswered(self._settings, first) from group
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
            sessions = {group.create_task(self._session(producer, start, began, free)) for start in starts}
            silent_since = began
            while sessions:
                done, sessions = await asyncio.wait(sessions, timeout=_POLL_SECONDS)
                for finished in done:
                    finished.result()
                silent_since = time.monotonic() if not self._ledger.missing else max(silent_since, self._judged_at)
                if time.monotonic() > silent_since + self._verdict_timeout_seconds:
                    break
            for unfinished in (*sessions, watching):
                unfinished.cancel()
        return Played(self._ledger, self._events, time.monotonic() - began)

    async def _session(self, producer: AIOKafkaProducer, start: Start, began: float, free: asyncio.Semaphore) -> None:
        begins = began + self._compressed(start.at_seconds)
        await asyncio.sleep(begins - time.monotonic())
        async with free:
            begins = max(begins, time.monotonic())
            planned = plan(start.conversation, start.session_id, self._options, start.number)
            answers = iter(planned.answers)
            key = start.session_id.encode()
            for event in planned.events:
                await asyncio.sleep(begins + self._compressed(event.at_seconds) - time.monotonic())
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                value = orjson.dumps({**event.body, "occurred_at": now})
                answer = next(answers) if event.role == "results" else None
                if answer is not None:
                    self._ledger.produced(answer, time.monotonic())
                    self._waiting[answer.name] = asyncio.Event()
                await producer.send_and_wait(self._topics[event.role], value, key=key)
                self._events += 1
                if answer is not None:
                    sent = time.monotonic()
                    await self._waiting[answer.name].wait()
                    begins += time.monotonic() - sent

    def _compressed(self, seconds: float) -> float:
        return seconds / self._speed if self._speed else 0.0

    async def _watch(self, consumer: AIOKafkaConsumer, run: bytes) -> None:
        while True:
            batches = await consumer.getmany(timeout_ms=int(_POLL_SECONDS * 1000))
            now = time.monotonic()
            for partition, records in batches.items():
                for record in records:
                    if not (record.key or b"").startswith(run):
                        continue
                    if partition.topic == self._dlq:
                        self._ledger.refused.append(_refusal(record))
                        continue
                    name = self._ledger.judged(orjson.loads(record.value), now)
                    self._judged_at = now
                    if name in self._waiting:
                        self._waiting.pop(name).set()
                        self._on_verdict()


def _refusal(record: Any) -> str:
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    return f"{headers.get('tidegate_error')}: {headers.get('tidegate_error_detail')} (DLQ offset {record.offset})"
