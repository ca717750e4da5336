"""How fast one worker on one core works off 500,000 waiting events, exactly-once.

How the time is taken: the worker is started on empty topics and waited for until it runs; then it is frozen (SIGSTOP),
the topics are filled, and it is thawed (SIGCONT). The clock starts at the thaw and ends when the group's committed
offsets have reached the ends of all input topics, asked for every 20 ms on one connection. So the first fetch counts,
all transactions count, and the worker's start-up does not. (A long poll that waited during the freeze has one answer,
the first few records, lying in the socket by then; folding them still counts.) CPU is what the operating system says
the process used in the same span, all threads, user and system.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.compiled import compiled
from local.broker import LocalBroker
from testing.process import ROOT, Worker, environment, pin, until_ready
from testing.produce import bulk_producer, write
from testing.watching import Progress
from testing.workload import Workload
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

POLL_SECONDS = 0.02
AUDITED = ("tasks", "dispositions", "lost", "duplicated", "stale_delivered", "fresh_withheld")


async def drain(
    *, events: int, sessions: int, partitions: int, seed: int, audit: bool = True, profile: bool = False
) -> dict[str, Any]:
    """Start broker and worker, fill the topics, drain them, audit; returns the figures.

    With `profile`, py-spy (if installed) records the worker during the drain to `bench/results/drain.speedscope.json`.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    worker_core, other_cores = cores[:1], cores[1:]
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
        try:
            await until_ready([worker])
            pinned = False
            if other_cores and broker.pid is not None:
                pinned = worker.pin(worker_core) and pin(broker.pid, other_cores) and pin(os.getpid(), other_cores)
            worker.freeze()
            workload = Workload(sessions=sessions, partitions=partitions, seed=seed)
            size = await _fill(settings, workload, events)
            figures = await _measure(worker, settings, profile=profile)
            worker.ask_to_stop()
            worker.process.wait(30)
        finally:
            worker.kill()
            if cores:
                pin(os.getpid(), cores)
        if broker.pid is not None and cores:
            pin(broker.pid, cores)
        findings = await asyncio.to_thread(run_audit, settings) if audit else None
    return {
        "events_per_second": round(events / figures["seconds"]),
        "cpu_us_per_event": round(figures["cpu_seconds"] / events * 1e6, 2),
        "events": events,
        "event_bytes": round(size / events),
        "sessions": sessions,
        "partitions": partitions,
        "results": workload.results,
        "worker_pinned_to_one_core": pinned,
        "worker_rss_mib": round(figures["rss_bytes"] / 2**20),
        "audit": {name: findings[name] for name in AUDITED} if findings else "not run",
    }


async def _fill(settings: Settings, workload: Workload, events: int) -> int:
    records = list(workload.records(events))
    async with bulk_producer(**settings.kafka_kwargs()) as producer:
        await write(producer, settings.topic_prefix, records)
    return sum(len(record.value) for record in records)


async def _measure(worker: Worker, settings: Settings, *, profile: bool) -> dict[str, float]:
    async with Progress(settings) as progress:
        ends = await progress.ends()
        recorder = _record_profile(worker.pid) if profile else None
        cpu_before, began = worker.cpu_seconds(), time.perf_counter()
        worker.thaw()
        while True:
            committed = await progress.committed()
            done = time.perf_counter()
            if all(committed[tp] >= end for tp, end in ends.items()):
                break
            if not worker.is_alive:
                raise RuntimeError(f"the worker has ended:\n{worker.log_text()[-4000:]}")
            if done - began > 600:
                raise RuntimeError(f"not drained after ten minutes:\n{worker.log_text()[-4000:]}")
            await asyncio.sleep(POLL_SECONDS)
        cpu_seconds = worker.cpu_seconds() - cpu_before
        if recorder is not None:
            recorder.terminate()
            recorder.wait(30)
        return {"seconds": done - began, "cpu_seconds": cpu_seconds, "rss_bytes": worker.rss_bytes()}


def _record_profile(pid: int) -> subprocess.Popen[bytes]:
    file = ROOT / "bench" / "results" / "drain.speedscope.json"
    command = ["py-spy", "record", "--pid", str(pid), "--format", "speedscope", "--output", str(file), "--nonblocking"]
    return subprocess.Popen(command)


def run_audit(settings: Settings) -> dict[str, Any]:
    """What `tidegate audit --json` says. Raises `RuntimeError` where it fails or finds anything."""
    command = [sys.executable, "-m", "tidegate", "audit", "--json"]
    done = subprocess.run(
        command, cwd=tempfile.gettempdir(), env=environment(settings), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the audit found something (exit status {done.returncode}):\n{done.stdout}\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
