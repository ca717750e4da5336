"""What one record breaks stays with it: the record is refused, or its partition marked, and the rest goes on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

import orjson
import pytest
import structlog
from aiokafka import TopicPartition

from projections.rules import Rules
from schemas.events import Event
from schemas.topics import Role, topic_name
from streams.assignment import Assignment
from streams.changelog import FAILED, PROGRESS_KEY, RETRY_KEY
from streams.config import EngineConfig
from tests.broker.events import body, changed, dispatched, returned, role_of, sessions_on
from tests.simulation import poison, virtual
from tests.simulation.broker import Broker, Entry
from tests.simulation.group import SESSION_SECONDS, Group
from tests.simulation.worker import SimulatedWorker

PARTITIONS: Final = 3
BROKEN: Final = 1
"""The partition that has the poison."""

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(processors=[_drop])
    yield
    structlog.reset_defaults()


def _drop(_logger: object, _name: str, _event: object) -> str:
    raise structlog.DropEvent


class Simulated:
    """A broker, a group and its workers, without faults."""

    def __init__(self) -> None:
        random = Random(1)
        self.broker = Broker(random, 600.0, 0.0)
        self.group = Group(self.broker, random, PARTITIONS)
        self._random = random
        self._names = itertools.count(1)
        self._config = EngineConfig({}, session_timeout_seconds=SESSION_SECONDS, rules=Rules())
        self._coordinator = asyncio.get_running_loop().create_task(self.group.run())

    def join(self) -> SimulatedWorker:
        worker = SimulatedWorker(f"w{next(self._names)}", self._config, self.broker, self._random, PARTITIONS)
        self.group.workers.append(worker)
        return worker

    def write(self, partition: int, *events: Event) -> None:
        for event in events:
            key = event.session_id.encode()
            self.broker.log(_tp(role_of(event), partition)).append([(key, body(event), [])])

    def read(self, role: Role, partition: int) -> list[Entry]:
        log = self.broker.log(_tp(role, partition))
        return log.committed(0, log.end)

    def failure(self, partition: int) -> object:
        """What the last progress row of a partition says of a failure."""
        rows = [entry.value for entry in self.read("sessions.changelog", partition) if entry.key == PROGRESS_KEY]
        return orjson.loads(rows[-1] or b"{}").get(FAILED) if rows else None

    def delivered(self, partition: int) -> list[str]:
        return [orjson.loads(entry.value or b"")["task_id"] for entry in self.read("delivered", partition)]

    async def until(self, holds: Callable[[], bool], seconds: float = 60.0) -> None:
        for _ in range(int(seconds / 0.05)):
            if holds():
                return
            for worker in self.group.workers:
                if worker.failure is not None:
                    raise worker.failure
            await asyncio.sleep(0.05)
        raise AssertionError("it never came about")


def _tp(role: Role, partition: int) -> TopicPartition:
    return TopicPartition(topic_name(role, "tidegate"), partition)


def state(assignment: Assignment, partition: int) -> str | None:
    task = assignment.tasks.get(partition)
    return None if task is None else task.state


@pytest.mark.parametrize("kind", ["folded", "judged", "encoded"])
def test_a_record_that_breaks_the_core_is_refused_and_nothing_else(kind: str) -> None:
    async def run() -> None:
        simulated = Simulated()
        worker = simulated.join()
        session, *others = sessions_on(BROKEN, PARTITIONS, 200)
        simulated.write(BROKEN, *(changed(each, {"view": "1"}) for each in others))
        bad = poison.poisonous(session, kind)
        simulated.write(BROKEN, *bad)
        for each in others:
            simulated.write(BROKEN, dispatched(each, "task", {"view": "1"}), returned(each, "task"))
        await simulated.until(lambda: len(simulated.delivered(BROKEN)) == len(others))
        await simulated.until(lambda: len(simulated.read("dlq", BROKEN)) == 1)
        (letter,) = simulated.read("dlq", BROKEN)
        headers = dict(letter.headers)
        assert (letter.key, letter.value) == (session.encode(), body(bad[-1]))
        assert headers["tidegate_error"] == b"processing_failed"
        assert headers["tidegate_error_detail"].startswith(b"BoomError in projections/")
        assert session.encode() not in headers["tidegate_error_detail"]  # the error's message quotes the record
        assert state(worker.assignment, BROKEN) == "running"

    with poison.planted():
        virtual.run(run())


def test_a_partition_that_no_record_is_to_blame_for_is_marked_and_stays_so_until_it_is_retried() -> None:
    async def run() -> None:
        simulated = Simulated()
        first = simulated.join()
        with poison.planted():
            (session,) = sessions_on(BROKEN, PARTITIONS, 1)
            overdue = dispatched(session, poison.POISON_TIMER, {}, heartbeat_timeout_seconds=0.5)
            simulated.write(BROKEN, overdue)
            await simulated.until(lambda: state(first.assignment, BROKEN) == "failed")
            assert simulated.failure(BROKEN) is not None
            (other,) = sessions_on(0, PARTITIONS, 1)
            simulated.write(0, dispatched(other, "task", {}), returned(other, "task"))
            await simulated.until(lambda: simulated.delivered(0) == ["task"])
            first.kill()
            second = simulated.join()
            await simulated.until(lambda: state(second.assignment, BROKEN) == "failed")
            await asyncio.sleep(30.0)
            assert state(second.assignment, BROKEN) == "failed"
            assert state(second.assignment, 0) == "running"
        simulated.broker.log(_tp("sessions.changelog", BROKEN)).append([(RETRY_KEY, b"{}", [])])
        await simulated.until(lambda: state(second.assignment, BROKEN) == "running")
        await simulated.until(lambda: simulated.failure(BROKEN) is None)
        commands = [orjson.loads(entry.value or b"") for entry in simulated.read("commands", BROKEN)]
        assert [command["task_id"] for command in commands] == [poison.POISON_TIMER]

    virtual.run(run())


def test_a_partition_that_fails_again_is_marked_again() -> None:
    async def run() -> None:
        simulated = Simulated()
        worker = simulated.join()
        (session,) = sessions_on(BROKEN, PARTITIONS, 1)
        simulated.write(BROKEN, dispatched(session, poison.POISON_TIMER, {}, heartbeat_timeout_seconds=0.5))
        await simulated.until(lambda: state(worker.assignment, BROKEN) == "failed")
        log = simulated.broker.log(_tp("sessions.changelog", BROKEN))
        end = log.end
        log.append([(RETRY_KEY, b"{}", [])])
        await simulated.until(lambda: log.end > end + 1)
        await simulated.until(lambda: state(worker.assignment, BROKEN) == "failed")
        assert simulated.failure(BROKEN) is not None

    with poison.planted():
        virtual.run(run())


def test_a_partition_that_cannot_be_written_keeps_nobody_waiting() -> None:
    async def run() -> None:
        simulated = Simulated()
        worker = simulated.join()
        for number in range(PARTITIONS):
            (session,) = sessions_on(number, PARTITIONS, 1)
            simulated.write(number, dispatched(session, "first", {}), returned(session, "first"))
        await simulated.until(lambda: all(simulated.delivered(number) == ["first"] for number in range(PARTITIONS)))
        simulated.broker.leaderless.add(_tp("delivered", BROKEN))
        for number in range(PARTITIONS):
            (session,) = sessions_on(number, PARTITIONS, 1)
            simulated.write(number, dispatched(session, "second", {}), returned(session, "second"))
        healthy = [number for number in range(PARTITIONS) if number != BROKEN]
        both = ["first", "second"]
        await simulated.until(lambda: all(simulated.delivered(number) == both for number in healthy), 10.0)
        for third in range(20):
            (session,) = sessions_on(0, PARTITIONS, 1)
            simulated.write(0, dispatched(session, f"more-{third}", {}), returned(session, f"more-{third}"))
            began = asyncio.get_running_loop().time()
            await simulated.until(lambda: len(simulated.delivered(0)) == third + 3, 2.0)  # noqa: B023
            assert asyncio.get_running_loop().time() - began < 1.0, third
        assert len(simulated.delivered(BROKEN)) == 1
        simulated.broker.leaderless.clear()
        await simulated.until(lambda: simulated.delivered(BROKEN) == both)
        assert not any(task.is_apart for task in worker.assignment.tasks.values())

    virtual.run(run())


def test_a_partition_without_a_leader_delays_only_its_own_verdicts() -> None:
    async def run() -> None:
        simulated = Simulated()
        simulated.join()
        simulated.broker.leaderless.add(_tp("context", BROKEN))
        for number in range(PARTITIONS):
            (session,) = sessions_on(number, PARTITIONS, 1)
            simulated.write(number, dispatched(session, "task", {}), returned(session, "task"))
        healthy = [number for number in range(PARTITIONS) if number != BROKEN]
        await simulated.until(lambda: all(simulated.delivered(number) == ["task"] for number in healthy), 10.0)
        await asyncio.sleep(5.0)
        assert simulated.delivered(BROKEN) == []
        simulated.broker.leaderless.clear()
        await simulated.until(lambda: simulated.delivered(BROKEN) == ["task"])

    virtual.run(run())
