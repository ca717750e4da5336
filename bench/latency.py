"""From when a result was to be sent to when its verdict is with a `read_committed` consumer, at several rates.

Beside it, in the same run on the same broker, the floor: an exactly-once echo without state (`bench/peers/echo`) that
gets the same events at the same times. Rates are events of the workload per second, a tenth of them results; idle is a
result now and then and nothing else. The schedule is fixed beforehand and its times are what latency is counted from
(an open loop: what is sent late counts as late). Gate, echo, generator and receiver are processes of their own, on the
broker's machine, none of them pinned to a core. Before anything is measured, both have worked for a while.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from hdrh.histogram import HdrHistogram
from rich import box
from rich.console import Console
from rich.table import Table

from bench.compiled import compiled
from bench.openloop import Schedule
from bench.peers.environments import PEERS, python_of
from local.broker import LocalBroker
from schemas.topics import topic_name
from testing.process import ROOT, Worker, until_ready
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

ECHO = PEERS / "echo"
ECHO_FROM, ECHO_TO = "echo.in", "echo.out"

IDLE_RESULTS_PER_SECOND = 40
IDLE_ROUNDS = 3
"""Gate and floor take turns, so that what disturbs the machine for a while does not hit only one of them."""
BROKER_WARM_UP_RATE = 5000
BROKER_WARM_UP_SECONDS = 15.0
"""A broker that has just started compiles its code for half a minute, and creates files at every partition's first
records: for that long everything takes twice its time."""
WARM_UP_SECONDS = 2.0
START_SECONDS = 0.5
DRAIN_SECONDS = 30.0
KEPT_UP = 0.99

MICROSECOND_NS = 1000
LONGEST_US = 600_000_000


async def latency(*, rates: Sequence[int], seconds: float, partitions: int, seed: int) -> dict[str, Any]:
    """Start broker, gate and echo, measure both idle and at each of `rates`; returns the figures."""
    python = python_of("confluent")
    with LocalBroker(ephemeral=True, heap_mb=1024) as broker, tempfile.TemporaryDirectory() as directory:
        settings = load_settings(
            bootstrap_servers=broker.bootstrap_servers, topic_prefix="bench", group_id="bench", partitions=partitions
        )
        await create_topics(settings)
        await _create_echo_topics(settings)
        worker = Worker("worker", settings, Path(directory), code=compiled()).start()
        try:
            await until_ready([worker])
            async with _echo(python, settings):
                lap = _Lap(python, settings, seed)
                await lap.at(BROKER_WARM_UP_RATE, BROKER_WARM_UP_SECONDS)
                idle = await lap.idle(seconds)
                loaded = [await lap.at(rate, seconds) for rate in rates]
        finally:
            worker.kill()
    gate = idle["gate"]
    return {
        "p50_ms": gate["p50_ms"],
        "p99_ms": gate["p99_ms"],
        "samples": gate["samples"],
        "results_per_second": IDLE_RESULTS_PER_SECOND,
        "partitions": partitions,
        "pinned": "nothing",
        "rates": [idle, *loaded],
    }


class _Lap:
    """Measurements one after the other, each with sessions of its own."""

    def __init__(self, python: Path, settings: Settings, seed: int) -> None:
        self._python = python
        self._settings = settings
        self._schedule = Schedule(
            bootstrap_servers=",".join(settings.kafka_kwargs()["bootstrap_servers"]),
            topic_prefix=settings.topic_prefix,
            partitions=settings.partitions,
            seed=seed * 1000,
            sessions=1000,
            per_second=IDLE_RESULTS_PER_SECOND,
            seconds=0,
            only_results=True,
        )

    async def idle(self, seconds: float) -> dict[str, Any]:
        """Gate and echo with nothing else to do, in turns."""
        gate, floor = _Latencies(), _Latencies()
        for _ in range(IDLE_ROUNDS):
            await self._measure(gate, self._next(seconds=seconds + WARM_UP_SECONDS))
            await self._measure(floor, self._next(seconds=seconds + WARM_UP_SECONDS, echo_topic=ECHO_FROM))
        return _compared("idle", gate, floor)

    async def at(self, rate: int, seconds: float) -> dict[str, Any]:
        """Gate, then echo, at `rate` events a second."""
        gate, floor = _Latencies(), _Latencies()
        for latencies, echo_topic in ((gate, None), (floor, ECHO_FROM)):
            loaded = self._next(
                seconds=seconds + WARM_UP_SECONDS,
                echo_topic=echo_topic,
                per_second=rate,
                sessions=10_000,
                only_results=False,
            )
            await self._measure(latencies, loaded)
        return _compared(rate, gate, floor)

    def _next(self, **changes: Any) -> Schedule:
        self._schedule = replace(self._schedule, seed=self._schedule.seed + 1)
        return replace(self._schedule, **changes)

    async def _measure(self, latencies: _Latencies, schedule: Schedule) -> None:
        sender = await _start(sys.executable, "-m", "bench.openloop", schedule.to_json())
        count = await _line(sender)
        outputs = [topic_name(role, self._settings.topic_prefix) for role in ("delivered", "withheld")]
        receiver = await _start(
            str(self._python),
            str(ECHO / "receive.py"),
            schedule.bootstrap_servers,
            str(START_SECONDS + schedule.seconds + DRAIN_SECONDS),
            count,
            *([ECHO_TO] if schedule.echo_topic else outputs),
        )
        await _line(receiver)
        start_ns = time.monotonic_ns() + round(START_SECONDS * 1e9)
        sent, received = await asyncio.gather(sender.communicate(f"{start_ns}\n".encode()), receiver.communicate())
        latencies.take(schedule, start_ns, orjson.loads(sent[0]), orjson.loads(received[0]))


class _Latencies:
    """What one engine took at one rate, over one or several measurements."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, LONGEST_US, 3)
        self._missing = 0
        self._unknown = 0
        self._achieved: list[float] = []
        self._offered = 0.0
        self._late_p99_ms: list[float] = []
        self._late_max_ms: list[float] = []
        self._behind_ms: list[float] = []

    def take(self, schedule: Schedule, start_ns: int, sent: dict[str, Any], got: dict[str, Any]) -> None:
        """Count a measurement in, but for its warm-up. Raises `RuntimeError` where nothing at all was received."""
        intended: dict[str, int] = sent["intended_ns"]
        received: dict[str, int] = got["received_ns"]
        if not received:
            raise RuntimeError(f"none of {len(intended):,} results was answered")
        self._unknown += got["unknown_tasks"]
        counted_from_ns = start_ns + round(WARM_UP_SECONDS * 1e9)
        for task_id, at_ns in intended.items():
            if task_id not in received:
                self._missing += 1
            elif at_ns >= counted_from_ns:
                self._histogram.record_value(max(1, (received[task_id] - at_ns) // MICROSECOND_NS))
        self._offered = schedule.per_second
        self._achieved.append(sent["events"] / max(schedule.seconds, (sent["acknowledged_ns"] - start_ns) / 1e9))
        self._late_p99_ms.append(sent["late_p99_ms"])
        self._late_max_ms.append(sent["late_max_ms"])
        self._behind_ms.append((max(received.values()) - max(intended.values())) / 1e6)

    def figures(self) -> dict[str, Any]:
        """Quantiles, the rate achieved, and whether generator and engine kept up with the schedule."""
        achieved = min(self._achieved)
        return {
            **{f"{name}_ms": self._quantile(share) for name, share in QUANTILES.items()},
            "max_ms": round(self._histogram.get_max_value() / 1000, 2),
            "samples": self._histogram.get_total_count(),
            "missing": self._missing,
            "unknown_tasks": self._unknown,
            "achieved_per_second": round(achieved, 1),
            "generator_kept_up": achieved >= KEPT_UP * self._offered,
            "sent_late_p99_ms": max(self._late_p99_ms),
            "sent_late_max_ms": max(self._late_max_ms),
            "last_verdict_after_last_result_ms": round(max(self._behind_ms), 1),
        }

    def _quantile(self, percent: float) -> float:
        return round(int(self._histogram.get_value_at_percentile(percent)) / 1000, 2)


QUANTILES = {"p50": 50.0, "p99": 99.0, "p99_9": 99.9}
COLUMNS = ("events/s", "", "p50", "p99", "p99.9", "max", "results", "missing", "sent/s", "kept up", "behind")


def show(rates: Sequence[dict[str, Any]]) -> None:
    """Print the figures as a table: gate and floor, in milliseconds, rate by rate."""
    title = "Latency: result to be sent → verdict received, read_committed, ms"
    table = Table(*COLUMNS, title=title, title_justify="left", box=box.SIMPLE, padding=0)
    for each in rates:
        for name in ("gate", "floor"):
            figures = each[name]
            times = [f"{figures[f'{column}_ms']:,.2f}" for column in (*QUANTILES, "max")]
            table.add_row(
                str(each["events_per_second"]),
                name,
                *times,
                f"{figures['samples']:,}",
                str(figures["missing"]),
                f"{figures['achieved_per_second']:,}",
                "yes" if figures["generator_kept_up"] else "no",
                f"{figures['last_verdict_after_last_result_ms']:,}",
            )
        table.add_row("", "ratio", str(each["ratio_p50"]), str(each["ratio_p99"]), end_section=True)
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _compared(rate: int | str, gate: _Latencies, floor: _Latencies) -> dict[str, Any]:
    ours, theirs = gate.figures(), floor.figures()
    return {
        "events_per_second": rate,
        "gate": ours,
        "floor": theirs,
        **{f"ratio_{name}": round(ours[f"{name}_ms"] / theirs[f"{name}_ms"], 2) for name in ("p50", "p99")},
    }


async def _create_echo_topics(settings: Settings) -> None:
    admin: Any = AIOKafkaAdminClient(**settings.kafka_kwargs())
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, settings.partitions, 1) for name in (ECHO_FROM, ECHO_TO)])
    finally:
        await admin.close()


@asynccontextmanager
async def _echo(python: Path, settings: Settings) -> AsyncIterator[None]:
    servers = ",".join(settings.kafka_kwargs()["bootstrap_servers"])
    echo = await _start(str(python), str(ECHO / "echo.py"), servers, ECHO_FROM, ECHO_TO)
    try:
        await _line(echo)
        yield
        if echo.returncode is not None:
            raise RuntimeError(f"the echo has ended ({echo.returncode})")
    finally:
        if echo.returncode is None:
            echo.kill()
            await echo.wait()


async def _start(*command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )


async def _line(process: asyncio.subprocess.Process) -> str:
    """The next line the process prints. Raises `RuntimeError` where it ends without one."""
    if process.stdout is None:
        raise RuntimeError("started without a pipe")
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process} has ended without a word")
    return line.decode().strip()
