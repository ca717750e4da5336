"""A cluster of three brokers under load, of which one or two are killed and come back.

With one, leaders move: of the inputs, the outputs, the group and the transactions. With two, there is no controller any
more and nothing can be acknowledged: everybody waits. Whatever was acknowledged is on two brokers.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
from aiokafka.admin import NewTopic

from schemas.topics import topics
from testing.process import until_ready
from tests.broker.harness import Gate
from tests.broker.test_kill import PARTITIONS, begin_load, hold_all_partitions, settle
from tests.broker.test_topics import create_one
from tests.chaos.cluster import NODES, Node, cluster
from tidegate.settings import Settings, load_settings
from tidegate.topics import check_topics, create_topics, describe_topics

PER_SECOND = 300

pytestmark = pytest.mark.timeout(600)


def _settings(nodes: list[Node], directory: Path, **changes: str) -> Settings:
    return load_settings(
        bootstrap_servers=",".join(node.bootstrap_servers for node in nodes),
        partitions=PARTITIONS,
        replication_factor=NODES,
        state_dir=directory,
        metrics_port=0,
        **changes,
    )


async def _brokers_die(nodes: list[Node], directory: Path, *, times: int, seed: int) -> None:
    random = Random(seed)
    settings = _settings(nodes, directory)
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


async def _leaders(nodes: list[Node], directory: Path) -> None:
    settings = _settings(nodes, directory)
    await create_topics(settings)
    inputs = [topic for topic in topics(settings.topic_prefix) if topic.is_input]
    found = await describe_topics(settings, [topic.name for topic in inputs])
    assert len({each.leaders for each in found.values()}) == 1
    assert len(set(found[inputs[0].name].leaders)) == min(NODES, PARTITIONS)
    assert await check_topics(settings) == ([], [])

    settings = _settings(nodes, directory, topic_prefix="by-hand")
    first, second, *_ = (topic for topic in topics(settings.topic_prefix) if topic.is_input)
    ids = [node.number for node in nodes]
    for topic, shift in ((first, 0), (second, 1)):
        places = {
            number: [ids[(number + shift + each) % NODES] for each in range(NODES)] for number in range(PARTITIONS)
        }
        await create_one(settings, NewTopic(topic.name, -1, -1, places, topic_configs=topic.config))
    await create_topics(settings)
    found = await describe_topics(settings, [topic.name for topic in topics(settings.topic_prefix) if topic.is_input])
    assert found.pop(second.name).leaders not in {each.leaders for each in found.values()}
    assert len({each.leaders for each in found.values()}) == 1, "the others follow the first one that is there"
    lines, apart = await check_topics(settings)
    assert lines == []
    assert len(apart) == PARTITIONS
    assert second.name in apart[0]


def test_the_inputs_of_a_partition_share_a_leader_and_the_check_warns_if_they_do_not(tmp_path: Path) -> None:
    with cluster() as nodes:
        asyncio.run(_leaders(nodes, tmp_path))
