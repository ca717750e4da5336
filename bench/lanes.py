"""What a flood of cold events does to the hot lane: the same hot tasks with and without it, in one run.

How it is taken: hot tasks run at an even pace all the time, each with a context change, a dispatch and, a little later,
its result; timed is from just before the result is sent to the moment its verdict is with a `read_committed` consumer,
as in the latency benchmark. First without a flood; then the worker is frozen (SIGSTOP), the cold topics are filled, and
it is thawed. Only results count that were sent while the flood lasted: from `SETTLING_SECONDS` after the thaw to the
last moment when a share of `LEFT` of the cold events was not committed, or until the time allowed is over.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.compiled import compiled
from bench.drain import AUDITED, run_audit
from bench.report import milliseconds
from local.broker import LocalBroker
from schemas.topics import topic_name
from testing.process import Worker, pin, until_ready
from testing.produce import bulk_producer, write
from testing.watching import COLD, Progress
from testing.workload import Workload
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

HOT_SESSIONS = 500
HOT_SLOTS = "CDR"
"""A context change, a dispatch, an older task's result, one after the other at an even pace."""
COLD_SLOTS = "DSSSRDSSSSR"
"""The drain's mix without the context."""
THINKING_SECONDS = 0.25
"""How long a hot task takes from its dispatch to its result."""

FETCH_WAIT_MS = 20
WARM_UP_SECONDS = 15.0
WARM_UP_EVENTS = 50_000
"""Cold events beside the hot ones before anything is timed: a broker that has just started takes twice its time."""
SETTLING_SECONDS = 0.3
LEFT = 0.05
POLL_SECONDS = 0.25
VERDICT_SECONDS = 60.0


async def lanes(
    *,
    cold_events: int,
    sessions: int,
    partitions: int,
    per_second: float,
    idle_seconds: float,
    flood_seconds: float,
    seed: int,
    audit: bool = True,
) -> dict[str, Any]:
    """Start broker and worker, time hot results before and during the flood; returns the figures."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    with LocalBroker(ephemeral=True, heap_mb=1024) as broker, tempfile.TemporaryDirectory() as directory:
        settings = load_settings(
            bootstrap_servers=broker.bootstrap_servers,
            topic_prefix="bench",
            group_id="bench",
            partitions=partitions,
            # frozen while the topics are filled, it must not be taken for dead
            session_timeout_seconds=240,
            rebalance_timeout_seconds=240,
            request_timeout_seconds=240,
        )
        await create_topics(settings)
        worker = Worker("worker", settings, Path(directory), code=compiled()).start()
        cold = Workload(sessions=sessions, partitions=partitions, seed=seed, name="cold", slots=COLD_SLOTS, lane="cold")
        try:
            await until_ready([worker])
            pinned = False
            if cores[1:] and broker.pid is not None:
                pinned = worker.pin(cores[:1]) and pin(broker.pid, cores[1:]) and pin(os.getpid(), cores[1:])
            async with Hot(settings, per_second, seed) as hot:
                async with bulk_producer(**settings.kafka_kwargs()) as producer:
                    await write(producer, settings.topic_prefix, cold.records(WARM_UP_EVENTS))
                await hot.work_for(WARM_UP_SECONDS)
                idle = await hot.work_for(idle_seconds)
                worker.freeze()
                async with bulk_producer(**settings.kafka_kwargs()) as producer:
                    await write(producer, settings.topic_prefix, list(cold.records(cold_events)))
                flood, took, left = await _flood(worker, settings, hot, flood_seconds)
            worker.ask_to_stop()
            await asyncio.to_thread(worker.process.wait, 30)
        finally:
            worker.kill()
            if cores:
                pin(os.getpid(), cores)
        if broker.pid is not None and cores:
            pin(broker.pid, cores)
        findings = await asyncio.to_thread(run_audit, settings) if audit and not left else None
    idle.sort()
    flood.sort()
    p99, p99_flood = milliseconds(idle, 0.99), milliseconds(flood, 0.99)
    return {
        "p50_ms": milliseconds(idle, 0.50),
        "p99_ms": p99,
        "p50_flood_ms": milliseconds(flood, 0.50),
        "p99_flood_ms": p99_flood,
        "ratio_p99": round(p99_flood / p99, 2),
        "max_ms": milliseconds(idle, 1.0),
        "max_flood_ms": milliseconds(flood, 1.0),
        "cold_events": cold_events,
        "cold_events_per_second": round((cold_events - left) / took),
        "cold_events_left": left,
        "flood_seconds": round(took, 2),
        "samples": len(idle),
        "samples_flood": len(flood),
        "hot_results_per_second": per_second,
        "cold_sessions": sessions,
        "partitions": partitions,
        "worker_pinned_to_one_core": pinned,
        "consumer_fetch_wait_ms": FETCH_WAIT_MS,
        "audit": {name: findings[name] for name in AUDITED} if findings else "not run",
    }


async def _flood(worker: Worker, settings: Settings, hot: Hot, seconds: float) -> tuple[list[float], float, int]:
    """Thaw the worker; returns what hot results took during the flood, how long it lasted, and how much was then left.

    Raises `RuntimeError` where the worker ends.
    """
    async with Progress(settings, COLD) as progress:
        count = await progress.behind()
        worker.thaw()
        began = window_end = time.perf_counter()
        enough = asyncio.Event()
        working = asyncio.create_task(hot.work(enough))
        try:
            while True:
                asked = time.perf_counter()
                left = await progress.behind()
                if left >= count * LEFT:
                    window_end = asked
                if not left or asked - began > seconds:
                    break
                if not worker.is_alive or working.done():
                    raise RuntimeError(f"the flood was not worked off:\n{worker.log_text()[-4000:]}")
                await asyncio.sleep(POLL_SECONDS)
            took = time.perf_counter() - began
            enough.set()
            await working
        finally:
            working.cancel()
    return hot.took(began + SETTLING_SECONDS, window_end), took, left


class Hot:
    """Hot tasks at an even pace, and how long their verdicts take."""

    def __init__(self, settings: Settings, per_second: float, seed: int) -> None:
        self._settings = settings
        self._pause = 1 / (per_second * len(HOT_SLOTS))
        self._events = Workload(
            sessions=HOT_SESSIONS,
            partitions=settings.partitions,
            seed=seed + 1_000,
            name="hot",
            open_tasks=max(1, round(per_second * THINKING_SECONDS)),
            slots=HOT_SLOTS,
        ).records(sys.maxsize, finish=False)
        self._sent: dict[str, float] = {}
        self._received: dict[str, float] = {}
        self._arrived = asyncio.Event()
        self._producer = AIOKafkaProducer(**settings.kafka_kwargs(), linger_ms=0, acks="all")
        self._consumer = AIOKafkaConsumer(
            *[topic_name(role, settings.topic_prefix) for role in ("delivered", "withheld")],
            **settings.kafka_kwargs(),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        self._receiving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._producer.start()
        await self._consumer.start()
        self._receiving = asyncio.create_task(self._receive())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
        await self._consumer.stop()
        await self._producer.stop()

    async def work_for(self, seconds: float) -> list[float]:
        """Work that long; returns how long each verdict took."""
        began, enough = time.perf_counter(), asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, enough.set)
        await self.work(enough)
        return self.took(began, time.perf_counter())

    async def work(self, enough: asyncio.Event) -> None:
        """Send events until there are enough, then wait for every verdict. Raises `TimeoutError` where one is late."""
        began, number = time.perf_counter(), 0
        while not enough.is_set():
            record = next(self._events)
            await asyncio.sleep(max(0.0, began + number * self._pause - time.perf_counter()))
            if record.role == "results" and record.task_id is not None:
                self._sent[record.task_id] = time.perf_counter()
            topic = topic_name(record.role, self._settings.topic_prefix)
            await self._producer.send(topic, record.value, key=record.key, partition=record.partition)
            number += 1
        async with asyncio.timeout(VERDICT_SECONDS):
            while len(self._received) < len(self._sent):
                self._arrived.clear()
                await self._arrived.wait()

    def took(self, begin: float, end: float) -> list[float]:
        """What the results took that were sent in this time, in seconds."""
        return [self._received[task_id] - at for task_id, at in self._sent.items() if begin <= at <= end]

    async def _receive(self) -> None:
        async for message in self._consumer:
            at = time.perf_counter()
            if message.key.startswith(b"hot/"):  # the cold lane's withheld results come here, too
                self._received.setdefault(orjson.loads(message.value)["task_id"], at)
                self._arrived.set()
