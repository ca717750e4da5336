"""The life of a task: opened in its scope and slot, and ended once, with everything that hangs on it.

Changes rows through the store it is given and adds outputs to its changes. What a result is worth is decided in `gate`.
"""

from typing import Any

import msgspec

from projections.ended import Ended
from projections.fold import dispatch_digest, echo_of, fold_dispatch, inherit_own, join_parent, leave_reads
from projections.outputs import command, ended_status, ending, receipt_of
from projections.row import MAX_ROW_BYTES, SessionRow, TaskRow, ancestors, is_older, older_in_slot, order_of, readers
from projections.store import Store, Waiting
from projections.timers import awaits_both_lanes
from schemas.events import TaskDispatched
from schemas.fields import Reason

MAX_CANCELS = 32
MAX_SLOTS = 64


class Life:
    """Opens and ends the tasks of one partition.

    `ready` are results that waited for a dispatch which has come; `freed` names tasks whose waiting result may be
    decided now; `late` are the results of tasks that were stopped while those waited.
    """

    def __init__(self, store: Store) -> None:
        self.ready: list[Waiting] = []
        self.freed: dict[tuple[str, str], None] = {}
        self.late: list[Waiting] = []
        self._store = store
        self._kept = store.encoder.kept

    @property
    def has_ready(self) -> bool:
        """Whether results that waited can be judged at the next barrier."""
        return bool(self.ready or self.freed or self.late)

    # Opening

    def open(
        self,
        row: SessionRow,
        event: TaskDispatched,
        offset: int,
        timestamp: int,
        traceparent: str | None,
        now_ms: int,
        *,
        has_room: bool,
    ) -> None:
        """Open the task of a dispatch that was not seen before, or reject it."""
        session_id, task_id = event.session_id, event.task_id
        refused = self._reason_to_reject(row, event, timestamp, offset, has_room=has_room)
        if refused is not None:
            self.end_unopened(row, event, "rejected", refused[0], refused[1], [], timestamp, now_ms)
            return
        cancelled_at = row.get("cancels", {}).pop(task_id, None)
        task = fold_dispatch(row, event, offset, timestamp, traceparent)
        self._changed(session_id, row, timestamp)
        self._store.told[session_id, task_id] = None
        if session_id in self._kept:
            self._store.encoder.written(session_id, row, task_id)
        elif "apart" in task:
            self._store.encoder.keep(session_id, row["tasks"])
        if event.parent_task_id is not None:
            self._join_scope(session_id, row, task_id, task, event.parent_task_id)
        for child_id, child in row["tasks"].items():
            if "parentless_until" in child and child.get("parent") == task_id:
                del child["parentless_until"]
                self._store.encoder.written(session_id, row, child_id)
                self._join_scope(session_id, row, child_id, child, task_id)
        self.free_all(session_id, row)  # a new child, or what it depends on, may decide otherwise: a restart looks, too
        if cancelled_at is not None:
            self.stop(session_id, row, task_id, "cancelled", "cancelled", timestamp, now_ms)
        elif event.slot is not None and event.on_newer == "interrupt":
            for older_id in older_in_slot(row, task_id, event.slot, order_of(task)):
                older = row["tasks"].get(older_id)  # None where its parent was stopped just now
                if older is not None and not older.get("policy", {}).get("protected"):
                    self.stop(session_id, row, older_id, "cancelled", "superseded", timestamp, now_ms)

    def _reason_to_reject(
        self, row: SessionRow, event: TaskDispatched, timestamp: int, offset: int, *, has_room: bool
    ) -> tuple[Reason, str] | None:
        parent_id = event.parent_task_id
        if not has_room:
            return "session_full", f"session: with it, its row would have more than {MAX_ROW_BYTES} bytes"
        above = parent_id
        while above is not None:
            if above == event.task_id:
                return "unknown_parent", "parent_task_id: a task cannot be above itself"
            above = row["tasks"][above].get("parent") if above in row["tasks"] else None
        if parent_id is not None and parent_id not in row["tasks"]:
            ended = self._store.ended.get(event.session_id, parent_id)
            if ended is not None:
                return "parent_ended", f"parent_task_id: {parent_id!r} has ended ({ended.disposition})"
        if event.slot is not None and event.on_newer == "reject":
            older = older_in_slot(
                row, event.task_id, event.slot, [timestamp, offset, *([1] if event.lane == "cold" else [])]
            )
            if older:
                return "slot_taken", f"slot: {event.slot!r} is taken by {older[0]!r}"
        return None

    def _join_scope(self, session_id: str, row: SessionRow, task_id: str, task: TaskRow, parent_id: str) -> None:
        parent = row["tasks"].get(parent_id)
        if parent is None:
            task["parentless_until"] = task["at"] + self._store.rules.unknown_task_grace_ms
            return
        self._store.encoder.written(session_id, row, task_id)  # and those above it, which it has just come to have
        parent["children"] = [*parent.get("children", []), task_id]
        join_parent(row, task_id, task)
        self._store.told[session_id, parent_id] = None

    def end_unopened(
        self,
        row: SessionRow,
        event: TaskDispatched,
        disposition: str,
        reason: Reason,
        detail: str | None,
        results: list[list[str]],
        timestamp: int,
        now_ms: int,
    ) -> None:
        """End a task with its dispatch."""
        session_id, task_id = event.session_id, event.task_id
        own = row["own"].pop(task_id, None)
        parent_id = self.open_above(session_id, row, task_id, event.parent_task_id) if own is not None else None
        if own is not None and parent_id in row["tasks"]:  # as if the changes had come after the dispatch
            parent = row["tasks"][parent_id]
            self._store.encoder.written(session_id, row, parent_id)
            for each in (parent, *ancestors(row, parent)):
                inherit_own(row, own, each, timestamp)
            self.follow_reads(session_id, row, parent)
        row.get("cancels", {}).pop(task_id, None)
        self._changed(session_id, row, timestamp)
        told = ending(echo_of(event), None, disposition, reason, timestamp, detail)
        digest = dispatch_digest(event)
        self._store.remember(
            session_id, Ended(task_id, disposition, timestamp, digest, results, event.parent_task_id, told)
        )
        self._tell_end(session_id, task_id, told, None, now_ms)

    def open_above(self, session_id: str, row: SessionRow, task_id: str, parent_id: str | None) -> str | None:
        """The nearest open task above one that is not open; a task that nobody knows where there is none."""
        above, seen = parent_id, {task_id}
        while above is not None and above not in row["tasks"] and above not in seen:
            seen.add(above)
            ended = self._store.ended.get(session_id, above)
            above = ended.parent if ended is not None else None
        return above

    # Ending

    def end(
        self,
        session_id: str,
        row: SessionRow,
        task_id: str,
        disposition: str,
        reason: Reason,
        timestamp: int,
        now_ms: int,
        results: list[list[str]],
        receipt: dict[str, Any] | None = None,
    ) -> None:
        """End an open task: remember how, tell it, and free what waited for it."""
        if session_id in self._kept:
            self._store.encoder.ends(session_id, row, task_id)
        task = row["tasks"].pop(task_id)
        row["own"].pop(task_id, None)
        if "parent" in task:
            leave_reads(row, task_id, task)
        results = [*results, *task.get("seconds", [])]
        told = ending(task["echo"], task, disposition, reason, timestamp, None, receipt)
        self._store.remember(
            session_id, Ended(task_id, disposition, timestamp, task["digest"], results, task.get("parent"), told)
        )
        self._store.told.pop((session_id, task_id), None)
        self._tell_end(session_id, task_id, told, task.get("trace"), now_ms)
        self._changed(session_id, row, timestamp)
        if disposition == "delivered":
            self._take_slot(row, task)
        parent = row["tasks"].get(task.get("parent", ""))
        if parent is not None and task_id in parent.get("children", ()):
            parent["children"] = [child for child in parent["children"] if child != task_id]
            if not parent["children"]:
                del parent["children"]
        self.free_all(session_id, row)

    def deliver_in_part(self, session_id: str, row: SessionRow, task: TaskRow) -> None:
        """Some parts of the task's result were delivered, and others wait: older results come too late for its slot."""
        self._take_slot(row, task)
        if "slot" in task["echo"]:
            self.free_all(session_id, row)

    def _take_slot(self, row: SessionRow, task: TaskRow) -> None:
        slot = task["echo"].get("slot")
        if slot is None:
            return
        slots = row.setdefault("slots", {})
        newest, order = slots.pop(slot, None), order_of(task)
        slots[slot] = order if newest is None or is_older(newest, order) else newest
        if len(slots) > MAX_SLOTS:
            del slots[next(iter(slots))]

    def stop(
        self,
        session_id: str,
        row: SessionRow,
        task_id: str,
        disposition: str,
        reason: Reason,
        timestamp: int,
        now_ms: int,
    ) -> None:
        """End an open task before its time, and those below it first; tell the agents, and leave receipts."""
        for below_id in reversed(_below(row, task_id)):
            self._stop(session_id, row, below_id, "cancelled", "parent_ended", timestamp, now_ms)
        self._stop(session_id, row, task_id, disposition, reason, timestamp, now_ms)

    def _stop(
        self,
        session_id: str,
        row: SessionRow,
        task_id: str,
        disposition: str,
        reason: Reason,
        timestamp: int,
        now_ms: int,
    ) -> None:
        task = row["tasks"][task_id]
        source = self._store.rules.source
        self._store.changes.outputs.append(
            command("task.cancel", source, session_id, task_id, task, {"reason": reason}, now_ms)
        )
        wait = task.get("wait")
        if wait is not None:
            result = self._store.stop_result(session_id, task_id, wait["undecided"])
            if result is not None:
                self.late.append(result)
            if wait.get("delivered"):
                disposition = "delivered"
        self.freed.pop((session_id, task_id), None)
        self.end(session_id, row, task_id, disposition, reason, timestamp, now_ms, [], receipt_of(task))

    def stop_children(
        self, session_id: str, row: SessionRow, task: TaskRow, reason: Reason, timestamp: int, now_ms: int
    ) -> None:
        """Cancel the open children of a task."""
        for child_id in task.get("children", ()):
            if child_id in row["tasks"]:
                self.stop(session_id, row, child_id, "cancelled", reason, timestamp, now_ms)

    def cancel(self, session_id: str, row: SessionRow, task_id: str, timestamp: int, now_ms: int) -> bool:
        """Cancel a task that somebody asked to be cancelled; remember the wish where its dispatch has not come.

        False where it has ended already: cancelling is idempotent.
        """
        if task_id in row["tasks"]:
            self.stop(session_id, row, task_id, "cancelled", "cancelled", timestamp, now_ms)
            return True
        if self._store.ended.get(session_id, task_id) is not None:
            return False
        cancels = row.setdefault("cancels", {})
        cancels[task_id] = timestamp
        if len(cancels) > MAX_CANCELS:
            del cancels[next(iter(cancels))]
        self._changed(session_id, row, timestamp)
        return True

    # Waiting

    def free(self, session_id: str, task_id: str) -> None:
        """The task's waiting result, if there is one, is to be looked at again."""
        if (session_id, task_id) in self._store.results:
            self.freed[session_id, task_id] = None

    def free_all(self, session_id: str, row: SessionRow) -> None:
        """The same for every task of the session."""
        if session_id in self._store.waiting_sessions:
            for task_id in row["tasks"]:
                self.free(session_id, task_id)

    def follow_reads(self, session_id: str, row: SessionRow, task: TaskRow) -> None:
        """What a task read makes it stale or fresh again, and those above it, too."""
        concerned = {id(each) for each in readers(row, task)}
        for task_id, each in row["tasks"].items():
            if id(each) in concerned:
                self._store.told[session_id, task_id] = None
        self.free_all(session_id, row)

    def fall_due(self, session_id: str, row: SessionRow, now_ms: int, *, hot_only: bool) -> None:
        """Act on what has fallen due by `now_ms` in this session, which has been folded and judged up to a barrier.

        `hot_only`: the barrier was one of the hot lane's topics.
        """
        for task_id in list(row["tasks"]):
            task = row["tasks"].get(task_id)
            if task is not None and not (hot_only and awaits_both_lanes(row, task)):
                self._fall_due(session_id, row, task_id, task, now_ms)

    def _fall_due(self, session_id: str, row: SessionRow, task_id: str, task: TaskRow, now_ms: int) -> None:
        if task.get("parentless_until", now_ms + 1) <= now_ms:
            self.stop(session_id, row, task_id, "rejected", "unknown_parent", now_ms, now_ms)
            return
        wait = task.get("wait")
        if wait is not None:
            if not wait.get("over") and wait.get("until", now_ms + 1) <= now_ms:
                self._stop_waiting(session_id, row, task_id, task, now_ms)
            return
        policy = task.get("policy", {})
        if policy.get("deadline_ms", now_ms) < now_ms:
            self.stop(session_id, row, task_id, "expired", "deadline_passed", now_ms, now_ms)
        elif "heartbeat_ms" in policy and task["heard"] + policy["heartbeat_ms"] <= now_ms:
            self.stop(session_id, row, task_id, "expired", "heartbeat_missed", now_ms, now_ms)
        elif "stale_since" in task and task["stale_since"] + policy["while_stale_grace_ms"] <= now_ms:
            self.stop(session_id, row, task_id, "cancelled", "stale", now_ms, now_ms)

    def _stop_waiting(self, session_id: str, row: SessionRow, task_id: str, task: TaskRow, now_ms: int) -> None:
        wait = task["wait"]
        if wait["why"] == "children":
            self.stop_children(session_id, row, task, "scope_closed", now_ms, now_ms)
        else:
            wait["over"] = True
            self._store.encoder.written(session_id, row, task_id)
        self._changed(session_id, row, now_ms)
        self.free(session_id, task_id)

    def _tell_end(
        self, session_id: str, task_id: str, told: dict[str, Any], traceparent: str | None, now_ms: int
    ) -> None:
        changes = self._store.changes
        changes.outputs.append(ended_status(self._store.rules.source, session_id, task_id, told, now_ms, traceparent))
        changes.endings[told["disposition"], told["reason"]] += 1

    def _changed(self, session_id: str, row: SessionRow, timestamp: int) -> None:
        row["at"] = max(row["at"], timestamp)
        self._store.dirty[session_id] = None


def _below(row: SessionRow, task_id: str) -> list[str]:
    """The open tasks below this one, each after its parent."""
    found = [task_id]
    for each in found:
        found += [child for child in row["tasks"][each].get("children", ()) if child in row["tasks"]]
    return found[1:]


def undecided_rest(result: Waiting) -> Waiting:
    """The result of a stopped task with only the parts that nothing had decided."""
    if result.undecided is None:
        return result
    parts = [part for part in result.event.parts if part.part_id in result.undecided]
    return result._replace(event=msgspec.structs.replace(result.event, parts=parts))
