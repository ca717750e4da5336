"""The demo's consumer process: `python -m local.demo.consumer`, a service that waits for results (read_committed).

Tells on standard output, one JSON object a line: the verdicts of the first story and all events of the second one, how
many results of the load it has verdicts of, and, when its standard input ends, the sum.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from local.demo.life import PREFIX
from local.replay.report import percentile
from schemas.topics import Role, topic_name
from tidegate.settings import Settings, load_settings

_POLL_MS = 100
_RESULTS: tuple[Role, ...] = ("delivered", "withheld")
_ALSO: tuple[Role, ...] = ("tasks", "commands")


def main() -> None:
    """Run until standard input ends."""
    asyncio.run(_run(load_settings()))


async def _run(settings: Settings) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, sys.stdin.read)
    reading.add_done_callback(lambda _read: ended.set())
    heard = Heard()
    async with AIOKafkaConsumer(
        **settings.kafka_kwargs(),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=_POLL_MS,
    ) as consumer:
        results, also = _partitions(settings, _RESULTS), _partitions(settings, _ALSO)
        consumer.assign([*results, *also])
        _tell({"ready": True})
        while not ended.is_set():
            batches = await consumer.getmany(timeout_ms=_POLL_MS)
            now_ms = time.time() * 1000
            before = heard.results
            for partition, records in batches.items():
                for record in records:
                    event = orjson.loads(record.value)
                    if event["session_id"].startswith(PREFIX):
                        _tell({"session_id": event["session_id"], "event": event})
                    elif partition in results:
                        if event["session_id"].startswith("story-"):
                            _tell({"session_id": event["session_id"], "verdict": event["verdict"]})
                        else:
                            heard.hear(event, now_ms)
            if heard.results != before:
                _tell({"judged": heard.results})
                if not before:
                    consumer.pause(*also)  # the stories are over, and of the load only results count
    _tell(heard.summary())


def _partitions(settings: Settings, roles: tuple[Role, ...]) -> set[TopicPartition]:
    topics = [topic_name(role, settings.topic_prefix) for role in roles]
    return {TopicPartition(topic, number) for topic in topics for number in range(settings.partitions)}


class Heard:
    """What was heard of the load. A result of which one part is delivered and another withheld comes as two events."""

    def __init__(self) -> None:
        self._latencies_ms: list[float] = []
        self._seen: set[tuple[str, str]] = set()
        self._verdicts: Counter[str] = Counter()

    @property
    def results(self) -> int:
        """Results whose verdict has been heard."""
        return len(self._seen)

    def hear(self, event: dict[str, Any], now_ms: float) -> None:
        """Count a delivered or withheld event received at this wall-clock time."""
        name = (event["session_id"], event["task_id"])
        if name in self._seen:
            return
        self._seen.add(name)
        self._latencies_ms.append(now_ms - event["parts"][0]["payload"]["produced_at_ms"])
        self._verdicts[_verdict(event["verdict"])] += 1

    def summary(self) -> dict[str, Any]:
        """Results, how many of each verdict, and the latencies in ms."""
        ordered = sorted(self._latencies_ms)
        shares = {"p50": 0.5, "p99": 0.99}
        return {
            "results": self.results,
            "by_verdict": dict(self._verdicts.most_common()),
            "latency_ms": {name: percentile(ordered, share) for name, share in shares.items()} if ordered else None,
        }


def _verdict(verdict: dict[str, Any]) -> str:
    outcomes = {part["decision"] for part in verdict["parts"]}
    if len(outcomes) > 1:
        return "message delivered marked as stale, edit withheld"
    if any(part.get("annotated") for part in verdict["parts"]):
        return "delivered marked as stale"
    reason = verdict["reason"].replace("_", " ")
    return f"{verdict['decision']}, {reason}"


def _tell(told: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(told).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
