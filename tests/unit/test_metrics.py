import re
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from projections.changes import Verdicted
from schemas.topics import topic_name
from streams.metrics import HOT_PATH_SECONDS, MAX_LABEL_VALUES, OTHER, UNKNOWN, Metrics
from streams.partition_metrics import STATES, State
from tests.unit.used_metrics import used_metrics

LABELS = {
    *("topic", "partition", "type", "decision", "reason", "task_type", "lane", "error", "stage", "le"),
    *("disposition", "outcome", "waits_for"),
    *("tidegate_worker_state", "tidegate_partition_state"),
    *("version", "faust_streaming"),
}
# What a gauge or a histogram counts where it is not seconds or bytes.
UNITS = ("_total", "_seconds", "_bytes", "_records", "_rows", "_results", "_sessions", "_state", "_info")


@pytest.fixture
def metrics() -> Metrics:
    return used_metrics()


def families(metrics: Metrics) -> Iterator[Metric]:
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    families: Iterator[Metric] = text_string_to_metric_families(encode(metrics.registry).decode())  # type: ignore[no-untyped-call]
    return families


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_openmetrics_parser_takes_it_and_everything_is_ours_or_the_process(metrics: Metrics) -> None:
    names = [family.name for family in families(metrics)]
    assert len(names) > 20
    assert all(name.startswith(("tidegate_", "process_")) for name in names)


def test_names_end_in_their_unit_and_every_metric_is_explained(metrics: Metrics) -> None:
    for family in families(metrics):
        name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
        if family.name.startswith("tidegate_"):
            assert name.endswith(UNITS), name
        assert family.documentation


def test_labels_are_bounded_ones(metrics: Metrics) -> None:
    for family in families(metrics):
        for sample in family.samples:
            assert set(sample.labels) <= LABELS, sample


def test_every_metric_of_the_registry_was_used_by_the_fixture(metrics: Metrics) -> None:
    assert not [family.name for family in families(metrics) if not family.samples]


def test_values_arrive(metrics: Metrics) -> None:
    context = topic_name("context")
    assert value(metrics, "tidegate_events_total", topic=context, type="context.changed") == 7
    assert value(metrics, "tidegate_verdicts_total", decision="delivered", reason="fresh", task_type="search") == 3
    assert value(metrics, "tidegate_verdicts_total", decision="withheld", reason="unknown_task", task_type=UNKNOWN) == 1
    assert value(metrics, "tidegate_duplicates_total", type="task.result") == 1
    assert value(metrics, "tidegate_ignored_events_total", type="task.heartbeat") == 3
    assert value(metrics, "tidegate_result_age_seconds_sum") == 90.5
    assert value(metrics, "tidegate_produce_to_verdict_seconds_count", lane="hot", task_type="search") == 2
    assert value(metrics, "tidegate_produce_to_verdict_seconds_count", lane="cold", task_type="search") == 1
    assert value(metrics, "tidegate_produce_to_verdict_seconds_count", lane="hot", task_type=UNKNOWN) == 1
    assert value(metrics, "tidegate_acknowledged_total", outcome="shown") == 2
    assert value(metrics, "tidegate_tasks_ended_total", disposition="cancelled", reason="superseded") == 1
    assert value(metrics, "tidegate_barrier_wait_seconds_count", lane="hot") == 1
    assert value(metrics, "tidegate_transaction_seconds_count") == 1
    assert value(metrics, "tidegate_cycle_records_sum") == 14
    assert value(metrics, "tidegate_cycle_cpu_seconds_total", stage="fold") == 0.25
    assert value(metrics, "tidegate_transaction_failures_total", error="BoomError") == 1
    assert value(metrics, "tidegate_dlq_records_total", error="undecodable") == 1
    assert value(metrics, "tidegate_misrouted_records_total", topic=context) == 2
    assert value(metrics, "tidegate_lag_records", topic=context, partition="1") == 12
    assert value(metrics, "tidegate_row_bytes", partition="2") == 900
    assert value(metrics, "tidegate_ended_task_bytes", partition="2") == 400
    assert value(metrics, "tidegate_waiting_bytes", partition="2") == 1200
    assert value(metrics, "tidegate_restored_rows_total") == 2
    assert value(metrics, "tidegate_handovers_total") == value(metrics, "tidegate_rebalances_total") == 1
    assert value(metrics, "tidegate_build_info", version="1.2.3", faust_streaming="0.15.3") == 1


@pytest.mark.parametrize("state", STATES)
def test_exactly_one_state_at_a_time(metrics: Metrics, state: State) -> None:
    metrics.state(1, state)
    metrics.worker(state)
    for name, labels in (("tidegate_partition_state", {"partition": "1"}), ("tidegate_worker_state", {})):
        shown = {other: value(metrics, name, **labels, **{name: other}) for other in STATES}
        assert shown == {other: float(other == state) for other in STATES}


def test_task_types_beyond_the_limit_are_other(metrics: Metrics) -> None:
    for number in range(3 * MAX_LABEL_VALUES):
        metrics.judged([Verdicted("withheld", "stale", f"type-{number}", "hot", None, 0)], 0)
    metrics.judged([Verdicted("delivered", "fresh", "search", "hot", None, 0)], 0)
    (family,) = (family for family in families(metrics) if family.name == "tidegate_verdicts")
    totals = [sample for sample in family.samples if sample.name.endswith("_total")]
    types = {sample.labels["task_type"] for sample in totals}
    assert len(types - {OTHER, UNKNOWN}) == MAX_LABEL_VALUES
    assert "search" in types  # a type seen early keeps its name
    assert sum(sample.value for sample in totals) == 3 + 1 + 3 * MAX_LABEL_VALUES + 1
    assert value(metrics, "tidegate_verdicts_total", decision="delivered", reason="fresh", task_type="search") == 4


def test_error_labels_are_bounded(metrics: Metrics) -> None:
    for number in range(2 * MAX_LABEL_VALUES):
        metrics.dlq(f"code-{number}")
        metrics.transaction_failed(type(f"Error{number}", (Exception,), {})())
    for name in ("tidegate_dlq_records", "tidegate_transaction_failures"):
        (family,) = (family for family in families(metrics) if family.name == name)
        assert len({sample.labels["error"] for sample in family.samples}) == MAX_LABEL_VALUES + 1


def test_a_partition_given_up_is_reported_no_more(metrics: Metrics) -> None:
    metrics.forget_partition(1)
    metrics.forget_partition(99)  # never owned
    shown = {
        sample.labels["partition"]
        for family in families(metrics)
        for sample in family.samples
        if "partition" in sample.labels
    }
    assert shown == {"0", "2"}
    metrics.state(1, "restoring")
    metrics.partition(1, sessions=5)
    metrics.lag(topic_name("context"), 1, 3)
    assert value(metrics, "tidegate_sessions", partition="1") == 5
    assert value(metrics, "tidegate_lag_records", partition="1", topic=topic_name("context")) == 3
    assert value(metrics, "tidegate_row_bytes", partition="1") is None


def test_two_workers_in_one_process_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.rebalance()
    assert value(other, "tidegate_rebalances_total") == 0


def test_hot_path_buckets_are_fine_enough_to_read_the_aims_from() -> None:
    assert (HOT_PATH_SECONDS[0], HOT_PATH_SECONDS[-1]) == (0.0005, 60.0)
    assert list(HOT_PATH_SECONDS) == sorted(set(HOT_PATH_SECONDS))
    assert {0.01, 0.03} <= set(HOT_PATH_SECONDS)  # p50 and p99 of an idle gate


def test_units_in_names_are_base_units(metrics: Metrics) -> None:
    for family in families(metrics):
        assert not re.search(r"_(ms|milliseconds|kib|mib|percent)\b", family.name)
