"""Topics that are not those the rows were folded from, or not as they must be: workers say so and touch nothing.

Before, records were skipped in silence: the committed offset of the old topic was taken for one of the new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from local.broker import LocalBroker
from schemas.topics import topics
from testing.process import Worker
from tests.broker.events import changed, dispatched, returned
from tests.broker.harness import Gate
from tests.broker.waiting import wait_for
from tidegate.settings import Settings
from tidegate.topics import check_topics

MakeSettings = Callable[..., Settings]

ENDED: Final = 20.0

pytestmark = pytest.mark.timeout(120)


async def _folded(gate: Gate, task: str) -> None:
    """A worker that folds, judges and stops."""
    (worker,) = await gate.start(f"before-{task}")
    await gate.send(changed("user", {"view": "1"}), dispatched("user", task, {}), returned("user", task))
    await gate.drained(30)
    worker.ask_to_stop()
    await _ends(worker)


async def _ends(worker: Worker) -> None:
    async def ended() -> bool:
        return worker.exit_status is not None

    await wait_for(ended, ENDED, "the worker has ended", lambda: worker.log_text()[-2000:])


async def _refuses(gate: Gate, name: str, said: str) -> None:
    worker = gate.worker(name).start()
    worker.expected_to_end = True
    await _ends(worker)
    assert worker.exit_status not in {0, None}
    assert said in worker.log_text()


async def _recreated(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate:
        await _folded(gate, "task")
        admin: Any = gate._admin
        name = gate.topic("context")
        await admin.delete_topics([name])
        config = next(topic.config for topic in topics(gate.settings.topic_prefix) if topic.role == "context")

        async def created() -> bool:
            answer = await admin.create_topics([NewTopic(name, 1, 1, topic_configs=config)])
            return bool(answer.topic_errors[0][1] == 0)

        await wait_for(created, 20, "the topic is created again")
        # as many records as there were: the committed offset would be a valid one
        await gate.send(*(changed("user", {"view": str(number)}) for number in range(5)))
        await _refuses(gate, "after", f"{name} was deleted and created again")
        ((line,), _) = await check_topics(gate.settings)
        assert line.startswith(f"{name} was deleted and created again")


def test_an_input_that_was_deleted_and_created_again(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_recreated(make_settings, tmp_path))


async def _grown(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=1), tmp_path) as gate:
        await _folded(gate, "task")
        admin: Any = gate._admin
        names = [topic.name for topic in topics(gate.settings.topic_prefix)]
        await admin.create_partitions({name: NewPartitions(2) for name in names})
        await _refuses(gate, "after", "folded from topics with 1 partitions, and now there are 2")
        lines, _ = await check_topics(gate.settings)
        assert any("folded from topics with 1 partitions" in line for line in lines)


def test_topics_that_were_given_more_partitions(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_grown(make_settings, tmp_path))


@pytest.mark.parametrize(
    ("setting", "value"), [("message.timestamp.type", "CreateTime"), ("cleanup.policy", "compact")]
)
def test_an_input_that_is_not_as_it_must_be(
    make_settings: MakeSettings, tmp_path: Path, setting: str, value: str
) -> None:
    async def run() -> None:
        async with Gate(make_settings(partitions=1), tmp_path) as gate:
            admin: AIOKafkaAdminClient = gate._admin
            name = gate.topic("context")
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {setting: value})])
            await _refuses(gate, "worker", f"{name}: {setting} is {value}")

    asyncio.run(run())


def test_a_worker_has_no_broker_create_topics(make_settings: MakeSettings, tmp_path: Path) -> None:
    async def run(settings: Settings) -> None:
        worker = Worker("worker", settings, tmp_path).start()
        try:
            await _ends(worker)
            assert "topics are missing" in worker.log_text()
        finally:
            worker.kill()
        lines, _ = await check_topics(settings)
        assert lines == [f"{topic.name}: missing" for topic in topics(settings.topic_prefix)]

    creating = {"auto.create.topics.enable": "true"}
    with LocalBroker(ephemeral=True, short_lived=True, properties=creating) as broker:
        asyncio.run(run(make_settings(bootstrap_servers=broker.bootstrap_servers)))
