"""One task of a session as a run in AG-UI's event types, for front ends that speak that protocol.

Source: AG-UI protocol, https://docs.ag-ui.com/concepts/events. A task is a run, its session the thread. Events without
an equivalent in AG-UI are `CUSTOM` events with the name `tidegate.<event>`.
"""

from __future__ import annotations

from typing import Any

import orjson

_STOPPED = {"cancelled", "expired", "rejected"}


class Translator:
    """Turns blocks of an event stream into AG-UI events about one task.

    The run ends once: after the last verdict of its result, because a status and a verdict are on topics that are read
    side by side, or with the task's cancellation, expiry or rejection.
    """

    def __init__(self, session_id: str, task_id: str) -> None:
        self.is_ended = False
        self._session_id = session_id
        self._task_id = task_id
        self._is_started = False
        self._end: dict[str, Any] | None = None
        self._decided: set[str] = set()
        self._parts: set[str] | None = None

    def translate(self, blocks: bytes) -> bytes:
        """The AG-UI events for some blocks. A block about something else only moves the cursor."""
        return b"".join(self._block(block) for block in blocks.split(b"\n\n") if block)

    def _block(self, block: bytes) -> bytes:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
        if b"retry" in fields:
            return block + b"\n\n"
        name = fields.get(b"event", b"").decode()
        data = orjson.loads(fields[b"data"]) if b"data" in fields else {}
        events = [] if self.is_ended else self._events(name, data)
        frames = [b"data: %s\n" % orjson.dumps(event) for event in events]
        if b"id" in fields:  # with the last event: one that was cut off is sent again
            cursor = b"id: %s\n" % fields[b"id"]
            frames = [*frames[:-1], cursor + frames[-1]] if frames else [cursor]
        return b"".join(frame + b"\n" for frame in frames)

    def _events(self, name: str, data: dict[str, Any]) -> list[dict[str, Any]]:
        if name in {"reset", "reconnect", "unauthorized"}:
            return [_custom(name, data)]
        if data.get("task_id") != self._task_id:
            return []
        events = [] if self._is_started else [self._run("RUN_STARTED")]
        self._is_started = True
        if name in {"delivered", "withheld"}:
            events += _messages(name, data)
            verdicts = data["verdict"]["parts"]
            self._parts = {each["part_id"] for each in verdicts}
            self._decided |= {part["part_id"] for part in data["parts"]}
        elif name in _STOPPED:
            self.is_ended = True
            events += [_custom(name, data)]
            message = f"{name}: {data.get('reason') or 'no reason given'}"
            return [*events, {"type": "RUN_ERROR", "message": message, "code": name}]
        elif name == "ended" and self._end is None:
            told = {key: data.get(key) for key in ("disposition", "reason")}
            self._end = {**self._run("RUN_FINISHED"), "result": told}
        else:
            events.append(_custom(name, data))
        if self._end is not None and self._parts is not None and self._parts <= self._decided:
            self.is_ended = True
            events.append(self._end)
        return events

    def _run(self, event_type: str) -> dict[str, Any]:
        return {"type": event_type, "threadId": self._session_id, "runId": self._task_id}


def _messages(name: str, data: dict[str, Any]) -> list[dict[str, Any]]:
    """Delivered texts as messages, and the whole event besides: it has the verdict, and what is to be applied."""
    events: list[dict[str, Any]] = []
    for part in data["parts"] if name == "delivered" else ():
        text = text_of(part)
        if text:
            message_id = f"{data['event_id']}/{part['part_id']}"
            events += [
                {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"},
                {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": text},
                {"type": "TEXT_MESSAGE_END", "messageId": message_id},
            ]
    return [*events, _custom(name, data)]


def text_of(part: dict[str, Any]) -> str | None:
    """The text of a part that is shown: its payload, or the payload's `text`."""
    payload = part.get("payload")
    if part.get("kind") != "show":
        return None
    if isinstance(payload, dict):
        payload = payload.get("text")
    return payload if isinstance(payload, str) else None


def _custom(name: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"type": "CUSTOM", "name": f"tidegate.{name}", "value": data}
