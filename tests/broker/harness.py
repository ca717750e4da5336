"""A gate under test: real worker processes, producers and a reader beside them, all over one prefix of topics.

Nothing here waits for a fixed time: `wait_for` polls a condition, and every test says what it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.producer.message_accumulator import BatchBuilder

from bench.process import Worker, environment, until_ready
from bench.produce import bulk_producer, write
from bench.watching import Progress
from bench.workload import Record, Workload, partition_of
from schemas.events import ContextChanged, Event, TaskDispatched, TaskResult, TaskStep
from schemas.topics import Role, topic_name
from tidegate.settings import Settings
from tidegate.topics import create_topics

T = TypeVar("T")

POLL_SECONDS: Final = 0.05
OUTPUT_ROLES: Final[tuple[Role, ...]] = ("delivered", "withheld", "tasks", "dlq")
LARGEST_BATCH_BYTES: Final = 1_048_588
"""The broker's own limit (`message.max.bytes`)."""
HEADLINES: Final = ("lost", "duplicated", "stale_delivered", "fresh_withheld")

_numbers = itertools.count(1)


# ---- waiting


async def wait_for(
    condition: Callable[[], Awaitable[T]],
    timeout_seconds: float,
    describe: str,
    state: Callable[[], object] = str,
) -> T:
    """The first true answer of `condition`; after the timeout the test fails, saying what was waited for."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds:.0f} s: {describe}. {state()}")
        await asyncio.sleep(POLL_SECONDS)


# ---- events


def _envelope(session_id: str) -> dict[str, Any]:
    return {
        "source": "test",
        "event_id": f"event-{next(_numbers)}",
        "session_id": session_id,
        "occurred_at": datetime.now(UTC),
    }


def changed(session_id: str, set_: Mapping[str, str] | None = None, **fields: Any) -> ContextChanged:
    """A context event."""
    return ContextChanged(type="context.changed", set=dict(set_ or {}), **{**_envelope(session_id), **fields})


def dispatched(session_id: str, task_id: str, snapshot: Mapping[str, str | None], **fields: Any) -> TaskDispatched:
    """A dispatch that depends on `snapshot`."""
    own = {"type": "task.dispatched", "task_id": task_id, "task_type": "test", "snapshot": dict(snapshot)}
    return TaskDispatched(**{**_envelope(session_id), **own, **fields})


def stepped(session_id: str, task_id: str, **fields: Any) -> TaskStep:
    """A completed step."""
    own = {"type": "task.step", "task_id": task_id, "step_id": "1", "status": "completed"}
    return TaskStep(**{**_envelope(session_id), **own, **fields})


def returned(session_id: str, task_id: str, **fields: Any) -> TaskResult:
    """A completed result with one part to show."""
    parts = [{"part_id": "answer", "kind": "show", "payload": {"text": f"the answer of {task_id}"}}]
    own = {"type": "task.result", "task_id": task_id, "outcome": "completed", "parts": parts}
    return TaskResult(**{**_envelope(session_id), **own, **fields})


def body(event: Event) -> bytes:
    """What a producer writes: the fields that were set, and no others."""
    return event.model_dump_json(exclude_unset=True).encode()


def sessions_on(partition: int, partitions: int, count: int, name: str = "session") -> list[str]:
    """`count` session ids that belong to `partition`."""
    found: list[str] = []
    for number in itertools.count():
        session_id = f"{name}-{number}"
        if partition_of(session_id.encode(), partitions) == partition:
            found.append(session_id)
            if len(found) == count:
                return found
    raise AssertionError


def backlog(role: Role, count: int, partitions: int, sessions: int = 500) -> Iterator[Record]:
    """`count` records that only make a topic long: context of sessions without tasks, or signs of life of no task."""
    keys = [f"backlog-{number}".encode() for number in range(sessions)]
    homes = [partition_of(key, partitions) for key in keys]
    middle = {
        "context": b'","type":"context.changed","set":{"view/tab-1":"inbox"},"event_id":"',
        "steps": b'","type":"task.heartbeat","task_id":"nobodys","event_id":"',
    }[role]
    for number in range(count):
        session = number % sessions
        value = b'{"source":"backlog","session_id":"%b%b%d-%d","occurred_at":"2025-06-02T00:00:00Z"}' % (
            keys[session],
            middle,
            next(_numbers),
            number,
        )
        yield Record(role, homes[session], keys[session], value, None)


# ---- what the gate wrote


@dataclass(frozen=True, slots=True)
class Output:
    """One record the gate wrote. `body` is None for a tombstone and in the DLQ."""

    role: Role
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    body: Any


class Outputs:
    """A `read_committed` reader of everything the gate writes, from the beginning on.

    `keep=False` keeps no bodies, for loads of which only the counts matter.
    """

    def __init__(self, settings: Settings, *, keep: bool = True) -> None:
        self._settings = settings
        self._keep = keep
        self._roles = {topic_name(role, settings.topic_prefix): role for role in OUTPUT_ROLES}
        self._consumer: Any = AIOKafkaConsumer(
            **settings.kafka_kwargs(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=4 * 1024 * 1024,
            request_timeout_ms=120_000,
        )
        self.records: list[Output] = []
        self.verdicts: Counter[str] = Counter()
        """Verdicts by the event id of the result they are about: one for a result all of whose parts went one way."""
        self.endings: Counter[str] = Counter()
        """Statuses that say `ended`, by task."""
        self.decisions: Counter[tuple[str, str]] = Counter()
        """Verdicts by decision and reason."""

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        partitions = [
            TopicPartition(topic, number) for topic in self._roles for number in range(self._settings.partitions)
        ]
        self._consumer.assign(partitions)
        for tp, offset in (await self._consumer.beginning_offsets(partitions)).items():
            self._consumer.seek(tp, offset)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def poll(self) -> None:
        """Take in what has arrived."""
        for tp, records in (await self._consumer.getmany(timeout_ms=20)).items():
            for record in records:
                self._take(self._roles[tp.topic], tp.partition, record)

    def _take(self, role: Role, partition: int, record: Any) -> None:
        parsed = None if role == "dlq" or record.value is None else orjson.loads(record.value)
        if parsed is not None and role == "tasks":
            if parsed["status"] == "ended":
                self.endings[parsed["task_id"]] += 1
        elif parsed is not None:
            self.verdicts[parsed["result"]["event_id"]] += 1
            self.decisions[parsed["verdict"]["decision"], parsed["verdict"]["reason"]] += 1
        if self._keep:
            headers = dict(record.headers)
            self.records.append(Output(role, partition, record.offset, record.key, record.value, headers, parsed))

    async def until(
        self, condition: Callable[[], T], timeout_seconds: float, describe: str, state: Callable[[], object] = str
    ) -> T:
        """Take in what arrives until `condition` is true; its value."""

        async def check() -> T:
            await self.poll()
            return condition()

        return await wait_for(check, timeout_seconds, describe, state)

    def of(self, role: Role) -> list[Output]:
        """What was written to one topic."""
        return [record for record in self.records if record.role == role]

    def verdict(self, task_id: str) -> Output | None:
        """The only output about the task's result, or None. Fails where there is more than one."""
        found = [
            each for each in self.records if each.role in {"delivered", "withheld"} and each.body["task_id"] == task_id
        ]
        assert len(found) <= 1, f"{len(found)} verdicts for {task_id}: {found}"
        return found[0] if found else None

    def decided(self, task_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Decision and reason of the tasks that have a verdict."""
        wanted = set(task_ids)
        return {
            each.body["task_id"]: (each.body["verdict"]["decision"], each.body["verdict"]["reason"])
            for each in self.records
            if each.role in {"delivered", "withheld"} and each.body["task_id"] in wanted
        }


# ---- the gate


class Gate:
    """Topics of its own, the workers on them, and everything a test does to them.

    Ends its workers at the end of `async with`, and shows the ends of their logs where the test failed.
    """

    def __init__(self, settings: Settings, directory: Path, **changes: object) -> None:
        self.settings = settings
        self.directory = directory
        self.workers: list[Worker] = []
        self.producer = bulk_producer(**settings.kafka_kwargs())
        self.progress = Progress(settings)
        self._changes = changes
        self._admin: Any = AIOKafkaAdminClient(**settings.kafka_kwargs(), request_timeout_ms=120_000)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await create_topics(self.settings)
        await self._stack.enter_async_context(self.producer)
        await self._stack.enter_async_context(self.progress)
        await self._admin.start()
        self._stack.push_async_callback(self._admin.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.kill()
        await self._stack.aclose()
        if error is not None:
            for worker in self.workers:
                sys.stderr.write(f"--- {worker.name} ({worker.exit_status})\n{worker.log_text()[-6000:]}\n")

    # workers

    def worker(self, name: str, **changes: Any) -> Worker:
        """A worker that is not started yet. `changes` are settings, or `host_name`."""
        worker = Worker(name, self.settings, self.directory, **{**self._changes, **changes})
        self.workers.append(worker)
        return worker

    async def start(self, *names: str, **changes: Any) -> list[Worker]:
        """Started workers, ready to judge."""
        started = [self.worker(name, **changes).start() for name in names]
        await until_ready(started)
        return started

    # writing

    def topic(self, role: Role) -> str:
        """The full name of a topic."""
        return topic_name(role, self.settings.topic_prefix)

    async def send(self, *events: Event) -> list[Any]:
        """Write events to the topics their types belong on; returns when all are acknowledged, with where they are."""
        return await self.send_with(self.producer, *events)

    async def send_with(self, producer: AIOKafkaProducer, *events: Event) -> list[Any]:
        """The same with another producer, such as a transactional one."""
        sent = [
            await producer.send(self.topic(role_of(event)), body(event), key=event.session_id.encode())
            for event in events
        ]
        return list(await asyncio.gather(*sent))

    async def write(self, records: Iterable[Record]) -> int:
        """Write many records fast; returns how many, when all are acknowledged."""
        return await write(self.producer, self.settings.topic_prefix, records)

    async def write_raw(
        self,
        role: Role,
        partition: int,
        *records: tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]],
    ) -> list[int]:
        """Write (key, value, headers) records in one batch, whatever they are; their offsets."""
        builder = BatchBuilder(LARGEST_BATCH_BYTES, 0, is_transactional=0)
        for key, value, headers in records:
            assert builder.append(key=key, value=value, timestamp=None, headers=list(headers)) is not None
        sent = await (await self.producer.send_batch(builder, self.topic(role), partition=partition))
        return list(range(sent.offset, sent.offset + len(records)))

    @asynccontextmanager
    async def transactional(self, name: str, timeout_seconds: float = 60.0) -> AsyncIterator[AIOKafkaProducer]:
        """A transactional producer of a user-facing service."""
        producer = AIOKafkaProducer(
            **self.settings.kafka_kwargs(),
            transactional_id=f"{self.settings.group_id}-test-{name}",
            transaction_timeout_ms=int(timeout_seconds * 1000),
            retry_backoff_ms=10,
        )
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    # reading, and what the broker knows

    def outputs(self, *, keep: bool = True) -> Outputs:
        """A reader of what the gate writes."""
        return Outputs(self.settings, keep=keep)

    async def read(self, role: Role, isolation_level: str = "read_committed") -> list[Any]:
        """Every record of a topic, partition by partition; waits for transactions that are still under way."""
        found: list[Any] = []
        consumer = AIOKafkaConsumer(
            **self.settings.kafka_kwargs(),
            isolation_level=isolation_level,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        async with consumer:
            tps = [TopicPartition(self.topic(role), number) for number in range(self.settings.partitions)]
            consumer.assign(tps)
            ends = await self.end_offsets(role)
            for tp, offset in (await consumer.beginning_offsets(tps)).items():
                consumer.seek(tp, offset)
            for tp in tps:
                while await consumer.position(tp) < ends[tp.partition]:
                    found += (await consumer.getmany(tp, timeout_ms=100)).get(tp, [])
        return found

    async def end_offsets(self, role: Role) -> dict[int, int]:
        """The high watermark of each partition of a topic."""
        async with Progress(self.settings, (role,)) as progress:
            return {tp.partition: end for tp, end in (await progress.ends()).items()}

    async def empty(self, role: Role, partition: int) -> int:
        """Delete every record of a partition; the offset at which it now begins and ends."""
        tp = TopicPartition(self.topic(role), partition)
        end = (await self.end_offsets(role))[partition]
        await self._admin.delete_records({tp: RecordsToDelete(before_offset=end)})
        return end

    async def drained(self, timeout_seconds: float, describe: str = "everything is folded and judged") -> None:
        """Wait until the group has committed up to the end of every input topic."""
        behind = -1

        async def check() -> bool:
            nonlocal behind
            for worker in self.workers:
                status = worker.exit_status if worker.started else None
                assert status is None or worker.expected_to_end, f"worker {worker.name} has ended ({status})"
            behind = await self.progress.behind()
            return behind == 0

        await wait_for(check, timeout_seconds, describe, lambda: f"{behind} offsets are not committed")

    # judging the gate

    async def audit(self, *, tasks: int | None = None) -> dict[str, Any]:
        """Run `tidegate audit --json` and demand a clean verdict; with `tasks`, exactly so many, all with an end."""
        answer = await self._ask("audit", "--json", "--require-drained")
        assert {name: answer[name] for name in HEADLINES} == dict.fromkeys(HEADLINES, 0)
        if tasks is not None:
            assert (answer["tasks"], answer["dispositions"]) == (tasks, tasks)
        return answer

    async def orphans(self) -> dict[str, Any]:
        """Run `tidegate orphans --json` and demand that there is none."""
        answer = await self._ask("orphans", "--json")
        assert answer["orphans"] == []
        return answer

    async def _ask(self, *arguments: str) -> dict[str, Any]:
        """What a command answers, which must find nothing wrong."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "tidegate", *arguments],
            cwd=self.directory,
            env=environment(self.settings, **self._changes),
            capture_output=True,
            text=True,
            check=False,
        )
        told = f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
        assert done.returncode == 0, f"{arguments[0]}: exit status {done.returncode}\n{told}"
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def role_of(event: Event) -> Role:
    """The topic an input event belongs on."""
    event_type = str(getattr(event, "type"))  # noqa: B009 - every event has one, but not their base
    if event_type in {"context.changed", "task.cancel_requested", "result.acknowledged", "session.erased"}:
        return "context"
    return "results" if event_type == "task.result" else "steps"


# ---- load


class Load:
    """Events at an even pace, in the order in which they happen: a result is sent only once its dispatch is there."""

    def __init__(self, gate: Gate, workload: Workload, per_second: float) -> None:
        self.workload = workload
        self.dispatched: list[str] = []
        self.sent = 0
        self._gate = gate
        self._per_second = per_second
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def start(self) -> Self:
        """Begin."""
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> None:
        """Send no further events but the results of every task that runs; returns when all is acknowledged."""
        self._stopping.set()
        assert self._task is not None
        await self._task

    @property
    def task(self) -> asyncio.Task[None]:
        """The work, to be looked at for errors."""
        assert self._task is not None
        return self._task

    async def _run(self) -> None:
        began = time.monotonic()
        while not self._stopping.is_set():
            due = int((time.monotonic() - began) * self._per_second) - self.sent
            if due > 0:
                await self._send(self.workload.records(min(due, 5000), finish=False))
            await asyncio.sleep(0.02)
        await self._send(self.workload.records(self.workload.running))

    async def _send(self, records: Iterable[Record]) -> None:
        chosen = list(records)
        before = [record for record in chosen if record.role != "results"]
        await self._gate.write(before)
        await self._gate.write(record for record in chosen if record.role == "results")
        self.sent += len(chosen)


async def each_once(outputs: Outputs, workload: Workload, timeout_seconds: float = 60) -> None:
    """Every result has one verdict and every task one end: counted here, without the audit's help.

    Both are waited for: a transaction's records become visible topic by topic, an end before its verdict now and then.
    The workload's results have one part, so no verdict is split over two outputs.
    """
    expected = (workload.results, workload.dispatches)
    await outputs.until(
        lambda: len(outputs.verdicts) >= workload.results and len(outputs.endings) >= workload.dispatches,
        timeout_seconds,
        "a verdict for every result, an end for every task",
        lambda: f"{len(outputs.verdicts)} verdicts and {len(outputs.endings)} ends, expected {expected}",
    )
    assert _other_than_once(outputs.verdicts) == []
    assert _other_than_once(outputs.endings) == []
    assert (len(outputs.verdicts), len(outputs.endings)) == expected


def _other_than_once(counts: Counter[str]) -> list[tuple[str, int]]:
    return [(name, count) for name, count in counts.items() if count != 1][:20]
