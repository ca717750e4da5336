import json
import re
from typing import Any

import pytest

from grafana import dashboard
from grafana.panels import ROWS, STATE_NUMBERS, Query
from streams.partition_metrics import STATES
from tests.unit.promql import TARGET_LABELS, filled_in, groupings, sample_labels, selectors
from tests.unit.used_metrics import used_gateway_metrics, used_metrics

QUERIES = [query for row in ROWS for panel in row.panels for query in panel.queries]
LABELS = sample_labels(used_metrics()) | sample_labels(used_gateway_metrics())

every_query = pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.expression[:60])


def committed() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(dashboard.FILE.read_text())
    return document


def test_committed_dashboard_is_what_the_code_gives() -> None:
    assert dashboard.FILE.read_text() == dashboard.render(), "run `make dashboards`"


def test_every_panel_is_in_the_json_once_and_explained() -> None:
    panels = [panel for panel in committed()["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in panels] == [panel.title for row in ROWS for panel in row.panels]
    assert len({panel["id"] for panel in committed()["panels"]}) == len(committed()["panels"])
    assert all(panel["description"] and panel["datasource"]["uid"] == "${datasource}" for panel in panels)


def test_panels_fill_whole_lines_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in committed()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len(taken) % 24 == 0


@every_query
def test_query_names_metrics_and_labels_that_exist(query: Query) -> None:
    found = list(selectors(query.expression))
    assert found, query.expression
    known = set().union(*(LABELS.get(name, set()) for name, _ in found)) | TARGET_LABELS
    for name, matched in found:
        assert name in LABELS, f"{name} is no metric of streams/metrics.py"
        assert matched <= LABELS[name] | TARGET_LABELS, name
        assert "instance" in matched, f"{name}: the worker variable must apply"
    assert groupings(query.expression) <= known


@every_query
def test_legend_names_labels_that_are_left(query: Query) -> None:
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= groupings(query.expression)


@every_query
def test_only_known_variables_are_used(query: Query) -> None:
    assert "$" not in filled_in(query.expression)


def test_a_query_on_a_metric_that_does_not_exist_would_be_noticed() -> None:
    ((name, matched),) = selectors('sum(rate(tidegate_nonsense_total{instance=~"$worker"}[5m]))')
    assert (name, matched) == ("tidegate_nonsense_total", {"instance"})
    assert name not in LABELS


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for query in QUERIES for name, _ in selectors(query.expression)}
    hidden = {
        name
        for name in LABELS
        if name.startswith("tidegate_") and not name.endswith(("_sum", "_count", "_created")) and name not in shown
    }
    assert hidden == {
        "tidegate_build_info",
        "tidegate_worker_state",  # the partitions' states say more; it lists the workers for the variable
        "tidegate_cycle_records_bucket",  # shown as a mean
        "tidegate_restored_rows_total",
    }


def test_states_have_a_number_each() -> None:
    assert tuple(STATE_NUMBERS) == STATES


def test_check_tells_and_writing_repairs(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dashboard, "FILE", tmp_path / "grafana" / "dashboards" / "tidegate.json")
    (tmp_path / "grafana").mkdir()
    assert dashboard.main(["--check"]) == 1
    assert "run `make dashboards`" in capsys.readouterr().err
    assert dashboard.main([]) == 0
    assert dashboard.main(["--check"]) == 0
