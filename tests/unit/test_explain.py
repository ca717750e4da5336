"""Every dead letter says which field, its value or size, the limit, and what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from projections.decode import MAX_DETAIL, Batch, Decoder, Refusal
from schemas.envelope import FORWARDED_FROM, producers_headers
from schemas.topics import Role

COUNTED = "characters; the limit counts bytes of UTF-8"
ENVELOPE = {"source": "h1", "event_id": "e-1", "session_id": "s", "occurred_at": "2026-11-29T10:00:00Z"}


def detail(role: Role, value: bytes, prefix: str = "tidegate") -> str:
    """Why the record is refused."""
    batch = Batch(role, 0, 0, 1, [0], [0], [None], [value], [()])
    refusals: list[Refusal] = []
    decoder = Decoder(role.split(".", maxsplit=1)[0], prefix)  # type: ignore[arg-type]
    assert decoder.event(batch, 0, refusals) is None
    (refusal,) = refusals
    assert refusal.error == "invalid_event"
    assert len(refusal.detail) <= MAX_DETAIL
    return refusal.detail


def event(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **ENVELOPE, **fields}).encode()


def step(**fields: Any) -> bytes:
    return event("task.step", **{"task_id": "t", "step_id": "1", "status": "progressed", **fields})


def dispatch(**fields: Any) -> bytes:
    return event("task.dispatched", **{"task_id": "t", "task_type": "x", **fields})


def result(payload: str = "1", **fields: Any) -> bytes:
    parts = [{"part_id": "p", "kind": "show", "payload": "PAYLOAD"}]
    told = event("task.result", **{"task_id": "t", "outcome": "completed", "parts": parts, **fields})
    return told.replace(b'"PAYLOAD"', payload.encode())


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_is_not_json_is_named_with_its_field(constant: str) -> None:
    told = f"{constant} is not JSON; write null, or a text"
    assert detail("results", result(f'{{"score":{constant}}}')) == f"parts.0.payload.score: {told}"
    assert detail("results", result(f"[1,{constant}]")) == f"parts.0.payload.1: {told}"
    assert detail("steps", step(progress=0).replace(b": 0}", f": {constant}}}".encode())) == f"progress: {told}"
    assert detail("steps", dispatch(metadata={"a": 7}).replace(b"7", constant.encode())) == f"metadata.a: {told}"


@pytest.mark.parametrize("half", ["\\ud83d", "\\udc00", "\\ud83d\\ud83d"])
def test_half_a_surrogate_pair_is_named_with_its_field(half: str) -> None:
    told = f"half a surrogate pair ({half[:6]}) is not text; write the whole character"
    assert detail("results", result(f'"cut {half} here"')) == f"parts.0.payload: {told}"
    assert detail("results", result(f'{{"a":["x","{half}"]}}')) == f"parts.0.payload.a.1: {told}"
    assert "in a name is not text" in detail("results", result(f'{{"{half}":1}}'))
    assert detail("steps", step(message="HALF").replace(b"HALF", half.encode())) == f"message: {told}"
    changed = event("context.changed", set={"a": "HALF"}).replace(b"HALF", half.encode())
    assert detail("context", changed) == f"set.a: {told}"


def test_a_whole_pair_and_an_escaped_backslash_are_text() -> None:
    for payload in ('"\\ud83d\\ude00"', '"\\\\ud83d"', '"\\u0000"', '"NaN"', "1e999", "-0.0"):
        batch = Batch("results", 0, 0, 1, [0], [0], [None], [result(payload)], [()])
        assert Decoder("results").event(batch, 0, []) is not None


@pytest.mark.parametrize(
    ("role", "value", "right"),
    [
        ("context", result(), "acme.results.v1"),
        ("results", event("context.changed", set={}), "acme.context.v1"),
        ("results", step(), "acme.steps.v1"),
        ("results.cold", step(), "acme.steps.cold.v1"),
        ("steps.cold", result(), "acme.results.cold.v1"),
        ("steps", event("session.erased"), "acme.context.v1"),
        ("steps.cold", event("session.erased"), "acme.context.v1"),
    ],
)
def test_a_record_on_the_wrong_topic_is_told_the_right_one(role: Role, value: bytes, right: str) -> None:
    kind = json.loads(value)["type"]
    here = f"acme.{role}.v1"
    assert detail(role, value, "acme") == f"type: {kind} belongs on {right}, not on {here}; write it there"


def test_a_type_that_does_not_exist_is_told_which_do() -> None:
    told = detail("context", event("context.changd"))
    assert told.startswith('type: "context.changd" is no event of tidegate.context.v1; one of context.changed, ')
    assert detail("steps", b'{"task_id":"t"}').startswith("type: missing; one of task.dispatched, ")
    assert detail("context", event(5)).startswith("type: 5 is no event of")  # type: ignore[arg-type]
    assert detail("steps", event("result.delivered")).startswith('type: "result.delivered" is no event of')


@pytest.mark.parametrize(
    ("role", "value", "told"),
    [
        ("steps", step(progress=57), "progress: 57, at most 1; write a number in its bounds"),
        ("steps", step(progress="0.5"), 'progress: "0.5" is a text; write a number'),
        ("steps", step(task_id=17), "task_id: 17 is a number; write a text"),
        ("steps", step(status="pro"), "status: \"pro\" is not one of 'started', 'progressed', 'completed', 'failed'"),
        ("steps", step(step_id=""), "step_id: 0 characters, at least 1; write one"),
        ("steps", step(name="x" * 257), "name: 257 bytes, at most 256; use a shorter one"),
        (
            "steps",
            step(name="é" * 200),
            f"name: 400 bytes (200 {COUNTED}), at most 256",
        ),
        (
            "steps",
            step(name="é" * 300),
            f"name: 600 bytes (300 {COUNTED}), at most 256",
        ),
        (
            "steps",
            step(reads={"a": "é" * 600}),
            f"reads.a: 1200 bytes (600 {COUNTED})",
        ),
        ("steps", step(reads={"a": 5}), "reads.a: 5 is a number; write a text"),
        ("steps", dispatch(depends_on=["f"] * 300), "depends_on: 300 entries, at most 256; write fewer"),
        ("steps", dispatch(attempt=1.5), "attempt: 1.5 is a number; write a whole number"),
        ("steps", dispatch(protected="yes"), 'protected: "yes" is a text; write true or false'),
        ("steps", dispatch(heartbeat_timeout_seconds=0), "heartbeat_timeout_seconds: 0, more than 0"),
        ("steps", dispatch(deadline_at="soon"), 'deadline_at: "soon" is not a time as in RFC 3339, with an offset'),
        ("steps", dispatch(snapshot=[]), "snapshot: [] is a list; write an object"),
        (
            "steps",
            dispatch(snapshot={f"facet-{number}": "v" * 1000 for number in range(20)}),
            "snapshot: 20271 bytes as JSON, at most 16384; depend on fewer facets",
        ),
        (
            "steps",
            dispatch(metadata={"a": "x" * 5000}),
            "metadata: 5008 bytes as JSON, at most 4096; keep",
        ),
        ("steps", dispatch(metadata={"a": 1}).replace(b"1}", b"1e999}"), "metadata.a: a number that no double holds"),
        ("results", result(parts=[]), "parts: 0 entries, at least 1; write one"),
        (
            "results",
            result(f'"{"x" * 270_000}"'),
            "parts.0.payload: 270002 bytes as JSON, at most 262144; keep it elsewhere, and send payload_ref",
        ),
        ("context", b'{"type":"context.changed"', "event: not JSON: Expecting ',' delimiter at byte 25"),
        ("context", b"[1]", "event: a list, not a JSON object"),
        ("context", b"\xff", "event: not UTF-8: byte 0xff at 0; write JSON in UTF-8"),
        ("context", event("context.changed", occurred_at=None), "occurred_at: null is not a time as in RFC 3339"),
        ("context", b"[" * 5000, "event: "),
        ("context", b"[" * 900 + b"]" * 900, "event: "),
        ("context", b'{"a":' * 950 + b"1" + b"}" * 950, "type: missing; one of context.changed"),
        ("context", b'{"a":' * 5000, "event: arrays and objects inside each other, at most 200 deep"),
        ("context", b"9" * 5000, "event: a number, not a JSON object"),
    ],
    ids=lambda told: str(told)[:40] if isinstance(told, str) else "",
)
def test_the_field_the_value_the_limit_and_the_remedy_are_told(role: Role, value: bytes, told: str) -> None:
    assert told in detail(role, value)


def test_missing_fields_are_told_up_to_five() -> None:
    assert detail("steps", b'{"type":"task.step"}') == (
        "source: missing; it is required; event_id: missing; it is required; session_id: missing; it is required;"
        " occurred_at: missing; it is required; task_id: missing; it is required; and 2 more"
    )


def test_the_gates_headers_are_not_shadowed() -> None:
    headers = [
        ("tidegate_error", b"fine"),
        ("Tidegate_Error_Detail", None),
        ("trace", b"1"),
        (FORWARDED_FROM, b"x/1/2"),
    ]
    assert producers_headers(headers) == [("trace", b"1")]
