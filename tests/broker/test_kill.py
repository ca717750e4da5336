"""Workers that die, come, go and fall asleep under load: every result is judged once, every task ends once.

Outputs outside the transaction, or offsets outside it, make duplicates at the first kill (an `at_least_once` worker
turned 8,000 increments into 12,947). Reading committed offsets before fencing loses or repeats at a hand-over; keeping
fetched batches over a rebalance repeats them. A restore inside the rebalance callback, or an assignor that asserts on
another worker's address, takes healthy workers down with the dead one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import pytest

from testing.process import ROOT, Worker, until_ready
from testing.workload import Workload
from tests.broker.harness import Gate
from tests.broker.lives import Living
from tests.broker.load import Load, each_once
from tests.broker.outputs import Outputs
from tests.broker.waiting import wait_for
from tests.lives.policies import SETTINGS as LIVES_SETTINGS
from tidegate.settings import Settings

MakeSettings = Callable[..., Settings]

PARTITIONS: Final = 4
SESSIONS: Final = 400
PER_SECOND: Final = 2000

pytestmark = pytest.mark.timeout(280)


async def begin_load(gate: Gate, seed: int, per_second: float = PER_SECOND) -> Load:
    """An even load on `PARTITIONS` partitions, from now on."""
    workload = Workload(sessions=SESSIONS, partitions=PARTITIONS, seed=seed, name=f"load{seed}")
    await gate.write(workload.opening())
    return Load(gate, workload, per_second).start()


async def settle(gate: Gate, load: Load, outputs: Outputs) -> None:
    """End the load, wait until all of it is judged, and count."""
    await load.stop()
    await gate.drained(60)
    await each_once(outputs, load.workload)
    assert len(outputs.decisions) > 1, "nothing but one kind of verdict: the load shows nothing"
    await gate.audit(tasks=load.workload.dispatches)
    await gate.orphans()


async def kills(make_settings: MakeSettings, tmp_path: Path, *, times: int, seed: int) -> None:
    """Two workers under load, one of them killed so many times at random moments."""
    random = Random(seed)
    async with Gate(make_settings(partitions=PARTITIONS), tmp_path) as gate, gate.outputs(keep=False) as outputs:
        workers = [gate.worker(name, instance_id=name).start() for name in ("one", "two")]
        await hold_all_partitions(workers)
        load = await begin_load(gate, 1)
        await _kill(workers, random, times)
        await until_ready(workers)
        await settle(gate, load, outputs)
        for worker in workers:
            assert worker.is_alive


async def _kill(workers: list[Worker], random: Random, times: int) -> None:
    """Kill one of two workers so many times at random moments, and start it again."""
    for number in range(times):
        victim = random.choice(workers)
        survivor = next(worker for worker in workers if worker is not victim)
        if number % 2:  # else wherever it happens to be: starting, joining, taking over
            await until_ready([victim])
        await asyncio.sleep(random.uniform(0.0, 2.0))
        assert survivor.is_alive, f"{survivor.name} died of the other's death ({survivor.exit_status})"
        victim.kill()
        if number % 4 == 3:  # stays away for longer than its session lives: its partitions move
            await hold_all_partitions([survivor])
        victim.start()


@pytest.mark.long  # the simulation kills workers at every request
def test_ten_kills_under_load_lose_and_repeat_nothing(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(kills(make_settings, tmp_path, times=10, seed=20250602))


async def lives_under_kills(
    make_settings: MakeSettings, tmp_path: Path, *, sessions: int, times: int, seed: int, code: Path = ROOT
) -> None:
    """The whole life of a task, every rule of it, while workers are killed. `code` is where their packages are."""
    async with Gate(make_settings(partitions=PARTITIONS), tmp_path, **LIVES_SETTINGS) as gate:
        workers = [gate.worker(name, instance_id=name, code=code).start() for name in ("one", "two")]
        await hold_all_partitions(workers)
        async with Living(gate, seed=seed, sessions=sessions) as living:
            await _kill(workers, Random(seed), times)
            await until_ready(workers)
            await living.settle()
        for worker in workers:
            assert worker.is_alive


@pytest.mark.long  # test_compiled.py does the same with the core that is deployed
def test_every_rule_holds_under_kills(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(lives_under_kills(make_settings, tmp_path, sessions=80, times=4, seed=1))


async def comings_and_goings(make_settings: MakeSettings, tmp_path: Path, *, workers: int, seed: int) -> None:
    """Workers without a static id: every one that comes or goes moves partitions. At most three at a time."""
    random = Random(seed)
    settings = make_settings(partitions=PARTITIONS, heartbeat_interval_seconds=0.5)
    async with Gate(settings, tmp_path) as gate, gate.outputs(keep=False) as outputs:
        here = await gate.start("worker-0")
        load = await begin_load(gate, 2)
        for number in range(1, workers + 1):
            newcomer = gate.worker(f"worker-{number}").start()
            here.append(newcomer)
            await hold_all_partitions(here)
            if len(here) == 3:
                leaver = here.pop(random.randrange(2))
                leaver.ask_to_stop()
                assert await asyncio.to_thread(leaver.process.wait, 20) == 0
                await hold_all_partitions(here)
        await settle(gate, load, outputs)
        for worker in here:
            assert worker.is_alive


async def hold_all_partitions(workers: list[Worker]) -> None:
    """Wait until each partition is running on exactly one of the workers, and each worker runs one of them at least.

    None of them may have ended.
    """

    async def check() -> bool:
        for worker in workers:
            assert worker.is_alive, f"{worker.name} has died of a rebalance ({worker.exit_status})"
        answers = [await asyncio.to_thread(worker.partitions) for worker in workers]
        running = [[number for number, state in (states or {}).items() if state == "running"] for states in answers]
        return all(running) and sorted(itertools.chain(*running)) == list(range(PARTITIONS))

    await wait_for(check, 30, "each partition runs on one worker", lambda: [worker.partitions() for worker in workers])


@pytest.mark.long  # the simulation has workers come and go at every moment
def test_ten_workers_come_and_go_under_load(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(comings_and_goings(make_settings, tmp_path, workers=10, seed=3))


async def _zombie(make_settings: MakeSettings, tmp_path: Path) -> None:
    """A worker that stood still for longer than its session lives: whatever it does on waking comes too late."""
    async with Gate(make_settings(partitions=PARTITIONS), tmp_path) as gate, gate.outputs(keep=False) as outputs:
        sleeper, awake = await gate.start("sleeper", "awake")
        await hold_all_partitions([sleeper, awake])
        load = await begin_load(gate, 3)
        for _ in range(2):
            await outputs.until(lambda: outputs.verdicts, 20, "verdicts under load")
            sleeper.freeze()
            await hold_all_partitions([awake])
            sleeper.thaw()
            await _has_new_verdicts(outputs)
            await hold_all_partitions([sleeper, awake])
        await settle(gate, load, outputs)


async def _has_new_verdicts(outputs: Outputs) -> None:
    before = len(outputs.verdicts)
    await outputs.until(lambda: len(outputs.verdicts) > before + 200, 30, "verdicts after the waking")


@pytest.mark.long  # the simulation freezes workers at every request
def test_a_worker_that_outslept_its_session_is_fenced(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_zombie(make_settings, tmp_path))
