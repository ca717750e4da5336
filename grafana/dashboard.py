"""The dashboard's looks: from rows and panels to Grafana's JSON. What it shows is in `grafana.panels`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.panels import ROWS, STATE_NUMBERS, Panel, Query

FILE: Final = Path(__file__).parent / "dashboards" / "tidegate.json"
UID: Final = "tidegate"

_DATASOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_STATE_COLORS: Final = {
    "starting": "yellow",
    "restoring": "orange",
    "running": "green",
    "stopping": "semi-dark-blue",
    "failed": "red",
}
_HEIGHTS: Final = {"stat": 4, "graph": 8, "stacked": 8, "heatmap": 8, "states": 8}


def render() -> str:
    """The dashboard as JSON text, the same for the same panels."""
    builder = (
        dashboard.Dashboard("Tidegate")
        .uid(UID)
        .description("Is an agent's result still relevant when it returns? What the gate decides, and how it fares.")
        .tags(["tidegate", "kafka"])
        .editable()
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("worker")
            .label("Worker")
            .query("label_values(tidegate_worker_state, instance)")
            .datasource(_DATASOURCE)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
            .multi(multi=True)
            .include_all(include_all=True)
            .all_value(".*")
            .current(models.VariableOption(text="All", value="$__all"))
        )
    )
    number = 0
    for row in ROWS:
        number += 1
        builder.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            builder.with_panel(_panel(panel).id(number))
    return json.dumps(builder.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the JSON; with `--check` only say whether it differs, by exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m grafana", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the file differs")
    check = parser.parse_args(arguments).check
    text = render()
    if FILE.is_file() and FILE.read_text(encoding="utf-8") == text:
        return 0
    name = FILE.relative_to(FILE.parents[2])
    if check:
        sys.stderr.write(f"{name} differs from grafana/panels.py; run `make dashboards`\n")
        return 1
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {name}\n")
    return 0


def _panel(panel: Panel) -> Any:
    builder = _BUILDERS[panel.kind]()
    builder = (
        builder.title(panel.title)
        .description(panel.description)
        .datasource(_DATASOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(_HEIGHTS[panel.kind])
    )
    for index, query in enumerate(panel.queries):
        builder.with_target(_target(query, "ABCDEFGH"[index], panel))
    return builder.thresholds(_thresholds(panel.warn_above))


def _target(query: Query, name: str, panel: Panel) -> Any:
    target = prometheus.Dataquery().expr(query.expression).ref_id(name).datasource(_DATASOURCE)
    if query.legend:
        target = target.legend_format(query.legend)
    if panel.kind == "heatmap":
        target = target.format(PromQueryFormat.HEATMAP)
    return target.instant() if panel.kind == "stat" else target.range()


def _thresholds(warn_above: float | None) -> Any:
    steps = [models.Threshold(value=None, color="green")]  # without any, Grafana paints everything above 80 red
    if warn_above is not None:
        steps.append(models.Threshold(value=warn_above, color="orange"))
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _stat() -> Any:
    return (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(looks.BigValueGraphMode.NONE)
        .color_mode(looks.BigValueColorMode.VALUE)
        .no_value("0")
    )


def _graph() -> Any:
    legend = (
        common.VizLegendOptions()
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .show_legend(show_legend=True)
    )
    tooltip = common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING)
    return timeseries.Panel().line_width(1).fill_opacity(10).min(0).legend(legend).tooltip(tooltip)


def _stacked() -> Any:
    return _graph().fill_opacity(40).stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))


def _heatmap() -> Any:
    colors = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    return heatmap.Panel().calculate(calculate=False).color(colors).y_axis(heatmap.YAxisConfig().unit("s"))


def _states() -> Any:
    options = {
        str(number): models.ValueMappingResult(text=state, color=_STATE_COLORS[state], index=number)
        for state, number in STATE_NUMBERS.items()
    }
    return (
        statetimeline.Panel()
        .mappings([models.ValueMap(options=options)])
        .show_value(looks.VisibilityMode.NEVER)
        .row_height(0.9)
        .merge_values(merge_values=True)
    )


_BUILDERS: Final = {"stat": _stat, "graph": _graph, "stacked": _stacked, "heatmap": _heatmap, "states": _states}
