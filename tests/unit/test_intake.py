"""What is queued continues what was queued before, in whatever pieces it is taken, and every byte is accounted for."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import TopicPartition

from projections.decode import Batch
from schemas.topics import Role
from streams.intake import Intake


class Fetches:
    """What the consumers are told."""

    def __init__(self) -> None:
        self.joined: set[int] = set()
        self.queued_bytes: dict[tuple[str, int], int] = {}
        self.sought: list[tuple[str, int, int]] = []

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self.sought.append((topic, partition, offset))


def batch(start: int, end: int, role: Role = "context") -> Batch:
    count = end - start
    many: Any = [b"value"] * count
    return Batch(role, 3, start, end, list(range(start, end)), [0] * count, many, many, [[]] * count, 10 * count)


@pytest.fixture
def fetches() -> Fetches:
    return Fetches()


@pytest.fixture
def intake(fetches: Fetches) -> Intake:
    inputs: dict[Role, TopicPartition] = {"context": TopicPartition("c", 3), "steps": TopicPartition("s", 3)}
    made = Intake(inputs | {"results": TopicPartition("r", 3)}, fetches)
    made.start({"context": 5, "steps": 0, "results": 0})
    return made


def test_it_starts_where_it_is_told(intake: Intake, fetches: Fetches) -> None:
    assert fetches.sought == [("c", 3, 5), ("s", 3, 0), ("r", 3, 0)]
    assert fetches.joined == {3}
    assert not intake.has("context", "results")


def test_what_was_queued_before_is_dropped_and_a_hole_is_sought_back(intake: Intake, fetches: Fetches) -> None:
    intake.offer(batch(0, 5))
    assert not intake.has("context")
    intake.offer(batch(7, 9))
    assert not intake.has("context")
    assert fetches.sought[-1] == ("c", 3, 5)
    intake.offer(batch(3, 8))
    assert intake.take().offsets == [5, 6, 7]
    assert intake.ends["context"] == 8


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_pieces_are_the_batch_again(intake: Intake, limit: int) -> None:
    intake.offer(batch(5, 12))
    pieces = []
    while intake.has("context"):
        pieces.append(intake.take(limit))
    assert [offset for piece in pieces for offset in piece.offsets] == list(range(5, 12))
    assert [piece.start for piece in pieces] == [5, *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end == 12
    assert all(len(piece) <= limit for piece in pieces)
    assert intake.size_bytes == 0


def test_bytes_are_counted_as_long_as_they_wait(intake: Intake, fetches: Fetches) -> None:
    intake.offer(batch(5, 8))
    intake.offer(batch(0, 2, "results"))
    assert intake.size_bytes == 50
    intake.take(1)
    assert intake.size_bytes == 40
    run = intake.next_run("hot", {"steps": 0, "results": 2}, 10)
    assert run is not None
    assert (run.start, run.stop, intake.taken(run)) == (0, 2, 2)
    assert intake.size_bytes == 20
    intake.stop()
    assert (intake.size_bytes, fetches.joined) == (0, set())
    intake.offer(batch(5, 8))
    assert not intake.has("context")
