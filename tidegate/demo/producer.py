"""The demo's producer process: `python -m tidegate.demo.producer story`, or `load` with its rate, sessions and tasks.

Tells how far it is, one JSON object a line on standard output.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from schemas.topics import Role, topic_name
from tidegate.demo.story import STORY, events, session_id
from tidegate.settings import Settings, load_settings
from tidegate.traffic import Load, Sent, Traffic

_TELL_SECONDS = 0.1


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
    async with AIOKafkaProducer(
        **settings.kafka_kwargs(), enable_idempotence=True, acks="all", linger_ms=0, retry_backoff_ms=20
    ) as producer:
        for scenario in STORY:
            name = session_id(scenario)
            for role, body in events(scenario, name):
                value = orjson.dumps({**body, "occurred_at": datetime.now(UTC).isoformat(timespec="milliseconds")})
                await producer.send_and_wait(_topic(settings, role), value, key=name.encode())
            _tell({"played": scenario.name})


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
