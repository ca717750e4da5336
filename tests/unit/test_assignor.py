"""Partitions are shared out evenly, all of them, each to one worker, and no more of them move than must."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocol
from faust.assignor.partition_assignor import PartitionAssignor
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from yarl import URL

from streams.assignor import MemberAssignor, shares

WORKERS = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)


@st.composite
def held_and_count(draw: st.DrawFn) -> tuple[dict[str, set[int]], int]:
    """What workers say they hold: mostly of one assignment, now and then a partition that two claim, or none has."""
    workers = draw(WORKERS)
    held: dict[str, set[int]] = {worker: set() for worker in workers}
    for partition in range(draw(st.integers(0, 20))):
        for worker in draw(st.lists(st.sampled_from(workers), max_size=2)):
            held[worker].add(partition)
    return held, draw(st.integers(0, 20))


@given(held_and_count())
def test_every_partition_has_one_worker_and_shares_are_even(given_: tuple[dict[str, set[int]], int]) -> None:
    held, partitions = given_
    found = shares(held, partitions)
    assert found.keys() == held.keys()
    assert sorted(partition for share in found.values() for partition in share) == list(range(partitions))
    sizes = [len(share) for share in found.values()]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 8), st.integers(1, 48), st.integers(1, 8), st.data())
def test_no_more_of_them_move_than_must(before: int, partitions: int, after: int, data: st.DataObject) -> None:
    first = shares({f"w{number}": set() for number in range(before)}, partitions)
    stay = data.draw(st.sets(st.sampled_from(sorted(first)), max_size=min(before, after)))
    names = [*sorted(stay), *(f"n{number}" for number in range(after - len(stay)))]
    second = shares({name: first.get(name, set()) for name in names}, partitions)
    even, over = divmod(partitions, after)
    held = sorted((len(first[name]) for name in stay), reverse=True)
    may_stay = sum(min(size, even + (place < over)) for place, size in enumerate(held))
    stayed = sum(len(first[name] & second[name]) for name in stay)
    assert stayed == may_stay, "a partition was moved without need"


@pytest.mark.parametrize("workers", [1, 3, 4])
def test_a_second_look_at_the_same_group_moves_nothing(workers: int) -> None:
    first = shares({f"w{number}": set() for number in range(workers)}, 10)
    assert shares(first, 10) == first


def test_a_newcomer_to_two_full_workers_gets_one() -> None:
    assert shares({"a": {0, 1}, "b": {2, 3}, "c": set()}, 4) == {"a": {0, 1}, "b": {2}, "c": {3}}


def test_more_workers_than_partitions_leave_the_rest_idle() -> None:
    assert shares({"a": {0}, "b": {1}, "c": set()}, 2) == {"a": {0}, "b": {1}, "c": set()}


# ---- as the group's leader hands it out, through the bytes of Kafka's protocol

TOPICS = {"context", "steps", "results"}


class Stock(PartitionAssignor):
    """Faust's own, as a worker of an older version has it."""

    @property
    def _url(self) -> URL:
        url: URL = self.app.member_url
        return url


class Cluster:
    """What the brokers know: topics with so many partitions."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._counts[topic])) if topic in self._counts else None


WHOLE = Cluster(dict.fromkeys(TOPICS, 4))


def member(name: str, kind: type[PartitionAssignor] = MemberAssignor) -> Any:
    sensors = SimpleNamespace(
        on_assignment_start=lambda _assignor: None,
        on_assignment_completed=lambda *_arguments: None,
        on_assignment_error=lambda *_arguments: None,
    )
    tables = SimpleNamespace(changelog_topics=set(), data={})
    return kind(SimpleNamespace(tables=tables, member_url=URL(f"tidegate://{name}"), tracer=None, sensors=sensors))


def rebalance(leader: str, members: dict[str, Any], cluster: Cluster = WHOLE) -> dict[str, list[int]]:
    """One rebalance; the partitions of each member, the same ones of every topic. A member that refuses raises."""
    metadata = {
        name: ConsumerProtocol.METADATA.decode(each.metadata(TOPICS).encode()) for name, each in members.items()
    }
    assigned = members[leader].assign(cluster, metadata)
    found = {}
    for name, each in members.items():
        assignment = ConsumerProtocol.ASSIGNMENT.decode(assigned[name].encode())
        each.on_assignment(assignment)
        by_topic = {topic: sorted(partitions) for topic, partitions in assignment.assignment}
        assert by_topic.keys() == TOPICS
        assert len(set(map(tuple, by_topic.values()))) == 1, by_topic
        found[name] = by_topic["context"]
    return found


def test_a_group_takes_its_leaders_assignment_and_keeps_it() -> None:
    members = {"a": member("a"), "b": member("b")}
    first = rebalance("a", members)
    assert sorted(first["a"] + first["b"]) == [0, 1, 2, 3]
    assert rebalance("b", members) == first
    members["c"] = member("c")
    third = rebalance("a", members)
    assert sorted(map(len, third.values())) == [1, 1, 2]
    assert set(third["a"]) <= set(first["a"])
    assert set(third["b"]) <= set(first["b"])


def test_workers_that_commit_without_a_generation_are_in_another_group() -> None:
    assert member("new").name != member("old", Stock).name == "faust"


@pytest.mark.parametrize(
    "counts", [{"context": 4, "steps": 4}, {"context": 4, "steps": 4, "results": 6}, {"context": 4}]
)
def test_a_topic_that_is_missing_or_longer_takes_nothing_from_anyone(
    counts: dict[str, int],
) -> None:
    members = {"a": member("a"), "b": member("b")}
    with capture_logs() as logs:
        before = rebalance("a", members)
        assert logs == []
        assert rebalance("a", members, Cluster(counts)) == before
        assert [line["event"] for line in logs] == ["partition_counts_differ"]


def test_no_topic_is_known() -> None:
    assert rebalance("a", {"a": member("a")}, Cluster({})) == {"a": []}
