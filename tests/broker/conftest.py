"""One real Kafka broker for the whole run, and topics of its own for each test that asks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.broker import LocalBroker
from tidegate.settings import Settings, load_settings
from tidegate.topics import create_topics

HERE = Path(__file__).parent
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.broker)


@pytest.fixture(scope="session")
def broker() -> Iterator[LocalBroker]:
    """The run's broker. Do not stop it: a test that needs to starts one of its own."""
    with LocalBroker(ephemeral=True, short_lived=True) as running:
        yield running


@pytest.fixture
def make_settings(broker: LocalBroker, tmp_path: Path) -> Callable[..., Settings]:
    """Settings for `broker` with a topic prefix and a group no other test uses; arguments change them."""
    name = f"test{next(_numbers)}"

    def make(**changes: object) -> Settings:
        defaults: dict[str, object] = {
            "bootstrap_servers": broker.bootstrap_servers,
            "topic_prefix": name,
            "group_id": name,
            "partitions": 2,
            "state_dir": tmp_path,
            "metrics_port": 0,
        }
        return load_settings(**{**defaults, **changes})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings whose topics exist on `broker`, with 2 partitions each."""
    made = make_settings()
    asyncio.run(create_topics(made))
    return made
