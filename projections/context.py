"""Context events: facets change, tasks are cancelled, deliveries acknowledged, sessions erased."""

from typing import Any, Final

from projections.fold import fold_context_change
from projections.intake import Intake
from projections.life import Life
from projections.outputs import ended_status, erased_status
from projections.row import NAME_BYTES, SessionRow, has_room, is_nearly_full
from projections.store import Store
from schemas.decode import Batch
from schemas.events import ContextChanged, ResultAcknowledged, SessionErased, TaskCancelRequested
from schemas.wire import event_type, struct_of

_CONTEXT_CHANGED: Final = struct_of(ContextChanged)
_CANCEL_REQUESTED: Final = struct_of(TaskCancelRequested)
_ACKNOWLEDGED: Final = struct_of(ResultAcknowledged)
_ERASED: Final = struct_of(SessionErased)


class Context:
    """Folds context events."""

    def __init__(self, store: Store, life: Life, intake: Intake) -> None:
        self._store = store
        self._life = life
        self._intake = intake

    def fold(self, batch: Batch, now_ms: int) -> None:
        """Fold a decoded batch of context events."""
        records = zip(batch.events, batch.values, batch.offsets, batch.timestamps, strict=True)
        for index, (event, value, offset, timestamp) in enumerate(records):
            row = self._intake.admit(batch, index, event.session_id) if event is not None else None
            if row is None:
                continue
            session_id = event.session_id
            kind = type(event)
            if kind is _CONTEXT_CHANGED:
                grown, added = row["grown"], _added_by_change(event, value or b"")
                adds_names = is_nearly_full(row, added) and _names_new_facets(row, event)  # else it does not matter
                if not has_room(row, added, adds_names=adds_names):
                    self._intake.refuse_full(batch, index, session_id)
                elif not self._change_context(row, event, offset, timestamp):
                    row["grown"] = grown
            elif kind is _CANCEL_REQUESTED:
                if not self._life.cancel(session_id, row, event.task_id, timestamp, now_ms):
                    self._store.changes.ignored[event_type(kind)] += 1
            elif kind is _ACKNOWLEDGED:
                self._acknowledge(event, offset, now_ms)
            elif kind is _ERASED:
                self._erase(session_id, row)

    def _change_context(self, row: SessionRow, event: ContextChanged, offset: int, timestamp: int) -> bool:
        session_id = event.session_id
        over = self._store.ended.get(session_id, event.cause.task_id) if event.cause is not None else None
        parent = None if over is None else self._life.open_above(session_id, row, over.task_id, over.parent)
        kept = self._store.encoder.kept.get(session_id)
        restaled = fold_context_change(
            row, event, offset, timestamp, cause_is_over=over is not None, cause_parent=parent, kept=kept
        )
        if restaled is None:
            return False
        row["at"] = max(row["at"], timestamp)
        self._store.dirty[session_id] = None
        for task_id in restaled:
            self._store.told[session_id, task_id] = None
        if kept is not None:
            causes = [event.cause.task_id, parent] if event.cause is not None else []
            for task_id in (*restaled, *(each for each in causes if each is not None)):
                self._store.encoder.written(session_id, row, task_id)
        if session_id in self._store.waiting_sessions:
            self._life.free_all(session_id, row)
        return True

    def _acknowledge(self, event: ResultAcknowledged, offset: int, now_ms: int) -> None:
        session_id, task_id = event.session_id, event.task_id
        ended = self._store.ended.get(session_id, task_id)
        said: dict[str, Any] = {"acknowledged": event.outcome, **({"detail": event.reason} if event.reason else {})}
        if ended is None:
            row = self._store.row(session_id)
            task = row["tasks"].get(task_id)
            if task is not None and task.get("wait", {}).get("delivered"):
                task["said"] = said
                self._store.encoder.written(session_id, row, task_id)
                self._store.dirty[session_id] = None
                self._store.told[session_id, task_id] = None
                self._store.changes.acknowledged[event.outcome] += 1
                return
        if ended is None or ended.told is None or ended.disposition != "delivered":
            self._store.changes.ignored["result.acknowledged"] += 1
            return
        told = {name: value for name, value in ended.told.items() if name != "detail"} | said
        self._store.changes.acknowledged[event.outcome] += 1
        if told != ended.told:
            self._store.remember(session_id, ended._replace(told=told))
            status = ended_status(self._store.rules.source, session_id, task_id, told, now_ms, None, offset)
            self._store.changes.outputs.append(status)

    def _erase(self, session_id: str, row: SessionRow) -> None:
        store = self._store
        for task_id in list(row["tasks"]):
            store.told.pop((session_id, task_id), None)
            store.drop_result(session_id, task_id)
            self._life.freed.pop((session_id, task_id), None)
            store.changes.outputs.append(erased_status(session_id, task_id))
        for task_id in store.forget_ended(session_id):
            store.changes.outputs.append(erased_status(session_id, task_id))
        for name in [name for name in store.unknown if name[0] == session_id]:
            self._life.ready += store.unpark(*name)
        for queue in (self._life.ready, self._life.late, store.proposals):
            for waiting in [each for each in queue if each.event.session_id == session_id]:
                queue.remove(waiting)
                store.judged(waiting)
                store.changes.ignored[event_type(type(waiting.event))] += 1
        store.timers.set(session_id, None)
        store.cold_timers.set(session_id, None)
        store.drop(session_id)


def _added_by_change(event: ContextChanged, value: bytes) -> int:
    """About what a change adds to the row: itself, and what of it is own work; its source and id with each facet."""
    others = len(event.set) + len(event.unset) - 1
    added = 2 * len(value)
    return added + others * max(len(event.source) + len(event.event_id) + 64, NAME_BYTES) if others > 0 else added


def _names_new_facets(row: SessionRow, event: ContextChanged) -> bool:
    known = row["facets"].keys()
    return not (event.set.keys() <= known and known >= set(event.unset))
