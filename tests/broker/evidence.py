"""The records that an audit's findings are about: a finding of a run under kills cannot be explained without them."""

from __future__ import annotations

import json
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.topics import topic_name
from schemas.topics import topics as all_topics
from tidegate.settings import Settings

MOST_RECORDS: Final = 150
"""Shown of each finding's task and of the session's context, the last ones."""
MOST_CHARACTERS: Final = 900


async def evidence_of(settings: Settings, answer: dict[str, Any]) -> str:
    """What the topics hold of the tasks that the findings name: time, topic, offset and value, in order of time."""
    wanted = {
        (example["partition"], example["session_id"], example["task_id"])
        for finding in answer["findings"]
        for example in finding["examples"]
        if example["session_id"] is not None
    }
    if not wanted:
        return ""
    changelog = topic_name("sessions.changelog", settings.topic_prefix)
    names = [topic.name for topic in all_topics(settings.topic_prefix) if topic.name != changelog]
    partitions = [TopicPartition(name, number) for name in names for number in {each[0] for each in wanted}]
    consumer: Any = AIOKafkaConsumer(**settings.kafka_kwargs(), isolation_level="read_committed", group_id=None)
    found: list[tuple[int, str, int, str]] = []
    await consumer.start()
    try:
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                for record in records:
                    text = (record.value or b"").decode(errors="replace")
                    if any(_is_about(text, tp.topic, *each[1:]) for each in wanted):
                        found.append((record.timestamp, tp.topic, record.offset, text[:MOST_CHARACTERS]))
    finally:
        await consumer.stop()
    return "\n".join(f"{at} {topic} {offset} {text}" for at, topic, offset, text in sorted(found)[-MOST_RECORDS:])


def _is_about(text: str, topic: str, session_id: str, task_id: str | None) -> bool:
    """Whether a record is of the task, or one that may have cancelled or forgotten it, or changed the context."""
    if json.dumps(session_id) not in text:
        return False
    return task_id is None or json.dumps(task_id) in text or ".context." in topic
