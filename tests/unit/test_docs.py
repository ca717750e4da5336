import ast
import functools
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from docs import generate
from schemas.asyncapi import type_of
from schemas.events import INPUT_EVENTS
from schemas.outputs import OUTPUT_EVENTS
from schemas.topics import topics
from tests.unit.promql import sample_labels, selectors
from tests.unit.test_compose import parse
from tests.unit.used_metrics import used_metrics
from tidegate.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
CONTRACT, OPERATIONS, SETTINGS = (DOCUMENTS[f"{name}.md"] for name in ("contract", "operations", "settings"))
LABELS = sample_labels(used_metrics())
PACKAGES = ("schemas", "projections", "streams", "gateway", "audit", "tidegate", "local")
SOURCES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
MODELS = {type_of(model): model for model in (*INPUT_EVENTS, *OUTPUT_EVENTS)}

every_document = pytest.mark.parametrize("name", sorted(DOCUMENTS))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


@functools.cache
def string_literals() -> set[str]:
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def refusal_codes() -> set[str]:
    """The first text in every `Refusal(...)` and `EventRefused(...)`."""
    codes = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"Refusal", "EventRefused"}:
                texts = [
                    each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
                ]
                codes.update(texts[:1])
    return codes


def test_tables_are_what_the_code_gives() -> None:
    assert [path.name for path in generate.drifted()] == [], "run `python -m docs.generate`"


def test_every_section_there_is_stands_in_a_document() -> None:
    texts = "".join([*DOCUMENTS.values(), (ROOT / "README.md").read_text()])
    written = re.findall(r"<!-- generated: ([a-z-]+) -->", texts)
    assert sorted(written) == sorted(generate.SECTIONS)


def test_check_tells_and_writing_repairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "docs" / "a.md"
    document.parent.mkdir()
    document.write_text("before\n<!-- generated: topics -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(generate, "DIRECTORY", document.parent)
    assert generate.main(["--check"]) == 1
    assert "a.md differs" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "tidegate.context.v1" in text


def test_contract_speaks_of_every_topic_and_event_type() -> None:
    for topic in topics():
        assert f"`{topic.name}`" in CONTRACT
    for name, model in MODELS.items():
        assert f"### `{name}`" in CONTRACT
        assert all(f"| `{field}` |" in CONTRACT for field in model.model_fields if field != "type"), name


def test_contract_speaks_of_every_dead_letter_code_and_header() -> None:
    letters = section(CONTRACT, "Dead letters")
    codes = refusal_codes()
    assert len(codes) >= 6
    assert set(re.findall(r"^\| `(\w+)` \| ", letters, re.MULTILINE)) == codes | {
        text for text in string_literals() if text.startswith(("tidegate_error", "tidegate_origin_", "tidegate_judged"))
    }


def test_operations_speak_of_every_metric() -> None:
    table = section(OPERATIONS, "Metrics")
    suffixes = ("_bucket", "_sum", "_count", "_created")
    for name in LABELS:
        if name.startswith("tidegate_") and not name.endswith(suffixes[1:]):
            assert f"| `{name.removesuffix('_bucket')}` |" in table, name
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) <= {name.removesuffix("_bucket") for name in LABELS}


def test_operations_say_what_to_do_about_every_alert() -> None:
    rules = yaml.safe_load((ROOT / "grafana/alerts.yml").read_text())["groups"][0]["rules"]
    explained = re.findall(r"^### (Tidegate\w+)$", OPERATIONS, re.MULTILINE)
    assert sorted(explained) == sorted(rule["alert"] for rule in rules)


def test_documents_speak_of_every_setting_and_of_no_other() -> None:
    settings = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    table = section(SETTINGS, "Settings")
    assert set(re.findall(r"^\| `(TIDEGATE_\w+)` \|", table, re.MULTILINE)) == settings
    for text in DOCUMENTS.values():
        assert set(re.findall(rf"{ENV_PREFIX}[A-Z_]+", text)) <= settings | {"TIDEGATE_CONFIG"}


def test_no_default_of_a_setting_is_this_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/else")
    assert "/somewhere" not in generate.settings_table()
    assert str(Path.home()) not in SETTINGS


@every_document
def test_links_lead_somewhere(name: str) -> None:
    text = DOCUMENTS[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        other = ROOT / "docs" / file if file else None
        assert other is None or other.exists(), target
        if anchor:
            assert anchor in anchors(other.read_text() if other else text), target


@every_document
def test_commands_are_real_ones(name: str) -> None:
    for block in blocks(DOCUMENTS[name], "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["tidegate"]:
                parse(words[1:])
    for command in re.findall(r"`tidegate ([a-z ]+)`", DOCUMENTS[name]):
        parse(command.split())


@every_document
def test_queries_name_metrics_that_exist(name: str) -> None:
    for query in blocks(DOCUMENTS[name], "promql"):
        for metric, matched in selectors(query):
            assert metric in LABELS, metric
            assert matched <= LABELS[metric] | {"instance", "job"}
    for metric in re.findall(r"`(tidegate_[a-z_]+)`", DOCUMENTS[name]):
        assert metric in {shown.removesuffix("_bucket") for shown in LABELS} | string_literals(), metric


def test_log_events_that_operations_quote_are_really_logged() -> None:
    logged = string_literals()
    for quoted in (
        "waiting_for_broker",
        "waiting_for_old_workers",
        "worker_starts_afresh",
        "handover_failed",
        "open_transaction_ended",
        "misrouted_records_forwarded",
    ):
        assert f"`{quoted}`" in OPERATIONS
        assert quoted in logged
    for error in ("RestoreError", "LostInputError"):
        assert f"class {error}(" in (ROOT / "streams/errors.py").read_text()


def test_events_in_the_commands_are_valid() -> None:
    envelope = {"source": "my-service", "event_id": "1", "session_id": "s", "occurred_at": "2026-03-02T10:00:00Z"}
    lines = [line for block in blocks(CONTRACT, "sh") for line in block.splitlines() if line.startswith("python")]
    types = {str(topic.role): topic.event_types for topic in topics()}
    assert len(lines) == 3
    for line in lines:
        _, script, role, body = shlex.split(line)
        event = json.loads(body)
        assert (ROOT / "docs/examples" / script).is_file()
        assert event["type"] in types[role]
        MODELS[event["type"]].model_validate({**envelope, **event})


def test_examples_are_ten_lines_of_work() -> None:
    for name in ("produce.py", "consume.py"):
        tree = ast.parse((ROOT / "docs/examples" / name).read_text())
        (function,) = (node for node in tree.body if isinstance(node, ast.AsyncFunctionDef))
        assert function.end_lineno
        assert function.end_lineno - function.lineno + 1 <= 10


def test_sizes_in_the_contract_are_those_of_the_models() -> None:
    sizes = section(CONTRACT, "Sizes, versions, erasure")
    from schemas import fields

    for text, size in (
        ("at most 768 KiB", fields.MAX_EVENT_BYTES),
        ("payload 256 KiB", fields.MAX_INLINE_PART_BYTES),
        ("snapshot 16 KiB", fields.MAX_SNAPSHOT_BYTES),
        ("`metadata` 4 KiB", fields.MAX_METADATA_BYTES),
        ("values 1 KiB", fields.MAX_VALUE_BYTES),
    ):
        assert text in sizes
        assert int(re.findall(r"\d+", text)[0]) * 1024 == size
    assert fields.MAX_NAME_BYTES == fields.MAX_FACETS == 256
