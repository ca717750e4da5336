"""A session has a byte budget: what is kept for it and every record that is written stay within bounds.

The assertions use only what can be observed: the sizes of what a transaction writes, what is refused and why, and that
no result is lost. A full session refuses what would add to it, with `session_full`: as a dead letter, a rejected
dispatch or a refused effect. Changes of known facets, cancels and erasures are never refused for room. A change that
cannot be stored makes its facet unknown. A result that depends on it is withheld with `session_full`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from projections.rules import Rules
from schemas.fields import MAX_VALUE_BYTES
from schemas.topics import MAX_INPUT_BYTES
from tests.unit.feeding import Feed, reason_of
from tests.unit.session_checks import nothing_checked

MAX_RECORD_BYTES: Final = MAX_INPUT_BYTES
"""What an output may have, key and headers included: the broker's default."""
MAX_CHANGELOG_RECORD_BYTES: Final = MAX_INPUT_BYTES
"""What a changelog record may have, key included."""
MAX_SESSION_BYTES: Final = 16 * 1024 * 1024
"""More than a session's budget: what the changelog may hold of one session."""

KIB: Final = 1024
WIDE: Final = "\x01" * MAX_VALUE_BYTES
"""A facet's value, valid and short, of which each character takes six bytes as JSON."""
VISIBLE: Final = {"session_full", "output_too_large"}


@pytest.fixture(autouse=True)
def _as_in_a_worker() -> Iterator[None]:
    with nothing_checked():
        yield


class Room(Feed):
    """A feed whose transactions are checked for their size."""

    def __init__(self, rules: Rules | None = None) -> None:
        super().__init__(rules or Rules(unknown_task_grace_ms=80_000_000, hold_ttl_ms=80_000_000))
        self.kept: dict[bytes, bytes] = {}
        self.refused: Counter[str] = Counter()
        self.written: list[dict[str, Any]] = []

    def write(self) -> list[dict[str, Any]]:
        """Take a transaction. Returns its outputs. Fails where a record or the session is too large."""
        bodies = self.take()
        changes = self.changes.pop()
        for output in changes.outputs:
            headers = sum(len(name) + len(value) for name, value in output.headers)
            size = len(output.key) + len(output.value or b"") + headers
            assert size <= MAX_RECORD_BYTES, f"a record on {output.role} has {size:,} bytes"
        for key, value in changes.rows.items():
            self.kept.pop(key, None)
            if value is not None:
                size = len(key) + len(value)
                assert size <= MAX_CHANGELOG_RECORD_BYTES, f"{key[:80]!r} has {size:,} bytes"
                self.kept[key] = value
        self.refused.update(refusal.error for refusal in changes.refusals)
        assert self.refused.keys() <= VISIBLE
        self.written += bodies
        self.changelog.clear()
        self.outputs.clear()
        assert self.kept_bytes <= MAX_SESSION_BYTES, f"{self.kept_bytes:,} bytes are kept"
        return bodies

    @property
    def kept_bytes(self) -> int:
        """What the changelog holds: everything is of one session."""
        return sum(len(key) + len(value) for key, value in self.kept.items())

    def hand_over(self) -> None:
        """Another worker takes over from what was written."""
        self.changelog = list(self.kept.items())
        self.restart(compacted=True)
        self.changelog = []

    # What became of it

    def reasons(self) -> Counter[tuple[str, str]]:
        """Decisions and reasons of all results so far, and of tasks that were rejected."""
        verdicts = [reason_of(body) for body in self.written if body["type"].startswith("result.")]
        rejected = [("rejected", body["reason"]) for body in self.written if body.get("disposition") == "rejected"]
        return Counter([*verdicts, *rejected])

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """All outputs of a type so far."""
        return [body for body in self.written if body["type"] == kind]

    def verdict_on(self, task_id: str) -> tuple[str, str]:
        """Decision and reason of a task's only result."""
        (only,) = [body for body in self.written if body["type"].startswith("result.") and body["task_id"] == task_id]
        return reason_of(only)


def payload(size: int = 200 * KIB) -> dict[str, Any]:
    return {"part_id": "text", "payload": "x" * size}


# Results that wait


@pytest.mark.parametrize("restarts", [False, True])
def test_results_that_wait_for_the_context_are_bounded_and_none_is_lost(*, restarts: bool) -> None:
    room, count = Room(), 160  # 32 MB; a session with 225 MB of them was possible
    room.changed({"view": "2"})
    for number in range(count):
        room.dispatched(f"t{number}", {"view": "1"}, on_stale="hold")
        room.result(f"t{number}", payload())
        room.write()
        if restarts and number % 20 == 10:
            room.hand_over()
    reasons = room.reasons()
    refused = room.refused["session_full"] + reasons["withheld", "session_full"] + reasons["rejected", "session_full"]
    assert refused > count / 2
    room.changed({"view": "1"})  # never refused
    room.barrier()
    room.write()
    reasons = room.reasons()
    late = sum(number for (_, reason), number in reasons.items() if reason in ("late", "unknown_task"))
    assert reasons["delivered", "fresh"] + refused + late >= count
    assert reasons["delivered", "fresh"] >= 2


def test_results_of_unknown_tasks_are_bounded_and_none_is_lost() -> None:
    room, count = Room(), 160
    for number in range(count):
        room.result(f"t{number}", payload())
        room.write()
    assert count / 2 < room.refused["session_full"] < count
    room.wait(90_000)
    room.write()
    assert room.refused["session_full"] + room.reasons()["withheld", "unknown_task"] == count


def test_a_session_that_was_full_of_results_takes_more_when_they_are_decided() -> None:
    room = Room()
    room.changed({"view": "2"})
    number = 0
    while not room.refused and not room.reasons():
        room.dispatched(f"t{number}", {"view": "1"}, on_stale="hold")
        room.result(f"t{number}", payload())
        room.write()
        number += 1
        assert number < 160, "32 MB of results wait, and none was refused"
    room.changed({"view": "1"})
    room.barrier()
    room.write()
    room.changed({"view": "2"})
    refused = room.refused["session_full"]
    room.dispatched("again", {"view": "1"}, on_stale="hold")
    room.result("again", payload())
    room.write()
    assert room.refused["session_full"] == refused
    room.changed({"view": "1"})
    room.barrier()
    room.write()
    assert room.verdict_on("again") == ("delivered", "fresh")


def test_headers_of_a_record_that_waits_are_counted() -> None:
    room = Room()
    headers = [("x-odd", b"\x01" * 300 * KIB)]  # as JSON text: 1.8 MB
    room.send(
        "task.result",
        headers=headers,
        task_id="t",
        outcome="completed",
        parts=[{"part_id": "text", "kind": "show", "payload": "done"}],
    )
    room.write()
    room.hand_over()
    room.dispatched("t")
    room.barrier()
    room.write()
    assert room.refused.total() + room.reasons()["delivered", "fresh"] == 1


def test_proposed_effects_that_wait_are_bounded_and_each_is_answered() -> None:
    room, count = Room(), 2000
    room.dispatched("t")
    for number in range(count):
        reads = {f"doc/{number}/{each}": "v" * 1000 for each in range(14)}
        room.send("task.effect_proposed", task_id="t", idempotency_key=str(number), effect="pay", reads=reads)
        if number % 50 == 0:
            room.write()
    room.write()
    room.barrier()
    room.write()
    answered = len(room.of_type("effect.cleared")) + len(room.of_type("effect.refused"))
    assert answered + room.refused["session_full"] == count
    assert "session_full" in {body["reason"] for body in room.of_type("effect.refused")} | room.refused.keys()


# Rows


def known_facets(room: Room) -> list[str]:
    """Facets that the session knows, by the log: those of all changes but the last one, which was refused."""
    return [f"doc/{number}/{each}" for number in range(room.ends["context"] - 1) for each in range(200)]


def full() -> Room:
    """A session that has refused new facets."""
    room, number = Room(), 0
    while True:
        room.changed({f"doc/{number}/{each}": "1" for each in range(200)})
        room.write()
        if room.refused:
            return room
        number += 1
        assert number < 200, "40,000 facets, and none was refused"


def test_no_row_is_larger_than_a_record_when_every_facet_gets_a_long_value() -> None:
    room = full()
    names = known_facets(room)
    refused = room.refused.copy()
    for begin in range(0, len(names), 100):
        room.changed(dict.fromkeys(names[begin : begin + 100], WIDE))
    room.write()
    assert room.refused == refused  # of a known facet every change counts
    room.hand_over()
    for number, name in enumerate((names[0], names[len(names) // 2], names[-1])):
        room.dispatched(f"old{number}", {name: "1"})
        room.dispatched(f"new{number}", {name: WIDE})
        room.result(f"old{number}")
        room.result(f"new{number}")
        room.write()
        assert room.reasons()["delivered", "fresh"] <= number + 1, "what the context contradicts was delivered"
    assert room.reasons().keys() <= {
        ("delivered", "fresh"),
        ("withheld", "stale"),
        ("withheld", "session_full"),
        ("withheld", "late"),
        ("rejected", "session_full"),
    }


def test_a_facet_that_could_not_be_stored_is_known_again_by_its_next_change() -> None:
    room = Room()
    names = [f"doc/{number}" for number in range(2000)]
    for begin in range(0, len(names), 200):
        room.changed(dict.fromkeys(names[begin : begin + 200], "1"))
    room.dispatched("before", {names[-1]: WIDE})
    room.dispatched("after", {names[-1]: "2"})
    room.write()
    for begin in range(0, len(names), 100):
        room.changed(dict.fromkeys(names[begin : begin + 100], WIDE))
    room.write()
    room.result("before")
    room.write()
    assert room.verdict_on("before") in {("withheld", "session_full"), ("delivered", "fresh")}
    for begin in range(0, len(names), 100):
        room.changed(dict.fromkeys(names[begin : begin + 100], "2"))
    room.write()
    room.result("after")
    room.write()
    assert room.verdict_on("after") == ("delivered", "fresh")
    assert not room.refused


def test_own_changes_are_bounded_and_no_verdict_is_wrong_for_want_of_them() -> None:
    room, facets, rounds = Room(), [f"doc/{number}" for number in range(10)], 64
    room.changed(dict.fromkeys(facets, "start"))
    above: dict[str, Any] = {}
    for number in range(8):  # each task's own changes are those of all above
        room.dispatched(f"t{number}", dict.fromkeys(facets, "start"), **above)
        above = {"parent_task_id": f"t{number}"}
    room.dispatched("other", dict.fromkeys(facets, "start"))
    room.write()
    for number in range(rounds):
        room.changed(dict.fromkeys(facets, f"{number}{WIDE[2:]}"), by="t7")
        room.write()
    assert not room.refused
    for number in reversed(range(8)):
        room.result(f"t{number}")
        room.write()
        assert room.verdict_on(f"t{number}") in {("delivered", "fresh"), ("withheld", "session_full")}
    room.result("other")
    room.write()
    assert room.verdict_on("other") in {("withheld", "stale"), ("withheld", "session_full")}


def test_own_changes_of_tasks_that_are_not_dispatched_yet_are_bounded() -> None:
    room, facets = Room(), [f"doc/{number}" for number in range(10)]
    room.changed(dict.fromkeys(facets, "start"))
    for task in range(32):
        for number in range(6):
            room.changed(dict.fromkeys(facets, f"{task}.{number}{WIDE[6:]}"), by=f"t{task}")
        room.write()
    assert not room.refused


def test_tasks_that_ended_are_bounded() -> None:
    room = Room()
    long: dict[str, Any] = {
        "destination": WIDE,
        "metadata": {"x": "y" * 4000},
        "plan": [f"{number:03}" + "\x01" * 250 for number in range(64)],
    }
    for number in range(200):
        room.dispatched(f"t{number}", **long)
        room.step(f"t{number}", message="\x01" * 4 * KIB, step_id="\x01" * 256, status="started")
        room.send("task.cancel_requested", task_id=f"t{number}")  # its receipt is remembered with it
        room.write()
    assert room.kept_bytes <= MAX_SESSION_BYTES


def test_answers_to_effects_are_bounded() -> None:
    room = full()
    room.changed(dict.fromkeys(known_facets(room)[:100], "v" * 1000))
    room.send("session.erased")
    room.write()
    room.dispatched("t")
    for number in range(256):
        long = f"{number:03}" + "\x01" * 253
        room.send("task.effect_proposed", task_id="t", idempotency_key=long, effect=long)
    for number in range(40):
        room.changed({f"doc/{number}/{each}": "v" * 1000 for each in range(12)})
    room.barrier()
    room.write()
    assert len(room.of_type("effect.cleared")) + len(room.of_type("effect.refused")) == 256


# Outputs


def test_a_redispatch_is_no_larger_than_a_record() -> None:
    room, names = Room(), [f"doc/{number}" for number in range(200)]
    room.changed(dict.fromkeys(names, "1"))
    room.dispatched("t", dict.fromkeys(names, "1"), on_stale="redispatch")
    for begin in range(0, 200, 100):
        room.changed(dict.fromkeys(names[begin : begin + 100], WIDE))  # 1.2 MB as JSON
    room.result("t")
    room.write()
    assert room.refused.total() + room.reasons().total() == 1
    assert room.reasons()["delivered", "fresh"] == 0


def test_an_effect_is_answered_with_no_more_than_a_record_holds() -> None:
    room, names = Room(), [f"{number:03}" + "\x01" * 250 for number in range(200)]
    for begin in range(0, 200, 50):
        room.changed(dict.fromkeys(names[begin : begin + 50], WIDE), source="\x01" * 256)
    room.dispatched("t", task_type="\x01" * 256, destination=WIDE)
    for begin in range(0, 40, 4):
        room.step("t", dict.fromkeys(names[begin : begin + 4], "\x01" * 300))
    room.send("task.effect_proposed", task_id="t", idempotency_key="k", effect="pay")
    room.barrier()
    room.write()
    assert len(room.of_type("effect.refused")) + room.refused.total() >= 1


def test_a_status_is_no_larger_than_a_record() -> None:
    room, names = Room(), [f"{number:03}" + "\x01" * 250 for number in range(64)]
    for begin in range(0, 48, 16):
        room.changed(dict.fromkeys(names[begin : begin + 16], WIDE))
    room.dispatched("t", plan=names, destination=WIDE, depends_on=names[:48])
    for name in names:
        for status in ("started", "completed", "failed", "started"):
            room.step("t", step_id=name, status=status, message="\x01" * 4 * KIB)
    room.write()
    room.send("task.cancel_requested", task_id="t")
    room.write()
    (ended,) = [body["disposition"] for body in room.of_type("task.status") if body["status"] == "ended"]
    assert ended in ("cancelled", "rejected")


# What a full session still takes


def test_a_full_session_follows_known_facets_cancels_and_erasures() -> None:
    room = full()
    names = known_facets(room)
    room.changed({names[0]: "2"})
    room.dispatched("stale", {names[0]: "1"})
    room.dispatched("new names", {f"never/seen/{number}": "v" * 1000 for number in range(14)})
    room.send("task.cancel_requested", task_id="stale")
    room.send("task.cancel_requested", task_id="not dispatched yet")
    room.dispatched("not dispatched yet")
    room.write()
    ended = {body["task_id"]: body["disposition"] for body in room.of_type("task.status") if body["status"] == "ended"}
    assert ended["new names"] == "rejected"
    assert ended["stale"] in ("cancelled", "rejected")
    assert ended["not dispatched yet"] in ("cancelled", "rejected")
    assert room.refused == {"session_full": 1}
    room.send("session.erased")
    room.write()
    assert [len(raw) < 256 for raw in room.kept.values()] == [True]
    room.changed({"view": "1"})
    room.dispatched("t", {"view": "1"})
    room.result("t")
    room.write()
    assert room.verdict_on("t") == ("delivered", "fresh")


def test_a_full_session_refuses_steps_reads_and_effects_that_add_to_it() -> None:
    room = Room()
    room.dispatched("t")
    room.dispatched("u")
    number = 0
    while not room.refused:
        room.changed({f"doc/{number}/{each}": "1" for each in range(200)})
        room.write()
        number += 1
        assert number < 200
    more: dict[str, str | None] = {f"never/seen/{each}": "v" * 1000 for each in range(14)}
    room.step("t", more)
    room.write()
    assert room.refused["session_full"] == 2
    room.send("task.effect_proposed", task_id="t", idempotency_key="k", effect="pay", reads=more)
    room.barrier()
    room.write()
    assert [body["reason"] for body in room.of_type("effect.refused")] == ["session_full"]
    room.result("t", reads=more)
    room.result("u")
    room.write()
    assert room.verdict_on("u") == ("delivered", "fresh")
    assert room.verdict_on("t") == ("delivered", "fresh")  # it ends with it: nothing of it is kept


@pytest.mark.parametrize("size", [1, 1000])
def test_a_restart_does_not_change_what_is_full(size: int) -> None:
    def refused(*, restarts: bool) -> list[int]:
        room, offsets = full(), []
        room.changed(dict.fromkeys(known_facets(room)[:100], "v" * size))
        for number in range(20):
            room.write()
            if restarts:
                room.hand_over()
            before = room.refused.total()
            room.changed({f"never/seen/{number}/{each}": "1" for each in range(1 + number)})
            room.write()
            if room.refused.total() > before:
                offsets.append(number)
        return offsets

    assert refused(restarts=True) == refused(restarts=False)


def test_everything_that_is_written_can_be_restored() -> None:
    room = full()
    names = known_facets(room)
    for begin in range(0, len(names), 100):
        room.changed(dict.fromkeys(names[begin : begin + 100], WIDE))
        room.write()
    kept = dict(room.kept)
    room.hand_over()
    room.write()
    assert room.kept == kept
