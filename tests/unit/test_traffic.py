from __future__ import annotations

from collections import Counter
from typing import get_args

import orjson
import pytest

from schemas.events import INPUT_EVENTS
from tests.unit.memory_gate import MemoryGate
from tidegate.traffic import EVENTS_PER_TASK, Happening, task_life

HAPPENINGS: tuple[Happening, ...] = get_args(Happening)
MODELS = {get_args(model.model_fields["type"].annotation)[0]: model for model in INPUT_EVENTS}


def life(happening: Happening, number: int = 0) -> list[tuple[str, bytes]]:
    return [
        (line.role, f'{line.text},"occurred_at":"2024-05-15T15:00:00Z"}}'.encode())
        for line in task_life("traffic-000001", number, happening)
    ]


@pytest.mark.parametrize("happening", HAPPENINGS)
def test_hand_written_json_is_what_the_contract_asks_for(happening: Happening) -> None:
    for _, value in life(happening, 12):
        body = orjson.loads(value)
        event = MODELS[body["type"]].model_validate(body)
        assert event.session_id == "traffic-000001"
        assert set(body) <= set(type(event).model_fields)


@pytest.mark.parametrize("happening", HAPPENINGS)
def test_every_life_is_ten_events_of_the_bench_like_mix(happening: Happening) -> None:
    roles = Counter(role for role, _ in life(happening))

    assert roles.total() == EVENTS_PER_TASK
    assert roles == {"context": 4, "steps": 5, "results": 1}


def test_event_ids_differ_within_a_life_and_between_lives() -> None:
    ids = [orjson.loads(value)["event_id"] for number in (0, 1, 11) for _, value in life("nothing", number)]

    assert len(set(ids)) == 3 * EVENTS_PER_TASK


EXPECTED: dict[Happening, list[tuple[str, str]]] = {
    "nothing": [("delivered", "fresh")],
    "edited": [("withheld", "stale")],
    "navigated": [("withheld", "stale")],
    "new conversation": [("withheld", "stale")],
    "archived": [("withheld", "request_archived")],
    "left": [("withheld", "user_absent")],
    "half stale": [("delivered", "stale"), ("withheld", "stale")],
    "failed": [("delivered", "stale")],
}


@pytest.mark.parametrize("happening", HAPPENINGS)
def test_what_happens_decides_the_verdict_again_and_again_in_one_session(happening: Happening) -> None:
    gate = MemoryGate()
    for number in range(3):
        verdicts = [
            verdict for role, value in life(happening, number) for verdict in gate.take(role, orjson.loads(value))
        ]
        parts = verdicts[0]["verdict"]["parts"]
        assert [(part["decision"], part["reason"]) for part in parts] == EXPECTED[happening]


def test_one_session_can_live_through_everything_in_turn() -> None:
    gate = MemoryGate()
    for number, happening in enumerate((*HAPPENINGS, *HAPPENINGS)):
        verdicts = [
            verdict for role, value in life(happening, number) for verdict in gate.take(role, orjson.loads(value))
        ]
        first = verdicts[0]["verdict"]["parts"][0]
        assert (first["decision"], first["reason"]) == EXPECTED[happening][0]
