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
from tests.unit.test_compose import parse
from tests.unit.test_docs import anchors, blocks
from tidegate.cli import app
from tidegate.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
SPANS = re.findall(r"`([^`\n]+)`", README)


def marked(name: str) -> str:
    """What stands between `<!-- NAME -->` and the next `<!-- end -->`."""
    found = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert len(found) == 1, name
    return str(found[0])


def commands() -> Iterator[list[str]]:
    """Every command line: in blocks to type, between backquotes in the text, and in the reports after a `$`."""
    typed = [line for block in blocks(README, "sh") for line in block.splitlines()]
    reported = re.findall(r"^\$ (.+)$", README, re.MULTILINE)
    for line in (*typed, *SPANS, *reported):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words:
            yield words


def cli_commands() -> set[str]:
    """The name of every command, those of a group with the group's before."""
    found = set()
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found.update([name] if inner is None else [f"{name} {each}" for each in inner])
    return found


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return rows[2:]


def test_commands_are_real_ones() -> None:
    ours, made = [], []
    for words in commands():
        if words[0] == "tidegate":
            ours.append(words)
            parse(words[1:])
        if words[0] == "make" and len(words) > 1:
            made.append(words[1])
            assert words[1] in TARGETS, words
    assert len(ours) > 15
    assert {"demo", "test"} <= set(made)


def test_every_command_is_told_of() -> None:
    told = {re.sub("^tidegate | FILE$| 3$", "", row[0].strip("`")) for row in table("Commands")}
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


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(targets) > 20
    for target in targets:
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        assert (ROOT / file).exists(), target
        if anchor:
            assert anchor in anchors((ROOT / file).read_text() if file else README), target


def test_files_between_backquotes_exist() -> None:
    named = [span for span in SPANS if re.fullmatch(r"[a-z_]+/[a-z_./]+\.(py|md|json|yml)", span)]
    for name in named:
        assert (ROOT / name).exists() or name.startswith("historical_trajectories/"), name
    assert len(named) > 5


def test_examples_are_those_of_the_docs() -> None:
    shown = blocks(README, "python")
    assert shown == [(ROOT / "docs" / "examples" / name).read_text() for name in ("produce.py", "consume.py")]


def test_what_is_typed_to_try_them_is_what_the_contract_says() -> None:
    # where it is checked against the models, and run against a real gate
    contract = (ROOT / "docs" / "contract.md").read_text()
    (there,) = (block for block in blocks(contract, "sh") if block.startswith("python produce.py"))
    (here,) = (block for block in blocks(README, "sh") if "python produce.py" in block)
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
    named = {re.sub(r"\[(\w+)/\].*", r"\1", row[0]) for row in table("Layout")}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["packages"]
    assert named == {*packages, "clients"}
    (tests,) = (row[1] for row in table("Layout") if row[0].startswith("[tests/]"))
    assert set(re.findall(r"`(\w+)`", tests)) == {file.parent.name for file in (ROOT / "tests").glob("*/__init__.py")}


def test_story_shown_is_the_story_told() -> None:
    shown = marked("demo output")
    for name, value in SNAPSHOT.items():
        assert f'{name} = "{value}"' in shown
    verdicts = re.findall(r" (?:message|booking) {2,}(delivered, marked|delivered|withheld) ", shown)
    words = {"delivered": "delivered", "marked": "delivered, marked", "withheld": "withheld"}
    assert verdicts == [words[outcome] for scenario in STORY for outcome in scenario.expected.values()]
    for scenario in STORY:
        assert scenario.meanwhile.split("\n")[0] in shown
    assert "\nclean: " in shown


def test_life_shown_is_the_life_told() -> None:
    shown = marked("demo output").split("\nThe life of a task.")[1].split("\nA load.")[0]
    words = sorted({each.says for episode in LIFE for each in episode.expected}, key=len, reverse=True)
    ids = {each.task_id for episode in LIFE for each in episode.expected}
    rows = re.findall(rf" ({'|'.join(map(re.escape, sorted(ids, reverse=True)))}) +({'|'.join(words)}) ", shown)
    assert rows == [(each.task_id, each.says) for episode in LIFE for each in episode.expected]


def test_replays_shown_were_sound() -> None:
    plain, strict, interfered, audit = marked("replay report").split("$ ")[1:]
    assert " withheld," not in plain.replace("\n", " ")
    assert "--strict" in strict
    assert "--interfere" in interfered
    for report in (plain, strict, interfered):
        answers = int(re.findall(r"^([\d,]+) in [\d,]+ conversations", report, re.MULTILINE)[0].replace(",", ""))
        verdicts = re.findall(r"^(?:delivered|withheld), .*? ([\d,]+) +[\d.]+%", report, re.MULTILINE)
        assert sum(int(count.replace(",", "")) for count in verdicts) == answers
    assert "\nclean: " in audit
