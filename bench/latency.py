"""How long an idle gate takes: from just before a result is sent to the moment its verdict is with a consumer.

The consumer is `read_committed`, so the transaction's end is part of it; so are both network hops, the barrier, and the
producer's and the consumer's own Python. Results are sent at an even pace with nothing else going on.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.process import Worker, until_ready
from bench.report import milliseconds
from bench.workload import Record, Workload
from schemas.topics import topic_name
from tidegate.broker import LocalBroker
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

FETCH_WAIT_MS = 20
WARM_UP = 50


async def latency(*, samples: int, per_second: float, partitions: int, seed: int) -> dict[str, Any]:
    """Start broker and worker, measure `samples` results; returns the figures."""
    with LocalBroker(ephemeral=True) as broker, tempfile.TemporaryDirectory() as directory:
        settings = load_settings(
            bootstrap_servers=broker.bootstrap_servers, topic_prefix="bench", group_id="bench", partitions=partitions
        )
        await create_topics(settings)
        worker = Worker("worker", settings, Path(directory)).start()
        try:
            await until_ready([worker])
            took = await _measure(settings, samples, per_second, seed)
        finally:
            worker.kill()
    took.sort()
    return {
        "p50_ms": milliseconds(took, 0.50),
        "p99_ms": milliseconds(took, 0.99),
        "samples": len(took),
        "mean_ms": round(statistics.fmean(took) * 1000, 2),
        "p90_ms": milliseconds(took, 0.90),
        "max_ms": milliseconds(took, 1.0),
        "results_per_second": per_second,
        "partitions": partitions,
        "consumer_fetch_wait_ms": FETCH_WAIT_MS,
    }


async def _measure(settings: Settings, samples: int, per_second: float, seed: int) -> list[float]:
    count = samples + WARM_UP
    workload = Workload(sessions=1000, partitions=settings.partitions, seed=seed, open_tasks=count)
    records = list(workload.records(count * 10))
    before = [record for record in records if record.role != "results"]
    results = [record for record in records if record.role == "results"][:count]
    sent: dict[str, float] = {}
    received: dict[str, float] = {}
    outputs = [topic_name(role, settings.topic_prefix) for role in ("delivered", "withheld")]
    async with (
        AIOKafkaProducer(**settings.kafka_kwargs(), linger_ms=0, acks="all") as producer,
        AIOKafkaConsumer(
            *outputs,
            **settings.kafka_kwargs(),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
        ) as consumer,
    ):
        for record in before:
            last = await _send(producer, settings, record)
        await last

        async def receive() -> None:
            async for message in consumer:
                at = time.perf_counter()
                received.setdefault(orjson.loads(message.value)["task_id"], at)
                if len(received) == len(results):
                    return

        receiving = asyncio.create_task(receive())
        began = time.perf_counter()
        for number, record in enumerate(results):
            await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
            sent[record.task_id or ""] = time.perf_counter()
            await _send(producer, settings, record)
        await asyncio.wait_for(receiving, 60)
    return [received[task_id] - at for task_id, at in sent.items()][WARM_UP:]


async def _send(producer: AIOKafkaProducer, settings: Settings, record: Record) -> asyncio.Future[Any]:
    topic = topic_name(record.role, settings.topic_prefix)
    future: asyncio.Future[Any] = await producer.send(topic, record.value, key=record.key, partition=record.partition)
    return future
