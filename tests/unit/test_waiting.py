"""Results and proposed effects as they wait: what they take, and that they are the same after a restart."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.decode import Decoder
from projections.waiting import Arrived, WaitingFor, from_bytes, undecided_rest
from schemas.envelope import Headers
from schemas.topics import Role

HEADERS: Headers = [("x-odd", b"\xff\x00"), ("x-null", None), ("traceparent", b"nonsense")]


def result_value(**fields: Any) -> bytes:
    body = {
        "type": "task.result",
        "source": "agent",
        "event_id": "r-1",
        "session_id": "s",
        "occurred_at": "2025-11-24T16:00:00Z",
        "task_id": "t",
        "outcome": "completed",
        "parts": [{"part_id": part_id, "kind": "show", "payload": part_id} for part_id in "abc"],
        **fields,
    }
    return orjson.dumps(body)


def effect_value() -> bytes:
    body = orjson.loads(result_value())
    more = {"type": "task.effect_proposed", "idempotency_key": "k", "effect": "book"}
    return orjson.dumps({name: value for name, value in body.items() if name not in ("outcome", "parts")} | more)


def arrived(value: bytes, role: Role = "results", headers: Headers = (), key: bytes | None = None) -> Arrived:
    event = Decoder(role).event_of(value, headers)
    return Arrived(event, value, key, headers, 17, 1_764_000_000_000, role, 3)


@pytest.mark.parametrize("key", [None, b"s"])
@pytest.mark.parametrize("undecided", [None, [], ["a", "c"]])
@pytest.mark.parametrize(
    ("waiting_for", "role"), [("unknown", "results.cold"), ("result", "results"), ("effect", "steps.cold")]
)
def test_what_waits_survives_its_bytes(
    waiting_for: WaitingFor, role: Role, undecided: list[str] | None, key: bytes | None
) -> None:
    value = effect_value() if waiting_for == "effect" else result_value()
    before = arrived(value, role, HEADERS, key)
    if undecided is not None:
        before = before.stopped_with(undecided)
    found, after = from_bytes(before.changelog_key(waiting_for), before.to_bytes(), 3)
    assert found == waiting_for
    for name in ("event", "value", "key", "headers", "offset", "timestamp", "role", "partition", "undecided"):
        assert getattr(after, name) == getattr(before, name)
    assert after.size_bytes == before.size_bytes
    assert after.to_bytes() == before.to_bytes()


def test_a_record_whose_envelope_is_in_its_headers_survives_too() -> None:
    envelope = {"ce_type": "task.result", "ce_source": "a", "ce_id": "i", "ce_subject": "s"}
    headers = [(name, value.encode()) for name, value in envelope.items()] + [("ce_time", b"2025-11-24T16:00:00Z")]
    value = orjson.dumps({"task_id": "t", "outcome": "completed", "parts": [{"part_id": "p", "kind": "show"}]})
    before = arrived(value, "results", headers)
    _, after = from_bytes(before.changelog_key("unknown"), before.to_bytes(), 3)
    assert after.event == before.event
    assert after.event.session_id == "s"


def test_it_goes_to_the_dead_letters_as_it_came() -> None:
    batch = arrived(result_value(), "results.cold", HEADERS, b"s").as_batch()
    assert (batch.role, batch.partition, batch.start, batch.end) == ("results.cold", 3, 17, 18)
    assert (batch.offsets, batch.timestamps) == ([17], [1_764_000_000_000])
    assert (batch.keys, batch.values, batch.headers) == ([b"s"], [result_value()], [HEADERS])


def test_everything_that_is_kept_of_it_counts() -> None:
    bare = arrived(result_value())
    kept = len(bare.changelog_key("result")) + len(bare.to_bytes())
    assert kept <= bare.size_bytes + 64
    large = arrived(result_value(), headers=[("h", b"x" * 10_000)])
    assert large.size_bytes - bare.size_bytes >= 10_000


@given(
    st.sampled_from(["event_id", "source", "outcome", "reads", "error", "parts"]),
    st.sampled_from(["occurred_at", "later_field"]),
)
def test_results_agree_in_what_they_say_and_in_who_says_it(name: str, unimportant: str) -> None:
    others: dict[str, Any] = {
        "event_id": "r-2",
        "source": "another",
        "outcome": "failed",
        "reads": {"a": None},
        "error": {"code": "x"},
        "parts": [{"part_id": "a", "kind": "show", "payload": None}],
    }
    one = arrived(result_value()).digests
    other = arrived(result_value(**{name: others[name]})).digests
    is_identity = name in ("event_id", "source")
    assert (one.identity != other.identity) == is_identity
    assert (one.content != other.content) == (not is_identity)
    assert arrived(result_value(**{unimportant: "2025-11-25T16:00:00Z"})).digests == one


def test_of_a_stopped_task_only_the_parts_that_nothing_had_decided_are_left() -> None:
    whole = arrived(result_value())
    assert undecided_rest(whole) is whole.event
    rest = undecided_rest(whole.stopped_with(["c", "a"]))
    assert [part.part_id for part in rest.parts] == ["a", "c"]
    assert [part.part_id for part in whole.event.parts] == ["a", "b", "c"]


def test_a_stopped_result_is_kept_under_the_same_key() -> None:
    result = arrived(result_value())
    result.kept_as = b"r-key"
    assert result.stopped_with(["a"]).kept_as == b"r-key"
