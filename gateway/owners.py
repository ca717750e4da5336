"""Which worker owns a partition: read from the metadata of the workers' consumer group.

Each member announces the address of its read endpoint with its assignment. The addresses are not trusted: the answers
are signed (`schemas.queries`).
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import orjson
import structlog
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError

from schemas.queries import READ_QUERY

_log = structlog.get_logger(__name__)

MAX_AGE_SECONDS: Final = 10.0
REFRESH_SECONDS: Final = 0.5
"""Least time between two questions to the coordinator."""


class Owners:
    """The owner of each partition, as the group's coordinator last reported it."""

    def __init__(self, admin: Any, group_id: str, topic: str) -> None:
        self._admin = admin
        self._group_id = group_id
        self._topic = topic
        self._addresses: dict[int, str] = {}
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def address(self, partition: int, *, fresh: bool = False) -> str | None:
        """`host:port` of the owner's read endpoint, None without an owner. `fresh`: the known address was wrong."""
        age = time.monotonic() - self._asked_at
        if age > MAX_AGE_SECONDS or ((fresh or partition not in self._addresses) and age > REFRESH_SECONDS):
            async with self._lock:
                if time.monotonic() - self._asked_at > REFRESH_SECONDS:
                    await self._refresh()
        return self._addresses.get(partition)

    async def _refresh(self) -> None:
        try:
            answers = await self._admin.describe_consumer_groups([self._group_id])
            self._addresses = addresses_of(answers[0], self._topic)
        except (KafkaError, LookupError, ValueError) as error:
            _log.warning("owners_unknown", error=type(error).__name__)
        self._asked_at = time.monotonic()


def addresses_of(answer: Any, topic: str) -> dict[int, str]:
    """By partition of `topic`, the address that its owner announces, from the answer of DescribeGroups."""
    found: dict[int, str] = {}
    for group in answer.groups:
        for _member, _client, _host, metadata, assignment in (member[:5] for member in group[5]):
            address = announced_address(metadata)
            if address is None or not assignment:
                continue
            for name, partitions in ConsumerProtocolMemberAssignment.decode(assignment).assignment:
                if name == topic:
                    found.update(dict.fromkeys(partitions, address))
    return found


def announced_address(metadata: bytes) -> str | None:
    """The address in a member's metadata; None if it announces none."""
    try:
        user_data = ConsumerProtocolMemberMetadata.decode(metadata).user_data
        url = str(orjson.loads(user_data)["url"])
        return str(parse_qs(urlsplit(url).query)[READ_QUERY][0])
    except (ValueError, LookupError, TypeError):
        return None
