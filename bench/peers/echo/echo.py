"""An exactly-once echo without state: each record of one topic to others, in a transaction with its offset.

Run by the interpreter of the `confluent` environment: `python echo.py <bootstrap servers> <from> <to> [<to>] [<results
to>]`. A record goes to the first one or two topics, and if it is a result to the third one as well: so the gate writes
a row, a status and, for a result, a verdict. Prints `ready` when it has partitions; ends on SIGTERM. Set up to be fast:
nothing lingers, retries wait 5 ms (right after a commit a broker answers the next transaction with retriable errors
until the markers are written), and a transaction takes whatever has arrived meanwhile.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

POLL_SECONDS = 0.5
AT_ONCE = 10_000
RESULT = b'{"type":"task.result"'


def main(servers: str, source: str, *targets: str) -> None:
    """Echo until SIGTERM."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "echo",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 500,
            "queued.min.messages": 100_000,
            "socket.nagle.disable": True,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "transactional.id": "echo",
            "linger.ms": 0,
            "retry.backoff.ms": 5,
            "retry.backoff.max.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
            "socket.nagle.disable": True,
        }
    )
    producer.init_transactions()
    consumer.subscribe([source], on_assign=lambda *_: print("ready", flush=True))
    gc.collect()
    gc.freeze()
    gc.disable()
    while not stopped:
        first = consumer.poll(POLL_SECONDS)
        if first is not None:
            _echo(consumer, producer, targets[:2], targets[2:], [first, *consumer.consume(AT_ONCE, 0)])
    consumer.close()


def _echo(
    consumer: Consumer,
    producer: Producer,
    targets: Sequence[str],
    of_results: Sequence[str],
    messages: list[Message],
) -> None:
    producer.begin_transaction()
    ends: dict[int, int] = {}
    for message in messages:
        if message.error() is not None:
            raise KafkaException(message.error())
        partition = message.partition()
        value, key = message.value(), message.key()
        for target in targets:
            producer.produce(target, value, key, partition)
        if of_results and value.startswith(RESULT):
            producer.produce(of_results[0], value, key, partition)
        ends[partition] = message.offset() + 1
    source = messages[0].topic()
    offsets = [TopicPartition(source, partition, offset) for partition, offset in ends.items()]
    producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
    producer.commit_transaction()


if __name__ == "__main__":
    main(*sys.argv[1:])
