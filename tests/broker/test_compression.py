"""Records compressed in every way that Kafka knows: what producers write is read, and what the gate writes is, too.

Every worker starts on the rows that the one before has written, compressed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas.topics import Role
from streams.batches import Compression
from tests.broker.events import changed, dispatched, returned
from tests.broker.harness import Gate
from tests.broker.waiting import wait_for
from tidegate.settings import Settings

MakeSettings = Callable[..., Settings]

COMPRESSIONS = [name for name in get_args(Compression) if name != "none"]


async def _found_on(gate: Gate, role: Role) -> set[str]:
    """The compressions of the first megabyte of a topic's first partition."""
    tp = TopicPartition(gate.topic(role), 0)
    consumer: Any = AIOKafkaConsumer(**gate.settings.kafka_kwargs())
    async with consumer:
        consumer.assign([tp])
        consumer.seek(tp, 0)

        async def fetched() -> Any:
            return consumer._fetcher._records.get(tp)

        batches = (await wait_for(fetched, 20, f"the records of {tp.topic}"))._partition_records._records
        found: set[str] = set()
        while batches.has_next():
            batch = batches.next_batch()
            if not batch.is_control_batch:
                found.add(get_args(Compression)[batch.compression_type])
        return found


async def _compressed(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        for number, compression in enumerate(COMPRESSIONS):
            (worker,) = await gate.start(compression, output_compression=compression)
            snapshot = {"doc/1": None if number == 0 else str(number)}
            fresh, stale = f"fresh-{compression}", f"stale-{compression}"
            async with AIOKafkaProducer(**gate.settings.kafka_kwargs(), compression_type=compression) as producer:
                await gate.send_with(producer, *(dispatched("user", task, snapshot) for task in (fresh, stale)))
                await gate.send_with(producer, returned("user", fresh))
                await outputs.until(lambda fresh=fresh: outputs.verdict(fresh), 20, "a verdict")  # type: ignore[misc]
                await gate.send_with(producer, changed("user", {"doc/1": str(number + 1)}))
                await gate.send_with(producer, returned("user", stale))
                await outputs.until(lambda stale=stale: outputs.verdict(stale), 20, "a verdict")  # type: ignore[misc]
            decided = outputs.decided([fresh, stale])
            assert {task: decision for task, (decision, _) in decided.items()} == {
                fresh: "delivered",
                stale: "withheld",
            }
            await gate.drained(20)
            worker.ask_to_stop()
            assert await asyncio.to_thread(worker.process.wait, 20) == 0
        for role in ("context", "delivered", "withheld", "tasks"):
            assert await _found_on(gate, role) == set(COMPRESSIONS), role
        assert await _found_on(gate, "sessions.changelog") == {"zstd"}
        await gate.audit(tasks=2 * len(COMPRESSIONS))
        await gate.orphans()


def test_every_compression_is_read_and_written(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_compressed(make_settings, tmp_path))
