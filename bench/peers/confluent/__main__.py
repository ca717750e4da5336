"""A loop over confluent-kafka as one would write it for speed: big batches, a dict, `orjson`, a transaction a batch.

All partitions are assigned to this one process; its transactional id fences a former self. Rows are restored from the
changelog at the start.
"""

from __future__ import annotations

import gc
import signal
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bench.peers.arguments import parse_arguments
from bench.peers.merging import Entry, Merge
from bench.peers.rules import CONTEXT, STEPS, TOPICS, Sessions

RESTORED_RECORDS = 50_000
RESTORE_SECONDS = 0.1


class Loop:
    """Consumer, producer and state of one process."""

    def __init__(self, arguments: Namespace) -> None:
        self._arguments = arguments
        self._verdicts = f"{arguments.output_prefix}.verdicts"
        self._changelog = f"{arguments.output_prefix}.changelog"
        self._inputs = [f"{arguments.inputs_prefix}.{name}.v1" for name in TOPICS]
        self._numbers = {topic: number for number, topic in enumerate(self._inputs)}
        self._sessions = Sessions()
        self._merges = [Merge(len(TOPICS)) for _ in range(arguments.partitions)]
        self._producer = Producer(
            {
                "bootstrap.servers": arguments.bootstrap,
                "transactional.id": arguments.group,
                "linger.ms": 5,
                "batch.size": 1_000_000,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1_000_000,
                "retry.backoff.ms": 5,  # what the first produce after a commit waits, when it comes too early
            }
        )
        self._consumer = self._make_consumer(arguments.group)
        self._stopping = False

    def run(self) -> None:
        """Work until SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)
        self._producer.init_transactions()
        self._restore()
        gc.freeze()
        gc.disable()  # nothing here makes cycles
        self._consumer.assign(self._all_partitions(self._inputs))
        take = self._in_order if self._arguments.aligned else self._as_they_come
        while not self._stopping:
            messages = self._consumer.consume(self._arguments.batch_records, self._arguments.wait_ms / 1000)
            by_partition = take(messages)
            if any(by_partition.values()):
                self._transact(by_partition)
        self._consumer.close()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _in_order(self, messages: list[Message]) -> dict[int, list[Entry]]:
        merges, numbers = self._merges, self._numbers
        for message in messages:
            error = message.error()
            if error is None:
                merges[message.partition()].add(
                    numbers[message.topic()], message.timestamp()[1], message.offset(), message.value()
                )
            elif error.code() == KafkaError._PARTITION_EOF:
                merges[message.partition()].reached_end(numbers[message.topic()])
            else:
                raise KafkaException(error)
        return {partition: merge.take() for partition, merge in enumerate(merges)}

    def _as_they_come(self, messages: list[Message]) -> dict[int, list[Entry]]:
        numbers = self._numbers
        by_partition: dict[int, list[Entry]] = {number: [] for number in range(self._arguments.partitions)}
        for message in messages:
            error = message.error()
            if error is None:
                by_partition[message.partition()].append(
                    (0, numbers[message.topic()], message.offset(), message.value())
                )
            elif error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
        return by_partition

    def _transact(self, by_partition: dict[int, list[Entry]]) -> None:
        """Fold and judge, and write verdicts, changed rows and offsets in one transaction."""
        producer, sessions, loads, dumps = self._producer, self._sessions, orjson.loads, orjson.dumps
        offsets: dict[tuple[int, int], int] = {}
        producer.begin_transaction()
        for partition, entries in by_partition.items():
            for _timestamp, topic, offset, value in entries:
                event = loads(value)
                if topic == CONTEXT:
                    sessions.fold_context(event, partition)
                elif topic == STEPS:
                    sessions.fold_step(event, partition)
                else:
                    verdict = sessions.judge(event, partition)
                    producer.produce(self._verdicts, dumps(verdict), verdict["session_id"], partition)
                offsets[topic, partition] = offset + 1
        for partition, session_id, row in sessions.take_changed():
            producer.produce(self._changelog, row, session_id, partition)
        producer.send_offsets_to_transaction(
            [TopicPartition(self._inputs[topic], partition, offset) for (topic, partition), offset in offsets.items()],
            self._consumer.consumer_group_metadata(),
        )
        producer.commit_transaction()

    def _restore(self) -> None:
        """Read the changelog to its end."""
        consumer = self._make_consumer(f"{self._arguments.group}-restore")
        consumer.assign(self._all_partitions([self._changelog], OFFSET_BEGINNING))
        unread = self._arguments.partitions
        while unread:
            for message in consumer.consume(RESTORED_RECORDS, RESTORE_SECONDS):
                error = message.error()
                if error is None:
                    self._sessions.restore(message.key().decode(), message.value())
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread -= 1
                else:
                    raise KafkaException(error)
        consumer.close()

    def _all_partitions(self, topics: Iterable[str], *offset: int) -> list[TopicPartition]:
        return [
            TopicPartition(topic, partition, *offset)
            for topic in topics
            for partition in range(self._arguments.partitions)
        ]

    def _make_consumer(self, group: str) -> Any:
        return Consumer(
            {
                "bootstrap.servers": self._arguments.bootstrap,
                "group.id": group,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "check.crcs": False,
                "fetch.wait.max.ms": 10,
                "queued.min.messages": 1_000_000,
                "queued.max.messages.kbytes": 16_384,
            }
        )


if __name__ == "__main__":
    Loop(parse_arguments(__doc__)).run()
