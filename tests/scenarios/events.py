"""From a case's events to the bytes on the topics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from tests.scenarios.case import Moment


def session_of(name: str) -> str:
    """The session a case runs in."""
    return f"session of {name}"


def value_of(moment: Moment, session_id: str, began: datetime, lane: str = "hot") -> bytes:
    """The record's value; `began` is the broker's time at the beginning of the case."""
    body: dict[str, Any] = {
        "source": "test",
        "event_id": moment.event_id,
        "session_id": session_id,
        "occurred_at": datetime(2025, 6, 2, tzinfo=UTC).isoformat(),
        **moment.said.body,
    }
    if "deadline_in" in body:
        body["deadline_at"] = (began + timedelta(seconds=moment.at + body.pop("deadline_in"))).isoformat()
    if body["type"] == "task.dispatched" and lane != "hot":
        body["lane"] = lane
    return orjson.dumps(body)
