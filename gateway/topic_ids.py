"""The topics' ids and partition counts, asked of the broker.

aiokafka knows Metadata up to version 5, without topic ids. Source: Kafka protocol, Metadata version 12 (KIP-516).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)


class _Uuid(AbstractType[bytes]):
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


_TEXT = CompactString("utf-8")


class _MetadataResponse_v12(Response):  # noqa: N801 - as aiokafka names them
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), ("tags", TaggedFields)),
        ),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", CompactArray(Int32)),
                        ("isr_nodes", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequest_v12(RequestStruct):  # noqa: N801 - as aiokafka names them
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _MetadataResponse_v12
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _TEXT), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequest_v12]):
    API_KEY = 3

    def __init__(self, names: Sequence[str]) -> None:
        self._topics: list[Any] = [(bytes(16), name, {}) for name in names]

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._topics, False, False, {})


async def describe(admin: Any, names: Sequence[str]) -> tuple[list[bytes], int]:
    """The id of each topic, and how many partitions they have.

    `admin` is a started `AIOKafkaAdminClient`. Raises `KafkaError` if a topic is missing or may not be described, and
    `ValueError` if the partition counts differ.
    """
    answer = await admin._send_request(_MetadataRequest(names))
    found = {topic[1]: topic for topic in answer.topics}
    for name in names:
        if error_code := found[name][0]:
            raise for_code(error_code)(name)
    counts = {len(found[name][4]) for name in names}
    if len(counts) != 1:
        raise ValueError(f"the topics have different partition counts: {sorted(counts)}")
    return [found[name][2] for name in names], counts.pop()
