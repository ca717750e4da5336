"""The cases of a file, and whether what came out of one is what it expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from schemas.topics import Role

HERE: Final = Path(__file__).parent
SETTINGS: Final[dict[str, object]] = {"unknown_task_grace_seconds": 3.0, "scope_grace_seconds": 20.0}
"""What a worker is set to when it runs the cases."""

_NOW: Final = re.compile(r"\$now([+-]\d+(?:\.\d+)?)")


@dataclass(slots=True)
class Case:
    """One case. `outputs` is filled as it runs: role and body of every record, None for a removed status."""

    id: str
    title: str
    steps: list[dict[str, Any]]
    expect: dict[str, Any]
    outputs: list[tuple[Role, str | None, dict[str, Any] | None]] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)

    @property
    def session(self) -> str:
        """The case's own session. Others of it begin with its name."""
        return f"case/{self.id}"

    def has(self, pattern: Mapping[str, Any]) -> bool:
        """Whether an output matches."""
        return any(matches(role, body, pattern) for role, _, body in self.outputs)

    def mistakes(self) -> Iterator[str]:
        """What came out and should not have, or the other way round."""
        known = {"outputs", "never", "statuses", "ignored"}
        assert self.expect
        assert self.expect.keys() <= known
        for pattern in self.expect.get("outputs", ()):
            wanted = {name: value for name, value in pattern.items() if name != "times"}
            count = sum(matches(role, body, wanted) for role, _, body in self.outputs)
            # How often the status of an open task is written depends on the transactions.
            is_wrong = count == 0 if pattern["topic"] == "tasks" else count != pattern.get("times", 1)
            if is_wrong:
                yield f"{self.id}: {count} of {pattern}"
        for pattern in self.expect.get("never", ()):
            if self.has(pattern):
                yield f"{self.id}: there is {pattern}"
        newest = {task_id: body for role, task_id, body in self.outputs if role == "tasks"}
        for task_id, pattern in self.expect.get("statuses", {}).items():
            body = newest.get(task_id, {})
            if not (body is None if pattern is None else body is not None and shows(body, pattern)):
                yield f"{self.id}: the status of {task_id} is {body}, not {pattern}"


def cases(name: str) -> list[Case]:
    """The cases of a file."""
    lines = (HERE / name).read_text().splitlines()
    found = [Case(each["id"], each["title"], each["steps"], each["expect"]) for each in map(orjson.loads, lines)]
    for case in found:
        case.expect = _filled(case.expect, case.session, 0)
        case.steps = [
            {"await": _filled(each["await"], case.session, 0)} if "await" in each else each for each in case.steps
        ]
    return found


def matches(role: Role, body: dict[str, Any] | None, pattern: Mapping[str, Any]) -> bool:
    """Whether a record has at least the fields of the pattern."""
    wanted = {name: value for name, value in pattern.items() if name != "topic"}
    if role != pattern["topic"] or body is None:
        return False
    if role == "dlq":
        details = wanted.pop("detail", [])
        return shows(body, wanted) and all(text in body["detail"] for text in details)
    return shows(body, wanted)


def shows(output: Any, expected: Any) -> bool:
    """Whether everything expected is in the output. Lists must be as long; null is also what is not there."""
    if isinstance(expected, dict):
        return isinstance(output, dict) and all(
            (value is None and output.get(name) is None) or (name in output and shows(output[name], value))
            for name, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(output, list)
            and len(output) == len(expected)
            and all(shows(one, other) for one, other in zip(output, expected, strict=True))
        )
    return bool(output == expected)


def record_of(step: Mapping[str, Any], session: str, number: int, now_ms: int) -> tuple[Role, str, bytes]:
    """Role, session and value of the record that a step writes."""
    if "raw" in step:
        raw = step["raw"]
        return raw["topic"], session, raw["value"].replace("$session", session).encode()
    body = {
        "source": "case",
        "event_id": f"e-{number}",
        "session_id": session,
        "occurred_at": "2026-03-02T10:00:00Z",
        **_filled(step["event"], session, now_ms),
    }
    return step["topic"], body["session_id"], orjson.dumps(body)


def _filled(value: Any, session: str, now_ms: int) -> Any:
    if isinstance(value, dict):
        return {_filled(name, session, now_ms): _filled(each, session, now_ms) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, session, now_ms) for each in value]
    if not isinstance(value, str):
        return value
    found = _NOW.fullmatch(value)
    if found is not None:
        return datetime.fromtimestamp(now_ms / 1000 + float(found[1]), UTC).isoformat()
    return value.replace("$session", session)
