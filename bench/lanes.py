"""What a flood of cold events does to the hot lane: the same hot tasks with and without it, in one run.

How it is taken: hot tasks run at an even pace all the time, each with a context change, a dispatch and, a little later,
its result; timed is from just before the result is sent to the moment its verdict is with a `read_committed` consumer,
as in the latency benchmark. One half of the idle samples comes before the flood, the other half after it, so that a
machine getting slower or faster in between does not look like the flood's doing. For the flood the worker is frozen
(SIGSTOP), the cold topics are filled, and it is thawed; only results count that were sent between then, or `SETTLING`
later, and the moment less than `LEFT` of the cold events is uncommitted: the window ends with the flood, never after
it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.drain import AUDITED, run_audit
from bench.latency import FETCH_WAIT_MS
from bench.process import Worker, pin, until_ready
from bench.produce import bulk_producer, write
from bench.report import milliseconds
from bench.watching import COLD, Progress
from bench.workload import Record, Workload
from schemas.topics import topic_name
from tidegate.broker import LocalBroker
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

HOT_SESSIONS = 500
HOT_SLOTS = "CDR"
"""A context change, a dispatch, an older task's result, one after the other at an even pace."""
COLD_SLOTS = "DSSSRDSSSSR"
"""The drain's mix without the context."""
THINKING_SECONDS = 0.25
"""How long a hot task takes from its dispatch to its result."""

WARM_UP_SECONDS = 2.0
SETTLING = 0.3
LEFT = 0.05
POLL_SECONDS = 0.1
VERDICT_SECONDS = 60.0
FLOOD_SECONDS = 300.0


async def lanes(
    *,
    cold_events: int,
    sessions: int,
    partitions: int,
    per_second: float,
    idle_seconds: float,
    seed: int,
    audit: bool = True,
) -> dict[str, Any]:
    """Start broker and worker, time hot results before, during and after the flood; returns the figures."""
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
        worker = Worker("worker", settings, Path(directory)).start()
        cold = Workload(
            sessions=sessions, partitions=partitions, seed=seed, name="cold", slots=COLD_SLOTS, lane="cold"
        )
        try:
            await until_ready([worker])
            pinned = False
            if cores[1:] and broker.pid is not None:
                pinned = worker.pin(cores[:1]) and pin(broker.pid, cores[1:]) and pin(os.getpid(), cores[1:])
            async with Hot(settings, per_second, seed) as hot:
                await hot.work(WARM_UP_SECONDS)
                idle = await hot.work(idle_seconds / 2)
                worker.freeze()
                async with bulk_producer(**settings.kafka_kwargs()) as producer:
                    await write(producer, settings.topic_prefix, list(cold.records(cold_events)))
                flood, took = await _flood(worker, settings, hot)
                idle += await hot.work(idle_seconds / 2)
            worker.ask_to_stop()
            await asyncio.to_thread(worker.process.wait, 30)
        finally:
            worker.kill()
            if cores:
                pin(os.getpid(), cores)
        if broker.pid is not None and cores:
            pin(broker.pid, cores)
        findings = await asyncio.to_thread(run_audit, settings) if audit else None
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
        "cold_events_per_second": round(cold_events / took),
        "flood_seconds": round(took, 2),
        "window": f"results sent while at least {LEFT:.0%} of the cold events were waiting",
        "samples": len(idle),
        "samples_flood": len(flood),
        "hot_results_per_second": per_second,
        "cold_sessions": sessions,
        "partitions": partitions,
        "worker_pinned_to_one_core": pinned,
        "consumer_fetch_wait_ms": FETCH_WAIT_MS,
        "audit": {name: findings[name] for name in AUDITED} if findings else "not run",
    }


async def _flood(worker: Worker, settings: Settings, hot: Hot) -> tuple[list[float], float]:
    """Thaw the worker; returns what hot results took during the flood, and the flood's seconds until the last commit.

    Raises `RuntimeError` where the worker ends or does not get through.
    """
    async with Progress(settings, COLD) as progress:
        count = sum((await progress.ends()).values())
        if count - sum((await progress.committed()).values()) < count * (1 - LEFT):
            raise RuntimeError("the worker was not frozen")
        began = time.perf_counter()
        worker.thaw()
        working = asyncio.create_task(hot.work(FLOOD_SECONDS, settling=SETTLING))
        try:
            window_end = 0.0
            while (left := await progress.behind()) or not window_end:
                now = time.perf_counter()
                if not window_end and left < count * LEFT:
                    window_end = now
                    hot.finish(asked)
                if not worker.is_alive or working.done():
                    raise RuntimeError(f"the flood was not worked off:\n{worker.log_text()[-4000:]}")
                asked = now
                await asyncio.sleep(POLL_SECONDS)
            took = time.perf_counter() - began
            return await working, took
        finally:
            working.cancel()
