"""The search finds the record that raises, whatever its place, and commits everything before it in large pieces."""

from __future__ import annotations

from typing import Final

import pytest

from projections.decode import Batch, Refusal
from streams.failure import Failure
from streams.probing import Search

FAILURE: Final = Failure("BoomError", "projections/partition.py:1")


def batch(first: int, count: int) -> Batch:
    many: list[bytes | None] = [b"value"] * count
    offsets = list(range(first, first + count))
    return Batch("context", 0, first, first + count, offsets, [0] * count, many, many, [[]] * count)


def searched(bad: set[int], count: int) -> tuple[list[int], int]:
    """The offsets that are refused, and how many transactions it took to get through `count` records."""
    search, refused, committed, transactions = Search(), list[int](), 0, 0
    while committed < count:
        limit = search.limit
        taken = min(count - committed, 10_000 if limit is None else limit)
        refusals: list[Refusal] = []
        left = search.took(batch(committed, taken), refusals)
        transactions += 1
        if bad & set(left.offsets):
            assert search.failed("fold", taken, {"context": committed + taken}, FAILURE)
            continue
        committed += taken
        refused += [each.batch.offsets[each.index] for each in refusals]
        assert {each.error for each in refusals} <= {"processing_failed"}
        search.committed({"context": committed})
    assert not search.is_on
    return refused, transactions


@pytest.mark.parametrize("bad", [set(), {0}, {9_999}, {4_321}, {17, 18, 19}, {5, 5_000, 9_998}])
def test_it_finds_what_raises_and_nothing_else(bad: set[int]) -> None:
    refused, transactions = searched(bad, 10_000)
    assert refused == sorted(bad)
    assert transactions <= 1 + 40 * len(bad)


def test_without_a_record_there_is_nobody_to_blame() -> None:
    search = Search()
    assert not search.failed("time", 0, {"context": 7}, FAILURE)


def test_work_without_records_is_waited_for_before_the_search_ends() -> None:
    search = Search()
    assert search.failed("time", 8, {"context": 8}, FAILURE)
    search.took(batch(0, 1), [])
    search.committed({"context": 8})
    assert search.is_on  # everything was folded, but the timer has not acted yet
    search.done("time")
    search.committed({"context": 8})
    assert not search.is_on


def test_a_record_that_cannot_be_refused_either_is_not_sought_for_ever() -> None:
    search = Search()
    assert search.failed("fold", 2, {"context": 2}, FAILURE)
    search.took(batch(0, 1), [])
    assert search.failed("commit", 1, {"context": 1}, FAILURE)
    search.took(batch(0, 1), [])
    assert not search.failed("commit", 1, {"context": 1}, FAILURE)
