from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tests.unit.memory_gate import MemoryGate
from tidegate.demo.consumer import Heard
from tidegate.demo.story import STORY, Scenario, events, session_id
from tidegate.demo.table import load_table, outcome, story_table, surprises


def told(scenario: Scenario) -> dict[str, Any]:
    gate = MemoryGate()
    verdicts = [verdict for role, body in events(scenario, "s") for verdict in gate.take(role, body)]
    verdict: dict[str, Any] = verdicts[0]["verdict"]
    return verdict


@pytest.mark.parametrize("scenario", STORY, ids=lambda scenario: scenario.name)
def test_the_gate_decides_as_the_story_tells(scenario: Scenario) -> None:
    assert {part["part_id"]: outcome(part) for part in told(scenario)["parts"]} == scenario.expected


def test_the_table_fits_a_terminal_and_names_what_differs() -> None:
    text = io.StringIO()
    Console(file=text, width=120).print(story_table({session_id(each): told(each) for each in STORY}))

    assert 'view/laptop: "flights" → "hotels"' in text.getvalue()
    assert 'calendar/tuesday: "meeting 3 pm" → gone' in text.getvalue()
    assert text.getvalue().count("withheld") == 6


def test_a_verdict_the_story_does_not_tell_is_a_surprise() -> None:
    verdicts = {session_id(each): told(each) for each in STORY}
    assert surprises(verdicts) == []

    verdicts["story-nothing"]["parts"][0]["decision"] = "withheld"
    assert surprises(verdicts) == ["nothing, message: withheld, expected delivered"]


def heard_event(task: str, *parts: dict[str, Any]) -> dict[str, Any]:
    payload = {"payload": {"produced_at_ms": 1000.0}}
    verdict = {"decision": parts[0]["decision"], "reason": "stale", "parts": list(parts)}
    return {"session_id": "load-1", "task_id": task, "parts": [payload], "verdict": verdict}


def test_a_result_that_comes_as_two_events_counts_once() -> None:
    heard = Heard()
    both = ({"decision": "delivered", "annotated": True}, {"decision": "withheld"})
    heard.hear(heard_event("t1", *both), 1010.0)
    heard.hear(heard_event("t1", *both), 1020.0)
    heard.hear(heard_event("t2", {"decision": "withheld"}), 1030.0)

    summary = heard.summary()
    assert summary["results"] == 2
    assert summary["by_verdict"] == {"message delivered marked as stale, edit withheld": 1, "withheld, stale": 1}
    assert summary["latency_ms"] == {"p50": 10.0, "p99": 30.0}
    text = io.StringIO()
    Console(file=text, width=100).print(load_table(summary, events=20, seconds=2.0))
    assert "10 events/s" in text.getvalue()
