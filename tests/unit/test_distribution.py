from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from streams.distribution import Distribution

BOUNDS = (0.001, 0.01, 0.1, 1.0)


def text(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line and "_sum" not in line]


@given(st.lists(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(min_value=0, max_value=3)))))
def test_counts_as_the_librarys_own_histogram_does(batches: Sequence[Sequence[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    distribution = Distribution("t_seconds", "Time", BOUNDS)
    ours.register(distribution)
    histogram = Histogram("t_seconds", "Time", buckets=BOUNDS, registry=theirs)
    for batch in batches:
        distribution.observe(batch)
        for value in batch:
            histogram.observe(value)
    assert text(ours) == text(theirs)


def test_sum_and_label() -> None:
    registry = CollectorRegistry()
    distribution = Distribution("t_seconds", "Time", BOUNDS, "lane")
    registry.register(distribution)
    distribution.observe([0.5, 0.25], "hot")
    distribution.observe([2.0], "cold")
    assert registry.get_sample_value("t_seconds_sum", {"lane": "hot"}) == 0.75
    assert registry.get_sample_value("t_seconds_count", {"lane": "hot"}) == 2
    assert registry.get_sample_value("t_seconds_bucket", {"lane": "cold", "le": "1.0"}) == 0
    assert registry.get_sample_value("t_seconds_bucket", {"lane": "cold", "le": "+Inf"}) == 1


def test_clocks_that_disagree_never_make_time_negative() -> None:
    registry = CollectorRegistry()
    distribution = Distribution("t_seconds", "Time", BOUNDS)
    registry.register(distribution)
    distribution.observe([-3.0])
    assert registry.get_sample_value("t_seconds_sum") == 0.0
    assert registry.get_sample_value("t_seconds_bucket", {"le": "0.001"}) == 1
