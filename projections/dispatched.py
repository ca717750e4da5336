"""What a dispatch said, from what is kept of its task: to repeat it in a `task.redispatch`, and to tell what differs.

Fields that have the contract's defaults are left out. Times are kept to the millisecond. Of the deadlines of a dispatch
that states two, the earlier one is known, and always as a time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import orjson

from projections.ended import EndedTask
from projections.json_equality import canonical
from projections.rows import DEFAULT_POLICY, Options, Policy, Task
from projections.text import json_of
from schemas.times import rfc3339

MAX_KEPT_BYTES: Final = 1024
"""Of an ended task's dispatch, without its echo. Longer ones are not kept: their differences cannot be told."""
MAX_TOLD: Final = 5
MAX_VALUE_CHARACTERS: Final = 80

_SAME_NAME: Final = ("on_stale", "on_stale_failure", "when_absent", "on_newer", "protected", "independent")
_SECONDS: Final = (
    ("heartbeat_timeout_seconds", "heartbeat_timeout_ms"),
    ("scope_grace_seconds", "scope_grace_ms"),
    ("hold_ttl_seconds", "hold_ttl_ms"),
)
_IN_ECHO: Final = ("task_type", "destination", "metadata", "request_id", "slot", "lane")
_BY_MEMBER: Final = ("snapshot", "metadata")

Fields = dict[str, Any]


def dispatched_fields(task: Task) -> Fields:
    """The dispatch of an open task: the fields that outputs repeat, its parent, and the rest."""
    fields: Fields = orjson.loads(f"{{{task.echo}}}")
    scope = task.scope
    if scope is not None and scope.parent is not None:
        fields["parent_task_id"] = scope.parent
    fields.update(fields_besides_echo(task))
    return fields


def fields_besides_echo(task: Task) -> Fields:
    """The dispatch of an open task, without the fields that outputs repeat and without its parent."""
    fields: Fields = {}
    snapshot = task.expected if task.snapshot is None else task.snapshot
    if task.taken:
        taken = orjson.loads(task.taken)
        snapshot = {name: value for name, value in snapshot.items() if name not in taken}
    if snapshot:
        fields["snapshot"] = snapshot
    if task.depends_on:
        fields["depends_on"] = task.depends_on
    if task.policy is not None:
        fields.update(_policy_fields(task.policy))
    return fields


def _policy_fields(policy: Policy) -> Fields:
    fields: Fields = {}
    for name in _SAME_NAME:
        value = getattr(policy, name)
        if value != getattr(DEFAULT_POLICY, name):
            fields[name] = value
    if policy.while_stale_grace_ms is not None:
        fields["while_stale"] = "cancel"
        fields["while_stale_grace_seconds"] = _seconds(policy.while_stale_grace_ms)
    if policy.deadline_ms is not None:
        fields["deadline_at"] = rfc3339(policy.deadline_ms)
    for name, field in _SECONDS:
        milliseconds = getattr(policy, field)
        if milliseconds is not None:
            fields[name] = _seconds(milliseconds)
    if policy.max_redispatches != 1:
        fields["max_redispatches"] = policy.max_redispatches
    if policy.plan:
        fields["plan"] = policy.plan
    if policy.attempt != 1:
        fields["attempt"] = policy.attempt
    if policy.options is not None:
        fields.update(_options_fields(policy.options))
    if policy.valid_until is not None:
        fields["valid_until"] = datetime.fromisoformat(policy.valid_until).astimezone(UTC).isoformat()
    return fields


def _options_fields(options: Options) -> Fields:
    fields: Fields = {}
    if options.detached_from is not None:
        fields["parent_task_id"], fields["detached"] = options.detached_from, True
    if options.start_timeout_ms is not None:
        fields["start_timeout_seconds"] = _seconds(options.start_timeout_ms)
    if options.delivers_late:
        fields["on_late"] = "deliver"
    if options.watch_ms is not None:
        fields["watch_seconds"] = _seconds(options.watch_ms)
    return fields


def _seconds(milliseconds: int) -> object:  # compiled, a function that returns `float` makes 3.0 of 3
    return milliseconds / 1000 if milliseconds % 1000 else milliseconds // 1000


def kept_of_dispatch(task: Task) -> str | None:
    """What is kept of an ended task's dispatch, besides its echo and its parent, as JSON; None if it is too long."""
    if task.policy is None and not task.depends_on:
        snapshot = task.expected if task.snapshot is None else task.snapshot
        text = f'{{"snapshot":{json_of(snapshot)}}}' if snapshot else "{}"
    else:
        text = json_of(fields_besides_echo(task))
    return text if len(text) <= MAX_KEPT_BYTES else None


def ended_fields(ended: EndedTask) -> Fields | None:
    """The dispatch of an ended task; None if not all of it is known."""
    if ended.dispatch is None:
        return None
    fields: Fields = orjson.loads(f"{{{ended.echo}}}")
    if ended.parent is not None:
        fields["parent_task_id"] = ended.parent
    fields.update(orjson.loads(ended.dispatch))
    return fields


def differences(before: Fields, now: Fields) -> list[str]:
    """How a dispatch that came again differs, in words: each field with both values. Empty if it says the same."""
    told: list[str] = []
    for name in dict.fromkeys([*before, *now]):
        first, second = before.get(name), now.get(name)
        if name in _BY_MEMBER:
            first, second = first or {}, second or {}
            for member in dict.fromkeys([*first, *second]):
                told += _difference(f"{name}.{member}", first, second, member)
        else:
            told += _difference(name, before, now, name)
    return told


def _difference(label: str, before: Fields, now: Fields, name: str) -> list[str]:
    first, second = _text(before, name), _text(now, name)
    if first == second or (first and second and canonical(first.encode()) == canonical(second.encode())):
        return []
    return [f"{label[:MAX_VALUE_CHARACTERS]} was {_short(first)} and is {_short(second)} now"]


def _text(fields: Fields, name: str) -> str:
    return json_of(fields[name]) if name in fields else ""


def _short(text: str) -> str:
    if not text:
        return "not given"
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}… ({len(text)} characters)"


def in_words(told: list[str]) -> str:
    """The first differences as one text of bounded length."""
    more = f", and {len(told) - MAX_TOLD} more" if len(told) > MAX_TOLD else ""
    return ", ".join(told[:MAX_TOLD]) + more
