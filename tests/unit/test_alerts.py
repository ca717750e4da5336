import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.promql import TARGET_LABELS, groupings, sample_labels, selectors
from tests.unit.used_metrics import used_gateway_metrics, used_metrics

GRAFANA = Path(__file__).parents[2] / "grafana"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((GRAFANA / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
LABELS = sample_labels(used_metrics()) | sample_labels(used_gateway_metrics())

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
with_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Prometheus) is not installed")


@every_rule
def test_rule_names_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    found = list(selectors(rule["expr"]))
    assert found
    for name, matched in found:
        assert name in LABELS, f"{name} is no metric of streams/metrics.py"
        assert matched <= LABELS[name] | TARGET_LABELS, name
    assert groupings(rule["expr"]) <= set().union(*(LABELS[name] for name, _ in found)) | TARGET_LABELS


@every_rule
def test_rule_says_what_is_wrong_in_words(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Tidegate[A-Z][A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}


@every_rule
def test_rule_is_tested_on_trouble_and_on_silence(rule: dict[str, Any]) -> None:
    tests = yaml.safe_load((GRAFANA / "alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"] if case["alertname"] == rule["alert"]]
    assert any(case["exp_alerts"] for case in cases)
    assert any(not case["exp_alerts"] for case in cases)


def test_prometheus_reads_the_rules_next_to_it() -> None:
    config = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yml"]
    jobs = [job["job_name"] for job in config["scrape_configs"]]
    assert jobs == ["tidegate", "tidegate-gateway"]  # the rules ask for them


def test_grafana_knows_the_scrape_interval() -> None:
    config = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


@with_promtool
@pytest.mark.parametrize(
    "command",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
)
def test_prometheus_own_tool_agrees(command: tuple[str, ...]) -> None:
    done = subprocess.run(("promtool", *command), cwd=GRAFANA, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
