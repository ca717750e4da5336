"""Where the inputs' partitions are put: partition p of all of them on the same brokers, so with one leader.

The gate merges steps and results by the broker's timestamps, which are one clock's then, and a broker that is away
delays a partition's inputs together instead of the one that the others wait for. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest

Replicas = Mapping[int, Sequence[int]]
"""Broker ids by partition; the first one leads when all are up."""


def placement(brokers: Iterable[tuple[int, str | None]], partitions: int, replication_factor: int) -> Replicas | None:
    """The brokers of each partition: leaders spread evenly, replicas in as many racks as there are.

    `brokers`: id and rack. None if there are fewer of them than replicas.
    """
    racks: dict[str | None, list[int]] = {}
    for node, rack in sorted(brokers, key=lambda each: each[0]):
        racks.setdefault(rack, []).append(node)
    in_turn = [node for node in chain.from_iterable(zip_longest(*racks.values())) if node is not None]
    count = len(in_turn)
    if count < replication_factor:
        return None
    return {
        number: [in_turn[(number + place) % count] for place in range(replication_factor)]
        for number in range(partitions)
    }


def split_leaders(leaders: Mapping[str, Sequence[int]]) -> list[str]:
    """A line for each partition whose inputs have different leaders. `leaders`: broker ids by topic and partition."""
    lines = []
    for number, by_partition in enumerate(zip(*leaders.values(), strict=False)):
        topics: dict[int, list[str]] = {}
        for topic, leader in zip(leaders, by_partition, strict=True):
            topics.setdefault(leader, []).append(topic)
        if len(topics) > 1:
            led = "; ".join(f"{', '.join(names)} by {_broker(leader)}" for leader, names in sorted(topics.items()))
            lines.append(f"partition {number}: the inputs have different leaders: {led}")
    return lines


def _broker(leader: int) -> str:
    return f"broker {leader}" if leader >= 0 else "none"
