"""Which partition a session belongs to."""

from collections.abc import Callable

from aiokafka.partitioner import murmur2


def partition_of(session_id: str, partition_count: int) -> int:
    """The partition of a session: murmur2 of its UTF-8 bytes, as Java, aiokafka and kafkajs compute it."""
    return int((murmur2(session_id.encode()) & 0x7FFFFFFF) % partition_count)


def home_check(partition: int, partition_count: int) -> Callable[[str], bool]:
    """Whether a session belongs to `partition`."""
    return lambda session_id: partition_of(session_id, partition_count) == partition
