"""What context events and steps do to a session row.

Each function changes the row it is given, and nothing else: same row, same events, same order, same bytes. None reads a
clock.
"""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from projections.encoding import KeptTasks
from projections.row import (
    CAUSE,
    ITSELF,
    SEVERAL,
    UNSEEN,
    VALUE,
    OwnChanges,
    SessionRow,
    TaskRow,
    add_task,
    ancestors,
    differs,
    readers,
)
from schemas.events import ContextChanged, TaskDispatched, TaskStep
from schemas.identity import digest

MAX_CHANGES: Final = 64
MAX_UNDISPATCHED: Final = 32
MAX_STEPS: Final = 64
MAX_LEFT: Final = 16
"""Values of one facet that are kept of tasks below which have ended. So many differing ones are stale anyway."""

_ECHOED: Final = ("task_type", "destination", "metadata", "request_id", "slot")


def fold_context_change(
    row: SessionRow,
    event: ContextChanged,
    offset: int,
    timestamp: int,
    *,
    cause_is_over: bool,
    cause_parent: str | None,
    kept: KeptTasks | None = None,
) -> list[str] | None:
    """Set and unset facets.

    Returns the tasks whose staleness changed (their status is to be told), or None where the event changed nothing.
    `cause_is_over`: the task whose own work it was has ended; `cause_parent` is then its parent, if it had one. `kept`
    knows of many tasks which ones a facet may concern; the others are not looked at.
    """
    cause_task = event.cause.task_id if event.cause is not None else None
    changes: dict[str, Any] = event.set
    if event.unset:
        changes = {**changes, **dict.fromkeys(event.unset)}
    restaled: list[str] | None = None
    facets, tasks = row["facets"], row["tasks"]
    for name, value in changes.items():
        known = facets.get(name)
        cause = cause_task
        if known is not None and known[VALUE] == value:
            if known[CAUSE] is None or known[CAUSE] == cause_task:
                continue
            if cause_task is not None:
                cause = SEVERAL
        if restaled is None:
            restaled = []
        facets[name] = [value, offset, timestamp, event.source, event.event_id, cause]
        if cause_task is not None and (not cause_is_over or cause_parent in tasks):
            before = UNSEEN if known is None else known[VALUE]
            _remember_own(row, cause_task, cause_parent, name, [offset, before, value])
        for task_id, task in tasks.items() if kept is None else kept.expecting(row, name):
            if name in task["expected"] and restale(row, task, name, timestamp):
                restaled.append(task_id)
    return restaled


def dispatch_digest(event: TaskDispatched) -> str:
    """Digest of everything in a dispatch but its event id and time: two dispatches of one task must agree in it."""
    content = msgspec.structs.replace(event, event_id="-", occurred_at=_NO_TIME)  # type: ignore[type-var]
    return digest(_sorted_json(content))


_sorted_json = msgspec.json.Encoder(order="sorted").encode
_NO_TIME: Final = datetime.fromtimestamp(0, UTC)


def echo_of(event: TaskDispatched) -> dict[str, Any]:
    """What outputs repeat from a dispatch."""
    echo = {name: value for name in _ECHOED if (value := getattr(event, name)) not in (None, {})}
    if event.lane != "hot":
        echo["lane"] = event.lane
    return echo


def fold_dispatch(
    row: SessionRow, event: TaskDispatched, offset: int, timestamp: int, traceparent: str | None
) -> TaskRow:
    """Open the task. The caller has made sure that it is neither open nor ended, and looks after parent and slot."""
    expected: dict[str, str | None] = dict(event.snapshot)
    taken: dict[str, str | None] = {}
    for name in event.depends_on:
        known = row["facets"].get(name)
        if known is not None and name not in expected:
            taken[name] = expected[name] = known[VALUE]
    task: TaskRow = {
        "at": timestamp,
        "offset": offset,
        "digest": dispatch_digest(event),
        "echo": echo_of(event),
        "expected": expected,
    }
    if taken:
        task["taken"] = taken
    policy = _policy_of(event)
    if policy:
        task["policy"] = policy
    if traceparent is not None:
        task["trace"] = traceparent
    if event.parent_task_id is not None:
        task["parent"] = event.parent_task_id
    if "heartbeat_ms" in policy:
        task["heard"] = timestamp
    own = row["own"].pop(event.task_id, None)
    if own is not None:
        task["own"] = own
    add_task(row, event.task_id, task)
    for name in expected:
        restale(row, task, name, timestamp)
    return task


def _policy_of(event: TaskDispatched) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    if event.on_stale != "withhold":
        policy["on_stale"] = event.on_stale
    if event.on_stale_failure != "annotate":
        policy["on_stale_failure"] = event.on_stale_failure
    if event.when_absent != "deliver":
        policy["when_absent"] = event.when_absent
    if event.valid_until is not None:
        policy["valid_until"] = event.valid_until.isoformat()
    if event.on_newer != "allow":
        policy["on_newer"] = event.on_newer
    if event.protected:
        policy["protected"] = True
    if event.independent:
        policy["independent"] = True
    if event.while_stale == "cancel":
        policy["while_stale_grace_ms"] = round(event.while_stale_grace_seconds * 1000)
    if event.deadline_at is not None:
        policy["deadline_ms"] = round(event.deadline_at.timestamp() * 1000)
    if event.heartbeat_timeout_seconds is not None:
        policy["heartbeat_ms"] = round(event.heartbeat_timeout_seconds * 1000)
    if event.scope_grace_seconds is not None:
        policy["scope_grace_ms"] = round(event.scope_grace_seconds * 1000)
    if event.hold_ttl_seconds is not None:
        policy["hold_ttl_ms"] = round(event.hold_ttl_seconds * 1000)
    if event.max_redispatches != 1:
        policy["max_redispatches"] = event.max_redispatches
    if event.attempt != 1:
        policy["attempt"] = event.attempt
    if event.plan:
        policy["plan"] = event.plan
    return policy


def inherit_own(row: SessionRow, own: OwnChanges, task: TaskRow, timestamp: int) -> None:
    """Changes made by a task below are the task's own, too."""
    for name, changes in own.items():
        for change in changes:
            _insert(task.setdefault("own", {}), name, change, task["expected"].get(name, UNSEEN))
        if name in task["expected"]:
            restale(row, task, name, timestamp)


def join_parent(row: SessionRow, task_id: str, task: TaskRow) -> None:
    """What a new child depends on joins what the tasks above it depend on, and its own changes are theirs."""
    for above in ancestors(row, task):
        inherit_own(row, task.get("own", {}), above, task["at"])
    for above in readers(row, task):
        if above is not task:
            for name, value in task["expected"].items():
                ended, by = task.get("below", {}).get(name, ((), {}))
                for reader_id, stated in (by or {ITSELF: value}).items():
                    _state(above, reader_id or task_id, name, stated)
                for stated in ended:
                    _leave(above, name, stated)
                above["expected"][name] = value
                restale(row, above, name, task["at"])


def fold_step(row: SessionRow, task: TaskRow, event: TaskStep, timestamp: int) -> None:
    """What the task read, which steps it took, how far it is, and its last checkpoint."""
    step_id = event.step_id
    if event.status == "started":
        task.setdefault("steps", [0, 0])[0] += 1
        task["in_flight"] = [*task.get("in_flight", []), step_id][-MAX_STEPS:]
    elif event.status != "progressed":
        task.setdefault("steps", [0, 0])[1] += 1
        if "in_flight" in task:
            task["in_flight"] = [each for each in task["in_flight"] if each != step_id]
            if not task["in_flight"]:
                del task["in_flight"]
        if event.status == "completed":
            task["done"] = [*task.get("done", []), step_id][-MAX_STEPS:]
        else:
            task["failed"] = [*task.get("failed", []), step_id][-MAX_STEPS:]
    if event.progress is not None:
        task["progress"] = event.progress
    if event.message:
        task["message"] = event.message
    checkpoint = event.checkpoint
    if checkpoint is not None and checkpoint.sequence >= task.get("checkpoint", {}).get("sequence", 0):
        task["checkpoint"] = {"uri": checkpoint.uri, "sequence": checkpoint.sequence}
    if "heard" in task:
        task["heard"] = timestamp
    if event.reads:
        fold_reads(row, event.task_id, task, event.reads, timestamp)


def fold_reads(row: SessionRow, task_id: str, task: TaskRow, reads: dict[str, str | None], timestamp: int) -> None:
    """What a step or a result looked at joins what the task and those above it expect, or replaces what it stated."""
    for each in readers(row, task):
        stands_beside = each is not task or "below" in task
        for name, value in reads.items():
            if stands_beside:
                _state(each, ITSELF if each is task else task_id, name, value)
            each["expected"][name] = value
            restale(row, each, name, timestamp)


def _state(task: TaskRow, reader_id: str, name: str, value: str | None) -> None:
    """Note who stated the value, beside what others did. `expected` becomes the value after that."""
    below, expected = task.setdefault("below", {}), task["expected"]
    if reader_id == ITSELF:
        if name in below and below[name][1]:
            below[name][1][ITSELF] = value
        return
    ended, by = below.setdefault(name, [[], {}])
    if not by and name in expected and expected[name] not in ended:
        by[ITSELF] = expected[name]
    by[reader_id] = value


def _leave(task: TaskRow, name: str, value: str | None) -> None:
    """Keep what a task below stated, which can replace it no more."""
    ended, _ = task.setdefault("below", {}).setdefault(name, [[], {}])
    if value not in ended and len(ended) < MAX_LEFT:
        ended.append(value)


def leave_reads(row: SessionRow, task_id: str, task: TaskRow) -> None:
    """What a task that has ended depended on stays with those above it, whoever it was that stated it."""
    for above in readers(row, task):
        if above is task:
            continue
        below = above.get("below", {})
        for name in task["expected"]:
            by = below[name][1] if name in below else {}
            if task_id in by:
                _leave(above, name, by.pop(task_id))
                if by == {ITSELF: above["expected"][name]}:
                    by.clear()


def restale(row: SessionRow, task: TaskRow, facet: str, timestamp: int) -> bool:
    """Bring the task's list of differing facets up to date with one facet. True where it changed."""
    stale = task.get("stale", ())
    if differs(row, task, facet) == (facet in stale):
        return False
    now_stale = [name for name in stale if name != facet] if facet in stale else [*stale, facet]
    if now_stale:
        task["stale"] = now_stale
        if "while_stale_grace_ms" in task.get("policy", ()):
            task.setdefault("stale_since", timestamp)
    else:
        del task["stale"]
        task.pop("stale_since", None)
    return True


def _remember_own(row: SessionRow, task_id: str, cause_parent: str | None, facet: str, change: list[Any]) -> None:
    tasks = row["tasks"]
    task = tasks.get(task_id)
    if task is None and cause_parent is not None:
        task = tasks.get(cause_parent)
    if task is not None:
        for each in (task, *ancestors(row, task)):
            _insert(each.setdefault("own", {}), facet, change, each["expected"].get(facet, UNSEEN))
        return
    undispatched = row["own"]
    if task_id not in undispatched and len(undispatched) >= MAX_UNDISPATCHED:
        del undispatched[next(iter(undispatched))]
    _insert(undispatched.setdefault(task_id, {}), facet, change, UNSEEN)


def _insert(own: OwnChanges, facet: str, change: list[Any], stated: Any) -> None:
    """Put a change in its place by offset. Beyond the bound two that follow each other become one.

    Not where they meet in the value that the task has `stated`: it would be lost.
    """
    changes = own.setdefault(facet, [])
    if change in changes:
        return
    changes.append(change)
    if len(changes) > 1 and changes[-2][0] > change[0]:
        changes.sort(key=lambda each: each[0])
    if len(changes) > MAX_CHANGES:
        place = 1 if changes[0][2] == stated else 0
        first, second = changes[place : place + 2]
        merged = [[second[0], first[1], second[2]]] if first[2] == second[1] else [second]
        changes[place : place + 2] = merged
