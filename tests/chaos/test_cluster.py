"""A cluster of three brokers under load, of which one or two are killed and come back.

With one, leaders move: of the inputs, the outputs, the group and the transactions. With two, there is no controller any
more and nothing can be acknowledged: everybody waits. Whatever was acknowledged is on two brokers.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from bench.process import until_ready
from tests.broker.harness import Gate
from tests.broker.test_kill import PARTITIONS, begin_load, hold_all_partitions, settle
from tests.chaos.cluster import NODES, Node, cluster
from tidegate.settings import load_settings

PER_SECOND = 300

pytestmark = pytest.mark.timeout(600)


async def _brokers_die(nodes: list[Node], directory: Path, *, times: int, seed: int) -> None:
    random = Random(seed)
    settings = load_settings(
        bootstrap_servers=",".join(node.bootstrap_servers for node in nodes),
        partitions=PARTITIONS,
        replication_factor=NODES,
        state_dir=directory,
        metrics_port=0,
    )
    async with Gate(settings, directory) as gate, gate.outputs(keep=False) as outputs:
        workers = [gate.worker(name, instance_id=name).start() for name in ("one", "two")]
        await hold_all_partitions(workers)
        load = await begin_load(gate, 3, PER_SECOND)
        for number in range(times):
            victims = random.sample(nodes, 2 if number % 4 == 3 else 1)
            for node in victims:
                await asyncio.to_thread(node.kill)
            await asyncio.sleep(random.uniform(1.0, 8.0))
            await asyncio.gather(*(asyncio.to_thread(node.start) for node in victims))
            await asyncio.sleep(random.uniform(1.0, 6.0))
        await until_ready(workers)
        await settle(gate, load, outputs)
        for worker in workers:
            assert worker.is_alive


def test_brokers_die_and_come_back(tmp_path: Path) -> None:
    with cluster() as nodes:
        asyncio.run(_brokers_die(nodes, tmp_path, times=12, seed=41))
