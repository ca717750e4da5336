"""The web demo's agents: `python -m local.demo.agents`, or with a pace: 0.5 takes half the time.

Real tasks over the real broker, with canned answers.

They take seconds for each task, say how far they are, and do not listen when they are told to stop: what they return
all the same is withheld, and that is part of what the demo shows.
"""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas.topics import Role, topic_name
from tidegate.settings import Settings, load_settings

STEP_SECONDS: Final = {"book": 1.8, "rewrite": 1.6, "reply": 1.5, "explore": 1.3}
"""How long one step of a task takes; a task has four."""

_STEPS: Final = {
    "book": ("reads the calendar", "looks for an hour", "asks Ana", "books"),
    "rewrite": ("reads the paragraph", "looks up names", "compares versions", "writes"),
    "reply": ("reads the conversation", "searches", "compares", "writes"),
    "explore": ("reads the request", "searches", "compares prices", "sorts"),
}
_PLAN: Final = ("read", "search", "compare", "write")

_ANSWERS: Final = (
    (
        "see",
        "The Alfama early, before the trams fill. Then the tile museum, and the river at sunset.",
    ),
    ("eat", "Grilled sardines in Alfama, a pastel de nata in Belém, and ginjinha at the door of the bar."),
    ("tax", "The form for travel expenses is due on 31 May. Flights and hotel go into section 4."),
)
_OTHERWISE: Final = "Three good answers, in this order: tram 28 early, Miradouro da Graça at noon, the river late."
_OFFERS: Final = {
    "flights": [["TP 571, 10:40", "118 €"], ["LH 1166, 13:05", "164 €"], ["FR 2643, 6:15", "59 €"]],
    "hotels": [["Casa do Bairro", "96 €"], ["Alfama Patio", "74 €"], ["Memmo", "182 €"]],
}


class Agents:
    """Takes up every task that is dispatched from now on."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, pace: float) -> None:
        self._pace = pace
        self._settings = settings
        self._producer = producer
        self._at_work: set[asyncio.Task[None]] = set()

    def take_up(self, event: dict[str, Any]) -> None:
        """Begin to work on a dispatched task, if it is one of the demo's."""
        if event.get("type") == "task.dispatched" and event.get("task_type") in STEP_SECONDS:
            task = asyncio.create_task(self._work(event))
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)

    async def _work(self, task: dict[str, Any]) -> None:
        kind = task["task_type"]
        for number, (step_id, message) in enumerate(zip(_PLAN, _STEPS[kind], strict=True)):
            step = {"task_id": task["task_id"], "step_id": step_id, "kind": "tool_call"}
            begun = {"status": "started", "progress": number / len(_PLAN), "message": message}
            await self._send("steps", task, {"type": "task.step", **step, **begun})
            await asyncio.sleep(STEP_SECONDS[kind] * self._pace * random.uniform(0.8, 1.2))
            done = {"status": "completed", "progress": (number + 1) / len(_PLAN)}
            await self._send("steps", task, {"type": "task.step", **step, **done})
        result = {"type": "task.result", "task_id": task["task_id"], "outcome": "completed", "parts": parts_of(task)}
        await self._send("results", task, result)

    async def _send(self, role: Role, task: dict[str, Any], fields: dict[str, Any]) -> None:
        session_id = task["session_id"]
        event = {
            "source": "demo-agents",
            "event_id": str(uuid.uuid4()),
            "session_id": session_id,
            "occurred_at": datetime.now(UTC).isoformat(),
            **fields,
        }
        topic = topic_name(role, self._settings.topic_prefix)
        await self._producer.send_and_wait(topic, orjson.dumps(event), key=session_id.encode())


def parts_of(task: dict[str, Any]) -> list[dict[str, Any]]:
    """What an agent returns for a task."""
    kind, metadata = task["task_type"], task.get("metadata", {})
    if kind == "book":
        return _booking(metadata)
    if kind == "rewrite":
        payload = {"paragraph": metadata["index"], "text": improved(str(metadata["text"]))}
        return [{"part_id": "edit", "kind": "apply", "payload": payload}]
    if kind == "explore":
        view = str(metadata["view"])
        return [{"part_id": "offers", "kind": "show", "payload": {"view": view, "offers": _OFFERS.get(view, [])}}]
    question = str(metadata.get("question", "")).lower()
    answer = next((text for word, text in _ANSWERS if word in question), _OTHERWISE)
    payload = {"conversation": metadata.get("conversation"), "text": answer}
    return [{"part_id": "answer", "kind": "show", "payload": payload}]


def _booking(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    busy = [(float(start), float(end)) for start, end in metadata["busy"]]
    hours = (12.0, 12.5, 13.0, 13.5, 14.0, 11.5, 15.0)
    free = [hour for hour in hours if not any(start < hour + 1 and hour < end for start, end in busy)]
    hour = free[0] if free else 17.0
    text = f"{metadata['title']}: {int(hour)}:{'30' if hour % 1 else '00'} on Tuesday, Ana has time."
    meeting = {"title": metadata["title"], "start": hour, "end": hour + 1}
    return [
        {"part_id": "message", "kind": "show", "payload": {"text": text}, "on_stale": "annotate"},
        {"part_id": "booking", "kind": "apply", "payload": {"meeting": meeting}},
    ]


def improved(text: str) -> str:
    """A paragraph as the agent would have it: sentences, capitals, a full stop."""
    names = {"lisbon": "Lisbon", "may": "May", "ana": "Ana", "alfama": "Alfama", "tuesday": "Tuesday"}
    words = [names.get(word.strip(",.").lower(), "") or word for word in text.split()]
    kept = [
        word + ("," if original.endswith(",") and not word.endswith(",") else "")
        for word, original in zip(words, text.split(), strict=True)
    ]
    joined = " ".join(kept).rstrip(".")
    return f"{joined[:1].upper()}{joined[1:]}." if joined else joined


async def work(settings: Settings, pace: float) -> None:
    """Take up tasks until cancelled. `pace`: how much of the usual time they take."""
    topic = topic_name("steps", settings.topic_prefix)
    options = {"isolation_level": "read_committed", "enable_auto_commit": False, "fetch_max_wait_ms": 50}
    async with (
        AIOKafkaProducer(**settings.kafka_kwargs(), enable_idempotence=True, acks="all") as producer,
        AIOKafkaConsumer(**settings.kafka_kwargs(), **options) as consumer,
    ):
        agents = Agents(settings, producer, pace)
        tps = [TopicPartition(topic, number) for number in range(settings.partitions)]
        consumer.assign(tps)
        for tp, offset in (await consumer.end_offsets(tps)).items():
            consumer.seek(tp, offset)
        async for record in consumer:
            agents.take_up(orjson.loads(record.value))


if __name__ == "__main__":
    asyncio.run(work(load_settings(), float(sys.argv[1]) if len(sys.argv) > 1 else 1.0))
