"""From when a result was to be sent to when its verdict is with a `read_committed` consumer, by engine and partitions.

Engines are measured one after the other, each alone on topics of its own and on the same broker: the gate; the floor,
an exactly-once echo without state, once to one topic and once with about as many writes as the gate has (a row and a
status for each event, a verdict for each result); Kafka Streams; two hand-written loops. Rates are events of the
workload per second, a tenth of them results; idle (0) is a result now and then and nothing else. The schedule is fixed
beforehand and its times are what latency is counted from (an open loop: what is sent late counts as late). Engine,
generator and receiver are processes of their own, on the broker's machine, none of them pinned to a core.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson
from hdrh.histogram import HdrHistogram
from rich import box
from rich.console import Console
from rich.table import Table

from bench.compiled import compiled
from bench.openloop import Schedule
from bench.peers import streams
from bench.peers.engines import python_peer
from bench.peers.environments import PEERS, python_of
from bench.peers.process import EngineProcess, PeerProcess
from bench.peers.topics import COMPACTED, create, delete
from bench.report import about
from local.broker import LocalBroker
from schemas.topics import topic_name
from testing.process import ROOT, Worker, until_ready
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

GATE: Final = "tidegate"
ECHO: Final = "echo"
ECHO_OF_MANY: Final = "echo-3-topics"
_ECHO: Final = PEERS / "echo"

IDLE: Final = 0
IDLE_RESULTS_PER_SECOND: Final = 40
WARM_UP_RATE: Final = 1000
WARM_UP_SECONDS: Final = 4.0
"""Before the first rate of an engine: it starts, joins its group, and has every partition's first files made."""
BROKER_WARM_UP_SECONDS: Final = 15.0
"""A broker that has just started compiles its code for half a minute: for that long everything takes twice its time."""
NOT_COUNTED_SECONDS: Final = 2.0
"""At the beginning of each measurement."""
START_SECONDS: Final = 0.5
DRAIN_SECONDS: Final = 30.0
KEPT_UP: Final = 0.99
KEPT_UP_MS: Final = 2000.0
"""Longest time between the last result and the last verdict of an engine that keeps up."""
READ_AT_ONCE: Final = ("--wait-ms", "5", "--batch-records", "2000")

MICROSECOND_NS: Final = 1000
LONGEST_US: Final = 600_000_000
QUANTILES: Final = {"p50_ms": 50.0, "p99_ms": 99.0, "p99_9_ms": 99.9}


@dataclass(frozen=True)
class Engine:
    """One engine: how it is started, and where its verdicts are. `echoes`: it gets every record on one topic."""

    name: str
    start: Callable[[Settings, Path], EngineProcess]
    outputs: Callable[[Settings], list[str]]
    echoes: bool = False


def _gate(settings: Settings, directory: Path) -> EngineProcess:
    return Worker("worker", settings, directory, code=compiled()).start()


def _echo(*targets: str) -> Callable[[Settings, Path], EngineProcess]:
    def start(settings: Settings, directory: Path) -> EngineProcess:
        topics = [f"{settings.topic_prefix}.{each}" for each in ("in", *targets)]
        command = [str(python_of("confluent")), str(_ECHO / "echo.py"), settings.bootstrap_servers, *topics]
        return PeerProcess(command, settings, directory, ())

    return start


def _peer(command: Callable[[], list[str]]) -> Callable[[Settings, Path], EngineProcess]:
    def start(settings: Settings, directory: Path) -> EngineProcess:
        prefix = settings.topic_prefix
        arguments = ["--bootstrap", settings.bootstrap_servers, "--inputs-prefix", prefix, "--group", prefix]
        arguments += ["--output-prefix", f"{prefix}.out", "--partitions", str(settings.partitions)]
        return PeerProcess([*command(), *arguments], settings, directory, ())

    return start


def _of_gate(settings: Settings) -> list[str]:
    return [topic_name(role, settings.topic_prefix) for role in ("delivered", "withheld")]


def _named(name: str) -> Callable[[Settings], list[str]]:
    return lambda settings: [f"{settings.topic_prefix}.{name}"]


ENGINES: Final = (
    Engine(GATE, _gate, _of_gate),
    Engine(ECHO, _echo("out"), _named("out"), echoes=True),
    Engine(ECHO_OF_MANY, _echo("rows", "statuses", "out"), _named("out"), echoes=True),
    Engine("kafka-streams-10ms", _peer(lambda: streams.command(commit_interval_ms=10)), _named("out.verdicts")),
    Engine("kafka-streams-100ms", _peer(lambda: streams.command(commit_interval_ms=100)), _named("out.verdicts")),
    Engine(
        "confluent-loop", _peer(lambda: [*python_peer("confluent"), "--aligned", *READ_AT_ONCE]), _named("out.verdicts")
    ),
    Engine(
        "aiokafka-loop", _peer(lambda: [*python_peer("aiokafka"), "--aligned", *READ_AT_ONCE]), _named("out.verdicts")
    ),
)


async def latency(
    *, rates: Sequence[int], partitions: Sequence[int], engines: Sequence[str], seconds: float, seed: int
) -> list[dict[str, Any]]:
    """Measure every engine with each number of partitions at each rate; 0 is idle. Returns an object for each."""
    found: list[dict[str, Any]] = []
    chosen = [engine for engine in ENGINES if engine.name in engines]
    with LocalBroker(ephemeral=True, heap_mb=1024) as broker:
        lap = Lap(python_of("confluent"), seed)
        settings = load_settings(bootstrap_servers=broker.bootstrap_servers)
        if chosen:
            await _measure(chosen[0], _prefixed(settings, "warm-up", 4), lap, [WARM_UP_RATE], BROKER_WARM_UP_SECONDS)
        for count in partitions:
            for engine in chosen:
                named = _prefixed(settings, f"latency-{count}-{engine.name}", count)
                try:
                    several = await _measure(engine, named, lap, rates, seconds)
                except RuntimeError as error:
                    print(f"{engine.name}, {count} partitions: {error}", flush=True)
                    continue
                for rate, figures in several.items():
                    found.append({"engine": engine.name, "partitions": count, "events_per_second": rate, **figures})
                    print(_line(found[-1]), flush=True)
    return [{**each, **about()} for each in found]


def _prefixed(settings: Settings, prefix: str, partitions: int) -> Settings:
    return settings.model_copy(update={"topic_prefix": prefix, "group_id": prefix, "partitions": partitions})


async def _measure(
    engine: Engine, settings: Settings, lap: Lap, rates: Sequence[int], seconds: float
) -> dict[int, dict[str, Any]]:
    """One engine from its start to its end, at each rate. Raises `RuntimeError` if it ends or answers nothing."""
    prefix = settings.topic_prefix
    await create_topics(settings)
    await create(settings, [f"{prefix}.{name}" for name in ("in", "out", "rows", "statuses", "out.verdicts")])
    await create(settings, [f"{prefix}.out.changelog"], COMPACTED)
    with tempfile.TemporaryDirectory() as directory:
        own_directory = Path(directory) / "work"
        own_directory.mkdir()
        process = engine.start(settings, own_directory)
        try:
            if isinstance(process, Worker):
                await until_ready([process])
            await lap.at(engine, settings, process, WARM_UP_RATE, WARM_UP_SECONDS)
            return {rate: await lap.at(engine, settings, process, rate, seconds) for rate in rates}
        finally:
            await asyncio.to_thread(process.kill)
            await delete(settings, containing=f"{prefix}.")


class Lap:
    """Measurements one after the other, each with sessions of its own."""

    def __init__(self, python: Path, seed: int) -> None:
        self._python = python
        self._seed = seed * 1000

    async def at(
        self, engine: Engine, settings: Settings, process: EngineProcess, rate: int, seconds: float
    ) -> dict[str, Any]:
        """Figures of an engine that runs, at a rate of events per second; 0: idle."""
        self._seed += 1
        schedule = Schedule(
            bootstrap_servers=settings.bootstrap_servers,
            topic_prefix=settings.topic_prefix,
            partitions=settings.partitions,
            seed=self._seed,
            sessions=10_000,
            per_second=rate,
            seconds=seconds + NOT_COUNTED_SECONDS,
            only_results=False,
            echo_topic=f"{settings.topic_prefix}.in" if engine.echoes else None,
        )
        if rate == IDLE:
            schedule = replace(schedule, sessions=1000, per_second=IDLE_RESULTS_PER_SECOND, only_results=True)
        sender = await _start(sys.executable, "-m", "bench.openloop", schedule.to_json())
        count = await _next_line(sender)
        receiver = await _start(
            str(self._python),
            str(_ECHO / "receive.py"),
            schedule.bootstrap_servers,
            str(START_SECONDS + schedule.seconds + DRAIN_SECONDS),
            count,
            *engine.outputs(settings),
        )
        await _next_line(receiver)
        cpu_seconds = process.cpu_seconds()
        start_ns = time.monotonic_ns() + round(START_SECONDS * 1e9)
        sent, received = await asyncio.gather(sender.communicate(f"{start_ns}\n".encode()), receiver.communicate())
        if not process.is_alive:
            raise RuntimeError(f"it has ended: {process.log_text()[-500:]}")
        used = process.cpu_seconds() - cpu_seconds
        return _figures(schedule, start_ns, orjson.loads(sent[0]), orjson.loads(received[0]), used)


def _figures(
    schedule: Schedule, start_ns: int, sent: dict[str, Any], got: dict[str, Any], cpu_seconds: float
) -> dict[str, Any]:
    intended: dict[str, int] = sent["intended_ns"]
    received: dict[str, int] = got["received_ns"]
    if not received:
        raise RuntimeError(f"none of {len(intended):,} results was answered")
    histogram = HdrHistogram(1, LONGEST_US, 3)
    counted_from_ns = start_ns + round(NOT_COUNTED_SECONDS * 1e9)
    for task_id, at_ns in intended.items():
        if at_ns >= counted_from_ns and task_id in received:
            histogram.record_value(max(1, (received[task_id] - at_ns) // MICROSECOND_NS))
    achieved = sent["events"] / max(schedule.seconds, (sent["acknowledged_ns"] - start_ns) / 1e9)
    behind_ms = (max(received.values()) - max(intended.values())) / 1e6
    missing = len(intended.keys() - received.keys())
    return {
        **{name: round(int(histogram.get_value_at_percentile(share)) / 1000, 2) for name, share in QUANTILES.items()},
        "cpu_us_per_event": round(cpu_seconds / sent["events"] * 1e6, 1),
        "kept_up": achieved >= KEPT_UP * schedule.per_second and not missing and behind_ms <= KEPT_UP_MS,
        "max_ms": round(histogram.get_max_value() / 1000, 2),
        "samples": histogram.get_total_count(),
        "missing": missing,
        "unknown_tasks": got["unknown_tasks"],
        "achieved_per_second": round(achieved, 1),
        "sent_late_p99_ms": sent["late_p99_ms"],
        "last_verdict_after_last_result_ms": round(behind_ms, 1),
    }


COLUMNS: Final = ("engine", "partitions", "events/s", "p50", "p99", "p99.9", "CPU µs", "missing", "kept up")


def show(found: Sequence[dict[str, Any]]) -> None:
    """Print the figures as a table, in milliseconds."""
    title = "Latency: result to be sent → verdict received, read_committed, ms; CPU of the engine per event"
    table = Table(*COLUMNS, title=title, title_justify="left", box=box.SIMPLE, padding=0)
    last = None
    for each in sorted(found, key=lambda each: (each["partitions"], each["events_per_second"])):
        cell = each["partitions"], each["events_per_second"]
        if last not in {None, cell}:
            table.add_section()
        last = cell
        table.add_row(
            each["engine"],
            str(each["partitions"]),
            f"{each['events_per_second']:,}" if each["events_per_second"] else "idle",
            *(f"{each[name]:,.1f}" for name in (*QUANTILES, "cpu_us_per_event")),
            f"{each['missing']:,}",
            "yes" if each["kept_up"] else "no",
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _line(each: dict[str, Any]) -> str:
    return (
        f"{each['engine']}, {each['partitions']} partitions, {each['events_per_second']:,} events/s: p50"
        f" {each['p50_ms']} ms, p99 {each['p99_ms']} ms, {each['cpu_us_per_event']} µs CPU per event"
    )


async def _start(*command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )


async def _next_line(process: asyncio.subprocess.Process) -> str:
    """The next line the process prints. Raises `RuntimeError` if it ends without one."""
    if process.stdout is None:
        raise RuntimeError("started without a pipe")
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process} has ended without a word")
    return line.decode().strip()
