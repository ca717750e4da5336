"""What the gate writes keeps to its own contract: shapes, ids, headers, sizes."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any
from uuid import UUID

import orjson
import pytest
from jsonschema import Draft202012Validator

from projections import publish
from projections.publish import MAX_OUTPUT_BYTES, MAX_STATUS_GROWTH, Output
from projections.rules import Rules
from schemas.asyncapi import type_of
from schemas.fields import MAX_INLINE_PART_BYTES
from schemas.generate import json_schema
from schemas.outputs import OUTPUT_EVENTS
from schemas.topics import topics
from tests.unit.feeding import Feed, make_batch

MODELS = {type_of(model): model for model in OUTPUT_EVENTS}
VALIDATORS = {type_of(model): Draft202012Validator(json_schema(model)) for model in OUTPUT_EVENTS}
ALLOWED_ON = {topic.role: topic.event_types for topic in topics()}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EVERYTHING: dict[str, Any] = {
    "destination": "mailbox",
    "metadata": {"deep": [{"er": None}], "n": 0.1, "é": "\u0001"},
    "request_id": "r-1",
    "valid_until": "2025-11-24T17:00:00.123456+05:30",
    "depends_on": ["view/tab-1", "never/seen"],
    "plan": ["look", "book"],
}
PARTS: tuple[dict[str, Any], ...] = (
    {"part_id": "text", "kind": "show", "payload": {"a": [1, 2.5, None]}, "content_type": "application/json"},
    {"part_id": "file", "kind": "apply", "payload_ref": {"uri": "s3://x", "sha256": "0" * 64, "bytes": 7}},
    {"part_id": "null", "kind": "show", "payload": None, "on_stale": "annotate"},
    {"part_id": "free", "kind": "show", "depends_on": []},
)


def story(session: str = "sé/1") -> Feed:
    """Everything that the gate can say, said at least once."""
    feed = Feed(Rules(), session)
    trace = [("traceparent", TRACE.encode())]
    feed.changed({"doc/1": "a", "view/tab-1": "inbox"})
    feed.changed({"doc/2": "a"}, by="mixed")
    feed.dispatched("mixed", {"doc/1": "a", "doc/2": None}, headers=trace, **EVERYTHING)
    feed.step("mixed", {"doc/3": None}, step_id="look", progress=0.5, message="é", checkpoint={"uri": "cp"})
    feed.changed({"doc/1": "b", "doc/3": "b"}, by="somebody")
    feed.send("task.effect_proposed", task_id="mixed", idempotency_key="k1", effect="book")
    feed.send("task.effect_proposed", task_id="mixed", idempotency_key="k1", effect="book")
    feed.send("task.effect_proposed", task_id="ghost", idempotency_key="k2", effect="book")
    feed.result("mixed", *PARTS, reads={"doc/4": "x"})
    feed.send("result.acknowledged", task_id="mixed", outcome="refused", reason="too late")
    feed.result("mixed", PARTS[0])
    feed.dispatched("failing", {"doc/1": "a"})
    feed.result("failing", PARTS[0], outcome="failed", error={"code": "c", "message": "é"}, headers=trace)
    feed.dispatched("parent", slot="panel")
    feed.dispatched("child", {"doc/1": "b"}, parent_task_id="parent", lane="hot", plan=["one", "two"])
    feed.step("child", step_id="one", status="started")
    feed.send("task.effect_proposed", task_id="child", idempotency_key="k3", effect="book")
    feed.result("parent", *PARTS)
    feed.send("task.cancel_requested", slot="nobodys", reason="no")
    feed.dispatched("taken", slot="panel", on_newer="reject")
    feed.send("task.cancel_requested", task_id="child", reason="no")
    feed.dispatched("orphan", parent_task_id="mixed")
    feed.dispatched("again", {"doc/1": "a"}, on_stale="redispatch")
    feed.step("again", checkpoint={"uri": "cp", "sequence": 3})
    feed.result("again", PARTS[0])
    feed.dispatched("held", {"doc/1": "a"}, on_stale="hold", hold_ttl_seconds=60)
    feed.result("held", PARTS[0], PARTS[3])
    feed.result("ghost", PARTS[0])
    feed.dispatched("first", {"doc/9": "a"}, slot="queue", watch_seconds=600)
    feed.dispatched("second", slot="queue", on_newer="enqueue")
    feed.result("first", PARTS[0])
    feed.changed({"doc/9": "b"})
    feed.take()
    feed.wait(3600)
    feed.dispatched("running", {"doc/1": "a"})
    feed.take()
    return feed


@pytest.fixture(scope="module")
def written() -> list[tuple[Output, dict[str, Any]]]:
    feed = story()
    return [(output, orjson.loads(output.value)) for output in feed.outputs if output.value is not None]


def test_every_acknowledgement_is_a_record_of_its_own() -> None:
    feed = Feed(Rules(), "s")
    feed.dispatched("t")
    feed.result("t", PARTS[0])
    for outcome in ("shown", "refused", "shown"):
        feed.send("result.acknowledged", task_id="t", outcome=outcome)
    feed.take()
    told = [orjson.loads(output.value or b"") for output in feed.outputs if output.role == "tasks"]
    assert [body.get("acknowledged") for body in told] == [None, "shown", "refused", "shown"]
    assert len({body["event_id"] for body in told}) == len(told)


def test_the_story_says_everything(written: list[tuple[Output, dict[str, Any]]]) -> None:
    said = Counter(body["type"] for _, body in written)
    assert said.keys() == MODELS.keys()
    reasons = {body.get("reason") or body.get("verdict", {}).get("reason") for _, body in written}
    assert reasons >= {"fresh", "stale", "late", "unknown_task", "cancelled", "slot_taken", "parent_ended"}
    assert {body.get("disposition") for _, body in written} >= {"delivered", "withheld", "cancelled", "rejected"}


def test_every_output_is_what_its_model_and_its_schema_say(written: list[tuple[Output, dict[str, Any]]]) -> None:
    for output, body in written:
        told = MODELS[body["type"]].model_validate_json(output.value or b"")
        assert body.keys() <= type(told).model_fields.keys(), "a field that the contract does not know"
        errors = [error.message for error in VALIDATORS[body["type"]].iter_errors(body)]
        assert errors == []


def test_every_output_is_on_a_topic_that_is_meant_for_it(written: list[tuple[Output, dict[str, Any]]]) -> None:
    for output, body in written:
        assert body["type"] in ALLOWED_ON[output.role]


def test_keys(written: list[tuple[Output, dict[str, Any]]]) -> None:
    for output, body in written:
        if body["type"] == "task.status":
            assert orjson.loads(output.key) == ["sé/1", body["task_id"]]
        else:
            assert output.key.decode() == "sé/1"


def test_headers_say_what_the_body_says(written: list[tuple[Output, dict[str, Any]]]) -> None:
    for output, body in written:
        headers = {name: value.decode() for name, value in output.headers}
        assert len(headers) == len(output.headers)
        trace = headers.pop("traceparent", None)
        assert trace in (None, TRACE)
        assert headers == {
            "content-type": "application/json",
            "ce_specversion": "1.0",
            "ce_type": body["type"],
            "ce_source": body["source"],
            "ce_id": body["event_id"],
            "ce_subject": body["session_id"],
            "ce_time": body["occurred_at"],
        }


def test_the_trace_of_a_dispatch_goes_into_all_that_is_said_of_its_task(
    written: list[tuple[Output, dict[str, Any]]],
) -> None:
    for task_id in ("mixed", "failing"):
        about = [(output, body) for output, body in written if body.get("task_id") == task_id]
        traced = [body["type"] for output, body in about if ("traceparent", TRACE.encode()) in output.headers]
        if task_id == "mixed":
            assert set(traced) >= {"result.delivered", "result.withheld", "task.status", "effect.refused"}
        else:
            assert traced == ["result.delivered"]


def test_no_two_records_share_an_id_and_those_of_verdicts_and_commands_are_uuids_of_version_5(
    written: list[tuple[Output, dict[str, Any]]],
) -> None:
    bodies: dict[str, dict[str, Any]] = {}
    for _, body in written:
        if body["type"] == "task.status":
            running = "" if body["status"] == "ended" else "-[0-9a-f]{8}"
            assert re.fullmatch(rf"[0-9a-f]{{16}}-\d+{running}(-\d+)?", body["event_id"])
        else:
            assert UUID(body["event_id"]).version == 5
        assert bodies.setdefault(body["event_id"], body) == body
    assert len(bodies) == len(written)


def test_the_same_decisions_taken_again_have_the_same_ids(written: list[tuple[Output, dict[str, Any]]]) -> None:
    assert [(output.role, output.key, output.value) for output in story().outputs if output.value is not None] == [
        (output.role, output.key, output.value) for output, _ in written
    ]


def test_ids_of_verdicts_and_dispositions_do_not_depend_on_when_they_are_written() -> None:
    feeds = [Feed(), Feed()]
    for feed, seconds in zip(feeds, (0, 7), strict=True):
        feed.changed({"doc/1": "b"})
        feed.dispatched("t", {"doc/1": "a"})
        feed.take()
        feed.now_ms += 1000
        batch_ms = feed.now_ms
        feed.now_ms += seconds * 1000
        value = orjson.dumps(
            {
                "type": "task.result",
                "source": "agent",
                "event_id": "r",
                "session_id": "s",
                "occurred_at": "2025-11-24T16:00:00Z",
                "task_id": "t",
                "outcome": "completed",
                "parts": PARTS,
            }
        )
        feed.feed(make_batch("results", 0, [value], [batch_ms]))
    one, other = ([(body["type"], body["event_id"]) for body in feed.take()] for feed in feeds)
    assert one == other
    assert [kind for kind, _ in one] == ["result.delivered", "result.withheld", "task.status"]


def test_ids_of_what_reads_alike_when_put_together_differ() -> None:
    ids = set()
    for session, task in (("a", "b\0c"), ("a\0b", "c"), ('a","b', "c"), ("a", 'b","c')):
        feed = Feed(session=session)
        feed.dispatched(task)
        feed.result(task)
        ids |= {body["event_id"] for body in feed.take()}
    assert len(ids) == 8


def test_parts_go_out_as_they_came_in() -> None:
    feed = Feed()
    feed.dispatched("t")
    payload = b'{ "n":123456789012345678901234567890,"x":1e400, "t":"\\u00e9" }'
    envelope = orjson.dumps(
        {"source": "a", "event_id": "e", "session_id": "s", "occurred_at": "2025-11-24T16:00:00Z", "task_id": "t"}
    )
    part = b'{"part_id":"p","kind":"show","payload":' + payload + b"}"
    feed.send_value("results", envelope[:-1] + b',"type":"task.result","outcome":"completed","parts":[' + part + b"]}")
    delivered = next(output for output in feed.partition.take(feed.now_ms).outputs if output.role == "delivered")
    assert payload in (delivered.value or b"")


def test_a_verdict_on_more_facets_than_a_dispatch_may_name() -> None:
    feed = Feed()
    feed.dispatched("t", {f"a/{number}": "1" for number in range(256)})
    feed.step("t", {f"b/{number}": "1" for number in range(256)})
    feed.changed({f"b/{number}": "2" for number in range(256)})
    feed.result("t")
    verdict = feed.verdict()
    assert len(verdict["snapshot"]) == 512
    part = verdict["verdict"]["parts"][0]
    assert (len(part["differences"]), part["differences_omitted"]) == (32, 224)
    MODELS["result.withheld"].model_validate(verdict, strict=False)
    assert VALIDATORS["result.withheld"].is_valid(verdict)


def test_differences_of_many_parts_are_told_once_in_full() -> None:
    feed = Feed()
    feed.dispatched("t", {f"a/{number}": "1" for number in range(100)})
    feed.changed({f"a/{number}": "2" for number in range(100)})
    feed.result("t", *({"part_id": f"p{number}"} for number in range(64)))
    parts = feed.verdict()["verdict"]["parts"]
    assert len(parts[0]["differences"]) == 32
    assert all(part["differences"] for part in parts)
    assert all(len(part["differences"]) + part["differences_omitted"] == 100 for part in parts)
    assert sum(len(part["differences"]) for part in parts) < 100


def test_an_output_that_no_broker_would_take_is_not_made_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MAX_OUTPUT_BYTES", MAX_OUTPUT_BYTES - 150_000)
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("parent")
    feed.dispatched("t", parent_task_id="parent")
    for number in range(8):
        feed.step("t", {f"never/seen/{number}/{each}": "v" * 1000 for each in range(15)})
    feed.take()
    before = feed.row
    payload = "x" * (MAX_INLINE_PART_BYTES - 2)
    parts = [{"part_id": str(number), "payload": payload[number * 3000 :]} for number in range(3)]
    feed.result("t", *parts, reads={"doc/1": "a", "doc/2": "c"})
    assert feed.take() == []
    (refusal,) = feed.changes[-1].refusals
    assert refusal.error == "output_too_large"
    assert str(MAX_OUTPUT_BYTES - 150_000) in refusal.detail
    assert refusal.batch.values[0] is not None
    assert feed.row == before
    feed.result("t", parts[0])
    feed.result("parent", parts[0])
    assert {body["type"]: body["task_id"] for body in feed.take()} == {
        "result.delivered": "parent",
        "task.status": "parent",
    }


def test_a_waiting_result_that_grew_too_large_goes_to_the_dead_letters_and_its_task_waits_no_more() -> None:
    feed = Feed()
    feed.dispatched("older", slot="panel")
    feed.dispatched("newer", slot="panel", on_newer="enqueue")
    for number in range(20):
        feed.step("newer", {f"never/seen/{number}/{each}": "v" * 1000 for each in range(15)})
    payload = "x" * (MAX_INLINE_PART_BYTES - 2)
    feed.result("newer", *({"part_id": str(number), "payload": payload[number * 3000 :]} for number in range(3)))
    feed.take()
    assert feed.waits("newer") == "slot"
    feed.result("older")
    feed.barrier()
    feed.take()
    assert [refusal.error for refusal in feed.changes[-1].refusals] == ["output_too_large"]
    assert feed.waits("newer") is None
    assert feed.partition.store.waiting_count == 0
    feed.restart()
    feed.result("newer")
    assert feed.verdict()["task_id"] == "newer"


def test_a_result_is_refused_if_the_attempt_it_calls_for_cannot_be_commanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MAX_OUTPUT_BYTES", MAX_STATUS_GROWTH + 1000)
    feed = Feed()
    names = [f"doc/{number}" for number in range(520)]
    feed.dispatched("t", dict.fromkeys(names[:256], "1"), on_stale="redispatch")
    for begin in (256, 506):
        feed.step("t", dict.fromkeys(names[begin : begin + 250], "1"))
    for begin in range(0, 520, 13):
        feed.changed(dict.fromkeys(names[begin : begin + 13], "v" * 1020))
    feed.take()
    assert feed.changes[-1].refusals == []
    before = feed.row
    feed.result("t")
    assert feed.take() == []
    (refusal,) = feed.changes[-1].refusals
    assert refusal.error == "output_too_large"
    assert "task.redispatch" in refusal.detail
    assert feed.row == before


def test_a_task_whose_status_would_be_too_large_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MAX_OUTPUT_BYTES", MAX_STATUS_GROWTH + 40_000)
    feed = Feed()
    names = [f"doc/{number}" for number in range(45)]
    for begin in range(0, 45, 10):
        feed.changed(dict.fromkeys(names[begin : begin + 10], "v" * 1000))
    feed.dispatched("few", depends_on=names[:10])
    feed.dispatched("many", depends_on=names)
    statuses = feed.statuses()
    assert statuses["few"]["status"] == "running"
    assert (statuses["many"]["disposition"], statuses["many"]["reason"]) == ("rejected", "session_full")
    assert statuses["many"]["detail"].startswith("depends_on: ")
    assert list(feed.row.tasks) == ["few"]
