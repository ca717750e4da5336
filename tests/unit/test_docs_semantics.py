"""The examples of docs/semantics.md, executed: each block of events, and the block that says what comes out of them."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import pytest

from projections.changes import Changes
from projections.decode import Batch
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.rules import Rules
from schemas.asyncapi import type_of
from schemas.events import CONTEXT_EVENTS, RESULT_EVENTS, STEP_EVENTS
from schemas.outputs import OUTPUT_EVENTS
from schemas.topics import Role, topic_name
from tidegate.settings import ENV_PREFIX, Settings

SEMANTICS: Final = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text()
BEGIN: Final = datetime(2026, 3, 2, 10, tzinfo=UTC)
SESSION: Final = "acme/user-7"
ROLES: Final[dict[str, Role]] = {
    **{type_of(model): "context" for model in CONTEXT_EVENTS},
    **{type_of(model): "steps" for model in STEP_EVENTS},
    **{type_of(model): "results" for model in RESULT_EVENTS},
}
TOPICS: Final[dict[str, Role]] = {
    topic_name(role): role for role in ("context", "steps", "results", "steps.cold", "results.cold")
}
MODELS: Final = {type_of(model): model for model in OUTPUT_EVENTS}


class Example(NamedTuple):
    name: str
    events: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


def lines(block: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in block.splitlines() if line.strip()]


def examples(text: str) -> list[Example]:
    found = []
    for heading, body in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL):
        for number, (events, outputs) in enumerate(
            re.findall(r"```jsonl\n(.*?)```\n\n*→\n\n*```jsonl\n(.*?)```", body, re.DOTALL), start=1
        ):
            found.append(Example(f"{heading} {number}", lines(events), lines(outputs)))
    return found


def rules(settings: dict[str, Any]) -> Rules:
    """The rules that those variables make, as a worker makes them."""
    made = Settings(**{name.removeprefix(ENV_PREFIX).lower(): value for name, value in settings.items()})
    return Rules(
        unknown_task_grace_ms=round(made.unknown_task_grace_seconds * 1000),
        scope_grace_ms=round(made.scope_grace_seconds * 1000),
        hold_ttl_ms=round(made.hold_ttl_seconds * 1000),
        ended_task_retention_ms=round(made.ended_task_retention_seconds * 1000),
        ended_tasks_per_session=made.ended_tasks_per_session,
        session_ttl_ms=round(made.session_ttl_seconds * 1000),
        shadow=made.shadow,
        shadow_task_types=frozenset(made.shadow_task_types),
    )


class Story:
    """A gate in memory that is told one event a second."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.outputs: list[dict[str, Any]] = []
        self._partition = Partition(0, rules(settings))
        self._now_ms = round(BEGIN.timestamp() * 1000)
        self._ends: Counter[Role] = Counter()

    @property
    def _position(self) -> LogPosition:
        return LogPosition(0, self._ends["context"], self._ends["steps"])

    def tell(self, line: dict[str, Any]) -> None:
        if "after_seconds" in line:
            self._let_pass(line["after_seconds"])
            return
        fields = dict(line)
        topic = fields.pop("topic", None)
        role = ROLES[fields["type"]] if topic is None else TOPICS[topic]
        offset = self._ends[role]
        self._ends[role] += 1
        session_id = fields.get("session_id", SESSION)
        envelope = {
            "source": "example",
            "event_id": f"{role}-{offset}",
            "session_id": session_id,
            "occurred_at": "2026-03-02T10:00:00Z",
        }
        value = orjson.dumps({**envelope, **fields})
        key = session_id.encode()
        batch = Batch(role, 0, offset, offset + 1, [offset], [self._now_ms], [key], [value], [()], len(value))
        if role == "context":
            self._partition.fold_context(batch, self._now_ms)
        elif role.startswith("steps"):
            self._partition.fold_steps(batch, self._position, self._now_ms)
        else:
            self._partition.judge(batch, self._position, self._now_ms)
        self._commit()
        self._let_pass(1)

    def _let_pass(self, seconds: float) -> None:
        end = self._now_ms + round(seconds * 1000)
        while (due := self._partition.next_due_ms()) is not None and due <= end:
            self._now_ms = max(self._now_ms, due)
            self._partition.act_on_due(self._position, self._now_ms)
            self._commit()
        self._now_ms = end

    def _commit(self) -> None:
        self._partition.judge_ready(self._position, self._now_ms)
        self._keep(self._partition.take(self._now_ms))
        self._partition.committed()

    def _keep(self, changes: Changes) -> None:
        for output in changes.outputs:
            topic = topic_name(output.role)
            if output.value is None:
                self.outputs.append({"topic": topic, "key": orjson.loads(output.key), "tombstone": True})
                continue
            body = orjson.loads(output.value)
            MODELS[body["type"]].model_validate_json(output.value)
            self.outputs.append({"topic": topic, **body})
        for refusal in changes.refusals:
            self.outputs.append(
                {"topic": topic_name("dlq"), "tidegate_error": refusal.error, "tidegate_error_detail": refusal.detail}
            )


def told(example: Example) -> list[dict[str, Any]]:
    first, *rest = example.events
    story = Story(first.get("settings", {}))
    for line in rest if "settings" in first else example.events:
        story.tell(line)
    return story.outputs


def shows(output: Any, expected: Any) -> bool:
    """Whether everything that is expected is in the output. Lists must be as long, objects may have more fields."""
    if isinstance(expected, dict):
        return isinstance(output, dict) and all(
            name in output and shows(output[name], value) for name, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(output, list)
            and len(output) == len(expected)
            and all(shows(one, other) for one, other in zip(output, expected, strict=True))
        )
    return bool(output == expected)


EXAMPLES: Final = examples(SEMANTICS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(example: Example) -> None:
    expected = list(example.outputs)
    for output in told(example):
        if expected and shows(output, expected[0]):
            del expected[0]
        else:
            assert output.get("status") == "running", f"not told of: {output}\nnext is: {expected[:1]}"
    assert expected == []


def test_every_block_is_one_of_an_example() -> None:
    assert SEMANTICS.count("```jsonl") == 2 * len(EXAMPLES)
    assert len(EXAMPLES) > 40


def test_every_rule_has_an_example() -> None:
    headings = re.findall(r"^### (.+)$", SEMANTICS, re.MULTILINE)
    assert set(headings) == {example.name.rsplit(" ", 1)[0] for example in EXAMPLES}


def test_an_example_that_is_wrong_would_be_noticed() -> None:
    example = EXAMPLES[0]
    with pytest.raises(AssertionError):
        test_example(example._replace(outputs=example.outputs[:-1]))
    with pytest.raises(AssertionError):
        test_example(example._replace(outputs=[*example.outputs, {"type": "result.delivered"}]))
    with pytest.raises(AssertionError):
        test_example(example._replace(outputs=[{**example.outputs[0], "task_id": "other"}, *example.outputs[1:]]))


def test_every_policy_and_every_reason_of_a_task_s_end_is_told_of() -> None:
    text = "".join(orjson.dumps([*example.events, *example.outputs]).decode() for example in EXAMPLES)
    for value in (
        *("detached", "versions", "expires_in_seconds", "enqueue_latest", "queued", "on_late", "watch_seconds"),
        *("input_required", "start_timeout_seconds", "deadline_seconds", "not_started", "slot", "all", "part_ids"),
        *("allow", "enqueue", "reject", "interrupt", "hold", "redispatch", "protected", "independent", "while_stale"),
        *("superseded", "slot_taken", "cancelled", "parent_ended", "unknown_parent", "scope_closed", "hold_expired"),
        *("deadline_passed", "heartbeat_missed", "late", "stale", "user_absent", "held"),
        *("session_closed", "request_archived", "unknown_task", "identity_conflict", "annotate", "withhold", "fresh"),
    ):
        assert f'"{value}"' in text, value
