"""The demo's producer process: `python -m local.demo.producer story`, or `load` with its rate, sessions and tasks.

The story is told by users, orchestrators and agents, who read what the gate writes and act on it. Tells how far it is,
one JSON object a line on standard output.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from local.demo.life import LIFE, PREFIX, Episode, Hears, Says, envelope
from local.demo.story import STORY, events, session_id
from local.traffic import Load, Sent, Traffic
from schemas.topics import Role, topic_name
from tidegate.settings import Settings, load_settings

_TELL_SECONDS = 0.1
_POLL_MS = 50
_STORY_SECONDS = 30.0
_HEARD: tuple[Role, ...] = ("tasks", "commands")


def main() -> None:
    """Run as the arguments say."""
    settings = load_settings()
    what, *numbers = sys.argv[1:]
    if what == "story":
        asyncio.run(_story(settings))
    else:
        rate, sessions, tasks = map(int, numbers)
        asyncio.run(_load(settings, Load(rate, sessions, tasks=tasks, name="load")))


async def _story(settings: Settings) -> None:
    listener = Listener()
    async with (
        AIOKafkaProducer(
            **settings.kafka_kwargs(), enable_idempotence=True, acks="all", linger_ms=0, retry_backoff_ms=20
        ) as producer,
        AIOKafkaConsumer(
            **settings.kafka_kwargs(),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=_POLL_MS,
        ) as consumer,
    ):
        topics = [topic_name(role, settings.topic_prefix) for role in _HEARD]
        consumer.assign([TopicPartition(topic, number) for topic in topics for number in range(settings.partitions)])
        stage = Stage(settings, producer)
        async with asyncio.timeout(_STORY_SECONDS), asyncio.TaskGroup() as listeners:
            listening = listeners.create_task(_listen(consumer, listener))
            async with asyncio.TaskGroup() as group:
                group.create_task(_play_story(stage))
                for episode in LIFE:
                    group.create_task(_play(episode, stage, listener))
            listening.cancel()


async def _play_story(stage: Stage) -> None:
    for scenario in STORY:
        for role, body in events(scenario, session_id(scenario)):
            await stage.say(role, body)
        _tell({"played": scenario.name})


async def _play(episode: Episode, stage: Stage, listener: Listener) -> None:
    for number, step in enumerate(episode.steps, 1):
        if isinstance(step, Says):
            await stage.say(*envelope(episode, number, step))
        else:
            await listener.until(episode.session_id, step)
    _tell({"played": episode.name})


class Stage:
    """Where the stories are played: each event is acknowledged before the next of its session is sent."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self._settings = settings
        self._producer = producer

    async def say(self, role: str, body: dict[str, Any]) -> None:
        """Send one event, and wait until the broker has it."""
        value = orjson.dumps({**body, "occurred_at": datetime.now(UTC).isoformat(timespec="milliseconds")})
        await self._producer.send_and_wait(_topic(self._settings, role), value, key=body["session_id"].encode())


class Listener:
    """What the gate has told so far of the sessions of the second story."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Condition()

    async def hear(self, heard: list[dict[str, Any]]) -> None:
        """Take what has come, and wake who waits for it."""
        async with self._news:
            self._events += heard
            self._news.notify_all()

    async def until(self, session: str, wanted: Hears) -> None:
        """Wait until the gate has told this of the session."""
        fields = {**wanted.fields, "session_id": session}.items()
        async with self._news:
            await self._news.wait_for(lambda: any(fields <= _plain(event).items() for event in self._events))


def _plain(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if isinstance(value, str | int)}


async def _listen(consumer: AIOKafkaConsumer, listener: Listener) -> None:
    while True:
        batches = await consumer.getmany(timeout_ms=_POLL_MS)
        heard = [orjson.loads(record.value) for records in batches.values() for record in records]
        await listener.hear([event for event in heard if event["session_id"].startswith(PREFIX)])


def _topic(settings: Settings, role: str) -> str:
    roles: dict[str, Role] = {"context": "context", "steps": "steps", "results": "results"}
    return topic_name(roles[role], settings.topic_prefix)


async def _load(settings: Settings, load: Load) -> None:
    told = 0.0

    def on_round(sent: Sent) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            _tell({"events": sent.events})

    sent = await Traffic(settings, load, on_round).run()
    _tell({"events": sent.events, "tasks": sent.tasks, "seconds": sent.seconds})


def _tell(progress: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(progress).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
