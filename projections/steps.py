"""Events of the steps topics: dispatches, steps, heartbeats, proposed effects."""

from typing import Final

import orjson

from projections.fold import dispatch_digest, fold_step
from projections.intake import Intake
from projections.life import Life
from projections.row import NAME_BYTES, VALUE, SessionRow, TaskRow, added_above, ancestors, has_room
from projections.store import Store, waiting_of
from schemas.decode import Batch, Refusal
from schemas.envelope import traceparent_of
from schemas.events import TaskDispatched, TaskEffectProposed, TaskHeartbeat, TaskStep
from schemas.wire import event_type, struct_of

_DISPATCHED: Final = struct_of(TaskDispatched)
_HEARTBEAT: Final = struct_of(TaskHeartbeat)
_EFFECT_PROPOSED: Final = struct_of(TaskEffectProposed)


class Steps:
    """Folds what agents and orchestrators say of their tasks before the result."""

    def __init__(self, store: Store, life: Life, intake: Intake) -> None:
        self._store = store
        self._life = life
        self._intake = intake

    def fold(self, batch: Batch, now_ms: int) -> None:
        """Fold a decoded batch of dispatches, steps, heartbeats and proposed effects, of one lane."""
        store = self._store
        dirty, kept = store.dirty, store.encoder.kept
        records = zip(batch.events, batch.values, batch.timestamps, strict=True)
        for index, (event, value, timestamp) in enumerate(records):
            row = self._intake.admit(batch, index, event.session_id) if event is not None else None
            if row is None:
                continue
            session_id = event.session_id
            kind = type(event)
            if kind is _DISPATCHED:
                self._dispatch(batch, index, row, event, now_ms)
                continue
            if kind is _EFFECT_PROPOSED:
                store.keep_proposal(waiting_of(batch, index))
                continue
            task_id = event.task_id
            task = row["tasks"].get(task_id)
            if task is None:
                store.changes.ignored[event_type(kind)] += 1
            elif kind is _HEARTBEAT:
                if "heard" in task:
                    task["heard"] = timestamp
                    store.encoder.written(session_id, row, task_id)
                    row["at"] = max(row["at"], timestamp)
                    dirty[session_id] = None
            elif has_room(
                row,
                _added_by_step(row, task, event, value or b""),
                adds_names=bool(event.reads) and not event.reads.keys() <= task["expected"].keys(),
            ):
                fold_step(row, task, event, timestamp)
                if session_id in kept:
                    store.encoder.written(session_id, row, task_id)
                if event.reads:
                    self._life.follow_reads(session_id, row, task)
                row["at"] = max(row["at"], timestamp)
                dirty[session_id] = None
                store.told[session_id, task_id] = None
            else:
                self._intake.refuse_full(batch, index, session_id)

    def _dispatch(self, batch: Batch, index: int, row: SessionRow, event: TaskDispatched, now_ms: int) -> None:
        session_id, task_id, timestamp = event.session_id, event.task_id, batch.timestamps[index]
        if event.lane != ("cold" if batch.role == "steps.cold" else "hot"):
            detail = f"lane: a task of the {event.lane} lane was dispatched on the other lane's topic"
            self._store.changes.refusals.append(Refusal(batch, index, "invalid_event", detail))
            return
        task = row["tasks"].get(task_id)
        ended = self._store.ended.get(session_id, task_id) if task is None else None
        known = task["digest"] if task is not None else ended.dispatch_digest if ended is not None else None
        if known is not None:
            self._repeated_dispatch(batch, index, event, known)
            return
        headers = batch.headers[index]
        if ended is not None:
            self._life.end_unopened(row, event, "withheld", "unknown_task", None, ended.results, timestamp, now_ms)
        else:
            traceparent = traceparent_of(headers) if headers else None
            grown = row["grown"]
            room = has_room(row, _added_by_dispatch(row, event, batch.values[index] or b""))
            self._life.open(row, event, batch.offsets[index], timestamp, traceparent, now_ms, has_room=room)
            if task_id not in row["tasks"]:
                row["grown"] = grown
        if self._store.unknown:
            self._life.ready += self._store.unpark(session_id, task_id)

    def _repeated_dispatch(self, batch: Batch, index: int, event: TaskDispatched, known: str) -> None:
        repeated = dispatch_digest(event)
        if repeated == known:
            self._store.changes.duplicates["task.dispatched"] += 1
            return
        detail = (
            f"task_id: {event.task_id!r} was dispatched before with other content (digest {known}, now {repeated});"
            " give every task its own id"
        )
        self._store.changes.refusals.append(Refusal(batch, index, "dispatch_conflict", detail))


def _added_by_step(row: SessionRow, task: TaskRow, event: TaskStep, value: bytes) -> int:
    """About what a step adds to the row: what it read is expected by the tasks above, too, and may differ for all."""
    added = 2 * len(value) + len(event.reads) * NAME_BYTES
    if "parent" in task:
        added += added_above(event.task_id, len(event.reads), len(value)) * sum(1 for _ in ancestors(row, task))
    return added


def _added_by_dispatch(row: SessionRow, event: TaskDispatched, value: bytes) -> int:
    """About what a dispatch adds to the row: with values taken, what tasks above expect with it, and what joins it."""
    facets = row["facets"]
    taken = sum(len(facets[name][VALUE] or "") for name in event.depends_on if name in facets)
    above = row["tasks"].get(event.parent_task_id or "")
    depth = 0 if above is None else 1 + sum(1 for _ in ancestors(row, above))
    count = len(event.snapshot) + len(event.depends_on)
    size = len(value) + taken + count * NAME_BYTES
    joining = 0
    for task_id, task in row["tasks"].items():
        if "parentless_until" in task and task.get("parent") == event.task_id:
            expected = task["expected"]
            joining += added_above(task_id, len(expected), len(orjson.dumps([expected, task.get("below")])))
    return 2 * size + depth * added_above(event.task_id, count, size) + (1 + depth) * joining
