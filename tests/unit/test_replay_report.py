from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from local.replay.ledger import Ledger
from local.replay.plan import Answer
from local.replay.player import Played
from local.replay.report import facet_kind, figures, is_sound, percentile, show, unexpected


def answer(task: str, *stale: str, **others: Any) -> Answer:
    fields = {
        "interfered_with": None,
        "superseded": False,
        "follows_write": False,
        "fixed_snapshot_differs": False,
        "tool_answer": False,
    }
    return Answer(session_id="s", task_id=task, stale=frozenset(stale), **{**fields, **others})


def event(task: str, decision: str, reason: str, *facets: str) -> dict[str, Any]:
    part = {"part_id": "text", "decision": decision, "differences": [{"facet": facet} for facet in facets]}
    return {"session_id": "s", "task_id": task, "verdict": {"decision": decision, "reason": reason, "parts": [part]}}


def found(ledger: Ledger) -> dict[str, Any]:
    return figures(Played(ledger, events=40, seconds=2.0), file="f.jsonl", conversations=1, sessions=1)


def shown(ledger: Ledger) -> str:
    text = io.StringIO()
    show(found(ledger), Console(file=text, width=100))
    return text.getvalue()


def ledger_of(*entries: tuple[Answer, dict[str, Any] | None]) -> Ledger:
    ledger = Ledger()
    for number, (given, _) in enumerate(entries):
        ledger.produced(given, float(number))
    for number, (_, judged) in enumerate(entries):
        if judged is not None:
            ledger.judged(judged, number + 0.01)
    return ledger


def sound() -> Ledger:
    return ledger_of(
        (answer("a"), event("a", "delivered", "fresh")),
        (
            answer("b", "order/7/status", "order/7", interfered_with="order/7", follows_write=True),
            event("b", "withheld", "stale", "order/7/status", "order/7"),
        ),
        (
            answer("c", follows_write=True, fixed_snapshot_differs=True, tool_answer=True),
            event("c", "delivered", "fresh"),
        ),
    )


def test_figures_count_answers_verdicts_and_what_made_them_stale() -> None:
    figured = found(sound())

    assert is_sound(figured)
    assert (figured["answers"], figured["fresh"], figured["withheld"]) == (3, 2, 1)
    assert figured["stale_by_facet_kind"] == {"order": 1}
    assert figured["withheld_by_reason"] == {"stale": 1}
    assert figured["after_own_write"] == {"answers": 2, "withheld": 1, "fixed_snapshot_would_withhold": 1}
    assert figured["interfered_with"] == 1
    assert figured["latency_ms"]["p50"] == pytest.approx(10.0)


def test_an_answer_without_a_verdict_is_named() -> None:
    ledger = ledger_of((answer("a"), None))

    assert not is_sound(found(ledger))
    assert found(ledger)["missing"] == ["s a"]
    assert "1 answers without a verdict" in shown(ledger)
    assert "  s a" in shown(ledger)


@pytest.mark.parametrize(
    ("given", "judged"),
    [
        (answer("a", "order/7"), event("a", "delivered", "fresh")),
        (answer("a"), event("a", "withheld", "stale", "order/7")),
        (answer("a", "order/7"), event("a", "withheld", "stale", "user/1")),
        (answer("a"), event("a", "withheld", "late")),
    ],
    ids=["stale delivered", "fresh withheld", "by another facet", "late"],
)
def test_a_verdict_its_history_does_not_ask_for_is_unexpected(given: Answer, judged: dict[str, Any]) -> None:
    ledger = ledger_of((given, judged))

    assert unexpected(ledger) == [("s", "a")]
    assert not is_sound(found(ledger))


def test_a_second_verdict_is_noticed() -> None:
    ledger = ledger_of((answer("a"), event("a", "delivered", "fresh")))
    ledger.judged(event("a", "delivered", "fresh"), 9.0)

    assert found(ledger)["judged_again"] == ["s a"]
    assert not is_sound(found(ledger))


def test_what_the_gate_refused_is_told() -> None:
    ledger = sound()
    ledger.refused.append("invalid_event: snapshot: too large (DLQ offset 3)")

    assert not is_sound(found(ledger))
    assert "snapshot: too large" in shown(ledger)


def test_the_report_names_the_kinds_and_the_comparison() -> None:
    text = " ".join(shown(sound()).split())

    assert "order 1" in text
    assert "withheld, stale 1 33.3%" in text
    assert "Of the 2 answers whose task had changed things itself, 1 were withheld." in text
    assert "p50 10.0 ms" in text


def test_an_empty_run_can_be_shown() -> None:
    assert "0 in 1 conversations" in shown(Ledger())


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]

    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([3.0], 0.99) == 3.0


def test_the_kind_of_a_facet_is_what_stands_before_the_first_slash() -> None:
    assert facet_kind("reservation/OI5L9G/details") == "reservation"
    assert facet_kind("conversation") == "conversation"
