"""Answers to proposed effects: may this still happen? Once per idempotency key in the session."""

from typing import Any, Final

from projections.fold import fold_reads
from projections.gate import Place, differences, reason_to_refuse
from projections.outputs import command, judged_fields
from projections.row import SessionRow, TaskRow, has_room_for_reads
from projections.store import Store, Waiting
from schemas.events import TaskEffectProposed

MAX_EFFECTS: Final = 256


def answer(store: Store, proposal: Waiting, place: Place, now_ms: int) -> None:
    """Write `effect.cleared` or `effect.refused`.

    A second proposal with the key gets the first one's answer, without its differences: the row has no room for those.
    """
    event: TaskEffectProposed = proposal.event
    session_id, task_id, key = event.session_id, event.task_id, event.idempotency_key
    row = store.row(session_id)
    task = row["tasks"].get(task_id)
    known = row.get("effects", {}).get(key)
    if known is None:
        known = _decide(store, row, task, proposal, place, now_ms)
        effects = row.setdefault("effects", {})
        effects[key] = [known[0], {name: value for name, value in known[1].items() if name != "differences"}]
        if len(effects) > MAX_EFFECTS:
            del effects[next(iter(effects))]
        row["at"] = max(row["at"], proposal.timestamp)
        store.dirty[session_id] = None
    else:
        store.changes.duplicates["task.effect_proposed"] += 1
    answer_type, fields = known
    store.changes.outputs.append(command(answer_type, store.rules.source, session_id, task_id, task, fields, now_ms))


def _decide(
    store: Store, row: SessionRow, task: TaskRow | None, proposal: Waiting, place: Place, now_ms: int
) -> list[Any]:
    event: TaskEffectProposed = proposal.event
    fields: dict[str, Any] = {
        "idempotency_key": event.idempotency_key,
        "effect": event.effect,
        "judged": judged_fields(place, now_ms),
    }
    if task is None:
        ended = store.ended.get(event.session_id, event.task_id)
        return ["effect.refused", {**fields, "reason": "late" if ended is not None else "unknown_task"}]
    if event.reads:
        if not has_room_for_reads(row, event.task_id, task, event.reads):
            return ["effect.refused", {**fields, "reason": "session_full"}]
        fold_reads(row, event.task_id, task, event.reads, proposal.timestamp)
        store.encoder.written(event.session_id, row, event.task_id)
    reason = reason_to_refuse(row, event.task_id, task, proposal.timestamp)
    if reason is not None:
        return ["effect.refused", {**fields, "reason": reason}]
    differing = differences(row, task)
    if differing:
        return ["effect.refused", {**fields, "reason": "stale", "differences": differing}]
    return ["effect.cleared", fields]
