"""Partitions are shared out evenly, all of them, each to one worker, and no more of them move than must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.assignor import shares

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
