"""A loop over aiokafka as one would write it for speed: big batches, a dict, `orjson`, hand-built record batches.

As its twin over librdkafka: one process has all partitions, its transactional id fences a former self, rows are
restored from the changelog at the start.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.peers.arguments import parse_arguments
from bench.peers.merging import Entry, Merge
from bench.peers.rules import CONTEXT, STEPS, TOPICS, Sessions

WAIT_MS = 100
BATCH_BYTES = 512 * 1024

Fetched = dict[Any, list[Any]]


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
        self._producer: Any = AIOKafkaProducer(
            bootstrap_servers=arguments.bootstrap,
            transactional_id=arguments.group,
            max_batch_size=BATCH_BYTES,
            linger_ms=0,
            retry_backoff_ms=5,  # what the first produce after a commit waits, when it comes too early
        )
        self._consumer = self._make_consumer(arguments.group)
        self._stopping = False

    async def run(self) -> None:
        """Work until SIGTERM."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        await self._producer.start()
        await self._restore()
        gc.freeze()
        gc.disable()  # nothing here makes cycles worth collecting
        await self._consumer.start()
        self._consumer.assign(self._all_partitions(self._inputs))
        take: Callable[[Fetched], Awaitable[dict[int, list[Entry]]]]
        take = self._in_order if self._arguments.aligned else self._as_they_come
        arguments = self._arguments
        while not self._stopping:
            by_partition = await take(
                await self._consumer.getmany(timeout_ms=arguments.wait_ms, max_records=arguments.batch_records)
            )
            if any(by_partition.values()):
                await self._transact(by_partition)
        await self._consumer.stop()
        await self._producer.stop()

    def _stop(self) -> None:
        self._stopping = True

    async def _in_order(self, fetched: Fetched) -> dict[int, list[Entry]]:
        for tp, records in fetched.items():
            merge, topic = self._merges[tp.partition], self._numbers[tp.topic]
            for record in records:
                merge.add(topic, record.timestamp, record.offset, record.value)
        for tp in self._consumer.assignment():
            highwater = self._consumer.highwater(tp)
            if highwater is not None and await self._consumer.position(tp) >= highwater:
                self._merges[tp.partition].reached_end(self._numbers[tp.topic])
        return {partition: merge.take() for partition, merge in enumerate(self._merges)}

    async def _as_they_come(self, fetched: Fetched) -> dict[int, list[Entry]]:
        by_partition: dict[int, list[Entry]] = {number: [] for number in range(self._arguments.partitions)}
        for tp, records in fetched.items():
            topic = self._numbers[tp.topic]
            by_partition[tp.partition] += [(0, topic, record.offset, record.value) for record in records]
        return by_partition

    async def _transact(self, by_partition: dict[int, list[Entry]]) -> None:
        """Fold and judge, and write verdicts, changed rows and offsets in one transaction."""
        sessions, loads, dumps = self._sessions, orjson.loads, orjson.dumps
        offsets: dict[Any, int] = {}
        verdicts: list[tuple[int, str, bytes]] = []
        for partition, entries in by_partition.items():
            for _timestamp, topic, offset, value in entries:
                event = loads(value)
                if topic == CONTEXT:
                    sessions.fold_context(event, partition)
                elif topic == STEPS:
                    sessions.fold_step(event, partition)
                else:
                    verdicts.append((partition, event["session_id"], dumps(sessions.judge(event, partition))))
                offsets[topic, partition] = offset + 1
        async with self._producer.transaction():
            sent = await self._send(self._verdicts, verdicts) + await self._send(
                self._changelog, sessions.take_changed()
            )
            await asyncio.gather(*sent)  # the commit itself does not tell of a batch that failed
            await self._producer.send_offsets_to_transaction(
                {
                    TopicPartition(self._inputs[topic], partition): offset
                    for (topic, partition), offset in offsets.items()
                },
                self._arguments.group,
            )

    async def _send(self, topic: str, records: Iterable[tuple[int, str, bytes]]) -> list[asyncio.Future[Any]]:
        """Record batches built by hand cost half of what `send` does."""
        producer, sent = self._producer, []
        builders: dict[int, Any] = {}
        for partition, key, value in records:
            encoded = key.encode()
            builder = builders.get(partition)
            if builder is None or builder.append(timestamp=None, key=encoded, value=value) is None:
                if builder is not None:
                    sent.append(await producer.send_batch(builder, topic, partition=partition))
                builder = builders[partition] = producer.create_batch()
                builder.append(timestamp=None, key=encoded, value=value)
        for partition, builder in builders.items():
            sent.append(await producer.send_batch(builder, topic, partition=partition))
        return sent

    async def _restore(self) -> None:
        """Read the changelog to its end."""
        consumer = self._make_consumer(None)
        await consumer.start()
        partitions = self._all_partitions([self._changelog])
        consumer.assign(partitions)
        for tp in partitions:
            consumer.seek(tp, 0)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=WAIT_MS)).values():
                for record in records:
                    self._sessions.restore(record.key.decode(), record.value)
        await consumer.stop()

    def _all_partitions(self, topics: Iterable[str]) -> list[Any]:
        return [TopicPartition(topic, partition) for topic in topics for partition in range(self._arguments.partitions)]

    def _make_consumer(self, group: str | None) -> Any:
        return AIOKafkaConsumer(
            bootstrap_servers=self._arguments.bootstrap,
            group_id=group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            check_crcs=False,
            fetch_max_wait_ms=10,
        )


async def main() -> None:
    """The clients can only be made where an event loop runs."""
    await Loop(parse_arguments(__doc__)).run()


if __name__ == "__main__":
    asyncio.run(main())
