"""Sends made-up events on a schedule fixed beforehand, whatever becomes of them: an open loop, a process of its own.

An event's time is the one it was to be sent at, never the one it was sent at; a producer that falls behind thereby
makes what it sends late, not rarer. Events come in bunches, `BUNCH_SECONDS` apart, as from producers that linger;
idle, one result at a time. All records are made, and put into batches, before the clock starts: what is left to do on
the way is to send.

Run as `python -m bench.openloop <schedule as JSON>`. Prints how many results there will be, waits for a line with the
start (nanoseconds of the monotonic clock), sends, and prints a report as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from schemas.topics import topic_name
from testing.workload import Record, Workload

BUNCH_SECONDS = 0.005
BATCH_BYTES = 512 * 1024
TASK_SECONDS = 0.5
"""How long a task runs, from its dispatch to its result."""
SETTLING_SECONDS = 1.0
"""Between what an idle run needs beforehand and its first result."""
SPIN_SECONDS = 0.002
"""The event loop's timers are a millisecond coarse, which would be a good part of an idle latency."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What to send. `echo_topic`: where every record goes instead of the topics of the gate."""

    bootstrap_servers: str
    topic_prefix: str
    partitions: int
    seed: int
    sessions: int
    per_second: int
    seconds: float
    only_results: bool
    echo_topic: str | None = None

    def to_json(self) -> str:
        """As `python -m bench.openloop` takes it."""
        return orjson.dumps(asdict(self)).decode()


class Bunch(NamedTuple):
    """What is sent at one time: batches by topic and partition, and the tasks whose results are in them."""

    at_seconds: float
    batches: dict[tuple[str, int], Any]
    task_ids: list[str]
    events: int


async def run(schedule: Schedule) -> None:
    """Prepare, wait for the start, send, report."""
    async with AIOKafkaProducer(
        bootstrap_servers=schedule.bootstrap_servers,
        acks="all",
        linger_ms=0,
        retry_backoff_ms=5,
        max_batch_size=BATCH_BYTES,
    ) as producer:
        before, timed = _records(schedule)
        for bunch in _bunches(producer, schedule, before, every=1000, apart_seconds=0):
            await asyncio.gather(*await _send_bunch(producer, bunch))
        each = 1 if schedule.only_results else round(schedule.per_second * BUNCH_SECONDS)
        bunches = list(_bunches(producer, schedule, timed, each, each / schedule.per_second))
        await asyncio.sleep(SETTLING_SECONDS if before else 0)
        gc.collect()
        gc.freeze()
        gc.disable()
        print(sum(len(bunch.task_ids) for bunch in bunches), flush=True)
        start_ns = int(await asyncio.to_thread(sys.stdin.readline))
        spin_seconds = SPIN_SECONDS if schedule.only_results else 0.0
        print(orjson.dumps(await _send(producer, bunches, start_ns, spin_seconds)).decode(), flush=True)


def _records(schedule: Schedule) -> tuple[list[Record], list[Record]]:
    """What has to be there before the clock starts, and what is sent on time."""
    count = round(schedule.per_second * schedule.seconds)
    workload = Workload(
        sessions=schedule.sessions,
        partitions=schedule.partitions,
        seed=schedule.seed,
        name="latency",
        open_tasks=count if schedule.only_results else max(1, round(schedule.per_second / 10 * TASK_SECONDS)),
    )
    if not schedule.only_results:
        return [], list(workload.records(count, finish=False))
    records = list(workload.records(count * 10))
    results = [record for record in records if record.role == "results"]
    return [record for record in records if record.role != "results"], results[:count]


def _bunches(
    producer: AIOKafkaProducer, schedule: Schedule, records: Iterable[Record], every: int, apart_seconds: float
) -> Iterable[Bunch]:
    rest, number = iter(records), 0
    while several := list(islice(rest, every)):
        batches: dict[tuple[str, int], Any] = {}
        for record in several:
            topic = schedule.echo_topic or topic_name(record.role, schedule.topic_prefix)
            batch = batches.get((topic, record.partition))
            if batch is None:
                batch = batches[topic, record.partition] = producer.create_batch()
            if batch.append(key=record.key, value=record.value, timestamp=None) is None:
                raise ValueError("a bunch is larger than a batch may be")
        task_ids = [record.task_id for record in several if record.role == "results" and record.task_id]
        yield Bunch(number * apart_seconds, batches, task_ids, len(several))
        number += 1


async def _send_bunch(producer: AIOKafkaProducer, bunch: Bunch) -> list[asyncio.Future[Any]]:
    return [
        await producer.send_batch(batch, topic, partition=partition)
        for (topic, partition), batch in bunch.batches.items()
    ]


async def _send(producer: AIOKafkaProducer, bunches: list[Bunch], start_ns: int, spin_seconds: float) -> dict[str, Any]:
    intended: dict[str, int] = {}
    late_ns: list[int] = []
    sent: list[asyncio.Future[Any]] = []
    for bunch in bunches:
        at_ns = start_ns + round(bunch.at_seconds * 1e9)
        if (wait := (at_ns - time.monotonic_ns()) / 1e9 - spin_seconds) > 0:
            await asyncio.sleep(wait)
        while time.monotonic_ns() < at_ns:  # noqa: ASYNC110 - an event cannot be set at a time either
            await asyncio.sleep(0)
        late_ns.append(time.monotonic_ns() - at_ns)
        sent += await _send_bunch(producer, bunch)
        for task_id in bunch.task_ids:
            intended[task_id] = at_ns
    await asyncio.gather(*sent)
    late_ns.sort()
    return {
        "intended_ns": intended,
        "events": sum(bunch.events for bunch in bunches),
        "acknowledged_ns": time.monotonic_ns(),
        "late_p99_ms": round(late_ns[int(len(late_ns) * 0.99)] / 1e6, 2),
        "late_max_ms": round(late_ns[-1] / 1e6, 2),
    }


if __name__ == "__main__":
    asyncio.run(run(Schedule(**orjson.loads(sys.argv[1]))))
