"""`tidegate demo`: starts everything, tells the story, sends the load, audits, and takes everything down again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from local.broker import LocalBroker, free_port
from local.demo.life import LIFE, Told
from local.demo.processes import Child
from local.demo.story import SNAPSHOT, STORY
from local.demo.table import life_surprises, life_table, load_table, story_table, surprises
from local.demo.told import told
from local.kafka_jars import KAFKA_VERSION, classpath
from local.traffic import EVENTS_PER_TASK
from schemas.topics import topics
from tidegate.commands.audit import audit
from tidegate.errors import TidegateError
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

PARTITIONS = 4
_READY_SECONDS = 60.0
_VERDICT_SECONDS = 30.0
_DRAIN_SECONDS = 15.0
_WIDTH = 120

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """How large the load is: sessions with one task each, and the events per second it is sent with."""

    sessions: int
    rate: int

    @property
    def events(self) -> int:
        """How many events that makes."""
        return self.sessions * EVENTS_PER_TASK


def run_demo(size: Size) -> int:
    """Run the demo; the audit's exit status, or 1 if the story came out otherwise than told.

    Raises `TidegateError` if a part of it cannot start or dies; its log is kept then, and named. Ctrl-C and SIGTERM end
    it with everything it started.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # errors come back as ours, with what to do
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    classpath()  # has a progress display of its own
    directory = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        began = time.monotonic()
        with console.status("starting Apache Kafka"):
            broker = LocalBroker(ephemeral=True, short_lived=True).__enter__()
        with broker:
            _done(console, f"Apache Kafka {KAFKA_VERSION} answers at {broker.bootstrap_servers}", began)
            status = asyncio.run(_Demo(console, broker, directory, size).run())
    except KeyboardInterrupt:
        console.print("stopped")
        status = 130
    except TidegateError:
        with contextlib.suppress(OSError):
            directory.rmdir()  # but not with logs in it: the error names one
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    shutil.rmtree(directory, ignore_errors=True)
    return status


class _Demo:
    def __init__(self, console: Console, broker: LocalBroker, directory: Path, size: Size) -> None:
        self._console = console
        self._broker = broker
        self._directory = directory
        self._size = size
        self._metrics_port = free_port()
        given = {
            "bootstrap_servers": broker.bootstrap_servers,
            "security_protocol": "PLAINTEXT",
            "topic_prefix": "tidegate",
            "group_id": "tidegate",
            "partitions": PARTITIONS,
            "replication_factor": 1,
            "metrics_host": "127.0.0.1",
            "metrics_port": self._metrics_port,
            "state_dir": str(directory),
            "log_level": "info",
            "log_format": "console",
        }
        self._settings: Settings = load_settings(**given)
        self._environment = {f"TIDEGATE_{name.upper()}": str(value) for name, value in given.items()}

    async def run(self) -> int:
        """The exit status."""
        began = time.monotonic()
        await create_topics(self._settings)
        _done(self._console, f"{len(topics())} topics of {PARTITIONS} partitions", began)
        began = time.monotonic()
        async with self._child("worker", "-m", "tidegate", "worker") as worker:
            with self._console.status("starting the worker"):
                await _unless(self._ready(), worker.ended(), self._broker_ended())
            _done(
                self._console,
                f"a worker, process {worker.pid}; its metrics: http://127.0.0.1:{self._metrics_port}/metrics",
                began,
            )
            return await _unless(self._acts(), worker.ended(), self._broker_ended())

    async def _acts(self) -> int:
        async with self._child("consumer", "-m", "local.demo.consumer", talks=True) as consumer:
            heard = _Ear(consumer)
            async with heard.listening():
                surprised = await _unless(self._story(heard), heard.gone())
                sent, seconds = await _unless(self._load(heard), heard.gone())
                consumer.hang_up()
                await _unless(heard.until(lambda: heard.summary is not None, "the consumer's sum"), heard.gone())
        self._console.print(load_table(heard.summary or {}, events=sent, seconds=seconds))
        found = await self._audit()
        return found or surprised

    async def _story(self, heard: _Ear) -> int:
        print_ = self._console.print
        with self._console.status("playing the story"):
            async with self._child("producer", "-m", "local.demo.producer", "story", talks=True) as producer:
                async for _ in producer.lines():
                    pass
            await heard.until(heard.has_both_stories, "what the gate has to say to the story")
        print_(
            "\n[bold]A story.[/bold] An agent is asked for a flight. What its answer depends on travels with the task:"
        )
        for name, value in SNAPSHOT.items():
            print_(f'  {name} = "{value}"', highlight=False)
        print_("What happens while it works decides. Each line is a session of its own, with this one task in it.")
        print_(story_table(heard.story))
        print_("[bold]The life of a task.[/bold] What else can become of it. Again, each has a session of its own.")
        print_(life_table(heard.life))
        lines = surprises(heard.story) + life_surprises(heard.life)
        for line in lines:
            print_(f"[bold red]not as expected:[/bold red] {line}")
        return 1 if lines else 0

    async def _load(self, heard: _Ear) -> tuple[int, float]:
        """Events sent, and the seconds from the first of them to the last verdict."""
        size = self._size
        self._console.print(
            f"\n[bold]A load.[/bold] {size.sessions:,} sessions, {size.events:,} events,"
            f" sent with {size.rate:,} events/s."
        )
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        sent: dict[str, Any] = {}
        began = time.monotonic()
        with Progress(*columns, console=self._console) as progress:
            events = progress.add_task("events sent", total=size.events)
            judged = progress.add_task("results judged", total=size.sessions)
            heard.on_judged = lambda count: progress.update(judged, completed=count)
            arguments = ["load", str(size.rate), str(size.sessions), str(size.sessions)]
            async with self._child("producer", "-m", "local.demo.producer", *arguments, talks=True) as producer:
                async for sent in producer.lines():
                    progress.update(events, completed=sent["events"])
            await heard.until(lambda: heard.judged >= size.sessions, "the load's verdicts")
        return sent["events"], time.monotonic() - began

    async def _audit(self) -> int:
        self._console.print("\n[bold]The audit.[/bold] Everything is read again, and recomputed by other code.")
        deadline = time.monotonic() + _DRAIN_SECONDS
        while True:
            report = await audit(self._settings, require_drained=True)
            # What comes after the last result of a partition is folded, but committed at leisure.
            if not report.counts["waiting"] or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        report.print(self._console)
        return 0 if report.clean else 1

    async def _ready(self) -> None:
        address = f"http://127.0.0.1:{self._metrics_port}/readyz"
        deadline = time.monotonic() + _READY_SECONDS
        while not await asyncio.to_thread(_answers, address):
            if time.monotonic() > deadline:
                raise TidegateError(
                    f"The worker is not ready after {_READY_SECONDS:.0f} s.",
                    f"Its log: {self._directory / 'worker.log'}",
                )
            await asyncio.sleep(0.1)

    async def _broker_ended(self) -> None:
        while self._broker.pid is not None:  # noqa: ASYNC110 - not a child that asyncio waits for
            await asyncio.sleep(0.2)
        raise self._broker.failure("The Kafka broker ended")

    def _child(self, name: str, *arguments: str, talks: bool = False) -> Child:
        return Child(name, list(arguments), self._environment, self._directory, talks=talks)


async def _unless(doing: Coroutine[Any, Any, T], *troubles: Coroutine[Any, Any, None]) -> T:
    """The result of `doing`, unless one of the others raises first: then that."""
    work = asyncio.ensure_future(doing)
    watched = [asyncio.ensure_future(trouble) for trouble in troubles]
    try:
        done, _ = await asyncio.wait((work, *watched), return_when=asyncio.FIRST_COMPLETED)
        for trouble in watched:
            if trouble in done:
                trouble.result()
        return await work
    finally:
        for future in (work, *watched):
            future.cancel()
        await asyncio.gather(work, *watched, return_exceptions=True)


class _Ear:
    """What the consumer process has told so far."""

    def __init__(self, consumer: Child) -> None:
        self.story: dict[str, dict[str, Any]] = {}
        self.life: dict[str, list[Told]] = {}
        self.judged = 0
        self.summary: dict[str, Any] | None = None
        self.on_judged: Callable[[int], None] = lambda _count: None
        self._consumer = consumer
        self._news = asyncio.Event()
        self._died = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        listener = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    def has_both_stories(self) -> bool:
        """Whether as much was heard as the stories expect."""
        ended = all(len(self.life.get(each.session_id, ())) >= len(each.expected) for each in LIFE)
        return ended and len(self.story) == len(STORY)

    async def gone(self) -> None:
        """Wait until the consumer has died; raises `TidegateError` then."""
        await self._died.wait()
        raise self._consumer.failure()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for the condition. Raises `TidegateError` if nothing is told for half a minute."""
        while not condition():
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), _VERDICT_SECONDS)
            except TimeoutError:
                raise TidegateError(
                    f"Waited {_VERDICT_SECONDS:.0f} s for {what}, in vain.",
                    f"The worker's log may say why: {self._consumer.log_file.with_name('worker.log')}",
                ) from None

    async def _listen(self) -> None:
        try:
            async for line in self._consumer.lines():
                if "verdict" in line:
                    self.story[line["session_id"]] = line["verdict"]
                elif "event" in line:
                    self._hear_life(line["session_id"], line["event"])
                elif "judged" in line:
                    self.judged = line["judged"]
                    self.on_judged(self.judged)
                elif "results" in line:
                    self.summary = line
                self._news.set()
        except TidegateError:
            self._died.set()

    def _hear_life(self, session_id: str, event: dict[str, Any]) -> None:
        line, lines = told(event), self.life.setdefault(session_id, [])
        if line is not None and line not in lines:  # a status may come again with other progress
            lines.append(line)


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2.0) as answer:  # noqa: S310 - ours
        return bool(answer.status == 200)
    return False


def _done(console: Console, what: str, began: float) -> None:
    console.print(f"[green]✓[/green] {what} [dim]({time.monotonic() - began:.1f} s)[/dim]", highlight=False)
