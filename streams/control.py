"""Questions to the cluster that are not about records: partition counts, committed offsets, where logs begin."""

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code

from schemas.topics import INPUT_ROLES, Role, topics
from streams.config import EngineConfig
from streams.errors import FatalError
from streams.interfaces import Layout
from streams.kafka_protocol import NO_TAGS, OffsetFetchRequest, TopicsRequest

METADATA_SECONDS = 10.0
_64_BITS = 2**64 - 1


class Control:
    """An admin connection and a consumer without a group, shared by the partitions of a worker."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        timeout_ms = int(config.request_timeout_seconds * 1000)
        self._admin = AIOKafkaAdminClient(
            **config.kafka, client_id=f"{config.group_id}-control", request_timeout_ms=timeout_ms, retry_backoff_ms=20
        )
        self._consumer = AIOKafkaConsumer(
            **config.kafka, client_id=f"{config.group_id}-control", request_timeout_ms=timeout_ms, retry_backoff_ms=20
        )

    async def start(self) -> None:
        """Connect. Raises `KafkaConnectionError` where no broker answers."""
        await self._admin.start()
        await self._consumer.start()

    async def stop(self) -> None:
        """Close the connections."""
        await self._consumer.stop()
        await self._admin.close()

    @property
    def client(self) -> Any:
        """The connected `AIOKafkaClient`, for requests that aiokafka has no call for."""
        return self._admin._client

    async def layout(self) -> Layout:
        """How many partitions every topic of the gate has, and the ids of its inputs.

        Raises `FatalError` where a topic is missing or the counts differ; `KafkaError` where the broker does not
        answer. Creates no topic, whatever the broker would do of its own accord.
        """
        names = [topic.name for topic in topics(self._config.topic_prefix)]
        for _ in range(int(METADATA_SECONDS / 0.5)):
            counts, ids = await self._described(names)
            if len(counts) == len(names):
                break
            await asyncio.sleep(0.5)
        missing = [name for name in names if name not in counts]
        if missing:
            raise FatalError(
                f"topics are missing: {', '.join(missing)}. Create them: tidegate topics create. To a user without"
                " permissions they seem to be missing, too."
            )
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise FatalError(
                f"all topics must have the same partition count, but: {listed}. See: tidegate topics check"
            )
        return Layout(next(iter(counts.values())), {role: ids[self._config.topic(role)] for role in INPUT_ROLES})

    async def topic_ids(self) -> dict[Role, str]:
        """The ids of those inputs that the broker knows of now. Raises `KafkaError`."""
        names = {self._config.topic(role): role for role in INPUT_ROLES}
        _, ids = await self._described(list(names))
        return {names[name]: topic_id for name, topic_id in ids.items()}

    async def _described(self, names: list[str]) -> tuple[dict[str, int], dict[str, str]]:
        """Partition counts and ids of the topics that there are."""
        answer = await self._admin._send_request(TopicsRequest.of(names))
        counts, ids = {}, {}
        for error_code, name, high, low, _internal, partitions, _allowed, _tags in answer.topics:
            if error_code == 0:
                counts[name] = len(partitions)
                ids[name] = f"{high & _64_BITS:016x}{low & _64_BITS:016x}"
        return counts, ids

    async def stable_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's committed offsets, of those partitions that have one.

        Raises `UnstableOffsetCommitError` where a transaction that has committed one of them is not finished, other
        `KafkaError`s where the broker does not answer.
        """
        wanted: dict[str, list[int]] = {}
        for tp in partitions:
            wanted.setdefault(tp.topic, []).append(tp.partition)
        group_id = self._config.group_id
        coordinator = await self._admin.find_coordinator(group_id)
        asked = [(topic, numbers, NO_TAGS) for topic, numbers in wanted.items()]
        answer = await self._admin._send_request(OffsetFetchRequest(group_id, asked, True), coordinator)
        if answer.error_code:
            raise for_code(answer.error_code)(f"committed offsets of group {group_id!r}")
        committed: dict[TopicPartition, int] = {}
        for topic, answers, _tags in answer.topics:
            for partition, offset, _epoch, _metadata, partition_error, _more in answers:
                if partition_error:
                    raise for_code(partition_error)(f"committed offset of {topic}, partition {partition}")
                if offset >= 0:
                    committed[TopicPartition(topic, partition)] = offset
        return committed

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset of each log's first record. Raises `KafkaError`."""
        return dict(await self._consumer.beginning_offsets(list(partitions)))

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The high watermark of each log. Raises `KafkaError`."""
        return dict(await self._consumer.end_offsets(list(partitions)))
