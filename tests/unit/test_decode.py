"""A bad record is refused and nothing else: not its neighbours, whatever they are and however they are batched."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.decode import MAX_DETAIL, Batch, Decoder, Refusal
from schemas.envelope import Headers
from schemas.fields import (
    MAX_EVENT_BYTES,
    MAX_INLINE_PART_BYTES,
    MAX_METADATA_BYTES,
    MAX_NAME_BYTES,
    MAX_NESTING,
    MAX_SNAPSHOT_BYTES,
    MAX_TEXT_BYTES,
    MAX_URI_BYTES,
    MAX_VALUE_BYTES,
)
from schemas.limits import SMALL_BYTES
from schemas.topics import Role

DECODERS: dict[Role, Decoder] = {role: Decoder(role) for role in ("context", "steps", "results")}
ENVELOPE = {"source": "app", "event_id": "e-1", "session_id": "s-1", "occurred_at": "2025-01-01T00:00:00Z"}


def body(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **ENVELOPE, **fields}


def changed(**fields: Any) -> bytes:
    return orjson.dumps(body("context.changed", **fields))


def dispatched(**fields: Any) -> bytes:
    return orjson.dumps(body("task.dispatched", task_id="t", task_type="search", **fields))


def result(payload: bytes = b'"done"', **fields: Any) -> bytes:
    """A result with one part; the payload goes in as it is."""
    head = orjson.dumps(body("task.result", task_id="t", outcome="completed", **fields))
    return head[:-1] + b',"parts":[{"part_id":"p","kind":"show","payload":' + payload + b"}]}"


def batch(
    role: Role,
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Headers] | None = None,
) -> Batch:
    count = len(values)
    return Batch(
        role,
        0,
        0,
        count,
        list(range(count)),
        [0] * count,
        list(keys) if keys is not None else [None] * count,
        list(values),
        list(headers) if headers is not None else [()] * count,
    )


def decode(role: Role, *values: bytes | None, **more: Any) -> tuple[list[Any], list[Refusal]]:
    given_batch = batch(role, values, **more)
    refusals: list[Refusal] = []
    return DECODERS[role].decode(given_batch, refusals), refusals


def refused(role: Role, value: bytes | None, **more: Any) -> str:
    """The detail of the refusal of a single record."""
    events, refusals = decode(role, value, **more)
    assert events == [None]
    assert len(refusals) == 1
    assert refusals[0].error in ("invalid_event", "empty_value")
    return refusals[0].detail


def taken(role: Role, value: bytes, **more: Any) -> Any:
    """The event of a single record that is not refused."""
    events, refusals = decode(role, value, **more)
    assert refusals == []
    return events[0]


# One bad record among good ones

SAMPLES: dict[str, bytes | None] = {
    "good": changed(set={"doc/1": "a"}),
    "good, not ASCII": changed(set={"dóc": "ä"}),
    "good, escaped": changed(set={"x": "\u0001"}),
    "good, large": changed(set={f"doc/{number}": "v" * 1000 for number in range(9)}),
    "good, nested": changed()[:-1] + b',"later":' + b"[" * 150 + b"]" * 150 + b"}",
    "no value": None,
    "empty": b"",
    "not JSON": b"hello",
    "not UTF-8": changed(set={"doc/1": "XX"}).replace(b"XX", b"\xff\xfe"),
    "cut off": changed(set={"doc/1": "a"})[:-1],
    "two in one": changed() + b"," + changed(),
    "opens a list": b"[" + changed(),
    "closes a list": changed() + b"]",
    "empty object and more": b"{}," + changed(),
    "another topic's": result(),
    "without type": changed().replace(b'"type"', b'"kind"'),
    "type is empty": changed().replace(b'"context.changed"', b'""'),
    "name too long in bytes": changed(set={"é" * 200: "v"}),
    "value of another type": changed(set={"doc/1": 7}),
    "too deep": changed()[:-1] + b',"later":' + b"[" * 300 + b"]" * 300 + b"}",
    "far too deep": changed()[:-1] + b',"later":' + b"[" * 100_000,
}
GOOD = frozenset(name for name in SAMPLES if name.startswith("good"))


@given(names=st.lists(st.sampled_from(sorted(SAMPLES)), max_size=8), keyed=st.booleans())
def test_what_becomes_of_a_record_depends_on_the_record_alone(*, names: list[str], keyed: bool) -> None:
    keys = [b"s-1" if keyed else None] * len(names)
    events, refusals = decode("context", *(SAMPLES[name] for name in names), keys=keys)
    assert [event is not None for event in events] == [name in GOOD for name in names]
    assert sorted(refusal.index for refusal in refusals) == [at for at, name in enumerate(names) if name not in GOOD]
    for name, event in zip(names, events, strict=True):
        if event is not None:
            alone = taken("context", SAMPLES[name] or b"")
            assert event == alone


@pytest.mark.parametrize("size", [1, 2, 500])
def test_one_bad_record_anywhere_in_a_batch(size: int) -> None:
    good = [changed(event_id=f"e-{number}", set={"doc/1": str(number)}) for number in range(size)]
    for place in {0, size // 2, size - 1}:
        values: list[bytes | None] = list(good)
        values[place] = b'{"type":"context.changed"}'
        events, refusals = decode("context", *values)
        assert [refusal.index for refusal in refusals] == [place]
        assert [event.event_id for event in events if event is not None] == [
            f"e-{number}" for number in range(size) if number != place
        ]


@given(st.binary(max_size=60))
def test_no_bytes_raise(value: bytes) -> None:
    for role in DECODERS:
        events, refusals = decode(role, value)
        assert events == [None]
        assert len(refusals) == 1


@given(data=st.data())
def test_no_change_of_a_byte_raises(data: st.DataObject) -> None:
    value = bytearray(dispatched(metadata={"a": [1, 2.5, None, "é"]}, valid_until="2025-01-01T00:00:00.5Z"))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    events, refusals = decode("steps", bytes(value))
    assert (events[0] is None) == (len(refusals) == 1)


def test_an_empty_batch() -> None:
    assert decode("context") == ([], [])


def test_a_refusal_says_what_and_where() -> None:
    detail = refused("steps", dispatched(lane="lukewarm", attempt=0)[:-1] + b',"session_id":""}')
    assert "lane" in detail
    assert "attempt" in detail
    assert "session_id" in detail


@pytest.mark.parametrize(
    "value",
    [
        changed(set={"k" * 300_000: "v", "j" * 300_000: "v"}),
        changed()[:-1] + b',"type":"' + b"t" * 600_000 + b'"}',
        changed(set={str(number): 1 for number in range(256)}),
    ],
    ids=["long names", "long type", "many errors"],
)
def test_a_refusal_is_short_whatever_the_record(value: bytes) -> None:
    assert len(refused("context", value)) <= MAX_DETAIL


# Keys


def test_a_key_is_the_session_id_or_none() -> None:
    assert taken("context", changed(), keys=[b"s-1"]).session_id == "s-1"
    assert taken("context", changed(), keys=[None]).session_id == "s-1"
    for key in (b"", b"s-2", b"s-1 ", b"\xff", b"s-1\0"):
        assert refused("context", changed(), keys=[key]).startswith("key: ")


def test_a_wrong_key_costs_only_its_own_record() -> None:
    events, refusals = decode("context", *[changed()] * 4, keys=[b"s-1", None, b"other", b"s-1"])
    assert [event is not None for event in events] == [True, True, False, True]
    assert [refusal.index for refusal in refusals] == [2]


def test_keys_crafted_to_look_right_together() -> None:
    values = [changed(session_id="a"), changed(session_id="b\0c")]
    _, refusals = decode("context", *values, keys=[b"a\0b", b"c"])
    assert [refusal.index for refusal in refusals] == [0, 1]
    assert decode("context", changed(session_id="b\0c"), keys=[b"b\0c"])[1] == []


# CloudEvents headers

BARE = orjson.dumps({"set": {"doc/1": "a"}})
WHOLE: Headers = [
    ("ce_type", b"context.changed"),
    ("ce_source", b"app"),
    ("ce_id", b"e-9"),
    ("ce_subject", "sé-1".encode()),
    ("ce_time", b"2025-01-01T00:00:00Z"),
    ("content-type", b"application/json"),
]


def test_headers_stand_in_for_what_the_body_lacks() -> None:
    event = taken("context", BARE, headers=[WHOLE], keys=["sé-1".encode()])
    assert (event.source, event.event_id, event.session_id, event.set) == ("app", "e-9", "sé-1", {"doc/1": "a"})


def test_the_body_wins_over_headers() -> None:
    value = changed(event_id="of the body")
    assert taken("context", value, headers=[WHOLE]).event_id == "of the body"
    half = orjson.dumps({"type": "context.changed", "event_id": "of the body"})
    event = taken("context", half, headers=[WHOLE])
    assert (event.event_id, event.source) == ("of the body", "app")


def test_headers_complete_one_record_and_not_the_next() -> None:
    events, refusals = decode("context", BARE, BARE, changed(), headers=[WHOLE, (), ()])
    assert [event is not None for event in events] == [True, False, True]
    assert [refusal.index for refusal in refusals] == [1]


@pytest.mark.parametrize("missing", ["ce_type", "ce_source", "ce_id", "ce_subject", "ce_time"])
@pytest.mark.parametrize("value", [None, b"", b"\xff"])
def test_a_header_without_text_says_nothing(missing: str, value: bytes | None) -> None:
    headers = [(name, value if name == missing else text) for name, text in WHOLE]
    assert "missing; it is required" in refused("context", BARE, headers=[headers]) or missing == "ce_type"


def test_a_completed_record_keeps_its_payload_byte_for_byte() -> None:
    payload = b'{ "n":123456789012345678901234567890, "x":1e400,"t":"\\u00e9" }'
    parts = b' {"parts":[{"part_id":"p","kind":"show","payload":' + payload + b'}],"task_id":"t","outcome":"completed"}'
    headers = [("ce_type", b"task.result"), *[each for each in WHOLE if each[0] != "ce_type"]]
    event = taken("results", parts, headers=[headers])
    assert bytes(event.parts[0].payload) == payload
    assert DECODERS["results"].event_of(parts, headers) == event


def test_a_completed_record_keeps_the_bounds() -> None:
    headers = [("ce_subject", ("é" * 200).encode()), *[each for each in WHOLE if each[0] != "ce_subject"]]
    assert refused("context", BARE, headers=[headers]) == (
        "session_id: 400 bytes (200 characters; the limit counts bytes of UTF-8), at most 256;"
        " use a shorter one, such as an id or a digest"
    )


def test_an_empty_body_can_be_completed() -> None:
    headers = [("ce_type", b"session.erased"), *[each for each in WHOLE if each[0] != "ce_type"]]
    assert taken("context", b"{ }", headers=[headers]).session_id == "sé-1"


# Bounds in bytes


@pytest.mark.parametrize("letter", ["x", "é", "€", "\U0001f6eb"])
@pytest.mark.parametrize("escaped", [False, True])
def test_texts_are_bounded_in_bytes_however_they_are_written(*, letter: str, escaped: bool) -> None:
    def written(event: dict[str, Any]) -> bytes:
        value = orjson.dumps(event)
        code = letter.encode("utf-16-be").hex()
        escape = "".join(f"\\u{code[at : at + 4]}" for at in range(0, len(code), 4))
        return value.replace(letter.encode(), escape.encode()) if escaped and letter != "x" else value

    size = len(letter.encode())
    for role, template, limit in _bounded():
        most = limit // size
        fits = written(template(letter * most))
        events, refusals = decode(role, fits)
        assert refusals == [], template(letter)
        assert events[0] is not None
        events, refusals = decode(role, written(template(letter * (most + 1))))
        assert events == [None], template(letter)


def _bounded() -> list[tuple[Role, Any, int]]:
    def step(**fields: Any) -> dict[str, Any]:
        return body("task.step", **{"task_id": "t", "step_id": "s", "status": "completed", **fields})

    def returned(part: dict[str, Any], **fields: Any) -> dict[str, Any]:
        parts = [{"part_id": "p", "kind": "show", **part}]
        return body("task.result", **{"task_id": "t", "outcome": "failed", "parts": parts, **fields})

    def ref(text: str) -> dict[str, Any]:
        return {"payload_ref": {"uri": text, "sha256": "0" * 64, "bytes": 1}}

    def task(**fields: Any) -> dict[str, Any]:
        return body("task.dispatched", **{"task_id": "t", "task_type": "q", **fields})

    name, value, text, uri = MAX_NAME_BYTES, MAX_VALUE_BYTES, MAX_TEXT_BYTES, MAX_URI_BYTES
    return [
        ("context", lambda each: {**body("context.changed"), "session_id": each}, name),
        ("context", lambda each: {**body("context.changed"), "source": each}, name),
        ("context", lambda each: body("context.changed", set={each: "v"}), name),
        ("context", lambda each: body("context.changed", set={"k": each}), value),
        ("context", lambda each: body("context.changed", unset=[each]), name),
        ("context", lambda each: body("context.changed", cause={"task_id": each}), name),
        ("context", lambda each: body("result.acknowledged", task_id="t", outcome="shown", part_ids=[each]), name),
        ("context", lambda each: body("task.cancel_requested", task_id="t", reason=each), text),
        ("steps", lambda each: task(snapshot={each: None}), name),
        ("steps", lambda each: task(snapshot={"k": each}), value),
        ("steps", lambda each: task(depends_on=[each]), name),
        ("steps", lambda each: task(plan=[each]), name),
        ("steps", lambda each: task(destination=each), value),
        ("steps", lambda each: task(slot=each), name),
        ("steps", lambda each: step(reads={"k": each}), value),
        ("steps", lambda each: step(message=each), text),
        ("steps", lambda each: step(checkpoint={"uri": each}), uri),
        ("results", lambda each: returned({"part_id": each}), name),
        ("results", lambda each: returned({"content_type": each}), name),
        ("results", lambda each: returned({"depends_on": [each]}), name),
        ("results", lambda each: returned(ref(each)), uri),
        ("results", lambda each: returned({}, error={"code": each}), name),
        ("results", lambda each: returned({}, error={"code": "c", "message": each}), text),
        ("results", lambda each: returned({}, reads={each: None}), name),
    ]


def test_a_payload_is_bounded_by_its_own_bytes() -> None:
    fits = b'"' + b"x" * (MAX_INLINE_PART_BYTES - 2) + b'"'
    assert len(bytes(taken("results", result(fits)).parts[0].payload)) == MAX_INLINE_PART_BYTES
    assert "payload: 262145 bytes" in refused("results", result(fits[:-1] + b'x"'))


def test_a_snapshot_and_metadata_are_bounded_as_a_whole() -> None:
    facets = {f"doc/{number:03}": "v" * 100 for number in range(200)}
    assert refused("steps", dispatched(snapshot=facets)).startswith("snapshot: ")
    assert MAX_SNAPSHOT_BYTES < len(orjson.dumps(facets)) < MAX_EVENT_BYTES
    assert refused("steps", dispatched(metadata={"note": "x" * MAX_METADATA_BYTES})).startswith("metadata: ")
    assert taken("steps", dispatched(metadata={"note": "x" * (MAX_METADATA_BYTES - 11)})).metadata


def test_an_event_is_bounded_as_a_whole() -> None:
    value = changed()[:-1] + b',"later":"' + b"x" * MAX_EVENT_BYTES + b'"}'
    assert "use payload_ref for large parts" in refused("context", value)


def test_bounds_of_a_record_do_not_depend_on_its_neighbours() -> None:
    # Encoded again, this metadata is larger than the record it came in; alone the record is too small to be measured.
    odd = dispatched(metadata={"n": [0] * 600}).replace(b"0,0", b"1e15,1e15")
    assert len(odd) <= SMALL_BYTES
    alone, _ = decode("steps", odd)
    among, _ = decode("steps", odd, dispatched(destination="é"))
    assert (alone[0] is None) == (among[0] is None)


# What the gate could not keep or pass on


def test_payloads_pass_byte_for_byte() -> None:
    for payload in (
        b"123456789012345678901234567890",
        b"1e400",
        b"-1E-999",
        b'{ "a" :  [ 1.0 , 1 ] }',
        b'{"a":1,"a":2}',
        b'"\\u00e9\\/"',
        '"é"'.encode(),
        b"null",
        b"[" * 190 + b"]" * 190,
    ):
        assert bytes(taken("results", result(payload)).parts[0].payload) == payload


@pytest.mark.parametrize("payload", [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3"', b'"\x01"', b'"\\ud800"', b'"\\x"', b"01"])
def test_a_payload_that_no_consumer_could_read_is_refused(payload: bytes) -> None:
    refused("results", result(payload))
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(payload)


@pytest.mark.parametrize("number", [b"18446744073709551616", b"-9223372036854775809", b"1" * 40])
def test_metadata_with_an_integer_beyond_64_bits_is_refused(number: bytes) -> None:
    value = dispatched(metadata={"n": "N"}).replace(b'"N"', number)
    assert refused("steps", value).startswith("metadata: ")
    among, refusals = decode("steps", dispatched(), value, dispatched())
    assert [event is not None for event in among] == [True, False, True]
    assert len(refusals) == 1


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_nesting_is_bounded_at_the_same_depth_everywhere(opening: bytes) -> None:
    step = opening.count(b"[") + opening.count(b"{")
    closing = opening.translate(bytes.maketrans(b"[{", b"]}"), b'"a:')[::-1]

    def nested(levels: int) -> bytes:
        count = levels // step
        return changed()[:-1] + b',"later":' + opening * count + b"0" + closing * count + b"}"

    assert taken("context", nested(MAX_NESTING)) is not None
    assert "inside each other" in refused("context", nested(MAX_NESTING + step))
    for levels in (900, 2_000, 100_000):
        refused("context", nested(levels))


def test_brackets_in_texts_are_no_nesting() -> None:
    text = b'"' + b'[{\\"\\\\' * 400 + b'"'
    assert bytes(taken("results", result(b"[" + text + b"]")).parts[0].payload) == b"[" + text + b"]"
    assert bytes(taken("results", result(b"[" + b"[]," * 500 + b"0]")).parts[0].payload).endswith(b",0]")
    hidden = b'["]",' * 250 + b"0" + b"]" * 250
    refused("results", result(hidden))


def test_two_parts_of_one_id_are_refused() -> None:
    part = {"part_id": "p", "kind": "show"}
    value = orjson.dumps(body("task.result", task_id="t", outcome="completed", parts=[part, part]))
    assert refused("results", value) == ("parts: two have the same part_id, 'p'; give every part of a result its own")


def test_every_time_that_is_taken_can_be_written_again() -> None:
    for moment in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2025-01-01 00:00:00.123456789+01:00"):
        event = taken("steps", dispatched(valid_until=moment, deadline_at=moment))
        assert msgspec.json.encode(event)
        assert event.valid_until.isoformat()


# Batches


def test_a_batch_from_a_later_place() -> None:
    whole = batch("context", [changed(event_id=f"e-{number}") for number in range(4)])
    whole.offsets = [10, 11, 15, 16]
    whole.start, whole.end = 10, 20
    for since, left, start in ((0, 4, 10), (10, 4, 10), (11, 3, 11), (12, 2, 12), (16, 1, 16), (17, 0, 17)):
        rest = whole.since(since)
        assert (len(rest), rest.start, rest.end) == (left, start, 20)
        assert rest.offsets == whole.offsets[4 - left :]
        assert rest.values == whole.values[4 - left :]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_pieces_follow_each_other_and_are_the_whole(count: int) -> None:
    whole = Batch(
        "steps.cold",
        3,
        10,
        40,
        [11, 12, 20, 21, 22, 30, 39],  # with gaps, and a marker at either end
        list(range(7)),
        [bytes([number]) for number in range(7)],
        [bytes([number, number]) for number in range(7)],
        [()] * 7,
        100,
    )
    pieces = list(whole.pieces(count))

    assert max(map(len, pieces)) <= count
    assert [pieces[0].start, pieces[-1].end] == [10, 40]
    assert all(piece.end == after.start for piece, after in pairwise(pieces))
    assert all(piece.start <= offset < piece.end for piece in pieces for offset in piece.offsets)
    for name in ("offsets", "timestamps", "keys", "values", "headers"):
        assert [each for piece in pieces for each in getattr(piece, name)] == getattr(whole, name)
    assert sum(piece.size_bytes for piece in pieces) == whole.size_bytes


def test_a_batch_without_records_is_one_piece() -> None:
    whole = Batch("steps.cold", 0, 5, 7, [], [], [], [], [])
    assert list(whole.pieces(64)) == [whole]


def test_a_large_record_is_not_told_all_its_problems() -> None:
    """100,000 of them took 310 ms to find; the time of a single record is everybody's."""
    value = changed(set={f"facet-{number}": 1 for number in range(50_000)})
    assert len(value) > 500_000
    assert refused("context", value).count(";") == 0
    small = changed(set={f"facet-{number}": 1 for number in range(7)})
    assert refused("context", small).endswith("and 2 more")
