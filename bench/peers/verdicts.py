"""The verdicts that an engine has written: read back from its topics, and held against the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.peers.oracle import Expected, TaskKey
from tidegate.settings import Settings

JudgedAt = Literal["log order", "delivery"]


class Verdict(NamedTuple):
    """What one record of an engine's output says."""

    key: TaskKey
    decision: str
    annotated: bool
    reason: str


class Oracle(NamedTuple):
    """The right verdicts, by the place where a result is judged."""

    log_order: Mapping[TaskKey, Expected]
    delivery: Mapping[TaskKey, Expected]


def of_peer(value: dict[str, Any]) -> Verdict:
    """A record of a peer's `verdicts` topic."""
    return Verdict((value["session_id"], value["task_id"]), value["decision"], value["annotated"], value["reason"])


def of_gate(value: dict[str, Any]) -> Verdict:
    """A record of the gate's `delivered` or `withheld` topic. The workload's results have one part."""
    verdict = value["verdict"]
    return Verdict(
        (value["session_id"], value["task_id"]),
        value["type"].removeprefix("result."),
        verdict["parts"][0].get("annotated", False),
        verdict["reason"],
    )


async def read_committed(settings: Settings, topics: Iterable[str]) -> list[dict[str, Any]]:
    """Every committed record of `topics` as JSON."""
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(settings.partitions)]
    consumer: Any = AIOKafkaConsumer(**settings.kafka_kwargs(), isolation_level="read_committed", group_id=None)
    values = []
    await consumer.start()
    try:
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for records in (await consumer.getmany(timeout_ms=100)).values():
                values += [orjson.loads(record.value) for record in records]
    finally:
        await consumer.stop()
    return values


def held_against(oracle: Oracle, verdicts: Iterable[Verdict], judged_at: JudgedAt) -> dict[str, int]:
    """How many verdicts are wrong and in which way: see README.md for the columns."""
    counts = Counter(dict.fromkeys(("wrong", "wrong_log_order", "unknown", "missing", "duplicated"), 0))
    counts["stale_delivered"] = 0
    right = oracle.log_order if judged_at == "log order" else oracle.delivery
    seen: set[TaskKey] = set()
    for verdict in verdicts:
        counts["duplicated"] += verdict.key in seen
        seen.add(verdict.key)
        if verdict.reason == "unknown_task":
            counts["unknown"] += 1
            continue
        counts["wrong"] += _contradicts(verdict, right)
        counts["wrong_log_order"] += _contradicts(verdict, oracle.log_order)
        delivered_unmarked = verdict.decision == "delivered" and not verdict.annotated
        counts["stale_delivered"] += delivered_unmarked and oracle.delivery[verdict.key].reason == "stale"
    counts["missing"] = len(oracle.log_order.keys() - seen)
    return dict(counts)


def _contradicts(verdict: Verdict, right: Mapping[TaskKey, Expected]) -> bool:
    expected = right[verdict.key]
    return (verdict.decision, verdict.annotated) != (expected.decision, expected.annotated)
