"""The demo's tables: the two stories for a newcomer, and what the load came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from local.demo.life import LIFE, Told
from local.demo.story import STORY, Scenario, session_id
from local.demo.told import differences

_VERDICTS = {
    "delivered": Text("delivered", "green"),
    "marked": Text("delivered, marked", "yellow"),
    "withheld": Text("withheld", "red"),
}
_COLOURS = {"delivered": "green", "held": "yellow", "to be redone": "yellow"}


def outcome(part: Mapping[str, Any]) -> str:
    """What became of a part, from its verdict: `delivered`, `marked` or `withheld`."""
    if part["decision"] == "withheld":
        return "withheld"
    return "marked" if part.get("annotated") else "delivered"


def why(part: Mapping[str, Any], scenario: Scenario) -> str:
    """The verdict's reason in a sentence."""
    if part["reason"] == "stale":
        return differences(part)
    reason: str = part["reason"]
    return {
        "fresh": scenario.fresh_because,
        "request_archived": "the request is archived",
        "user_absent": "the user is not there",
    }.get(reason, reason)


def story_table(verdicts: Mapping[str, Mapping[str, Any]]) -> Table:
    """The story with its verdicts, by session id."""
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("the agent is to", "meanwhile the user", "part", "verdict", "why"):
        table.add_column(column, overflow="fold", no_wrap=column in ("part", "verdict"))
    for scenario in STORY:
        asked, meanwhile = scenario.question, scenario.meanwhile
        for part in verdicts[session_id(scenario)]["parts"]:
            table.add_row(asked, meanwhile, part["part_id"], _VERDICTS[outcome(part)], why(part, scenario))
            asked = meanwhile = ""
    return table


def surprises(verdicts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each part that came out otherwise than the story tells."""
    return [
        f"{scenario.name}, {part['part_id']}: {outcome(part)}, expected {scenario.expected[part['part_id']]}"
        for scenario in STORY
        for part in verdicts[session_id(scenario)]["parts"]
        if outcome(part) != scenario.expected[part["part_id"]]
    ]


def life_table(heard: Mapping[str, Sequence[Told]]) -> Table:
    """The second story with what the gate told, by session id."""
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("what happens", "task", "the gate says", "why, or how far it had come"):
        table.add_column(column, overflow="fold", no_wrap=column in ("task", "the gate says"))
    for episode in LIFE:
        if table.row_count:
            table.add_section()
        rows = []
        for line in _in_order(episode.expected, heard.get(episode.session_id, ())):
            first, *others = line.why.split("\n")
            rows.append((line.task_id, Text(line.says, _COLOURS.get(line.says, "red")), first))
            rows += [("", Text(), other) for other in others]
        for happens, row in zip_longest(episode.happens.split("\n"), rows, fillvalue=()):
            table.add_row(happens or "", *row)
    return table


def life_surprises(heard: Mapping[str, Sequence[Told]]) -> list[str]:
    """One line for everything that the gate told otherwise than the second story."""
    found = []
    for episode in LIFE:
        lines = _in_order(episode.expected, heard.get(episode.session_id, ()))
        missing = [line for line in episode.expected if line not in lines]
        others = [line for line in lines if line not in episode.expected]
        found += [f"{episode.name}: expected {_words(line)}" for line in missing]
        found += [f"{episode.name}: not expected {_words(line)}" for line in others]
    return found


def _in_order(expected: Sequence[Told], heard: Sequence[Told]) -> list[Told]:
    """What was heard in the order of the tale, for topics have none between them; with its words for deliveries."""
    words = {(line.task_id, line.says): (at, line.why) for at, line in enumerate(expected)}
    lines = [
        line._replace(why=words.get(line[:2], (0, ""))[1]) if line.says == "delivered" and not line.why else line
        for line in heard
    ]
    return sorted(lines, key=lambda line: words.get(line[:2], (len(expected), ""))[0])


def _words(line: Told) -> str:
    why = line.why.replace("\n", ", ")
    return f"{line.task_id} {line.says} ({why})"


def load_table(summary: Mapping[str, Any], *, events: int, seconds: float) -> Table:
    """Throughput, latency and verdicts of the load."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(min_width=30)
    table.add_column()
    results = summary["results"]
    latency = summary["latency_ms"]
    table.add_row("events", f"{events:,} in {seconds:.1f} s: {events / seconds:,.0f} events/s")
    table.add_row("results judged", f"{results:,}: {results / seconds:,.0f} verdicts/s")
    for name, count in summary["by_verdict"].items():
        table.add_row(f"  {name}", f"{count:,}  ({count / results:.1%})")
    table.add_row("produced to verdict received", f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms")
    return table
