"""A gate under test: topics of its own, real worker processes, and everything a test does to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.producer.message_accumulator import BatchBuilder

from schemas.events import Event
from schemas.topics import Role, topic_name
from testing.process import Worker, environment, until_ready
from testing.produce import bulk_producer, write
from testing.watching import Progress
from testing.workload import Record
from tests.broker.events import body, role_of
from tests.broker.evidence import evidence_of
from tests.broker.outputs import Outputs
from tests.broker.waiting import wait_for
from tidegate.settings import Settings
from tidegate.topics import create_topics

LARGEST_BATCH_BYTES: Final = 1_048_588
"""The broker's own limit (`message.max.bytes`)."""
HEADLINES: Final = ("lost", "duplicated", "stale_delivered", "fresh_withheld")


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
        if done.returncode:
            told = f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
            if arguments[0] == "audit" and done.stdout:
                told = f"{told}\n{await evidence_of(self.settings, json.loads(done.stdout))}"
            raise AssertionError(f"{arguments[0]}: exit status {done.returncode}\n{told}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
