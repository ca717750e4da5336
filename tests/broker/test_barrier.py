"""A verdict knows every context event that was acknowledged before its result was produced, and never waits for ever.

A gate that judges a result when it arrives fails the first assertion of each test: results come with the first fetch,
the context they depend on 100,000 events later. One that takes "last record + 1" for its position waits for ever at a
commit marker, at an aborted transaction and in an emptied partition; one that asks for the last stable offset delivers
what an open transaction hides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaProducer

from schemas.topics import Role
from testing.process import Worker
from tests.broker.events import backlog, body, changed, dispatched, returned, sessions_on
from tests.broker.harness import Gate
from tests.broker.outputs import Outputs
from tests.broker.waiting import wait_for
from tidegate.settings import Settings

BEHIND: Final = 100_000
PROBES: Final = 10
PLAIN, OPEN, ABORTED, COMMITTED, EMPTIED = range(5)
"""What is at the end of each partition's context."""

FRESH: Final = ("delivered", "fresh")
STALE: Final = ("withheld", "stale")
MakeSettings = Callable[..., Settings]


class Probes:
    """Tasks in one partition: contradicted by a plain event, only by an event in a transaction, or not at all."""

    def __init__(self, partition: int) -> None:
        self.sessions = sessions_on(partition, 5, PROBES, f"probe-{partition}")
        self.partition = partition

    def tasks(self, kind: str) -> list[str]:
        return [f"{kind}-{session}" for session in self.sessions]

    def opening(self) -> list[Any]:
        return [changed(session, {"plain": "1", "within": "1", "quiet": "1"}) for session in self.sessions]

    def dispatches(self) -> list[Any]:
        return [
            dispatched(session, f"{kind}-{session}", {kind: "1"})
            for session in self.sessions
            for kind in ("plain", "within", "quiet")
        ]

    def results(self) -> list[Any]:
        return [
            returned(session, f"{kind}-{session}") for session in self.sessions for kind in ("plain", "within", "quiet")
        ]

    def change(self, facet: str) -> list[Any]:
        return [changed(session, {facet: "2"}) for session in self.sessions]

    def assert_decided(self, outputs: Outputs, **expected: tuple[str, str]) -> None:
        for kind, decision in expected.items():
            assert outputs.decided(self.tasks(kind)) == dict.fromkeys(self.tasks(kind), decision), kind


async def _leave_open(gate: Gate, producer: AIOKafkaProducer, probes: Probes) -> None:
    """An unfinished transaction, and behind it acknowledged events that it hides from `read_committed` readers."""
    await producer.begin_transaction()
    await gate.send_with(producer, *probes.change("within"))
    await gate.send(*probes.change("plain"))


async def _finish(gate: Gate, producer: AIOKafkaProducer, probes: Probes, *, commit: bool) -> None:
    """A finished transaction as the very end of the log: what follows its last record is only a marker."""
    await gate.send(*probes.change("plain"))
    await producer.begin_transaction()
    await gate.send_with(producer, *probes.change("within"))
    await (producer.commit_transaction() if commit else producer.abort_transaction())


async def _behind(make_settings: MakeSettings, tmp_path: Path, long_topic: Role, *, ends_by_itself: bool) -> None:
    async with (
        AsyncExitStack() as stack,
        Gate(make_settings(partitions=5), tmp_path, unknown_task_grace_seconds=0.5) as gate,
        gate.outputs() as outputs,
    ):
        probes = [Probes(number) for number in range(5)]
        opened = await stack.enter_async_context(gate.transactional("open", 5.0 if ends_by_itself else 60.0))
        closed = await stack.enter_async_context(gate.transactional("closed"))
        for each in probes:
            await gate.send(*each.opening())
        if long_topic == "context":
            await gate.send(*(event for each in probes for event in each.dispatches()))
        await gate.write(backlog(long_topic, BEHIND, partitions=5))
        before_open = (await gate.end_offsets("context"))[OPEN]
        await _leave_open(gate, opened, probes[OPEN])
        await gate.send(*probes[PLAIN].change("plain"))
        await _finish(gate, closed, probes[ABORTED], commit=False)
        await _finish(gate, closed, probes[COMMITTED], commit=True)
        await gate.send(*probes[EMPTIED].change("plain"))
        await gate.empty("context", EMPTIED)
        if long_topic == "steps":
            await gate.send(*(event for each in probes for event in each.dispatches()))
        context, steps = await gate.end_offsets("context"), await gate.end_offsets("steps")
        assert (await gate.progress.behind()) > BEHIND
        await gate.send(*(event for each in probes for event in each.results()))

        await gate.start("worker")
        others = [task for each in probes if each.partition != OPEN for task in _all(each)]
        await outputs.until(
            lambda: len(outputs.decided(others)) == len(others),
            60,
            "every result outside the partition with the open transaction is judged",
            lambda: f"{len(outputs.decided(others))} of {len(others)}",
        )
        probes[PLAIN].assert_decided(outputs, plain=STALE, within=FRESH, quiet=FRESH)
        probes[ABORTED].assert_decided(outputs, plain=STALE, within=FRESH, quiet=FRESH)
        probes[COMMITTED].assert_decided(outputs, plain=STALE, within=STALE, quiet=FRESH)
        probes[EMPTIED].assert_decided(outputs, plain=FRESH, within=FRESH, quiet=FRESH)  # the log contradicts nothing

        if not ends_by_itself:
            await _has_folded_context(gate, OPEN, before_open)
            await outputs.poll()
            assert not outputs.decided(_all(probes[OPEN])), "judged before the context that a transaction holds back"
            await opened.commit_transaction()
        waiting = _all(probes[OPEN])
        await outputs.until(
            lambda: len(outputs.decided(waiting)) == len(waiting), 60, "results behind the open transaction are judged"
        )
        within = FRESH if ends_by_itself else STALE  # the broker aborts what its producer leaves open
        probes[OPEN].assert_decided(outputs, plain=STALE, within=within, quiet=FRESH)
        for output in outputs.of("delivered") + outputs.of("withheld"):
            judged = output.body["verdict"]["judged"]
            assert judged["context_offset"] >= context[output.partition]
            assert judged["steps_offset"] >= steps[output.partition]
        await gate.drained(30)
        await gate.audit()


def _all(probes: Probes) -> list[str]:
    return [task for kind in ("plain", "within", "quiet") for task in probes.tasks(kind)]


async def _has_folded_context(gate: Gate, partition: int, end: int) -> None:
    """Context is folded ahead, and committed, while steps and results wait for the rest of it."""

    async def committed() -> bool:
        offsets = {(tp.topic, tp.partition): at for tp, at in (await gate.progress.committed()).items()}
        assert offsets[gate.topic("results"), partition] == offsets[gate.topic("steps"), partition] == 0
        return offsets[gate.topic("context"), partition] >= end

    await wait_for(committed, 30, "the context of the partition with the open transaction is folded")


def test_results_wait_for_a_context_that_is_100_000_events_behind(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_behind(make_settings, tmp_path, "context", ends_by_itself=False))


def test_results_wait_for_steps_that_are_100_000_events_behind(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_behind(make_settings, tmp_path, "steps", ends_by_itself=True))


async def _long_wait(make_settings: MakeSettings, tmp_path: Path) -> None:
    """The gate begins its own transaction while it asks for a barrier, and must not let it time out if that is far."""
    async with (
        Gate(make_settings(partitions=1), tmp_path) as gate,
        gate.outputs() as outputs,
        # longer than the broker takes, every 10 s, to look for the transactions to be aborted
        gate.transactional("open", 11.0) as opened,
    ):
        (worker,) = await gate.start("worker", transaction_timeout_seconds=2.0)
        await gate.send(changed("user", {"view/tab-1": "1"}), dispatched("user", "task", {"view/tab-1": "1"}))
        await gate.drained(30)
        await opened.begin_transaction()
        await gate.send_with(opened, changed("user", {"view/tab-1": "2"}))
        await gate.send(returned("user", "task"))
        await outputs.until(lambda: outputs.verdict("task"), 60, "a verdict when the broker has aborted the context")
        assert outputs.decided(["task"]) == {"task": FRESH}
        assert not worker.told("worker_starts_afresh")


def test_a_far_barrier_does_not_cost_the_gate_its_own_transaction(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_long_wait(make_settings, tmp_path))


async def _race(make_settings: MakeSettings, tmp_path: Path) -> None:
    """An idle gate, each result right behind the context event that makes it stale: which fetch ends first is luck."""
    rounds = 150
    async with Gate(make_settings(partitions=2), tmp_path) as gate, gate.outputs() as outputs:
        await gate.start("worker")
        sessions = [f"race-{number}" for number in range(rounds)]
        for session in sessions:
            await gate.send(changed(session, {"view/tab-1": "1"}))
            await gate.send(dispatched(session, f"task-{session}", {"view/tab-1": "1"}))
            await gate.send(changed(session, {"view/tab-1": "2"}))
            await gate.send(returned(session, f"task-{session}"))
        tasks = [f"task-{session}" for session in sessions]
        await outputs.until(lambda: len(outputs.decided(tasks)) == rounds, 30, "every result is judged")
        assert outputs.decided(tasks) == dict.fromkeys(tasks, STALE)
        await gate.drained(30)
        await gate.audit(tasks=rounds)


def test_context_acknowledged_just_before_the_result_counts(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_race(make_settings, tmp_path))


async def _emptied_later(make_settings: MakeSettings, tmp_path: Path) -> None:
    """Retention empties a partition that was folded; the gate is restarted on it and must take no end for a wait."""
    async with Gate(make_settings(partitions=1), tmp_path) as gate, gate.outputs() as outputs:
        (worker,) = await gate.start("worker")
        await gate.send(changed("user", {"view/tab-1": "1"}))
        await gate.send(
            dispatched("user", "before", {"view/tab-1": "1"}), dispatched("user", "after", {"view/tab-1": "1"})
        )
        await gate.drained(30)
        for role in ("context", "steps"):
            await gate.empty(role, 0)
        await gate.send(returned("user", "before"))
        await outputs.until(lambda: outputs.verdict("before"), 20, "a verdict while the partition is empty")
        await _restart(worker)
        await gate.send(returned("user", "after"))
        await outputs.until(lambda: outputs.verdict("after"), 40, "a verdict after a restart on the empty partition")
        assert outputs.decided(["before", "after"]) == {"before": FRESH, "after": FRESH}


async def _restart(worker: Worker) -> None:
    worker.ask_to_stop()
    assert await asyncio.to_thread(worker.process.wait, 20) == 0
    worker.start()


def test_an_emptied_partition_holds_nothing_up(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_emptied_later(make_settings, tmp_path))


async def _behind_the_cold_lane(make_settings: MakeSettings, tmp_path: Path) -> None:
    """A hot task whose agent is silent, while a producer's open transaction holds back the cold steps."""
    async with (
        AsyncExitStack() as stack,
        Gate(make_settings(partitions=1), tmp_path) as gate,
        gate.outputs() as outputs,
    ):
        opened = await stack.enter_async_context(gate.transactional("open"))
        await opened.begin_transaction()
        held_back = body(dispatched("user", "cold", {}, lane="cold"))
        await opened.send_and_wait(gate.topic("steps.cold"), held_back, key=b"user")
        await gate.start("worker")
        await gate.send(dispatched("user", "hot", {}, heartbeat_timeout_seconds=0.5))
        await outputs.until(lambda: outputs.endings["hot"], 30, "the hot task expires")
        await opened.commit_transaction()
        await gate.drained(30)
        await gate.audit()


def test_an_open_transaction_on_the_cold_lane_does_not_stop_the_hot_lanes_time(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    asyncio.run(_behind_the_cold_lane(make_settings, tmp_path))


async def _deleted_unfolded(make_settings: MakeSettings, tmp_path: Path) -> None:
    """Context that is gone before it was folded: to go on would be to deliver what it may have contradicted."""
    async with Gate(make_settings(partitions=1), tmp_path) as gate:
        (worker,) = await gate.start("worker")
        await gate.send(changed("user", {"view/tab-1": "1"}))
        await gate.drained(30)
        worker.kill()
        await gate.send(changed("user", {"view/tab-1": "2"}))
        await gate.empty("context", 0)
        worker.start()

        async def ended() -> bool:
            return not worker.is_alive

        await wait_for(ended, 30, "the worker stops", worker.log_text)
        assert worker.exit_status != 0
        assert gate.topic("context") in worker.log_text()
        assert "records were deleted before they were folded" in worker.log_text()


def test_context_deleted_before_it_was_folded_stops_the_worker(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_deleted_unfolded(make_settings, tmp_path))


pytestmark = pytest.mark.timeout(240)
