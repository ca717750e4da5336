"""Kafka requests and error codes that aiokafka 0.14.0 lacks, as KIP-447 and the hand-over need them.

Each structure is the oldest version with what is needed here; brokers since Kafka 3.0 know all of them. `TaggedFields`
of aiokafka encodes an empty dict correctly and nothing else, so every tag is `{}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from aiokafka import errors
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)
NO_TAGS: dict[int, bytes] = {}


class FencedInstanceIdError(errors.BrokerResponseError):
    """Another process has joined the group under the same instance id."""

    errno = 82
    message = "FENCED_INSTANCE_ID"


class UnstableOffsetCommitError(errors.BrokerResponseError):
    """A transaction that commits offsets of this partition is not finished."""

    errno = 88
    message = "UNSTABLE_OFFSET_COMMIT"
    retriable = True


class BrokerProducerFencedError(errors.BrokerResponseError):
    """A newer producer has the same transactional id: what brokers answer since Kafka 2.7."""

    errno = 90
    message = "PRODUCER_FENCED"


class TransactionAbortableError(errors.BrokerResponseError):
    """The transaction can only be aborted."""

    errno = 120
    message = "TRANSACTION_ABORTABLE"


# aiokafka makes an unknown code an UnknownError, which nobody could tell from another one
for _error in (FencedInstanceIdError, UnstableOffsetCommitError, BrokerProducerFencedError, TransactionAbortableError):
    errors.kafka_errors[_error.errno] = _error


class TxnOffsetCommitResponse_v3(Response):  # noqa: N801 - as aiokafka names versions
    """Answer to `TxnOffsetCommitRequest_v3`."""

    API_KEY, API_VERSION = 28, 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "errors",
            CompactArray(
                ("topic", _TEXT),
                ("partition_errors", CompactArray(("partition", Int32), ("error_code", Int16), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class TxnOffsetCommitRequest_v3(RequestStruct):  # noqa: N801
    """Commits offsets within a transaction, as a member of a generation: what fences a zombie."""

    API_KEY, API_VERSION, RESPONSE_TYPE, FLEXIBLE_VERSION = 28, 3, TxnOffsetCommitResponse_v3, True
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("group_id", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _TEXT),
        ("group_instance_id", _TEXT),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", _TEXT), _TAGS
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class OffsetFetchResponse_v7(Response):  # noqa: N801
    """Answer to `OffsetFetchRequest_v7`."""

    API_KEY, API_VERSION = 9, 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("error_code", Int16),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("error_code", Int16),
        _TAGS,
    )


class OffsetFetchRequest_v7(RequestStruct):  # noqa: N801
    """Committed offsets; with `require_stable`, an error where a transaction may still change them."""

    API_KEY, API_VERSION, RESPONSE_TYPE, FLEXIBLE_VERSION = 9, 7, OffsetFetchResponse_v7, True
    SCHEMA = Schema(
        ("group_id", _TEXT),
        ("topics", CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)),
        ("require_stable", Boolean),
        _TAGS,
    )


class DescribeProducersResponse_v0(Response):  # noqa: N801
    """Answer to `DescribeProducersRequest_v0`. `txn_start_offset` is -1 without an open transaction."""

    API_KEY, API_VERSION = 61, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("txn_start_offset", Int64),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class DescribeProducersRequest_v0(RequestStruct):  # noqa: N801
    """Which producers have written to a partition, and whose transaction is open. To be sent to its leader."""

    API_KEY, API_VERSION, RESPONSE_TYPE, FLEXIBLE_VERSION = 61, 0, DescribeProducersResponse_v0, True
    SCHEMA = Schema(("topics", CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)), _TAGS)


class ListTransactionsResponse_v0(Response):  # noqa: N801
    """Answer to `ListTransactionsRequest_v0`."""

    API_KEY, API_VERSION = 66, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_state_filters", CompactArray(_TEXT)),
        (
            "transactions",
            CompactArray(("transactional_id", _TEXT), ("producer_id", Int64), ("state", _TEXT), _TAGS),
        ),
        _TAGS,
    )


class ListTransactionsRequest_v0(RequestStruct):  # noqa: N801
    """The transactions a broker coordinates, by state and producer id. To be sent to every broker."""

    API_KEY, API_VERSION, RESPONSE_TYPE, FLEXIBLE_VERSION = 66, 0, ListTransactionsResponse_v0, True
    SCHEMA = Schema(("state_filters", CompactArray(_TEXT)), ("producer_id_filters", CompactArray(Int64)), _TAGS)


class MetadataResponse_v10(Response):  # noqa: N801
    """Answer to `MetadataRequest_v10`. A topic's id is a UUID, in two halves."""

    API_KEY, API_VERSION = 3, 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS)),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                ("id_high", Int64),
                ("id_low", Int64),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        ("cluster_authorized_operations", Int32),
        _TAGS,
    )


class MetadataRequest_v10(RequestStruct):  # noqa: N801
    """Topics with their ids. aiokafka's own request has the broker create a topic that is missing, where it may."""

    API_KEY, API_VERSION, RESPONSE_TYPE, FLEXIBLE_VERSION = 3, 10, MetadataResponse_v10, True
    SCHEMA = Schema(
        ("topics", CompactArray(("id_high", Int64), ("id_low", Int64), ("name", _TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class _SingleVersion(Request[RequestStruct]):
    """A request of one version, made of the fields it is given."""

    API_KEY = -1
    STRUCT: ClassVar[Any] = None

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        """The structure to send. Raises `IncompatibleBrokerVersion` where the broker does not know it."""
        struct = self.STRUCT
        oldest, newest = versions.get(struct.API_KEY, (0, -1))
        if not oldest <= struct.API_VERSION <= newest:
            raise errors.IncompatibleBrokerVersion(
                f"{type(self).__name__} v{struct.API_VERSION}: the broker takes v{oldest} to v{newest};"
                " Kafka 3.0 or newer is needed"
            )
        return self.build(struct)

    def build(self, request_struct_class: Any) -> Any:
        """The structure with its fields."""
        return request_struct_class(*self._fields, NO_TAGS)


class TxnOffsetCommitRequest(_SingleVersion):
    """Commit offsets within a transaction."""

    API_KEY, STRUCT = 28, TxnOffsetCommitRequest_v3


class OffsetFetchRequest(_SingleVersion):
    """Fetch committed offsets."""

    API_KEY, STRUCT = 9, OffsetFetchRequest_v7


class DescribeProducersRequest(_SingleVersion):
    """Describe a partition's producers."""

    API_KEY, STRUCT = 61, DescribeProducersRequest_v0


class ListTransactionsRequest(_SingleVersion):
    """List a broker's transactions."""

    API_KEY, STRUCT = 66, ListTransactionsRequest_v0


class TopicsRequest(_SingleVersion):
    """Describe topics, with their ids, creating none."""

    API_KEY, STRUCT = 3, MetadataRequest_v10

    @classmethod
    def of(cls, names: Iterable[str]) -> TopicsRequest:
        """Of the topics with these names."""
        return cls([(0, 0, name, NO_TAGS) for name in names], False, False, False)
