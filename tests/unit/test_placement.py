"""Where the inputs' partitions are put, and what is said if their leaders differ."""

from __future__ import annotations

from collections import Counter

import pytest

from tidegate.placement import placement, split_leaders


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("replication_factor", [1, 2, 3])
def test_leaders_are_spread_evenly_and_no_broker_holds_a_partition_twice(count: int, replication_factor: int) -> None:
    brokers = [(10 + number, None) for number in range(count)]
    places = placement(brokers, 4 * count, replication_factor)
    if count < replication_factor:
        assert places is None
        return
    assert places is not None
    assert list(places) == list(range(4 * count))
    assert Counter(replicas[0] for replicas in places.values()) == {node: 4 for node, _ in brokers}
    assert all(len(set(replicas)) == replication_factor for replicas in places.values())


def test_replicas_are_in_different_racks() -> None:
    racks = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c", 6: "c"}
    places = placement(racks.items(), 12, 3)
    assert places is not None
    assert all({racks[node] for node in replicas} == {"a", "b", "c"} for replicas in places.values())


def test_only_partitions_with_different_leaders_are_named() -> None:
    assert split_leaders({}) == []
    assert split_leaders({"context": (1, 2), "steps": (1, 2), "results": (1, 2)}) == []
    assert split_leaders({"context": (1, 2, 3), "steps": (1, 3, 3), "results": (1, 2, -1)}) == [
        "partition 1: the inputs have different leaders: context, results by broker 2; steps by broker 3",
        "partition 2: the inputs have different leaders: results by none; context, steps by broker 3",
    ]
