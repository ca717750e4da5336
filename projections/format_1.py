"""Reads rows of format 1, which were JSON objects with short keys. Every row is written anew in the current format.

Releases up to 0.1.0 wrote it. `tests/unit/test_rows_format_1.py` keeps records of every kind.
"""

from datetime import datetime
from typing import Any, Final

import msgspec
import orjson

from projections.rows import (
    FORMAT,
    KNOWN,
    UNSEEN,
    Change,
    Checkpoint,
    DispatchOrder,
    EffectAnswer,
    EndedLine,
    Facet,
    OwnChange,
    OwnChanges,
    Policy,
    ResultDigests,
    RowHead,
    Scope,
    SessionRow,
    StatedBelow,
    Task,
    Wait,
    Work,
)
from projections.text import members_of, quoted

_encode_change: Final = msgspec.msgpack.Encoder().encode
_encode: Final = msgspec.json.Encoder().encode


def is_format_1(raw: bytes) -> bool:
    """Whether a record is a JSON object. The current format begins with an array."""
    return raw.startswith(b"{")


def row_from_bytes(raw: bytes) -> SessionRow:
    """The row, converted. If its tasks have records of their own, `open_tasks` is their number and `tasks` is empty."""
    row: dict[str, Any] = orjson.loads(raw)
    tasks = row["tasks"]
    is_apart = isinstance(tasks, int)
    return SessionRow(
        format=FORMAT,
        last_event_at=row["at"],
        open_tasks=tasks if is_apart else len(tasks),
        size_estimate=row["grown"],
        facets={name: _facet(facet) for name, facet in row["facets"].items()},
        tasks={} if is_apart else {task_id: _task(task) for task_id, task in tasks.items()},
        undispatched={task_id: _own(own) for task_id, own in row["own"].items()},
        slots={slot: _order(order) for slot, order in row.get("slots", {}).items()},
        cancels=row.get("cancels", {}),
        effects={
            key: EffectAnswer(answer == "effect.cleared", members_of(fields))
            for key, (answer, fields) in row.get("effects", {}).items()
        },
        forwarded=row.get("forwarded", []),
    )


def task_from_bytes(raw: bytes) -> Task:
    """A task that had a record of its own, converted."""
    return _task(orjson.loads(raw))


def head_from_bytes(raw: bytes) -> RowHead:
    """The first fields of a row."""
    row = orjson.loads(raw)
    tasks = row["tasks"]
    return RowHead(FORMAT, row["at"], tasks if isinstance(tasks, int) else len(tasks))


def _facet(facet: list[Any]) -> Facet:
    value, offset, timestamp, source, event_id, cause = facet
    return Facet(value, cause, _encode_change(Change(offset, timestamp, source, event_id)))


def _own(own: dict[str, list[list[Any]]]) -> OwnChanges:
    return {name: [_own_change(*change) for change in changes] for name, changes in own.items()}


def _own_change(offset: int, before: Any, after: str | None) -> OwnChange:
    if before == 0:
        return OwnChange(offset, None, after, UNSEEN)
    return OwnChange(offset, before, after, KNOWN)


def _order(order: list[int]) -> DispatchOrder:
    return DispatchOrder(order[0], order[1], len(order) > 2)


def _task(task: dict[str, Any]) -> Task:
    echo = task["echo"]
    started, completed = task.get("steps", (0, 0))
    own = task.get("own")
    taken = task.get("taken")
    return Task(
        format=FORMAT,
        dispatched_at=task["at"],
        offset=task["offset"],
        digest=task["digest"],
        task_type=echo["task_type"],
        echo=members_of(echo),
        expected=task["expected"],
        is_cold=echo.get("lane") == "cold",
        slot=echo.get("slot"),
        request_id=echo.get("request_id"),
        steps_started=started,
        steps_completed=completed,
        done=",".join(map(quoted, task.get("done", ()))),
        stale=task.get("stale", []),
        policy=_policy(task["policy"]) if "policy" in task else None,
        own=_own(own) if own is not None else None,
        taken="{" + members_of(taken) + "}" if taken else "",
        scope=_scope(task),
        wait=_wait(task["wait"]) if "wait" in task else None,
        work=_work(task),
        traceparent=task.get("trace"),
        last_heartbeat=task.get("heard", 0),
        stale_since=task.get("stale_since"),
        later_results=[ResultDigests(*digests) for digests in task.get("seconds", ())],
        acknowledgement=members_of(task["said"]) if "said" in task else "",
        position=task.get("apart", 0),
    )


def _policy(policy: dict[str, Any]) -> Policy:
    return Policy(
        on_stale=policy.get("on_stale", "withhold"),
        on_stale_failure=policy.get("on_stale_failure", "annotate"),
        when_absent=policy.get("when_absent", "deliver"),
        on_newer=policy.get("on_newer", "allow"),
        protected=policy.get("protected", False),
        independent=policy.get("independent", False),
        while_stale_grace_ms=policy.get("while_stale_grace_ms"),
        deadline_ms=policy.get("deadline_ms"),
        heartbeat_timeout_ms=policy.get("heartbeat_ms"),
        scope_grace_ms=policy.get("scope_grace_ms"),
        hold_ttl_ms=policy.get("hold_ttl_ms"),
        max_redispatches=policy.get("max_redispatches", 1),
        attempt=policy.get("attempt", 1),
        valid_until=policy.get("valid_until"),
        plan=policy.get("plan", []),
    )


def _scope(task: dict[str, Any]) -> Scope | None:
    below = {name: StatedBelow(ended, by_task) for name, (ended, by_task) in task.get("below", {}).items()}
    children: dict[str, None] = dict.fromkeys(task.get("children", ()))
    if "parent" not in task and not children and not below:
        return None
    return Scope(task.get("parent"), children, task.get("parentless_until"), below)


def _wait(wait: dict[str, Any]) -> Wait:
    return Wait(
        wait["why"], wait["undecided"], wait.get("until"), wait.get("over", False), wait.get("delivered", False)
    )


def _work(task: dict[str, Any]) -> Work | None:
    names = ("failed", "in_flight", "progress", "message", "checkpoint")
    if not any(name in task for name in names):
        return None
    checkpoint = task.get("checkpoint")
    return Work(
        task.get("failed", []),
        task.get("in_flight", []),
        task.get("progress"),
        task.get("message"),
        Checkpoint(checkpoint["uri"], checkpoint["sequence"]) if checkpoint is not None else None,
    )


def is_ended_line(line: bytes) -> bool:
    """Whether the line of an ended task has a disposition or null where the current format has its number."""
    task_id_end = _after_text(line, line.index(b'"'))
    return not line[task_id_end + 1 : task_id_end + 2].isdigit()


def ended_from_line(line: bytes) -> EndedLine:
    """An ended task, converted."""
    task_id, disposition, at, digest, results, parent, told = orjson.loads(line)
    digests = [ResultDigests(*each) for each in results]
    if told is None:
        return EndedLine(task_id, FORMAT, disposition, None, at, digest, digests, parent, at, 0, 0, _NOTHING, _NOTHING)
    work = {name: value for name, value in told.items() if name not in _NOT_WORK}
    return EndedLine(
        task_id=task_id,
        format=FORMAT,
        disposition=disposition,
        reason=told["reason"],
        ended_at=at,
        digest=digest,
        results=digests,
        parent=parent,
        open_ms=at - round(datetime.fromisoformat(told["dispatched_at"]).timestamp() * 1000),
        steps_started=told.get("steps_started", 0),
        steps_completed=told.get("steps_completed", 0),
        echo=msgspec.Raw(_encode({name: told[name] for name in _ECHO if name in told})),
        work=msgspec.Raw(_encode(work)),
        acknowledged=told.get("acknowledged"),
        detail=told.get("detail"),
    )


def _after_text(line: bytes, begin: int) -> int:
    """The place after the text that begins with the quote at `begin`."""
    end = begin + 1
    while line[end] != _QUOTE:
        end += 2 if line[end] == _BACKSLASH else 1
    return end + 1


_NOTHING: Final = msgspec.Raw(b"{}")
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_ECHO: Final = ("task_type", "destination", "metadata", "request_id", "slot", "lane")
_NOT_WORK: Final = frozenset({
    *_ECHO, "status", "disposition", "reason", "detail", "dispatched_at", "steps_started", "steps_completed",
    "ended_at", "acknowledged",
})  # fmt: skip
