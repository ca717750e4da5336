"""A worker comes back: elsewhere, slowly, or to a changelog that is not what it was.

Stock Faust asserts that its assignment carries this process's address: a static member with another port or host name
then lives on and consumes nothing. A restore inside the rebalance callback keeps heartbeats from being sent, and two
workers evict each other for ever. A restore that races its own offset reset now and then restores nothing, and a gate
that does not compare what it restored with what it committed goes on with half its memory.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from testing.process import ROOT, Worker, until_ready
from testing.workload import Workload
from tests.broker.events import changed, dispatched, returned
from tests.broker.harness import Gate
from tests.broker.load import each_once
from tests.broker.proxy import FETCH, proxied_broker
from tests.broker.waiting import wait_for
from tidegate.settings import Settings
from tidegate.topics import create_topics

MakeSettings = Callable[..., Settings]

WORKS_AGAIN_SECONDS = 5.0
IMPORTS_AT_MOST_SHARE = 0.25
"""What of that Python needs to import the worker, on two idle cores; a machine slower just now is granted more."""
STALE = ("withheld", "stale")

pytestmark = pytest.mark.timeout(240)


# ---- elsewhere


async def _elsewhere(make_settings: MakeSettings, tmp_path: Path) -> None:
    # a session this long cannot expire here: only the instance id can bring the partitions back
    settings = make_settings(partitions=4, session_timeout_seconds=60)
    async with Gate(settings, tmp_path) as gate, gate.outputs() as outputs:
        one, other = await gate.start("one", instance_id="one"), await gate.start("other", instance_id="other")
        sessions = [f"user-{number}" for number in range(40)]
        await gate.send(*(changed(session, {"view/tab-1": "1"}) for session in sessions))
        await gate.send(*(dispatched(session, f"task-{session}", {"view/tab-1": "1"}) for session in sessions))
        await gate.send(*(changed(session, {"view/tab-1": "2"}) for session in sessions))
        await gate.drained(30)
        limit_seconds = max(WORKS_AGAIN_SECONDS, await _import_seconds() / IMPORTS_AT_MOST_SHARE)
        held = one[0].partitions()
        one[0].kill()
        again = gate.worker("again", instance_id="one", host_name="another-host.example")
        assert again.metrics_port != one[0].metrics_port
        began = time.monotonic()
        again.start()
        await gate.send(*(returned(session, f"task-{session}") for session in sessions))
        tasks = [f"task-{session}" for session in sessions]
        await outputs.until(
            lambda: len(outputs.decided(tasks)) == len(tasks),
            limit_seconds,
            "every result is judged after the restart",
            lambda: f"{len(outputs.decided(tasks))} of {len(tasks)}; {again.log_text()[-2000:]}",
        )
        assert time.monotonic() - began <= limit_seconds
        assert outputs.decided(tasks) == dict.fromkeys(tasks, STALE)
        assert (again.partitions() or {}).keys() == (held or {}).keys()
        assert other[0].is_alive
        await gate.drained(30)
        await gate.audit(tasks=len(tasks))


async def _import_seconds() -> float:
    began = time.monotonic()
    importing = await asyncio.create_subprocess_exec(sys.executable, "-c", "import tidegate.worker", cwd=ROOT)
    assert await importing.wait() == 0
    return time.monotonic() - began


def test_a_killed_member_works_again_within_5_seconds_elsewhere(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_elsewhere(make_settings, tmp_path))


# ---- slowly


async def _slow_restore(
    settings: Settings, tmp_path: Path, hold: Callable[[], None], release: Callable[[], None]
) -> None:
    async with Gate(settings, tmp_path) as gate, gate.outputs(keep=False) as outputs:
        workload = Workload(sessions=300, partitions=settings.partitions)
        (first,) = await gate.start("first")
        await gate.write(workload.opening())
        await gate.write(workload.records(20_000, finish=False))
        await gate.drained(60)
        hold()
        second = gate.worker("second").start()
        began = time.monotonic()
        sizes = set()

        async def outlasted() -> bool:
            """Both are in the group, share its partitions, and stay for twice a session's length while one restores."""
            assert first.is_alive
            assert second.is_alive
            held = [worker.partitions() or {} for worker in (first, second)]
            if held[1]:
                sizes.add(tuple(len(partitions) for partitions in held))
            return bool(sizes) and time.monotonic() - began > 2 * settings.session_timeout_seconds + 4

        await wait_for(outlasted, 60, "the second worker's restore outlasts two sessions", lambda: sizes)
        assert sizes == {(2, 2)}, f"partitions moved while a restore took its time: {sizes}"
        assert "restoring" in (second.partitions() or {}).values()
        rebalances = first.metric("tidegate_rebalances_total"), second.metric("tidegate_rebalances_total")
        release()
        await until_ready([first, second])
        await gate.write(workload.records(2_000 + workload.running))
        await gate.drained(60)
        assert (
            first.metric("tidegate_rebalances_total"),
            second.metric("tidegate_rebalances_total"),
        ) == rebalances, "the group was not stable after the restore"
        await each_once(outputs, workload)
        await gate.audit(tasks=workload.dispatches)


@pytest.mark.long  # as long as a session
def test_a_restore_longer_than_the_session_leaves_the_group_stable(make_settings: MakeSettings, tmp_path: Path) -> None:
    with proxied_broker() as (broker, proxy):
        settings = make_settings(
            bootstrap_servers=broker.bootstrap_servers,
            partitions=4,
            session_timeout_seconds=6,
            heartbeat_interval_seconds=1,
        )
        asyncio.run(_slow_restore(settings, tmp_path, lambda: proxy.hold({FETCH}, "restore"), proxy.release))


# ---- to something else


async def _some_work(gate: Gate, workload: Workload) -> Worker:
    """A gate that has worked on something and was stopped; its rows are in the changelog."""
    (worker,) = await gate.start("worker")
    await gate.write(workload.opening())
    await gate.write(workload.records(5_000, finish=False))
    await gate.drained(60)
    worker.ask_to_stop()
    assert await asyncio.to_thread(worker.process.wait, 20) == 0
    return worker


async def _recreate_changelog(gate: Gate, *, without_last: int) -> None:
    """The changelog as it was, but for the last records of each partition."""
    kept: dict[int, list[Any]] = {}
    for record in await gate.read("sessions.changelog"):
        kept.setdefault(record.partition, []).append(record)
    admin = AIOKafkaAdminClient(**gate.settings.kafka_kwargs())
    await admin.start()
    try:
        await admin.delete_topics([gate.topic("sessions.changelog")])

        async def created() -> bool:
            return (await create_topics(gate.settings))[gate.topic("sessions.changelog")]

        await wait_for(created, 30, "the changelog topic is there again")
    finally:
        await admin.close()
    for partition, records in kept.items():
        for start in range(0, len(records) - without_last, 200):
            chosen = records[start : min(start + 200, len(records) - without_last)]
            await gate.write_raw(
                "sessions.changelog", partition, *((record.key, record.value, record.headers) for record in chosen)
            )


async def _stops_saying(worker: Worker, *words: str) -> None:
    worker.start()

    async def ended() -> bool:
        return not worker.is_alive

    await wait_for(ended, 30, "the worker stops", worker.log_text)
    assert worker.exit_status not in {0, None}
    for word in words:
        assert word in worker.log_text()


async def _short_changelog(make_settings: MakeSettings, tmp_path: Path, *, without_last: int) -> None:
    async with Gate(make_settings(partitions=2), tmp_path) as gate, gate.outputs(keep=False) as outputs:
        workload = Workload(sessions=50, partitions=2)
        worker = await _some_work(gate, workload)
        before = workload.results
        await outputs.until(lambda: len(outputs.verdicts) == before, 30, "every verdict has arrived")
        await _recreate_changelog(gate, without_last=without_last)
        await _stops_saying(worker, gate.topic("sessions.changelog"), "cut short", "To rebuild")
        await outputs.poll()
        assert outputs.verdicts.total() == before, "it judged with half its memory before it stopped"


@pytest.mark.parametrize("without_last", [1, 1_000_000], ids=["without-its-last-record", "without-any"])
def test_a_changelog_cut_short_stops_the_worker(make_settings: MakeSettings, tmp_path: Path, without_last: int) -> None:
    asyncio.run(_short_changelog(make_settings, tmp_path, without_last=without_last))


async def _task_records(gate: Gate) -> dict[bytes, bytes]:
    """The records of open tasks apart from their rows, as the changelog has them."""
    newest = {record.key: record.value for record in await gate.read("sessions.changelog")}
    return {key: value for key, value in newest.items() if key.startswith(b"t") and value is not None}


async def _many_tasks(make_settings: MakeSettings, tmp_path: Path) -> None:
    """A session with so many open tasks that each has a record of its own; its worker is killed twice."""
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        (first,) = await gate.start("first")
        tasks = [f"task-{number}" for number in range(30)]
        await gate.send(changed("busy", {f"doc/{number}": "1" for number in range(30)}))
        await gate.send(*(dispatched("busy", task, {f"doc/{task[5:]}": "1"}) for task in tasks))
        await gate.drained(30)
        assert len(await _task_records(gate)) == 30
        first.kill()
        (second,) = await gate.start("second")
        await gate.send(changed("busy", {"doc/3": "2"}))
        await gate.send(*(returned("busy", task) for task in tasks[:10]))
        await gate.drained(30)
        second.kill()
        (third,) = await gate.start("third")
        await gate.send(*(returned("busy", task) for task in tasks[10:]))
        await outputs.until(lambda: len(outputs.decided(tasks)) == 30, 30, "every result is judged", third.log_text)
        assert outputs.decided(tasks) == {task: STALE if task == "task-3" else ("delivered", "fresh") for task in tasks}
        await gate.drained(30)
        assert await _task_records(gate) == {}
        await gate.audit(tasks=30)
        await gate.orphans()


def test_many_open_tasks_survive_their_worker(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_many_tasks(make_settings, tmp_path))


async def _lost_task(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate:
        (worker,) = await gate.start("worker")
        await gate.send(*(dispatched("busy", f"task-{number}", {}) for number in range(30)))
        await gate.drained(30)
        worker.ask_to_stop()
        assert await asyncio.to_thread(worker.process.wait, 20) == 0
        lost = next(iter(await _task_records(gate)))
        await gate.write_raw("sessions.changelog", 0, (lost, None, []))
        await _stops_saying(worker, "the row says that 30 open tasks", "but 29 do", "is not whole", "To rebuild")


def test_a_changelog_that_has_lost_a_task_stops_the_worker(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_lost_task(make_settings, tmp_path))


async def _moved_offsets(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate:
        worker = await _some_work(gate, Workload(sessions=50, partitions=1))
        tp = TopicPartition(gate.topic("context"), 0)
        async with AIOKafkaConsumer(
            **gate.settings.kafka_kwargs(), group_id=gate.settings.group_id, enable_auto_commit=False
        ) as consumer:
            consumer.assign([tp])
            await consumer.commit({tp: 17})
        await _stops_saying(worker, tp.topic, "has committed 17")


def test_offsets_moved_by_hand_stop_the_worker(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_moved_offsets(make_settings, tmp_path))


async def _expired_offsets(make_settings: MakeSettings, tmp_path: Path) -> None:
    """A group idle for a week has no offsets any more: the progress row alone says how far it got."""
    settings = make_settings(partitions=2)
    async with Gate(settings, tmp_path) as gate:
        workload = Workload(sessions=50, partitions=2)
        worker = await _some_work(gate, workload)
        # another group has no offsets, as this one after a week; all else is the same
        then = gate.worker("then", group_id=f"{settings.group_id}-idle")
        ends = await gate.progress.ends()
        then.start()
        await until_ready([then])
        assert not worker.is_alive
        taken = {line["partition"]: line for line in then.told("partition_taken_over")}
        for tp, end in ends.items():
            assert taken[tp.partition][tp.topic.split(".")[-2]] == end, "it did not go on where the rows end"


def test_expired_offsets_are_taken_from_the_progress_row(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_expired_offsets(make_settings, tmp_path))
