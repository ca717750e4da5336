"""How throughput and cost per event change with workers and partitions, with sessions, and with open tasks.

Workers and partitions: the drain of `bench.drain` with several workers of one group; all are frozen, the topics are
filled, all are thawed. Nothing is pinned: workers, broker and this process share the machine's cores, so once there are
as many workers as cores, more cannot be faster. What the figures then show is what dividing the same work costs: CPU
for an event. As many events come before and are not measured: a broker creates files at a partition's first records,
some milliseconds for each, which with 48 partitions of ten topics is longer than the work.

Sessions: in memory (`bench.growth`), and once with a real worker that is given half a million sessions, is stopped, and
restores them: CPU for an event before and after, and the time from the start to the last partition at work again.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.compiled import compiled
from bench.growth import IDLE_FACETS, IDLE_ID, idle_sessions, in_own_process, with_open_tasks, with_sessions
from local.broker import LocalBroker
from testing.process import Worker, until_ready
from testing.produce import bulk_producer, write
from testing.watching import Progress
from testing.workload import Record, Workload, partition_of
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

WORKERS: Final = (1, 2, 4)
PARTITIONS: Final = (4, 12, 48)
SESSIONS: Final = (10_000, 100_000, 500_000, 2_000_000)
ACTIVE: Final = 10_000
MANY_ACTIVE: Final = 100_000
OPEN_TASKS: Final = (1, 10, 50)
OPEN_TASKS_IN_ALL: Final = 10_000
POLL_SECONDS: Final = 0.02
READY_SECONDS: Final = 120.0
DRAIN_SECONDS: Final = 300.0


async def scale(*, events: int, real_sessions: int) -> dict[str, Any]:
    """Everything, one after the other; returns the figures."""
    figures: dict[str, Any] = {"events": events, **in_memory(events)}
    _say(figures["sessions"])
    _say([figures["idle"]])
    _say(figures["open_tasks"])
    with LocalBroker(ephemeral=True, heap_mb=1024) as broker:
        figures["workers"] = []
        for partitions, workers in itertools.product(PARTITIONS, WORKERS):
            settings = await _topics(broker, f"scale-{partitions}-{workers}", partitions)
            figures["workers"].append(await _divided(settings, workers, events))
            _say(figures["workers"][-1:])
        figures["restored"] = []
        for sessions in (ACTIVE, real_sessions) if real_sessions else ():
            settings = await _topics(broker, f"sessions-{sessions}", PARTITIONS[0])
            figures["restored"].append(await _restored(settings, sessions, events))
            _say(figures["restored"][-1:])
    return figures


def in_memory(events: int) -> dict[str, Any]:
    """By sessions and by open tasks, without Kafka."""
    sessions = [in_own_process(with_sessions, count, ACTIVE, events, ended) for count, ended in _sweep()]
    many = in_own_process(with_sessions, SESSIONS[-2], MANY_ACTIVE, events, 0)
    tasks = [in_own_process(with_open_tasks, count, OPEN_TASKS_IN_ALL // count, events // 4) for count in OPEN_TASKS]
    return {"sessions": [*sessions, many], "idle": idle_sessions(SESSIONS[-2]), "open_tasks": tasks}


def _sweep() -> Iterator[tuple[int, int]]:
    for count in SESSIONS:
        yield count, 0
    yield SESSIONS[-2], 1


async def _topics(broker: LocalBroker, name: str, partitions: int) -> Settings:
    settings = load_settings(
        bootstrap_servers=broker.bootstrap_servers,
        topic_prefix=name,
        group_id=name,
        partitions=partitions,
        # frozen while the topics are filled, nobody must be taken for dead
        session_timeout_seconds=240,
        rebalance_timeout_seconds=240,
        request_timeout_seconds=240,
    )
    await create_topics(settings)
    return settings


async def _divided(settings: Settings, count: int, events: int) -> dict[str, Any]:
    """A backlog worked off by `count` workers."""
    with tempfile.TemporaryDirectory() as directory:
        workers = [Worker(f"worker-{number}", settings, Path(directory), code=compiled()) for number in range(count)]
        try:
            for worker in workers:
                worker.start()
            await _until_divided(workers, settings.partitions)
            workload = Workload(sessions=ACTIVE, partitions=settings.partitions)
            await _drain(workers, settings, workload.records(events, finish=False))
            drained = await _drain(workers, settings, workload.records(events))
            shares = [len(worker.partitions() or ()) for worker in workers]
        finally:
            _end(workers)
    return {"workers": count, "partitions": settings.partitions, "partitions_of_workers": shares, **drained}


async def _restored(settings: Settings, sessions: int, events: int) -> dict[str, Any]:
    """A worker that has met `sessions`, stopped, and started again: the restore, and CPU for an event after it."""
    with tempfile.TemporaryDirectory() as directory:
        worker = Worker("worker", settings, Path(directory), code=compiled()).start()
        try:
            await until_ready([worker])
            met = await _drain([worker], settings, _first_events(sessions, settings.partitions))
            worker.ask_to_stop()  # killed, it would be waited for until its long session is over
            await asyncio.to_thread(worker.process.wait, 30)
            began = time.perf_counter()
            worker.start()
            await until_ready([worker], READY_SECONDS)
            seconds = time.perf_counter() - began
            rss = worker.rss_bytes()
            workload = Workload(sessions=min(ACTIVE, sessions), partitions=settings.partitions)
            drained = await _drain([worker], settings, workload.records(events))
        finally:
            _end([worker])
    return {
        "sessions": sessions,
        "met_sessions_per_second": met["events_per_second"],
        "restart_seconds": round(seconds, 2),
        "worker_rss_mib_after_restore": round(rss / 2**20),
        "cpu_us_per_event": drained["cpu_us_per_event"],
        "events_per_second": drained["events_per_second"],
    }


def _first_events(sessions: int, partitions: int) -> Iterator[Record]:
    facets = ",".join(f'"{name}":"{value}"' for name, value in IDLE_FACETS.items())
    for number in range(sessions):
        session_id = IDLE_ID.format(number)
        body = (
            f'{{"type":"context.changed","source":"web","event_id":"00000002-7a1d-4c3e-9b52-{number:012x}",'
            f'"session_id":"{session_id}","occurred_at":"2025-06-02T08:30:00Z","set":{{{facets}}}}}'
        )
        key = session_id.encode()
        yield Record("context", partition_of(key, partitions), key, body.encode(), None)


async def _drain(workers: Sequence[Worker], settings: Settings, records: Iterable[Record]) -> dict[str, Any]:
    """Freeze the workers, fill the topics, thaw, and wait for the last commit. CPU is that of all the workers."""
    for worker in workers:
        worker.freeze()
    async with bulk_producer(**settings.kafka_kwargs()) as producer:
        count = await write(producer, settings.topic_prefix, records)
    async with Progress(settings) as progress:
        cpu_before, began = sum(worker.cpu_seconds() for worker in workers), time.perf_counter()
        for worker in workers:
            worker.thaw()
        while await progress.behind():
            took = time.perf_counter() - began
            if took > DRAIN_SECONDS or not all(worker.is_alive for worker in workers):
                raise RuntimeError(f"not drained after {took:.0f} s:\n{workers[0].log_text()[-4000:]}")
            await asyncio.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
    cpu_seconds = sum(worker.cpu_seconds() for worker in workers) - cpu_before
    return {
        "events_per_second": round(count / seconds),
        "cpu_us_per_event": round(cpu_seconds / count * 1e6, 2),
        "seconds": round(seconds, 2),
    }


async def _until_divided(workers: Sequence[Worker], partitions: int) -> None:
    """Wait until every partition is at work, on as many workers as there are."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        await until_ready(workers, READY_SECONDS)
        shares = [len(worker.partitions() or ()) for worker in workers]
        if sum(shares) == partitions and all(shares):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{partitions} partitions were not divided among the workers: {shares}")
        await asyncio.sleep(0.2)


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        if worker.started:
            worker.kill()


def _say(found: list[dict[str, Any]]) -> None:
    for each in found:
        print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in each.items()), flush=True)
