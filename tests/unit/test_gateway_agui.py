"""The AG-UI form of a stream, checked with the protocol's own models."""

from typing import Any

import orjson
from ag_ui.core import Event
from pydantic import TypeAdapter

from gateway.agui import Translator
from gateway.frames import frame, position_frame

EVENTS: TypeAdapter[Any] = TypeAdapter(Event)


def block(name: str, cursor: str = "c", **data: Any) -> bytes:
    return frame(name, orjson.dumps({"task_id": "t", **data}), cursor)


def judged(name: str, *part_ids: str, of: tuple[str, ...], **part: Any) -> bytes:
    parts = [{"part_id": each, "kind": "show", "payload": f"text of {each}", **part} for each in part_ids]
    verdict = {"parts": [{"part_id": each, "decision": name} for each in of]}
    return block(name, event_id=f"e-{name}", parts=parts, verdict=verdict)


def told(translator: Translator, *blocks: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The types and bodies of the events, each of which is one of the protocol's."""
    found = []
    for text in translator.translate(b"".join(blocks)).decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        if "data" in fields:
            body = orjson.loads(fields["data"])
            assert EVENTS.validate_python(body).type.value == body["type"]
            found.append((body["type"], body))
    return found


def types(events: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [body.get("name", kind) for kind, body in events]


MESSAGE = ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"]


def test_a_run_from_its_start_to_its_end() -> None:
    run = Translator("acme/s", "t")
    events = told(
        run,
        b"retry: 1000\n\n",
        position_frame("c0"),
        block("running", progress=0.5),
        block("running", task_id="another"),
        judged("delivered", "a", of=("a",)),
        block("ended", disposition="delivered", reason="fresh"),
    )
    assert types(events) == ["RUN_STARTED", "tidegate.running", *MESSAGE, "tidegate.delivered", "RUN_FINISHED"]
    assert events[0][1] == {"type": "RUN_STARTED", "threadId": "acme/s", "runId": "t"}
    assert events[3][1]["delta"] == "text of a"
    assert events[-1][1]["result"] == {"disposition": "delivered", "reason": "fresh"}
    assert run.is_ended
    assert told(run, block("ended", acknowledged="shown")) == [], "nothing comes after the end"


def test_the_end_waits_for_every_verdict_whichever_topic_is_read_first() -> None:
    run = Translator("s", "t")
    assert types(told(run, block("ended", disposition="delivered"))) == ["RUN_STARTED"]
    assert "RUN_FINISHED" not in types(told(run, judged("withheld", "b", of=("a", "b"))))
    assert types(told(run, judged("delivered", "a", of=("a", "b")))) == [*MESSAGE, "tidegate.delivered", "RUN_FINISHED"]


def test_a_task_that_is_stopped_is_an_error() -> None:
    for name in ("cancelled", "expired", "rejected"):
        run = Translator("s", "t")
        events = told(run, block(name, reason="because"))
        assert types(events) == ["RUN_STARTED", f"tidegate.{name}", "RUN_ERROR"]
        assert (events[-1][1]["code"], events[-1][1]["message"]) == (name, f"{name}: because")
        assert run.is_ended


def test_what_is_not_text_or_not_delivered_is_no_message() -> None:
    run = Translator("s", "t")
    blocks = [
        judged("withheld", "a", of=("a", "b", "c", "d")),
        judged("delivered", "b", of=("a", "b", "c", "d"), kind="apply"),
        judged("delivered", "c", of=("a", "b", "c", "d"), payload={"n": 1}),
    ]
    assert "TEXT_MESSAGE_START" not in types(told(run, *blocks))
    assert "TEXT_MESSAGE_START" in types(told(run, judged("delivered", "d", of=("d",), payload={"text": "yes"})))


def test_the_cursor_comes_with_the_last_event_of_a_block() -> None:
    run = Translator("s", "t")
    text = run.translate(judged("delivered", "a", of=("a", "b")) + position_frame("c2")).decode()
    *rest, last, position = text.removesuffix("\n\n").split("\n\n")
    assert all("id: " not in each for each in rest)
    assert last.startswith("id: c\ndata: ")
    assert position == "id: c2"


def test_the_gateway_s_own_events_are_told_before_a_run_begins() -> None:
    assert types(told(Translator("s", "t"), frame("reset", b'{"reason":"too old"}', None))) == ["tidegate.reset"]
