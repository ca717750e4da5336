from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from rich.console import Console

from local.demo.consumer import Heard
from local.demo.life import LIFE, SILENCE_SECONDS, Episode, Hears, Says, Told, envelope
from local.demo.producer import Listener
from local.demo.story import STORY, Scenario, events, session_id
from local.demo.table import life_surprises, life_table, load_table, outcome, story_table, surprises
from local.demo.told import told as in_words
from tests.unit.memory_gate import MemoryGate


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


def lived(episode: Episode) -> list[dict[str, Any]]:
    """What comes out of the gate; whoever waits in the episode must have heard what he waits for."""
    gate, written = MemoryGate(), list[dict[str, Any]]()
    for number, step in enumerate(episode.steps, 1):
        if isinstance(step, Hears):
            assert [event for event in written if step.fields.items() <= plain(event).items()], step
        else:
            written += gate.tell(*envelope(episode, number, step))
    return [*written, *gate.later(2 * SILENCE_SECONDS)]


def plain(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if isinstance(value, str | int)}


def words(written: list[dict[str, Any]]) -> list[Told]:
    return list(dict.fromkeys(line for event in written if (line := in_words(event)) is not None))


def dispatches(episode: Episode) -> list[dict[str, Any]]:
    return [s.event for s in episode.steps if isinstance(s, Says) and s.event["type"] == "task.dispatched"]


@pytest.mark.parametrize("episode", LIFE, ids=lambda episode: episode.name)
def test_the_gate_tells_what_the_episode_expects(episode: Episode) -> None:
    heard = words(lived(episode))

    assert len(heard) == len(episode.expected)
    assert life_surprises({**as_told(), episode.session_id: heard}) == []


@pytest.mark.parametrize("episode", LIFE, ids=lambda episode: episode.name)
def test_every_task_of_an_episode_ends(episode: Episode) -> None:
    statuses = {event["task_id"]: event["status"] for event in lived(episode) if event["type"] == "task.status"}

    assert statuses == {dispatch["task_id"]: "ended" for dispatch in dispatches(episode)}


def test_the_new_attempt_is_dispatched_as_commanded() -> None:
    (episode,) = (each for each in LIFE if each.name == "redispatch")
    (command,) = (event for event in lived(episode) if event["type"] == "task.redispatch")
    _, second = dispatches(episode)

    assert second["task_id"] == command["new_task_id"]
    assert (second["attempt"], second["snapshot"]) == (command["attempt"], command["snapshot"])


def test_the_second_table_folds_no_line() -> None:
    text = io.StringIO()
    Console(file=text, width=120).print(life_table({each.session_id: words(lived(each)) for each in LIFE}))

    for episode in LIFE:
        told = (told for line in episode.expected for told in (line.task_id, line.says, *line.why.split("\n")))
        for phrase in (*episode.happens.split("\n"), *told):
            assert phrase in text.getvalue()


def as_told() -> dict[str, list[Told]]:
    return {each.session_id: list(each.expected) for each in LIFE}


def test_what_the_second_story_does_not_tell_is_a_surprise() -> None:
    heard = as_told()
    assert life_surprises(heard) == []

    heard["life-expired"] = [Told("find-flight", "delivered")]
    assert life_surprises(heard) == [
        "expired: expected find-flight told to stop (its heartbeats have stopped)",
        "expired: expected find-flight expired (in flight: search, never attempted: compare)",
        "expired: not expected find-flight delivered ()",
    ]


@pytest.mark.parametrize("receipt", ["done: search", ""])
def test_a_wrong_receipt_is_a_surprise(receipt: str) -> None:
    heard = as_told()
    heard["life-expired"][1] = Told("find-flight", "expired", receipt)

    assert f"expired: not expected find-flight expired ({receipt})" in life_surprises(heard)


def test_a_held_part_that_only_waits_for_its_verdict_is_not_told_of() -> None:
    (episode,) = (each for each in LIFE if each.name == "held")
    (held, *_) = (event for event in lived(episode) if event.get("status") == "waiting")

    assert in_words(held) == Told("find-flight", "held", "until view/laptop is as it was")
    assert in_words({name: value for name, value in held.items() if name not in ("stale", "stale_facets")}) is None


def test_whoever_waits_goes_on_when_the_session_has_heard_it() -> None:
    asyncio.run(wait_for_a_cancel())


async def wait_for_a_cancel() -> None:
    listener = Listener()
    waiting = asyncio.create_task(listener.until("s", Hears({"type": "task.cancel", "task_id": "t"})))
    cancel = {"type": "task.cancel", "task_id": "t", "metadata": {}}
    await listener.hear([{**cancel, "session_id": "other"}, {**cancel, "session_id": "s", "type": "task.status"}])
    await asyncio.sleep(0)
    assert not waiting.done()

    await listener.hear([{**cancel, "session_id": "s"}])
    await waiting


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
