"""What the gateway costs and how late it is, beside the least that streams verdicts to browsers.

Many event streams are open, one for each session, and verdicts are committed at a steady rate, as the gate commits
them: in a transaction every 20 ms. Each verdict carries the time at which its transaction began; a client notes how
much later it arrives. A `read_committed` consumer in the same process notes the same: that is the broker's own share.
The gateway is restarted once under load, and every stream resumes at its cursor.

Beside it, on the same broker: the floor, `bench/sse_floor.py`, which keeps nothing and promises nothing.

Everything runs on one machine, so the clients take their share of it: both servers and the consumer are measured with
it. Verdicts are written straight to the topic of deliveries, so that the gate's own time is not in the figures.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson
import psutil
from aiohttp import ClientSession, TCPConnector
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.compiled import compiled
from local.broker import LocalBroker, free_port
from schemas.topics import topic_name
from testing.process import ROOT, environment
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

COMMIT_SECONDS: Final = 0.02
CONNECTS_AT_ONCE: Final = 200
IDLE_SECONDS: Final = 3.0
FLOOR_START_SECONDS: Final = 2.0
"""The floor has no health endpoint."""
WARM_UP_SECONDS: Final = 3.0
OPEN_SECONDS: Final = 120.0
"""Longest time for all streams to connect, or to come back."""
ARRIVAL_SECONDS: Final = 30.0
"""Longest time for the last verdicts to arrive. What has not come then counts as lost."""
PAYLOAD: Final = "x" * 400


class Streams:
    """Clients of one server, each with a stream of its own session, as cheap as a client can be."""

    def __init__(self, port: int, count: int) -> None:
        self.latencies_ms: list[float] = []
        self.heard: Counter[int] = Counter()
        self.connections = 0
        self.measuring = False
        self._port = port
        self._count = count
        self._cursors: list[bytes] = [b""] * count
        self._open: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def open(self) -> int:
        """How many streams have a position."""
        return len(self._open)

    async def start(self) -> None:
        """Connect all; returns when each has a position."""
        gate = asyncio.Semaphore(CONNECTS_AT_ONCE)
        self._tasks = [asyncio.create_task(self._keep(number, gate)) for number in range(self._count)]
        await until(lambda: self.open == self._count, OPEN_SECONDS, lambda: f"{self.open} streams are open")

    async def stop(self) -> None:
        """Disconnect all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, number: int, gate: asyncio.Semaphore) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._follow(number, gate)
            self._open.discard(number)
            await asyncio.sleep(0.2)

    async def _follow(self, number: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**16)
            cursor = b"Last-Event-ID: %s\r\n" % self._cursors[number] if self._cursors[number] else b""
            path = b"/v1/sessions/%s/events" % session(number).encode()
            writer.write(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n" % (path, self._port, cursor))
            self.connections += 1
        try:
            async for line in reader:
                if line.startswith(b"id: "):
                    self._cursors[number] = line[4:-1]
                    self._open.add(number)
                elif line.startswith(b"data: {"):
                    self._take(line)
        finally:
            writer.close()

    def _take(self, line: bytes) -> None:
        now = time.time()
        at = line.index(b'"payload":{"number":') + 20
        verdict, _, rest = line[at : at + 60].partition(b',"at":')
        self.heard[int(verdict)] += 1
        if self.measuring:
            self.latencies_ms.append((now - float(rest[: rest.index(b",")])) * 1000)


def session(number: int) -> str:
    """The session of a stream."""
    return f"s{number:06d}"


async def until(condition: Callable[[], bool], timeout_seconds: float, state: Callable[[], str]) -> None:
    """Wait for a condition; raises `TimeoutError` with the state."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(state())
        await asyncio.sleep(0.05)


class Verdicts:
    """Writes verdicts at a rate, in transactions, to one session after the other; reads them as a consumer, too."""

    def __init__(self, settings: Settings, sessions: int, rate: int) -> None:
        self.written = 0
        self.latencies_ms: list[float] = []
        self.measuring = False
        self._settings = settings
        self._sessions = sessions
        self._rate = rate
        self._topic = topic_name("delivered", settings.topic_prefix)

    async def write(self, seconds: float) -> None:
        """Write for so long."""
        producer = AIOKafkaProducer(
            **self._settings.kafka_kwargs(), transactional_id=f"bench-{os.getpid()}", retry_backoff_ms=2
        )
        await producer.start()
        began = time.monotonic()
        done = 0
        try:
            while (elapsed := time.monotonic() - began) < seconds:
                due = int(elapsed * self._rate)
                if due > done:
                    async with producer.transaction():
                        now = time.time()
                        for _ in range(due - done):
                            number = self.written
                            key = session(number * 7919 % self._sessions)
                            await producer.send(self._topic, verdict(number, now), key=key.encode())
                            self.written += 1
                    done = due
                await asyncio.sleep(COMMIT_SECONDS)
        finally:
            await producer.stop()

    async def read(self) -> None:
        """Note how late a plain consumer of committed records is, until cancelled."""
        async with AIOKafkaConsumer(
            **self._settings.kafka_kwargs(), isolation_level="read_committed", enable_auto_commit=False
        ) as consumer:
            tps = [TopicPartition(self._topic, number) for number in range(self._settings.partitions)]
            consumer.assign(tps)
            for tp, end in (await consumer.end_offsets(tps)).items():
                consumer.seek(tp, end)
            async for record in consumer:
                if self.measuring:
                    at = orjson.loads(record.value)["parts"][0]["payload"]["at"]
                    self.latencies_ms.append((time.time() - at) * 1000)


def verdict(number: int, at: float) -> bytes:
    """A delivery of usual size. `at`: when its transaction began to be written."""
    part = {"part_id": "answer", "kind": "show", "payload": {"number": number, "at": at, "text": PAYLOAD}}
    judged = {"partition": 0, "context_offset": 1, "steps_offset": 1, "at": "2026-01-01T00:00:00.000Z"}
    told = {"part_id": "answer", "decision": "delivered", "reason": "fresh"}
    body = {
        "type": "result.delivered",
        "source": "tidegate",
        "event_id": f"e-{number}",
        "session_id": "s",
        "occurred_at": "2026-01-01T00:00:00.000Z",
        "task_id": f"t-{number}",
        "outcome": "completed",
        "parts": [part],
        "verdict": {"decision": "delivered", "reason": "fresh", "parts": [told], "judged": judged},
    }
    return orjson.dumps(body)


@asynccontextmanager
async def server(
    arguments: list[str], settings: Settings, ready: str | None, directory: str, **changes: object
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A server process that answers."""
    process = launch(arguments, settings, directory, **changes)
    try:
        await answering(process, ready)
        yield process
    finally:
        process.kill()
        process.wait()


def launch(arguments: list[str], settings: Settings, directory: str, **changes: object) -> subprocess.Popen[bytes]:
    """Start a server process."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**environment(settings, **changes), "PYTHONPATH": f"{compiled()}{os.pathsep}{ROOT}"},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def answering(process: subprocess.Popen[bytes], url: str | None) -> None:
    """Wait until a server is ready."""

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"the server has ended ({process.returncode})")
        if url is None:
            return True
        with suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - our own
            return bool(answer.status == 200)
        return False

    deadline = time.monotonic() + 30
    while not await asyncio.to_thread(is_ready):
        if time.monotonic() > deadline:
            raise TimeoutError(url)
        await asyncio.sleep(0.1)


def percentile(values: list[float], share: float) -> float:
    """A percentile, in the unit of the values."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1) if ordered else float("nan")


async def measure(
    settings: Settings,
    process: subprocess.Popen[bytes],
    port: int,
    streams: int,
    rate: int,
    seconds: float,
    restart: Callable[[], AsyncIterator[None]] | None,
) -> dict[str, Any]:
    """One server under the load; with `restart` it is killed in the middle of a second load, and the streams resume."""
    before = rss(process)
    clients, verdicts = Streams(port, streams), Verdicts(settings, streams, rate)
    await clients.start()
    await asyncio.sleep(IDLE_SECONDS)
    bytes_per_stream = (rss(process) - before) / streams
    reading = asyncio.create_task(verdicts.read())
    gc.collect()
    gc.freeze()
    try:
        await verdicts.write(WARM_UP_SECONDS)
        cpu = cpu_seconds(process)
        clients.measuring = verdicts.measuring = True
        began, written = time.monotonic(), verdicts.written
        await verdicts.write(seconds)
        took = time.monotonic() - began
        clients.measuring = verdicts.measuring = False
        used = cpu_seconds(process) - cpu
        figures = {
            "streams": streams,
            "verdicts_per_second": round((verdicts.written - written) / took),
            "p50_ms": percentile(clients.latencies_ms, 0.5),
            "p99_ms": percentile(clients.latencies_ms, 0.99),
            "broker_p50_ms": percentile(verdicts.latencies_ms, 0.5),
            "broker_p99_ms": percentile(verdicts.latencies_ms, 0.99),
            "bytes_per_stream": round(bytes_per_stream),
            "cpu_share": round(used / took, 2),
        }
        if restart is not None:
            writing = asyncio.create_task(verdicts.write(seconds))
            await asyncio.sleep(seconds / 3)
            began = time.monotonic()
            async for _ in restart():
                pass
            await until(lambda: clients.open == streams, OPEN_SECONDS, lambda: f"{clients.open} streams are back")
            figures["restart_seconds"] = round(time.monotonic() - began, 1)
            await writing
        with suppress(TimeoutError):
            await until(lambda: len(clients.heard) >= verdicts.written, ARRIVAL_SECONDS, lambda: "")
        figures["lost"] = verdicts.written - len(clients.heard)
        figures["repeated"] = sum(count - 1 for count in clients.heard.values())
        figures["verdicts"] = verdicts.written
        return figures
    finally:
        gc.unfreeze()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await clients.stop()


async def submissions(settings: Settings, port: int, rate: int, seconds: float) -> dict[str, Any]:
    """Tasks submitted by HTTP in an open loop, and the same events produced directly: how late is the answer?"""

    async def paced(send: Callable[[int], Awaitable[None]]) -> list[float]:
        latencies: list[float] = []
        tasks: set[asyncio.Task[None]] = set()

        async def one(number: int, due: float) -> None:
            await send(number)
            latencies.append((time.monotonic() - due) * 1000)

        began = time.monotonic()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (pause := due - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            tasks.add(asyncio.create_task(one(number, due)))
        await asyncio.gather(*tasks)
        return latencies

    body = {"task_type": "search", "snapshot": {"view/laptop": "flights"}}
    async with ClientSession(connector=TCPConnector(limit=200)) as http:

        async def submit(number: int) -> None:
            url = f"http://127.0.0.1:{port}/v1/sessions/{session(number % 5000)}/tasks"
            async with http.post(url, json=body) as answer:
                await answer.read()
                if answer.status != 202:
                    raise RuntimeError(f"status {answer.status}")

        await paced(submit)  # a warm-up
        through = await paced(submit)
    async with AIOKafkaProducer(**settings.kafka_kwargs(), enable_idempotence=True, acks="all") as producer:

        async def produce(number: int) -> None:
            key = session(number % 5000).encode()
            await producer.send_and_wait(topic_name("steps", settings.topic_prefix), orjson.dumps(body), key=key)

        await paced(produce)
        direct = await paced(produce)
    return {
        "submissions_per_second": rate,
        "submit_p50_ms": percentile(through, 0.5),
        "submit_p99_ms": percentile(through, 0.99),
        "produce_p50_ms": percentile(direct, 0.5),
        "produce_p99_ms": percentile(direct, 0.99),
    }


def rss(process: subprocess.Popen[bytes]) -> int:
    """Memory that a process holds."""
    return int(psutil.Process(process.pid).memory_info().rss)


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU time that a process has used."""
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


async def gateway(*, streams: int, rate: int, seconds: float, partitions: int) -> dict[str, Any]:
    """Measure submissions, the gateway under load and over a restart, and the floor, on one broker.

    Raises `ValueError` if the process may not open as many connections.
    """
    _allow_files(streams + 500)
    with LocalBroker(ephemeral=True, heap_mb=1024) as broker, tempfile.TemporaryDirectory() as directory:
        settings = load_settings(
            bootstrap_servers=broker.bootstrap_servers,
            topic_prefix="bench",
            group_id="bench",
            partitions=partitions,
            state_dir=Path(directory),
            metrics_port=0,
        )
        await create_topics(settings)
        port = free_port()
        changes: dict[str, object] = {
            "gateway_port": port,
            "gateway_streams_per_token": 100_000,
            "gateway_requests_per_second": 100_000,
        }
        arguments = ["-m", "tidegate", "gateway", "--unauthenticated"]
        ready = f"http://127.0.0.1:{port}/readyz"
        processes = [launch(arguments, settings, directory, **changes)]

        async def restart() -> AsyncIterator[None]:
            processes[-1].kill()
            processes[-1].wait()
            processes.append(launch(arguments, settings, directory, **changes))
            await answering(processes[-1], ready)
            yield

        try:
            await answering(processes[0], ready)
            submitted = await submissions(settings, port, 2 * rate, min(5.0, seconds))
            found = await measure(settings, processes[0], port, streams, rate, seconds, restart)
        finally:
            processes[-1].kill()
            processes[-1].wait()
        port = free_port()
        floor = ["-m", "bench.sse_floor", str(port)]
        async with server(floor, settings, None, directory) as process:
            await asyncio.sleep(FLOOR_START_SECONDS)
            beside = await measure(settings, process, port, streams, rate, seconds, None)
        return {**found, "submissions": submitted, "floor": beside}


def _allow_files(count: int) -> None:
    """Let this process, and those that it starts, open so many files. Raises `ValueError` if the limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise ValueError(f"{count} open files are needed, and at most {hard} allowed (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
