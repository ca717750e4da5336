"""One schedule: traffic, workers that come, go, die, freeze and lose requests, and what has to hold afterwards."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from aiokafka import TopicPartition

from audit.case import Terms
from audit.check import PartitionCheck
from audit.collect import OUTPUT_ROLES, PartitionLogs
from audit.findings import Findings
from audit.logs import Bounds
from projections.rules import Rules
from schemas.topics import INPUT_ROLES, Role
from streams.config import EngineConfig
from testing.workload import Record, Workload, partition_of
from tests.broker.events import body, changed, dispatched, role_of
from tests.simulation import poison, virtual
from tests.simulation.broker import Broker, Log
from tests.simulation.group import SESSION_SECONDS, Group
from tests.simulation.worker import SimulatedWorker

PARTITIONS: Final = 3
SECONDS: Final = 8.0
SETTLE_SECONDS: Final = 120.0
PREFIX: Final = "tidegate"
RULES: Final = Rules()
TROUBLED: Final = 1_000_000_007
"""Keeps the brokers' troubles from changing what the same seed does to workers."""


@dataclass(slots=True)
class Outcome:
    """What became of a schedule. `problems` is empty where all went well."""

    seed: int
    problems: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    results: int = 0
    poison: int = 0
    """Records that break the core. Each has to be refused, and nothing else."""


def simulate(seed: int) -> Outcome:
    """Run the schedule of a seed. The same seed gives the same outcome."""
    outcome = Outcome(seed)
    try:
        with poison.planted():
            virtual.run(_Schedule(seed, outcome).run())
    except Exception as error:  # noqa: BLE001 - whatever breaks the engine is what is looked for
        outcome.problems.append(f"{type(error).__name__}: {error}")
    return outcome


class _Schedule:
    def __init__(self, seed: int, outcome: Outcome) -> None:
        self._random = Random(seed)
        self._outcome = outcome
        # for ever, as far as this schedule lasts: nobody may wait for a dead worker's transaction to time out
        timeout_seconds = self._random.choice((6.0, 600.0))
        self._config = EngineConfig(
            {}, transaction_timeout_seconds=timeout_seconds, session_timeout_seconds=SESSION_SECONDS, rules=RULES
        )
        self._troubles = Random(seed + TROUBLED)
        """What happens to the brokers themselves, in a third of the schedules."""
        self._is_peaceful = self._random.random() < 0.15
        """Whether workers only come, and no marker is late: then no transaction may fail."""
        late_markers = 0.0 if self._is_peaceful else self._random.choice((0.03, 0.3))
        self._broker = Broker(self._random, timeout_seconds, late_markers)
        self._group = Group(self._broker, self._random, PARTITIONS)
        self._names = itertools.count(1)
        self._ends_at = 0.0
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        coordinator = asyncio.get_running_loop().create_task(self._group.run())
        self._ends_at = self._broker.clock.monotonic() + SECONDS
        for _ in range(self._random.randint(1, 3)):
            self._join()
        await asyncio.gather(self._write(), self._disturb(), self._trouble())
        self._calm()
        if await self._is_settled():
            self._audit()
        failures = sum(worker.failed_transactions for worker in self._group.workers)
        if self._is_peaceful and failures:
            self._outcome.problems.append(f"{failures} transactions failed, although workers only came")
        if coordinator.done():
            coordinator.result()

    # What happens

    async def _write(self) -> None:
        random = self._random
        workload = Workload(sessions=20, partitions=PARTITIONS, seed=random.randint(0, 10**9), open_tasks=5)
        records: Iterator[Record] = itertools.chain(workload.opening(), workload.records(random.randint(100, 500)))
        pause = SECONDS / 500
        has_poison = random.random() < 0.3
        for record in records:
            if record.role == "context" and random.random() < 0.03:
                self._open_for_a_while(record)
            else:
                self._log(record.role, record.partition).append([(record.key, record.value, [])])
            if random.random() < 0.02:
                self._silent_task()
            if has_poison and random.random() < 0.02:
                self._write_poison(random.choice(("folded", "judged", "encoded")))
            if random.random() < 0.5:
                await asyncio.sleep(random.uniform(0.0, 4 * pause))
        self._outcome.results = workload.results

    def _write_poison(self, kind: str) -> None:
        session = f"poisoned-{next(self._numbers)}"
        self._outcome.poison += 1
        for event in poison.poisonous(session, kind):
            key = session.encode()
            self._log(role_of(event), partition_of(key, PARTITIONS)).append([(key, body(event), [])])

    def _silent_task(self) -> None:
        """A task whose agent never says anything: only its timer ends it."""
        session = f"silent-{next(self._numbers)}"
        for event in (
            changed(session, {"view": "1"}),
            dispatched(session, "task", {"view": "1"}, heartbeat_timeout_seconds=self._random.uniform(0.2, 3.0)),
        ):
            key = session.encode()
            self._log(role_of(event), partition_of(key, PARTITIONS)).append([(key, body(event), [])])

    def _open_for_a_while(self, record: Record) -> None:
        """An event within a producer's transaction, acknowledged, and hidden until that ends."""
        log, producer_id = self._log(record.role, record.partition), -next(self._numbers)
        log.append([(record.key, record.value, [])], producer_id)
        ends = "commit" if self._random.random() < 0.7 else "abort"
        delay = self._random.uniform(0.0, 1.0)
        asyncio.get_running_loop().call_later(delay, lambda: log.mark(producer_id, ends))  # type: ignore[arg-type]
        self._outcome.faults["open producer transaction"] += 1

    async def _disturb(self) -> None:
        random = self._random
        lossy = random.random() < 0.5
        while self._broker.clock.monotonic() < self._ends_at:
            await asyncio.sleep(random.expovariate(1.0))
            alive = [worker for worker in self._group.workers if not worker.network.is_dead]
            choice = random.uniform(0.65, 0.85) if self._is_peaceful else random.random()
            if random.random() < 0.5:
                self._silent_task()
            if choice < 0.35 and alive:
                self._strike("killed", random.choice(alive), self._kill)
            elif choice < 0.65 and alive:
                self._strike("frozen", random.choice(alive), self._freeze)
            elif choice < 0.85 and len(alive) < 4:
                self._count("joined")
                self._join()
            elif choice < 0.88 and not self._is_peaceful:
                self._take_leader()
            elif choice < 0.94 and alive and not self._is_peaceful:
                self._strike("transaction unanswered", random.choice(alive), self._leave_unanswered)
            elif lossy and alive and not self._is_peaceful:
                self._count("requests lost")
                worker = random.choice(alive)
                worker.network.lost_share = random.choice((0.02, 0.2))
                asyncio.get_running_loop().call_later(random.uniform(0.1, 2.0), self._heal, worker)

    async def _trouble(self) -> None:
        """Leaders move, the cleaner compacts, a broker's clock jumps."""
        random = self._troubles
        if self._is_peaceful or random.random() > 1 / 3:
            return
        while self._broker.clock.monotonic() < self._ends_at:
            await asyncio.sleep(random.expovariate(2.0))
            choice = random.random()
            if choice < 0.5:
                self._move_leader()
            elif choice < 0.8:
                changelog = self._log("sessions.changelog", random.randrange(PARTITIONS))
                self._outcome.faults["records compacted"] += changelog.compact(random.randint(0, changelog.stable_end))
            else:
                self._count("clock jumped")
                self._broker.clock.jump_ms += random.choice((-2000, -50, 50, 2000, 20_000))

    def _move_leader(self) -> None:
        random, broker = self._troubles, self._broker
        self._count("leader moved")
        role = random.choice((*INPUT_ROLES, *OUTPUT_ROLES, "sessions.changelog"))
        tp = TopicPartition(self._config.topic(role), random.randrange(PARTITIONS))
        broker.leaderless.add(tp)

        def lead() -> None:
            broker.leaderless.discard(tp)
            broker.move_leader(tp, random)
            asyncio.get_running_loop().call_later(random.uniform(0.0, 1.0), broker.caught_up, tp)

        asyncio.get_running_loop().call_later(random.uniform(0.0, 1.0), lead)

    def _strike(self, fault: str, worker: SimulatedWorker, strike: Callable[[SimulatedWorker], None]) -> None:
        """Now, or at some request of the worker's next transactions."""
        self._count(fault)
        if self._random.random() < 0.5:
            strike(worker)
        else:
            worker.network.trap = self._random.randint(0, 40), lambda: strike(worker)

    def _kill(self, worker: SimulatedWorker) -> None:
        worker.kill()
        if self._random.random() < 0.7:
            self._join()

    def _freeze(self, worker: SimulatedWorker) -> None:
        worker.freeze()
        asyncio.get_running_loop().call_later(self._random.uniform(0.05, 6.0), worker.thaw)

    def _take_leader(self) -> None:
        """A topic partition has no leader for a while: nobody can write or read it."""
        random, broker = self._random, self._broker
        self._count("no leader")
        role = random.choice((*INPUT_ROLES, *OUTPUT_ROLES, "sessions.changelog"))
        tp = TopicPartition(self._config.topic(role), random.randrange(PARTITIONS))
        broker.leaderless.add(tp)
        asyncio.get_running_loop().call_later(random.uniform(0.2, 6.0), broker.leaderless.discard, tp)

    @staticmethod
    def _leave_unanswered(worker: SimulatedWorker) -> None:
        worker.network.loses_an_answer = True
        worker.network.loses_a_timer = True

    @staticmethod
    def _heal(worker: SimulatedWorker) -> None:
        worker.network.lost_share = 0.0
        worker.network.loses_an_answer = worker.network.loses_a_timer = False

    def _join(self) -> None:
        name = f"w{next(self._names)}"
        worker = SimulatedWorker(name, self._config, self._broker, self._random, PARTITIONS)
        self._group.workers.append(worker)

    def _calm(self) -> None:
        """No fault any more, and at least one worker."""
        self._broker.leaderless.clear()
        for log in self._broker.logs.values():
            log.lagging_from = None
        for worker in self._group.workers:
            self._heal(worker)
            worker.network.trap = None
            worker.thaw()
        if all(worker.network.is_dead for worker in self._group.workers):
            self._join()

    def _count(self, fault: str) -> None:
        self._outcome.faults[fault] += 1

    # What has to hold

    async def _is_settled(self) -> bool:
        """Whether everything has been worked off, and every timer has had its time."""
        until = self._broker.clock.monotonic() + SETTLE_SECONDS
        calm_since: float | None = None
        while self._broker.clock.monotonic() < until:
            await asyncio.sleep(0.25)
            for worker in self._group.workers:
                if worker.failure is not None:
                    raise worker.failure
            if not self._is_drained():
                calm_since = None
            elif calm_since is None:
                calm_since = self._broker.clock.monotonic()
            elif self._broker.clock.monotonic() - calm_since > 5.0:
                return True
        self._outcome.problems.append(f"not drained: {self._left()}")
        return False

    def _is_drained(self) -> bool:
        return not self._left()

    def _left(self) -> list[str]:
        return [
            f"{tp.topic}/{tp.partition}: {self._broker.offsets.get(tp, 0)} of {self._broker.log(tp).end}"
            for role in INPUT_ROLES
            for number in range(PARTITIONS)
            if self._broker.log(tp := TopicPartition(self._config.topic(role), number)).end
            > self._broker.offsets.get(tp, 0)
        ]

    def _log(self, role: Role, partition: int) -> Log:
        return self._broker.log(TopicPartition(self._config.topic(role), partition))

    def _audit(self) -> None:
        """By the independent audit, on what `read_committed` readers see."""
        refused = sum(
            ("tidegate_error", b"processing_failed") in entry.headers
            for number in range(PARTITIONS)
            for entry in self._log("dlq", number).committed(0, self._log("dlq", number).end)
        )
        if refused != self._outcome.poison:
            self._outcome.problems.append(f"{refused} records refused, {self._outcome.poison} were poison")
        for number in range(PARTITIONS):
            findings = Findings()
            roles: tuple[Role, ...] = (*OUTPUT_ROLES, *INPUT_ROLES)
            bounds = {role: self._bounds(role, number) for role in roles}
            logs = PartitionLogs(number, PARTITIONS, bounds, findings, PREFIX)
            for role in roles:
                log = self._log(role, number)
                logs.add(role, log.committed(0, log.end))
            terms = Terms(
                now_ms=self._broker.clock.now_ms(), grace_ms=RULES.unknown_task_grace_ms, require_drained=True
            )
            PartitionCheck(logs, terms).run()
            for kind, count in findings.counts.items():
                self._outcome.problems.append(f"partition {number}: {count} {kind}: {findings.examples[kind][:1]}")

    def _bounds(self, role: Role, number: int) -> Bounds:
        end = self._log(role, number).end
        committed = self._broker.offsets.get(TopicPartition(self._config.topic(role), number), 0)
        return Bounds(0, end, committed if role in INPUT_ROLES else None, settled=end)
