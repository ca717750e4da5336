"""A gate watched from outside: how far its group has committed, and where the topics end."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)

from schemas.topics import Role, topic_name
from tidegate.settings import Settings

FOLDED: tuple[Role, ...] = ("context", "steps", "results")
COLD: tuple[Role, ...] = ("steps.cold", "results.cold")


class Progress:
    """The group's committed offsets against the ends of input topics, by default of the hot ones; a connection each."""

    def __init__(self, settings: Settings, roles: tuple[Role, ...] = FOLDED) -> None:
        self.settings = settings
        self.partitions = [
            TopicPartition(topic_name(role, settings.topic_prefix), number)
            for role in roles
            for number in range(settings.partitions)
        ]
        self._admin: Any = AIOKafkaAdminClient(**settings.kafka_kwargs())
        self._consumer: Any = AIOKafkaConsumer(**settings.kafka_kwargs())

    async def __aenter__(self) -> Self:
        await self._admin.start()
        await self._consumer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def committed(self) -> dict[TopicPartition, int]:
        """The group's committed offset of each partition; 0 where there is none. Waits for a coordinator."""
        answer = None
        while answer is None:
            try:
                answer = await self._admin.list_consumer_group_offsets(
                    self.settings.group_id, partitions=self.partitions
                )
            except (
                GroupCoordinatorNotAvailableError,  # a new broker makes its topic of offsets when it is first asked
                GroupLoadInProgressError,
                NotCoordinatorForGroupError,
            ):
                await asyncio.sleep(0.1)
        return {tp: max(0, answer[tp].offset) if tp in answer else 0 for tp in self.partitions}

    async def ends(self) -> dict[TopicPartition, int]:
        """The high watermark of each partition."""
        return dict(await self._consumer.end_offsets(self.partitions))

    async def behind(self) -> int:
        """How many offsets the group has still to commit, over all partitions."""
        ends, committed = await self.ends(), await self.committed()
        return sum(max(0, ends[tp] - committed[tp]) for tp in self.partitions)
