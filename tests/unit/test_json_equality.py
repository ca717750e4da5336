"""Two payloads are equal if they are the same JSON: by the gate's code and by the audit's, which share nothing."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.json_equality import value_of
from projections.json_equality import canonical
from projections.rows import ResultDigests
from schemas.identity import digest
from tests.unit.feeding import Feed

EQUAL = [
    ['{"a":1,"b":2}', '{"b":2,"a":1}', ' { "a" : 1 ,\n"b":2 } ', '{"b":3,"a":1,"b":2}'],
    ["1", "1.0", "1e0", "10e-1", "0.1E1", "1.000"],
    ["0", "-0", "0.0", "-0.0e7", "0e999999"],
    ["1e999", "10e998", "1" + "0" * 999, "0.1e1000"],
    ["1" + "0" * 45, "1e45", "1" + "0" * 45 + ".0"],
    ["12345678901234567890123", "12345678901234567890123.0", "1.2345678901234567890123e22"],
    ["0.1", "1e-1", "0.10"],
    ['"é"', '"\\u00e9"'],
    ['"😀"', '"\\ud83d\\ude00"'],
    ['"/"', '"\\/"'],
    ['{"\\u0061":[true,null]}', '{"a":[true, null]}'],
    ["1e" + "9" * 5000, "10e" + "9" * 4999 + "8"],
    ["[]", "[ ]"],
    ['{"text":"a: \\"b\\""}', '{ "text": "a: \\u0022b\\u0022" }'],
    ['{"text":"a"}', '{"text": "a"}', '{"text":"a" }', '{"text":"b","text":"a"}', '{"te\\u0078t":"a"}'],
    ['{"a":["b"]}', '{"a": ["b"]}'],
    ['{":":"v"}', '{":" : "v"}', '{":": "v"}', '{ ":":"v"}'],
    ['{"k":":"}', '{"k" : ":"}', '{"k": ":"}'],
    ['{"a":{"b":1}}', '{"a":{ "b":1.0}}'],
]
"""Each line has texts of one value, and no two lines have the same."""
NOT_EQUAL = [
    "1",
    '"1"',
    "[1]",
    "true",
    "null",
    "{}",
    "[]",
    "[2,1]",
    "[1,2]",
    '"1e0"',
    '{"a":1}',
    '{"a":2}',
    "0.1",
    "0.1000000000000000055",
    "12345678901234567890123",
    "12345678901234567890124",
    "1e999",
    "1e998",
    "-1",
]


@pytest.mark.parametrize("texts", EQUAL, ids=lambda texts: texts[0][:20])
def test_equal_values_are_equal(texts: list[str]) -> None:
    assert len({canonical(text.strip().encode()) for text in texts}) == 1
    assert len({value_of(text.encode()) for text in texts}) == 1


def test_other_values_are_not() -> None:
    texts = [*NOT_EQUAL, *(texts[0] for texts in EQUAL if texts[0] not in NOT_EQUAL)]
    assert len({canonical(text.encode()) for text in texts}) == len(texts)
    assert len({value_of(text.encode()) for text in texts}) == len(texts)


numbers = st.builds(
    lambda digits, point, exponent: f"{digits}{point}{exponent}",
    st.integers(-(10**50), 10**50).map(str),
    st.sampled_from(["", ".0", ".5", ".50", ".25"]),
    st.sampled_from(["", "e0", "E1", "e-1", "e+2", "e40"]),
)
scalars = st.one_of(numbers, st.text(max_size=5).map(json.dumps), st.sampled_from(["true", "false", "null"]))
texts_of_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: f"[{','.join(each)}]"),
        st.lists(st.tuples(st.text(max_size=3).map(json.dumps), inner), max_size=3).map(
            lambda each: "{" + ",".join(f"{name}: {value}" for name, value in each) + "}"
        ),
    ),
    max_leaves=8,
)


def exactly(text: str) -> Any:
    """The value with exact numbers, as Python compares them; truth values are told from numbers."""

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: told(each) for name, each in value.items()}
        if isinstance(value, list):
            return [told(each) for each in value]
        return value if isinstance(value, Decimal) else (type(value).__name__, value)

    return told(json.loads(text, parse_int=Decimal, parse_float=Decimal))


@given(texts_of_values, texts_of_values)
def test_gate_and_audit_agree_with_exact_decimals(one: str, other: str) -> None:
    is_equal = exactly(one) == exactly(other)
    assert (canonical(one.encode()) == canonical(other.encode())) == is_equal
    assert (value_of(one.encode()) == value_of(other.encode())) == is_equal
    assert canonical(canonical_without_powers(one)) == canonical_without_powers(one)


def canonical_without_powers(text: str) -> bytes:
    """Canonical text, of a value whose numbers are written out."""
    return canonical(json.dumps(json.loads(text, parse_float=lambda _: 0, parse_int=lambda _: 0)).encode())


def result_value(payload: str, event_id: str = "r-2", reads: str = "{}") -> bytes:
    """A result with this payload, byte for byte."""
    body = (
        '{"type":"task.result","source":"agent","event_id":"EVENT","session_id":"s","task_id":"t","reads":READS,'
        '"occurred_at":"2025-11-24T16:00:00Z","outcome":"completed",'
        '"parts":[{"part_id":"p","kind":"show","payload":PAYLOAD}]}'
    )
    return body.replace("EVENT", event_id).replace("READS", reads).replace("PAYLOAD", payload).encode()


@pytest.mark.parametrize("event_id", ["r-1", "r-2"])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("texts", EQUAL, ids=lambda texts: texts[0][:20])
def test_a_result_with_an_equal_payload_is_a_repeat(texts: list[str], event_id: str, *, waits: bool) -> None:
    feed = Feed()
    if not waits:
        feed.dispatched("t")
    first, *others = texts
    feed.send_value("results", result_value(first, "r-1"))
    for text in others:
        feed.send_value("results", result_value(text, event_id))
    if waits:
        feed.dispatched("t")
        feed.barrier()
    changes = feed.partition._changes
    assert changes.duplicates == {"task.result": len(others)}
    (delivered,) = [output for output in changes.outputs if output.role == "delivered"]
    assert first.strip().encode() in (delivered.value or b"")
    assert b'"reason":"fresh"' in (delivered.value or b"")


def test_the_order_of_what_was_read_does_not_matter() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.send_value("results", result_value("1", "r-1", '{"a":"1","b":"2"}'))
    feed.send_value("results", result_value("1", "r-1", '{"b":"2","a":"1"}'))
    assert feed.partition._changes.duplicates == {"task.result": 1}


def test_an_absent_payload_is_null() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.send_value("results", result_value("null", "r-1"))
    feed.send_value("results", result_value("null", "r-1").replace(b',"payload":null', b""))
    assert feed.partition._changes.duplicates == {"task.result": 1}


def test_another_payload_under_the_same_id_is_a_conflict() -> None:
    feed = Feed()
    feed.dispatched("t")
    feed.send_value("results", result_value("1", "r-1"))
    feed.send_value("results", result_value('"1"', "r-1"))
    assert [refusal.error for refusal in feed.partition._changes.refusals] == ["identity_conflict"]


def test_a_result_that_was_known_by_its_bytes_is_known_still() -> None:
    """Rows have digests of the bytes as they came, of results judged before payloads were compared as JSON."""
    feed = Feed()
    feed.dispatched("t")
    feed.send_value("results", result_value('{"b": 1}', "r-1"))
    ended = feed.partition.store.session("s").ended_task("t")
    assert ended is not None
    from_bytes = digest(b'["completed",[{"part_id":"p","kind":"show","payload":{"b": 1}}],{},null]')
    session = feed.partition.store.session("s")
    (digests,) = ended.results
    assert digests.content != from_bytes
    ended.results = [ResultDigests(digests.identity, from_bytes)]
    session.ended = ended.line()
    feed.send_value("results", result_value('{"b": 1}', "r-1"))
    assert feed.partition._changes.duplicates == {"task.result": 1}
