"""Work is cut into pieces by what it costs: the event loop has its turns, and no record takes a whole transaction."""

from __future__ import annotations

import pytest

from streams.pace import MOST_RECORDS, PIECE_SECONDS, SLOW_SECONDS, Pace, TooSlowError


class Clock:
    """CPU time as the test says."""

    def __init__(self) -> None:
        self.used = 0.0

    def now_ms(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0

    def cpu(self) -> float:
        return self.used


def work(pace: Pace, clock: Clock, count: int, seconds_each: float) -> None:
    with pace.measured(count):
        clock.used += count * seconds_each


@pytest.mark.parametrize("seconds_each", [2e-6, 10e-6, 1e-3, 0.015, 0.5])
def test_a_piece_takes_about_so_long_whatever_a_record_costs(seconds_each: float) -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(3):
        work(pace, clock, min(pace.records, int(SLOW_SECONDS / seconds_each)), seconds_each)
    assert pace.records * seconds_each <= PIECE_SECONDS or pace.records == 1
    assert pace.records == MOST_RECORDS or (pace.records + 1) * seconds_each > 0.9 * PIECE_SECONDS


def test_a_small_batch_says_little_and_changes_nothing() -> None:
    clock = Clock()
    pace = Pace(clock)
    before = pace.records
    work(pace, clock, 3, 100e-6)
    assert pace.records == before


def test_a_record_that_takes_too_long_is_told() -> None:
    clock = Clock()
    pace = Pace(clock)
    with pytest.raises(TooSlowError):
        work(pace, clock, 10, SLOW_SECONDS / 5)
    assert pace.records == 1
