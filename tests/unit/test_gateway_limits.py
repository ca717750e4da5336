from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import RateLimit, StreamCount


@given(st.lists(st.floats(0, 0.5), max_size=100))
def test_no_more_than_the_rate_and_the_burst(pauses: list[float]) -> None:
    rate = RateLimit(10, 5)
    now, taken = 0.0, 0
    for pause in pauses:
        now += pause
        wait = rate.wait_seconds("a", now)
        taken += wait == 0.0
        assert taken <= 5 + now * 10 + 1e-6
        if wait:
            assert rate.wait_seconds("b" * len(pauses) + str(now), now) == 0.0, "others are not held up"
            assert 0 < wait <= 0.1


def test_waiting_that_long_is_enough() -> None:
    rate = RateLimit(2, 1)
    assert rate.wait_seconds("a", 0) == 0.0
    wait = rate.wait_seconds("a", 0.1)
    assert rate.wait_seconds("a", 0.1 + wait) == 0.0


def test_streams_are_counted_for_each_holder() -> None:
    count = StreamCount(2, 3)
    assert [count.enter("a") for _ in range(3)] == [True, True, False]
    assert count.enter("b")
    assert count.is_full()
    count.leave("a")
    assert not count.is_full()
    assert count.enter("a")
