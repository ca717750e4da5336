"""Made-up traffic: users at work, agents working for them, at a steady rate. `tidegate traffic`, and the demo's load.

Every task's life is ten events. In a given share of the lives something happens that makes the result stale, or that it
must be withheld for. Time passes in rounds: whatever was sent in one is acknowledged before the next begins, so the
events of a session follow each other as in life. JSON is written by hand and sent in batches made by hand, for this is
also the load the gate is measured with: one core makes more than 100,000 events/s.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from schemas.topics import topic_name
from tidegate.errors import TidegateError
from tidegate.logs import configure
from tidegate.refusals import unanswered
from tidegate.settings import Settings, load_settings
from tidegate.topics import describe_topics

Role = Literal["context", "steps", "results"]
Happening = Literal["nothing", "edited", "navigated", "new conversation", "archived", "left", "half stale", "failed"]

_log = structlog.get_logger(__name__)

EVENTS_PER_TASK = 10
ROUND_SECONDS = 0.05
_LOG_SECONDS = 10.0
_ROLES: tuple[Role, ...] = ("context", "steps", "results")
_WAITS = (1, 1, 2, 2, 3, 4, 6, 9)  # rounds between two events of a life
_TASKS_PER_ROUND = 400  # at full speed: rounds of a few thousand events
_BATCH_BYTES = 1_000_000  # just below what a topic takes by default
_REQUESTS = 8  # request ids of a session are used again, so that its row stays small

# What happens while an agent works, and how often: about one result in four is stale or withheld.
_SHARES: dict[Happening, int] = {
    "nothing": 74,
    "edited": 8,
    "navigated": 5,
    "new conversation": 4,
    "archived": 2,
    "left": 2,
    "half stale": 3,
    "failed": 2,
}
_TASK_TYPES = ("answer", "search", "summary", "booking")


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    rate: events per second; 0 sends as fast as the broker acknowledges.
    sessions: how many there are; each has one task at a time, so very few of them limit the rate.
    tasks: how many tasks to begin; None for no end.
    seconds: how long to begin tasks; None for no end. Those begun are always brought to their end.
    name: what the session ids begin with.
    first_task: number of each session's first task. A session must not see a number twice: its tasks are told by it.
    """

    rate: float
    sessions: int
    tasks: int | None = None
    seconds: float | None = None
    name: str = "traffic"
    first_task: int = 0
    seed: int = 0


@dataclass(slots=True)
class Sent:
    """What has been acknowledged. `seconds` since the first event."""

    events: int = 0
    tasks: int = 0
    seconds: float = 0.0
    by_topic: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Line:
    """One event: its topic, and its JSON up to `occurred_at`, which the sender adds."""

    role: Role
    text: str


def task_life(session: str, number: int, happening: Happening) -> Iterator[Line]:
    """The ten events of one task, the `number`-th of its session. Drawn one by one, at the moment each is sent."""
    task, doc, talk, view = f"t{number}", f"d{number}", f"c{number}", f"v{number}"
    request = f"r{number % _REQUESTS}"
    count = 0

    def event(role: Role, event_type: str, source: str, rest: str) -> Line:
        nonlocal count
        count += 1
        return Line(
            role,
            f'{{"type":"{event_type}","source":"{source}","event_id":"{session}/{number}.{count}",'
            f'"session_id":"{session}",{rest}',
        )

    def changed(facet: str, value: str, source: str = "web") -> Line:
        return event("context", "context.changed", source, f'"set":{{"{facet}":"{value}"}}')

    def step(step_id: str, kind: str, status: str, rest: str = "") -> Line:
        fields = f'"task_id":"{task}","step_id":"{step_id}","kind":"{kind}","status":"{status}"{rest}'
        return event("steps", "task.step", "agent", fields)

    yield event(
        "context",
        "context.changed",
        "web",
        f'"set":{{"presence/web":"present","conversation":"{talk}","view/web":"{view}","doc/plan":"{doc}",'
        f'"request/{request}":"1"}}',
    )
    also = f',"view/web":"{view}"' if happening == "navigated" else ""
    absent = ',"when_absent":"withhold"' if happening == "left" else ""
    yield event(
        "steps",
        "task.dispatched",
        "orchestrator",
        f'"task_id":"{task}","task_type":"{_TASK_TYPES[number % len(_TASK_TYPES)]}","request_id":"{request}",'
        f'"snapshot":{{"conversation":"{talk}","doc/plan":"{doc}"{also}}},"destination":"{talk}"{absent}',
    )
    yield step("plan", "model_call", "started")
    yield changed("cursor", f"{number}.1")
    yield step("read", "tool_call", "completed", f',"name":"get_calendar","reads":{{"calendar/tuesday":"k{number}"}}')
    # The agent writes into the very document its task depends on.
    yield event(
        "context",
        "context.changed",
        "documents",
        f'"set":{{"doc/plan":"{doc}+"}},"cause":{{"task_id":"{task}"}}',
    )
    yield step("plan", "model_call", "progressed", ',"progress":0.6,"message":"Comparing what I have found"')
    yield {
        "nothing": lambda: changed("cursor", f"{number}.2"),
        "edited": lambda: changed("doc/plan", f"{doc}!", "documents"),
        "navigated": lambda: changed("view/web", f"{view}!"),
        "new conversation": lambda: changed("conversation", f"{talk}!"),
        "archived": lambda: changed(f"request/{request}", "archived"),
        "left": lambda: changed("presence/web", "absent"),
        "half stale": lambda: changed("doc/plan", f"{doc}!", "documents"),
        "failed": lambda: changed("doc/plan", f"{doc}!", "documents"),
    }[happening]()
    yield step("plan", "model_call", "completed")
    produced = f'"produced_at_ms":{time.time() * 1000:.1f}'
    show = f'{{"part_id":"text","kind":"show","payload":{{"text":"Done: {doc}",{produced}}}'
    if happening == "half stale":
        apply = f'{{"part_id":"edit","kind":"apply","payload":{{"doc/plan":"{doc}",{produced}}}}}'
        parts = f'"parts":[{show},"on_stale":"annotate"}},{apply}]'
    else:
        parts = f'"parts":[{show}}}]'
    outcome = '"failed","error":{"code":"tool_unavailable"}' if happening == "failed" else '"completed"'
    yield event("results", "task.result", "agent", f'"task_id":"{task}","outcome":{outcome},{parts}')


class _Life:
    """A task under way: its events still to come, and where they go."""

    __slots__ = ("events", "key", "left", "partition", "session", "task")

    def __init__(self, session: int, task: int, place: tuple[bytes, int], events: Iterator[Line]) -> None:
        self.session = session
        self.task = task
        self.key, self.partition = place
        self.events = events
        self.left = EVENTS_PER_TASK


class Traffic:
    """Sends a load to the broker of `settings`. `stop()` begins no more tasks and hurries those begun to their end."""

    def __init__(self, settings: Settings, load: Load, on_round: Callable[[Sent], None] = lambda _sent: None) -> None:
        self.sent = Sent()
        self._settings = settings
        self._load = load
        self._on_round = on_round
        self._rng = random.Random(load.seed)  # noqa: S311 - not for secrets
        self._topics = {role: topic_name(role, settings.topic_prefix) for role in _ROLES}
        self._free = deque((session, load.first_task) for session in range(load.sessions))
        self._places: dict[int, tuple[bytes, int]] = {}
        self._partitions = 0
        self._begun = 0
        self._wheel: dict[int, list[_Life]] = {}
        self._stopping = False

    def stop(self) -> None:
        """Begin no more tasks; `run` returns within a second or two."""
        self._stopping = True

    async def run(self) -> Sent:
        """Send the load; returns when every event is acknowledged. Raises `TidegateError` if the broker fails.

        Cancelled, it leaves tasks without a result.
        """
        found = await describe_topics(self._settings, self._topics.values())
        missing = [topic for topic in self._topics.values() if topic not in found]
        if missing:
            raise TidegateError(
                f"There is no topic {missing[0]} on {self._settings.bootstrap_servers}.",
                "`tidegate topics create` makes the gate's topics.",
            )
        partitions = found[self._topics["context"]].partitions
        producer = AIOKafkaProducer(
            **self._settings.kafka_kwargs(),
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            retry_backoff_ms=20,
        )
        try:
            await producer.start()
            await self.send_to(producer, partitions)
        except KafkaError as error:
            raise unanswered(self._settings, error) from error
        finally:
            await producer.stop()
        return self.sent

    async def send_to(self, producer: AIOKafkaProducer, partitions: int) -> None:
        """Send the load through this producer, on topics of so many partitions."""
        self._partitions = partitions
        began = time.monotonic()
        per_round = self._load.rate * ROUND_SECONDS / EVENTS_PER_TASK
        owed, number = 0.0, 0
        while True:
            ends = self._ends(time.monotonic() - began)
            if ends and not self._wheel:
                return
            if not ends:
                owed += per_round if self._load.rate else _TASKS_PER_ROUND
                owed -= self._begin(int(owed), number)
                owed = min(owed, per_round + 1)  # what sessions were not free for is not made up for
            if self._stopping and self._wheel:
                number = min(self._wheel)  # nobody waits for anything any more
            await self._send(producer, self._wheel.pop(number, []), number)
            number += 1
            self.sent.seconds = time.monotonic() - began
            self._on_round(self.sent)
            if self._load.rate and not self._stopping:
                await asyncio.sleep(max(0.0, began + number * ROUND_SECONDS - time.monotonic()))

    def _ends(self, seconds: float) -> bool:
        load = self._load
        enough = load.tasks is not None and self._begun >= load.tasks
        return self._stopping or enough or (load.seconds is not None and seconds >= load.seconds)

    def _begin(self, tasks: int, number: int) -> int:
        """Begin so many tasks in this round, or as many as there are free sessions; how many that are."""
        if self._load.tasks is not None:
            tasks = min(tasks, self._load.tasks - self._begun)
        tasks = min(tasks, len(self._free))
        if tasks <= 0:
            return 0
        happenings = self._rng.choices(list(_SHARES), list(_SHARES.values()), k=tasks)
        due = self._wheel.setdefault(number, [])
        for happening in happenings:
            session, task = self._free.popleft()
            name = f"{self._load.name}-{session:06}"
            if session not in self._places:
                key = name.encode()
                self._places[session] = key, (murmur2(key) & 0x7FFFFFFF) % self._partitions
            due.append(_Life(session, task, self._places[session], task_life(name, task, happening)))
        self._begun += tasks
        return tasks

    async def _send(self, producer: AIOKafkaProducer, due: list[_Life], number: int) -> None:
        """Send the next event of every life that is due, and wait until the broker has acknowledged them all."""
        tail = f',"occurred_at":"{datetime.now(UTC).isoformat(timespec="milliseconds")}"}}'
        now_ms = int(time.time() * 1000)
        batches = _Batches(producer, now_ms)
        wheel, waits, choice = self._wheel, _WAITS, self._rng.choice
        for life in due:
            line = next(life.events)
            batches.add((line.role, life.partition), life.key, (line.text + tail).encode())
            life.left -= 1
            if life.left:
                wheel.setdefault(number + choice(waits), []).append(life)
            else:
                self._free.append((life.session, life.task + 1))
                self.sent.tasks += 1
        self.sent.by_topic += await batches.send(self._topics)
        self.sent.events += len(due)


class _Batches:
    """The records of one round, one batch for each topic partition; more where one is full."""

    def __init__(self, producer: AIOKafkaProducer, timestamp_ms: int) -> None:
        self._producer = producer
        self._timestamp_ms = timestamp_ms
        self._open: dict[tuple[Role, int], Any] = {}
        self._full: list[tuple[tuple[Role, int], Any]] = []

    def add(self, place: tuple[Role, int], key: bytes, value: bytes) -> None:
        batch = self._open.get(place)
        if batch is None or batch.append(timestamp=self._timestamp_ms, key=key, value=value) is None:
            if batch is not None:
                self._full.append((place, batch))
            batch = self._open[place] = self._producer.create_batch()
            batch.append(timestamp=self._timestamp_ms, key=key, value=value)

    async def send(self, topics: dict[Role, str]) -> Counter[str]:
        """Send them all and wait for their acknowledgement; how many records went to each topic."""
        counts: Counter[str] = Counter()
        sending = []
        for (role, partition), batch in (*self._full, *self._open.items()):
            counts[topics[role]] += batch.record_count()
            sending.append(await self._producer.send_batch(batch, topics[role], partition=partition))
        await asyncio.gather(*sending)
        return counts


def run_traffic(load: Load) -> None:
    """`tidegate traffic`: send the load until its end, or until Ctrl-C or SIGTERM, and log how it goes.

    Raises `TidegateError` if the broker cannot be reached or fails.
    """
    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors come back as ours, with what to do
    asyncio.run(_until_signal(settings, load))


async def _until_signal(settings: Settings, load: Load) -> None:
    last = Sent()

    def on_round(sent: Sent) -> None:
        nonlocal last
        if sent.seconds - last.seconds >= _LOG_SECONDS:
            rate = (sent.events - last.events) / (sent.seconds - last.seconds)
            _log.info("traffic", events=sent.events, tasks=sent.tasks, events_per_second=round(rate))
            last = replace(sent)

    traffic = Traffic(settings, load, on_round)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, traffic.stop)
    _log.info("traffic_starting", bootstrap_servers=settings.bootstrap_servers, rate=load.rate, sessions=load.sessions)
    sent = await traffic.run()
    _log.info("traffic_ended", events=sent.events, tasks=sent.tasks, seconds=round(sent.seconds, 1), **sent.by_topic)
