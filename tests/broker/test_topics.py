"""Creating and checking topics on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.topics import topics
from tidegate.errors import TidegateError
from tidegate.settings import Settings, load_settings
from tidegate.topics import check_topics, create_topics


async def create_one(settings: Settings, topic: NewTopic) -> None:
    admin = AIOKafkaAdminClient(**settings.kafka_kwargs())
    await admin.start()
    try:
        answer = await admin.create_topics([topic])
        assert answer.topic_errors[0][1] == 0
    finally:
        await admin.close()


def test_created_topics_pass_the_check_and_a_second_creation_does_nothing(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings()
    names = [topic.name for topic in topics(settings.topic_prefix)]
    assert asyncio.run(check_topics(settings)) == ([f"{name}: missing" for name in names], [])
    assert asyncio.run(create_topics(settings)) == dict.fromkeys(names, True)
    assert asyncio.run(check_topics(settings)) == ([], [])
    assert asyncio.run(create_topics(settings)) == dict.fromkeys(names, False)


def test_a_topic_made_by_hand_is_left_alone_and_told(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    name = f"{settings.topic_prefix}.tasks.v1"
    asyncio.run(create_one(settings, NewTopic(name, 5, 1)))
    created = asyncio.run(create_topics(settings))
    assert [topic for topic, now in created.items() if not now] == [name]
    assert asyncio.run(check_topics(settings))[0] == [
        f"{name}: 5 partitions, expected 2: all topics need the same",
        f"{name}: cleanup.policy is delete, expected compact",
    ]


def test_what_the_broker_refuses_is_told_per_topic(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(replication_factor=3)
    with pytest.raises(TidegateError) as caught:
        asyncio.run(create_topics(settings))
    assert f"{settings.topic_prefix}.context.v1: " in caught.value.message
    assert "TIDEGATE_REPLICATION_FACTOR" in caught.value.hint


def test_without_a_broker_the_error_says_where_it_looked() -> None:
    settings = load_settings(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(TidegateError) as caught:
        asyncio.run(check_topics(settings))
    assert "127.0.0.1:1" in caught.value.message
    assert "tidegate broker" in caught.value.hint
