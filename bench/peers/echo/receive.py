"""Notes when records arrive at a `read_committed` consumer, for the latency benchmark.

Run by the interpreter of the `confluent` environment: `python receive.py <bootstrap servers> <seconds> <count>
<topic>...`. Begins at the topics' ends and prints `ready`. A record counts by the first `"task_id"` in its value;
records that are neither results nor verdicts on one are passed over. Ends when `count` of them have arrived or the
time is over, and prints when each did, in nanoseconds of the monotonic clock, as JSON; and how many verdicts said that
the task is unknown: there a dispatch was overtaken by its result, which is another thing to measure.

librdkafka, because at 50,000 records a second the receiver must take little of the processor that broker and gate
share.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

TYPES = (b'{"type":"task.result"', b'{"type":"result.')
VERDICTS = ".verdicts"
"""Ends the name of a peer's topic that holds nothing else."""
FIELD = b'"task_id":"'
UNKNOWN = b'"unknown_task"'
AT_ONCE = 10_000


def main(servers: str, seconds: str, count: str, *topics: str) -> None:
    """Receive, then print what was received."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "receiver",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 500,
            "queued.min.messages": 100_000,
            "socket.nagle.disable": True,
        }
    )
    consumer.assign(_ends(consumer, topics))
    consumer.poll(0.2)  # the first fetch is on its way
    print("ready", flush=True)
    gc.collect()
    gc.freeze()
    gc.disable()
    print(json.dumps(_receive(consumer, float(seconds), int(count))), flush=True)
    consumer.close()


def _receive(consumer: Consumer, seconds: float, count: int) -> dict[str, Any]:
    received: dict[bytes, int] = {}
    unknown = 0
    deadline = time.monotonic() + seconds
    while len(received) < count and time.monotonic() < deadline:
        first = consumer.poll(0.2)
        if first is None:
            continue
        messages = [first, *consumer.consume(AT_ONCE, 0)]
        at = time.monotonic_ns()
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
            value = message.value()
            if value.startswith(TYPES) or message.topic().endswith(VERDICTS):
                begin = value.index(FIELD) + len(FIELD)
                received.setdefault(value[begin : value.index(b'"', begin)], at)
                unknown += UNKNOWN in value
    return {"received_ns": {task_id.decode(): at for task_id, at in received.items()}, "unknown_tasks": unknown}


def _ends(consumer: Consumer, topics: tuple[str, ...]) -> list[TopicPartition]:
    ends = []
    for topic in topics:
        for partition in consumer.list_topics(topic, 10).topics[topic].partitions:
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
            ends.append(TopicPartition(topic, partition, end))
    return ends


if __name__ == "__main__":
    main(*sys.argv[1:])
