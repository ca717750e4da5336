"""CloudEvents headers, out and in."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import (
    FORWARDED_FROM,
    MAX_TRACEPARENT_BYTES,
    Envelope,
    Headers,
    completed_from_headers,
    traceparent_of,
    was_forwarded,
)
from tests.unit.event_strategies import json_values

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NAMES = {
    "ce_type": "type",
    "ce_source": "source",
    "ce_id": "event_id",
    "ce_subject": "session_id",
    "ce_time": "occurred_at",
}


def test_an_output_carries_every_attribute() -> None:
    headers = Envelope("task.status", "gäte", "id-1", "sé/1".encode(), "2025-11-24T16:00:00.123Z", TRACE).headers()
    assert sorted(headers) == [
        ("ce_id", b"id-1"),
        ("ce_source", "gäte".encode()),
        ("ce_specversion", b"1.0"),
        ("ce_subject", "sé/1".encode()),
        ("ce_time", b"2025-11-24T16:00:00.123Z"),
        ("ce_type", b"task.status"),
        ("content-type", b"application/json"),
        ("traceparent", TRACE.encode()),
    ]


def test_an_output_without_a_trace_has_no_such_header() -> None:
    envelope = Envelope("task.status", "gate", "id-1", b"s", "2025-11-24T16:00:00.123Z")
    assert "traceparent" not in dict(envelope.headers())


def test_attributes_of_one_output_do_not_stay_for_the_next() -> None:
    first = Envelope("task.status", "gate", "id-1", b"s-1", "2025-11-24T16:00:00.123Z", TRACE).headers()
    second = Envelope("result.delivered", "gate", "id-2", b"s-2", "2025-11-24T16:00:00.124Z").headers()
    assert dict(first)["ce_id"] == b"id-1"
    assert dict(second) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_type": b"result.delivered",
        "ce_source": b"gate",
        "ce_time": b"2025-11-24T16:00:00.124Z",
        "ce_id": b"id-2",
        "ce_subject": b"s-2",
    }


@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        ([], None),
        ([("traceparent", TRACE.encode())], TRACE),
        ([("other", b"x"), ("traceparent", TRACE.encode())], TRACE),
        ([("traceparent", b"")], None),
        ([("traceparent", None)], None),
        ([("traceparent", "ä".encode())], None),
        ([("traceparent", b"x" * MAX_TRACEPARENT_BYTES)], "x" * MAX_TRACEPARENT_BYTES),
        ([("traceparent", b"x" * (MAX_TRACEPARENT_BYTES + 1))], None),
        ([("traceparent", None), ("traceparent", b"second")], "second"),
    ],
)
def test_the_trace_of_a_record(headers: Headers, trace: str | None) -> None:
    assert traceparent_of(headers) == trace


def test_a_forwarded_record_is_known_by_its_header() -> None:
    assert was_forwarded([("a", b""), (FORWARDED_FROM, b"tidegate.context.v1/3/17")])
    assert not was_forwarded([("a", b"")])
    assert not was_forwarded([])


@given(
    body=st.dictionaries(st.sampled_from([*NAMES.values(), "set", "x"]), json_values, max_size=4),
    texts=st.dictionaries(st.sampled_from([*NAMES, "ce_dataschema", "other"]), st.text(min_size=1), max_size=4),
)
def test_a_completed_body_is_what_headers_say_and_over_it_what_the_body_says(
    body: dict[str, object], texts: dict[str, str]
) -> None:
    headers = [(name, text.encode()) for name, text in texts.items()]
    value = orjson.dumps(body)
    completed = completed_from_headers(value, headers)
    said = {NAMES[name]: text for name, text in texts.items() if name in NAMES}
    if said.keys() <= body.keys():
        assert completed is None
    else:
        assert completed is not None
        assert orjson.loads(completed) == {**said, **body}
        assert completed.endswith(value[1:])  # what follows the opening brace is untouched


@pytest.mark.parametrize("value", [b"", b"[]", b"null", b"{", b'"x"', b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_object_is_not_completed(value: bytes) -> None:
    assert completed_from_headers(value, [("ce_id", b"e")]) is None


def test_leading_white_space_and_an_empty_object() -> None:
    assert completed_from_headers(b" \n{ }", [("ce_id", b"e")]) == b'{"event_id":"e" }'
