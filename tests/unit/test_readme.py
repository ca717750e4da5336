import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import typer

from local.demo.life import LIFE
from local.demo.story import SNAPSHOT, STORY
from schemas.topics import topics
from tests.unit import test_docs_semantics as semantics
from tests.unit.test_compose import parse
from tests.unit.test_docs import anchors, blocks, section
from tidegate.cli import app
from tidegate.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DEMO, REPLAY, SETTINGS = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("demo", "replay", "settings"))
PAGES = {"README.md": README, "CONTRIBUTING.md": CONTRIBUTING, "demo": DEMO, "replay": REPLAY, "settings": SETTINGS}
LINKING = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
SPANS = [span for text in PAGES.values() for span in re.findall(r"`([^`\n]+)`", text)]


def marked(text: str, name: str) -> str:
    """What stands between `<!-- NAME -->` and the next `<!-- end -->`."""
    found = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert len(found) == 1, name
    return str(found[0])


def commands() -> Iterator[list[str]]:
    """Every command line: in blocks to type, between backquotes in the text, and in the reports after a `$`."""
    typed = [line for text in PAGES.values() for block in blocks(text, "sh") for line in block.splitlines()]
    reported = re.findall(r"^\$ (.+)$", REPLAY, re.MULTILINE)
    for line in (*typed, *SPANS, *reported):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words:
            yield words


def values(block: str) -> list[dict[str, Any]]:
    """The JSON objects of a block; an object may span lines."""
    found, rest = [], block.strip()
    while rest:
        value, end = json.JSONDecoder().raw_decode(rest)
        found.append(value)
        rest = rest[end:].lstrip()
    return found


def cli_commands() -> set[str]:
    """The name of every command, those of a group with the group's before."""
    found = set()
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found.update([name] if inner is None else [f"{name} {each}" for each in inner])
    return found


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the table below a heading."""
    lines = section(text, heading).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return rows[2:]


def test_commands_are_real_ones() -> None:
    ours, made = [], []
    for words in commands():
        if words[0] == "tidegate" and words[1:]:
            ours.append(words)
            parse(words[1:])
        if words[0] == "make" and len(words) > 1:
            made.append(words[1])
            assert words[1] in TARGETS, words
    assert len(ours) > 15
    assert {"demo", "test"} <= set(made)


def test_every_command_is_told_of() -> None:
    told = {re.sub("^tidegate | FILE$| 3$", "", row[0].strip("`")) for row in table(SETTINGS, "Commands")}
    assert told == cli_commands()


def test_options_between_backquotes_exist() -> None:
    for span in SPANS:
        words = shlex.split(span)
        if words and words[0].startswith("--") and words[0] != "--help":
            parse(["replay", "file", *words])


def test_variables_are_settings() -> None:
    named = set(re.findall(rf"{ENV_PREFIX}[A-Z_]*[A-Z]", README))
    assert named
    assert named <= {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}


def test_values_in_the_commands_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = re.findall(rf"\b{ENV_PREFIX}([A-Z_]+)=(\S+)", "".join(blocks(README, "sh")))
    assert len(given) > 3
    Settings.model_validate({name.lower(): value for name, value in given})


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        other = path.parent / file if file else path
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other.read_text()), target


def test_files_between_backquotes_exist() -> None:
    named = [span for span in SPANS if re.fullmatch(r"[a-z_]+/[a-z_./]+\.(py|md|json|yml)", span)]
    for name in named:
        assert (ROOT / name).exists() or name.startswith("historical_trajectories/"), name
    assert len(named) > 5


def test_example_comes_out_as_shown() -> None:
    events, outputs = (values(block) for block in blocks(README, "jsonl"))
    semantics.test_example(semantics.Example("README", events, outputs))
    (withheld,) = (output for output in outputs if output["type"] == "result.withheld")
    assert withheld["verdict"]["parts"][0]["differences"]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_what_is_typed_to_try_the_examples_is_what_the_contract_says() -> None:
    # where it is checked against the models, and run against a real gate
    contract = (ROOT / "docs" / "contract.md").read_text()
    (there,) = (block for block in blocks(contract, "sh") if block.startswith("python produce.py"))
    (here,) = (block for block in blocks(DEMO, "sh") if "python produce.py" in block)
    assert there in here


def test_picture_names_real_topics() -> None:
    picture = ET.parse(ROOT / "docs" / "architecture.svg").getroot()
    texts = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    roles = {str(topic.role) for topic in topics()}
    shown = roles & set(texts)
    assert shown == {
        "context",
        "steps",
        "results",
        "delivered",
        "withheld",
        "tasks",
        "commands",
        "dlq",
        "sessions.changelog",
    }


def test_layout_names_every_folder() -> None:
    named = {re.sub(r"\[(\w+)/\].*", r"\1", row[0]) for row in table(CONTRIBUTING, "Layout")}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["packages"]
    assert named == {*packages, "clients"}
    (tests,) = (row[1] for row in table(CONTRIBUTING, "Layout") if row[0].startswith("[tests/]"))
    assert set(re.findall(r"`(\w+)`", tests)) == {file.parent.name for file in (ROOT / "tests").glob("*/__init__.py")}


def test_story_shown_is_the_story_told() -> None:
    shown = marked(DEMO, "demo output")
    for name, value in SNAPSHOT.items():
        assert f'{name} = "{value}"' in shown
    verdicts = re.findall(r" (?:message|booking) {2,}(delivered, marked|delivered|withheld) ", shown)
    words = {"delivered": "delivered", "marked": "delivered, marked", "withheld": "withheld"}
    assert verdicts == [words[outcome] for scenario in STORY for outcome in scenario.expected.values()]
    for scenario in STORY:
        assert scenario.meanwhile.split("\n")[0] in shown
    assert "\nclean: " in shown


def test_life_shown_is_the_life_told() -> None:
    shown = marked(DEMO, "demo output").split("\nThe life of a task.")[1].split("\nA load.")[0]
    words = sorted({each.says for episode in LIFE for each in episode.expected}, key=len, reverse=True)
    ids = {each.task_id for episode in LIFE for each in episode.expected}
    rows = re.findall(rf" ({'|'.join(map(re.escape, sorted(ids, reverse=True)))}) +({'|'.join(words)}) ", shown)
    assert rows == [(each.task_id, each.says) for episode in LIFE for each in episode.expected]


def test_replays_shown_were_sound() -> None:
    plain, strict, interfered, audit = marked(REPLAY, "replay report").split("$ ")[1:]
    assert " withheld," not in plain.replace("\n", " ")
    assert "--strict" in strict
    assert "--interfere" in interfered
    for report in (plain, strict, interfered):
        answers = int(re.findall(r"^([\d,]+) in [\d,]+ conversations", report, re.MULTILINE)[0].replace(",", ""))
        verdicts = re.findall(r"^(?:delivered|withheld), .*? ([\d,]+) +[\d.]+%", report, re.MULTILINE)
        assert sum(int(count.replace(",", "")) for count in verdicts) == answers
    assert "\nclean: " in audit
