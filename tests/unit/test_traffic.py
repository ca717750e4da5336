from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any, get_args

import orjson
import pytest

from local.traffic import EVENTS_PER_TASK, Happening, Load, Sent, Traffic, task_life
from schemas.events import INPUT_EVENTS
from tests.unit.memory_gate import MemoryGate
from tidegate.settings import Settings

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


class Batch:
    """Stands for aiokafka's batch builder: takes three records at most."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes]] = []

    def append(self, *, timestamp: int, key: bytes, value: bytes) -> int | None:
        del timestamp
        if len(self.records) == 3:
            return None
        self.records.append((key, value))
        return len(self.records)

    def record_count(self) -> int:
        return len(self.records)


class Producer:
    """Stands for aiokafka's producer: keeps what it is sent, and notes which records a round had in flight together."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, bytes, dict[str, Any]]] = []
        self.in_flight: list[asyncio.Future[None]] = []
        self.unacknowledged: defaultdict[bytes, int] = defaultdict(int)

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[None]:
        for key, value in batch.records:
            self.sent.append((topic, partition, key, orjson.loads(value)))
            assert self.unacknowledged[key] == 0, "an event was sent before the session's last one was acknowledged"
            self.unacknowledged[key] += 1
        acknowledged = asyncio.get_running_loop().create_future()

        def acknowledge() -> None:
            for key, _ in batch.records:
                self.unacknowledged[key] -= 1
            acknowledged.set_result(None)

        asyncio.get_running_loop().call_soon(acknowledge)
        return acknowledged


def sent_by(load: Load, *, stop_after: int | None = None) -> tuple[Producer, Sent]:
    producer = Producer()

    def on_round(sent: Sent) -> None:
        if stop_after is not None and sent.events >= stop_after:
            traffic.stop()

    traffic = Traffic(Settings(), load, on_round)
    asyncio.run(traffic.send_to(producer, partitions=4))
    return producer, traffic.sent


def test_every_task_begun_is_brought_to_its_end_in_order_and_one_at_a_time_in_its_session() -> None:
    producer, sent = sent_by(Load(rate=0, sessions=7, tasks=40))

    assert (sent.events, sent.tasks) == (400, 40)
    assert sent.by_topic.total() == len(producer.sent) == 400
    by_session = defaultdict(list)
    for _, _, key, body in producer.sent:
        by_session[key].append(body)
    assert len(by_session) == 7
    for bodies in by_session.values():
        numbers = [tuple(map(int, body["event_id"].rpartition("/")[2].split("."))) for body in bodies]
        assert numbers == [(task, event) for task in range(len(bodies) // 10) for event in range(1, 11)]


def test_a_session_stays_on_one_partition_whatever_the_topic() -> None:
    producer, _ = sent_by(Load(rate=0, sessions=20, tasks=20))
    places = defaultdict(set)
    for _, partition, key, _ in producer.sent:
        places[key].add(partition)

    assert all(len(partitions) == 1 for partitions in places.values())
    assert len(set.union(*places.values())) == 4


def test_stopped_it_begins_nothing_more_and_ends_what_it_began() -> None:
    _, sent = sent_by(Load(rate=0, sessions=1000), stop_after=300)

    assert sent.tasks * EVENTS_PER_TASK == sent.events


def test_the_next_run_continues_where_no_task_number_was_used() -> None:
    producer, _ = sent_by(Load(rate=0, sessions=2, tasks=2, first_task=500))

    assert {body["task_id"] for *_, body in producer.sent if "task_id" in body} == {"t500"}
