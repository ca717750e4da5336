"""Just enough of PromQL to compare queries with the metrics that exist: names, matchers and groupings."""

import re
from collections.abc import Iterator

from gateway.metrics import Metrics as GatewayMetrics
from streams.metrics import Metrics

TARGET_LABELS = {"instance", "job"}
BUILT_IN = {"up"}  # Prometheus's own
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$worker": ".*"}


def filled_in(expression: str) -> str:
    """The expression with Grafana's variables replaced, ready for Prometheus."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def sample_labels(metrics: Metrics | GatewayMetrics) -> dict[str, set[str]]:
    """For each name that a scrape shows, the labels it has."""
    labels: dict[str, set[str]] = {name: set() for name in BUILT_IN}
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric selected in the expression, with the labels its matchers name."""
    without_strings = re.sub(r'"[^"]*"', '""', expression)
    without_groupings = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", "", without_strings)
    for name, matchers in re.findall(r"\b([a-z_][a-z0-9_]*)\s*(?:\{([^}]*)\})?", without_groupings):
        if matchers or name in BUILT_IN or name.startswith(("tidegate_", "process_")):
            yield name, set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", matchers))


def groupings(expression: str) -> set[str]:
    """Every label that the expression groups by."""
    return {label.strip() for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in labels.split(",")}
