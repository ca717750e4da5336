"""One partition: what its events make of it, in the order context, steps, results, timers.

The engine feeds it batches and writes what `take` returns in one transaction; tests feed it without Kafka. It does no
I/O and reads no clock: times come in as arguments, in ms.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import orjson

from projections.changes import Changes, Verdicted
from projections.effects import answer
from projections.ended import MAX_RESULTS, Ended
from projections.fold import dispatch_digest, fold_context_change, fold_reads, fold_step
from projections.gate import DELIVERED, HELD, Judgement, Place, all_parts, judge
from projections.life import Life, undecided_rest
from projections.outputs import MAX_OUTPUT_BYTES, JudgedResult, command, ended_status, erased_status, result_outputs
from projections.row import (
    MAX_ROW_BYTES,
    NAME_BYTES,
    VALUE,
    SessionRow,
    TaskRow,
    added_above,
    ancestors,
    has_open_tasks,
    has_room,
    has_room_for_reads,
    last_event_at,
    order_of,
    readers,
)
from projections.rules import Rules
from projections.store import Store, Waiting
from schemas.decode import Batch, Refusal
from schemas.envelope import traceparent_of, was_forwarded
from schemas.events import (
    ContextChanged,
    ResultAcknowledged,
    SessionErased,
    TaskCancelRequested,
    TaskDispatched,
    TaskEffectProposed,
    TaskHeartbeat,
    TaskResult,
    TaskStep,
)
from schemas.fields import Reason
from schemas.identity import digest
from schemas.topics import Role
from schemas.wire import event_type, struct_of

MAX_FORWARDED_REMEMBERED: Final = 32

_CONTEXT_CHANGED = struct_of(ContextChanged)
_CANCEL_REQUESTED = struct_of(TaskCancelRequested)
_ACKNOWLEDGED = struct_of(ResultAcknowledged)
_ERASED = struct_of(SessionErased)
_DISPATCHED = struct_of(TaskDispatched)
_STEP = struct_of(TaskStep)
_HEARTBEAT = struct_of(TaskHeartbeat)
_EFFECT_PROPOSED = struct_of(TaskEffectProposed)

Origin = tuple[Batch, int]
"""A record: its batch, and its place in it."""


class Partition:
    """The sessions of one partition."""

    def __init__(self, number: int, rules: Rules, is_home: Callable[[str], bool] = lambda _session_id: True) -> None:
        self.number = number
        self.store = Store(rules)
        self._kept = self.store.encoder.kept
        self._rules = rules
        self._is_home = is_home
        self._life = Life(self.store)
        self._ready: list[Waiting] = []
        self._sweep: Iterator[str] = iter(())
        self._idle: list[tuple[str, bytes]] = []

    @property
    def has_ready(self) -> bool:
        """Whether results that waited can be judged at the next barrier."""
        return bool(self._ready or self._life.freed or self._life.late)

    @property
    def has_idle(self) -> bool:
        """Whether sessions were found idle, to be looked at again past a barrier."""
        return bool(self._idle)

    def has_proposals(self, role: Role) -> bool:
        """Whether effects proposed on this steps topic wait for a barrier."""
        return any(proposal.role == role for proposal in self.store.proposals)

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take over one changelog record."""
        self.store.restore(key, value)

    def settle(self) -> None:
        """Everything is restored."""
        ready = self.store.settle()
        self._ready = [result for result in ready if result.undecided is None]
        self._life.late = [result for result in ready if result.undecided is not None]
        self._life.freed = dict.fromkeys(self.store.results)

    def take(self, now_ms: int) -> Changes:
        """Everything changed since the last call, to be written in one transaction."""
        return self.store.take(now_ms)

    # Context

    def fold_context(self, batch: Batch, now_ms: int) -> None:
        """Fold a decoded batch of context events."""
        decoded = self.store.decoded
        records = zip(batch.events, batch.values, batch.headers, batch.offsets, batch.timestamps, strict=True)
        for index, (event, value, headers, offset, timestamp) in enumerate(records):
            if event is None:
                continue
            session_id = event.session_id
            row = decoded.get(session_id) or self._row_for(batch, index, session_id)
            if row is None or (headers and self._is_forwarded_again(batch, index, row)):
                continue
            kind = type(event)
            if kind is _CONTEXT_CHANGED:
                grown, added = row["grown"], _added_by_change(event, value or b"")
                adds_names = grown + added > MAX_ROW_BYTES and _names_new_facets(row, event)  # else it does not matter
                if not has_room(row, added, adds_names=adds_names):
                    self._refuse_full(batch, index, session_id)
                elif not self._change_context(row, event, offset, timestamp):
                    row["grown"] = grown
            elif kind is _CANCEL_REQUESTED:
                if not self._life.cancel(session_id, row, event.task_id, timestamp, now_ms):
                    self.store.changes.ignored[event_type(kind)] += 1
            elif kind is _ACKNOWLEDGED:
                self._acknowledge(event, offset, now_ms)
            elif kind is _ERASED:
                self._erase(session_id, row)

    def _change_context(self, row: SessionRow, event: ContextChanged, offset: int, timestamp: int) -> bool:
        session_id = event.session_id
        over = self.store.ended.get(session_id, event.cause.task_id) if event.cause is not None else None
        parent = None if over is None else self._open_above(row, session_id, over)
        kept = self._kept.get(session_id)
        restaled = fold_context_change(
            row, event, offset, timestamp, cause_is_over=over is not None, cause_parent=parent, kept=kept
        )
        if restaled is None:
            return False
        row["at"] = max(row["at"], timestamp)
        self.store.dirty[session_id] = None
        for task_id in restaled:
            self.store.told[session_id, task_id] = None
        if kept is not None:
            causes = [event.cause.task_id, parent] if event.cause is not None else []
            for task_id in (*restaled, *(each for each in causes if each is not None)):
                self.store.encoder.written(session_id, row, task_id)
        if session_id in self.store.waiting_sessions:
            self._life.free_all(session_id, row)
        return True

    def _open_above(self, row: SessionRow, session_id: str, over: Ended) -> str | None:
        """The nearest open task above one that has ended."""
        above, seen = over.parent, {over.task_id}
        while above is not None and above not in row["tasks"] and above not in seen:
            seen.add(above)
            ended = self.store.ended.get(session_id, above)
            above = ended.parent if ended is not None else None
        return above

    def _acknowledge(self, event: ResultAcknowledged, offset: int, now_ms: int) -> None:
        session_id, task_id = event.session_id, event.task_id
        ended = self.store.ended.get(session_id, task_id)
        said: dict[str, Any] = {"acknowledged": event.outcome, **({"detail": event.reason} if event.reason else {})}
        if ended is None:
            row = self.store.row(session_id)
            task = row["tasks"].get(task_id)
            if task is not None and task.get("wait", {}).get("delivered"):
                task["said"] = said
                self.store.encoder.written(session_id, row, task_id)
                self.store.dirty[session_id] = None
                self.store.told[session_id, task_id] = None
                self.store.changes.acknowledged[event.outcome] += 1
                return
        if ended is None or ended.told is None or ended.disposition != "delivered":
            self.store.changes.ignored["result.acknowledged"] += 1
            return
        told = {name: value for name, value in ended.told.items() if name != "detail"} | said
        self.store.changes.acknowledged[event.outcome] += 1
        if told != ended.told:
            self.store.remember(session_id, ended._replace(told=told))
            status = ended_status(self._rules.source, session_id, task_id, told, now_ms, None, offset)
            self.store.changes.outputs.append(status)

    def _erase(self, session_id: str, row: SessionRow) -> None:
        store = self.store
        for task_id in list(row["tasks"]):
            store.told.pop((session_id, task_id), None)
            store.drop_result(session_id, task_id)
            self._life.freed.pop((session_id, task_id), None)
            store.changes.outputs.append(erased_status(session_id, task_id))
        for task_id in store.forget_ended(session_id):
            store.changes.outputs.append(erased_status(session_id, task_id))
        for name in [name for name in store.unknown if name[0] == session_id]:
            self._ready += store.unpark(*name)
        for queue in (self._ready, self._life.late, store.proposals):
            for waiting in [each for each in queue if each.event.session_id == session_id]:
                queue.remove(waiting)
                store.judged(waiting)
                store.changes.ignored[event_type(type(waiting.event))] += 1
        store.timers.set(session_id, None)
        store.cold_timers.set(session_id, None)
        store.drop(session_id)

    # Steps

    def fold_steps(self, batch: Batch, now_ms: int) -> None:
        """Fold a decoded batch of dispatches, steps, heartbeats and proposed effects, of one lane."""
        store = self.store
        decoded, dirty, kept = store.decoded, store.dirty, self._kept
        records = zip(batch.events, batch.values, batch.headers, batch.timestamps, strict=True)
        for index, (event, value, headers, timestamp) in enumerate(records):
            if event is None:
                continue
            session_id = event.session_id
            row = decoded.get(session_id) or self._row_for(batch, index, session_id)
            if row is None or (headers and self._is_forwarded_again(batch, index, row)):
                continue
            kind = type(event)
            if kind is _DISPATCHED:
                self._dispatch(batch, index, row, event, now_ms)
                continue
            if kind is _EFFECT_PROPOSED:
                store.keep_proposal(_waiting(batch, index))
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
                adds_names=not event.reads.keys() <= task["expected"].keys(),
            ):
                fold_step(row, task, event, timestamp)
                if session_id in kept:
                    store.encoder.written(session_id, row, task_id)
                if event.reads:
                    self._follow_reads(session_id, row, task)
                row["at"] = max(row["at"], timestamp)
                dirty[session_id] = None
                store.told[session_id, task_id] = None
            else:
                self._refuse_full(batch, index, session_id)

    def _follow_reads(self, session_id: str, row: SessionRow, task: TaskRow) -> None:
        """What a task read makes it stale or fresh again, and those above it, too."""
        concerned = {id(each) for each in readers(row, task)}
        for task_id, each in row["tasks"].items():
            if id(each) in concerned:
                self.store.told[session_id, task_id] = None
        self._life.free_all(session_id, row)

    def _dispatch(self, batch: Batch, index: int, row: SessionRow, event: TaskDispatched, now_ms: int) -> None:
        session_id, task_id, timestamp = event.session_id, event.task_id, batch.timestamps[index]
        if event.lane != ("cold" if batch.role == "steps.cold" else "hot"):
            detail = f"lane: a task of the {event.lane} lane was dispatched on the other lane's topic"
            self.store.changes.refusals.append(Refusal(batch, index, "invalid_event", detail))
            return
        task = row["tasks"].get(task_id)
        ended = self.store.ended.get(session_id, task_id) if task is None else None
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
        if self.store.unknown:
            self._ready += self.store.unpark(session_id, task_id)

    def _repeated_dispatch(self, batch: Batch, index: int, event: TaskDispatched, known: str) -> None:
        repeated = dispatch_digest(event)
        if repeated == known:
            self.store.changes.duplicates["task.dispatched"] += 1
            return
        detail = (
            f"task_id: {event.task_id!r} was dispatched before with other content (digest {known}, now {repeated});"
            " give every task its own id"
        )
        self.store.changes.refusals.append(Refusal(batch, index, "dispatch_conflict", detail))

    # Results

    def judge(self, batch: Batch, place: Place, now_ms: int) -> None:
        """Judge a decoded batch of results. The caller has folded up to the barrier that `place` tells of.

        What waited comes first, and what a result frees comes before the next one, in whatever batches they arrive.
        """
        if self.has_ready or self.store.proposals:
            self.judge_ready(place, now_ms)
        life = self._life
        for index, event in enumerate(batch.events):
            if event is not None:
                self._judge_result(_waiting(batch, index), place, now_ms, (batch, index))
                if life.freed or life.late:
                    self.judge_ready(place, now_ms)

    def judge_ready(self, place: Place, now_ms: int) -> None:
        """Judge what waited and waits no more: for its dispatch, for other tasks, for the context, for its barrier."""
        self._answer_proposals(place, now_ms)
        while self.has_ready:
            ready, self._ready = sorted(self._ready, key=lambda result: result.offset), []
            for result in ready:
                self.store.judged(result)
                self._judge_result(result, place, now_ms, _as_batch(result, self.number))
            freed = sorted(self._life.freed, key=self._dispatched_at)  # a restart frees in another order
            self._life.freed.clear()
            for session_id, task_id in freed:
                waiting = self.store.results.get((session_id, task_id))
                row = self.store.row(session_id)
                if waiting is not None and task_id in row["tasks"]:
                    origin = _as_batch(waiting, self.number)
                    if not self._decide(row, waiting, row["tasks"][task_id], place, now_ms, origin):
                        self.store.drop_result(session_id, task_id)  # it went to the dead letters
                        del row["tasks"][task_id]["wait"]
                        self.store.encoder.written(session_id, row, task_id)
                        self.store.dirty[session_id] = None
            late, self._life.late = self._life.late, []
            for result in late:
                self.store.judged(result)
                self._withhold_late(result, place, now_ms)

    def _dispatched_at(self, name: tuple[str, str]) -> tuple[list[int], tuple[str, str]]:
        task = self.store.row(name[0])["tasks"].get(name[1])
        return ([] if task is None else order_of(task)), name

    def _answer_proposals(self, place: Place, now_ms: int) -> None:
        proposals, self.store.proposals = self.store.proposals, []
        for proposal in proposals:
            if place.covers(proposal.role, proposal.offset):
                self.store.judged(proposal)
                answer(self.store, proposal, place, now_ms)
                row = self.store.row(proposal.event.session_id)
                task = row["tasks"].get(proposal.event.task_id)
                if task is not None and proposal.event.reads:
                    self._follow_reads(proposal.event.session_id, row, task)
            else:
                self.store.proposals.append(proposal)

    def _judge_result(self, result: Waiting, place: Place, now_ms: int, origin: Origin) -> None:
        event: TaskResult = result.event
        session_id, task_id = event.session_id, event.task_id
        row = self._row_for(*origin, session_id)
        if row is None:
            return
        task = row["tasks"].get(task_id)
        if task is None:
            ended = self.store.ended.get(session_id, task_id)
            if ended is None:
                self._park(result, origin)
            else:
                self._judge_ended(result, ended, place, now_ms, origin)
            return
        if "wait" in task:
            self._judge_second(result, task, place, now_ms, origin)
            return
        grown, has_place = row["grown"], not event.reads or has_room_for_reads(row, task_id, task, event.reads)
        before = [(each, each.copy()) for each in readers(row, task)] if event.reads else []
        if event.reads:
            self.store.encoder.written(session_id, row, task_id)
            for each, _ in before:
                each["expected"] = dict(each["expected"])
                if "below" in each:
                    each["below"] = {name: [[*ended], {**by}] for name, (ended, by) in each["below"].items()}
            fold_reads(row, task_id, task, event.reads, result.timestamp)
        if not has_place and (len(before) > 1 or self._would_wait(row, result, task)):
            self._refuse_full(*origin, session_id)
            is_decided = False
        else:
            is_decided = self._decide(row, result, task, place, now_ms, origin)
        if not is_decided:
            row["grown"] = grown
            for each, was in before:
                each.clear()  # type: ignore[attr-defined]
                each.update(was)
        elif len(before) > 1:
            self._follow_reads(session_id, row, before[1][0])

    def _would_wait(self, row: SessionRow, result: Waiting, task: TaskRow) -> bool:
        """Whether the result, or a part of it, would stay with its task, and with them what it read."""
        event: TaskResult = result.event
        if self._rules.is_shadow(task["echo"].get("task_type")):
            return False
        return judge(row, event.task_id, task, event, result.timestamp, self._rules).wait is not None

    def _decide(
        self, row: SessionRow, result: Waiting, task: TaskRow, place: Place, now_ms: int, origin: Origin
    ) -> bool:
        """Judge an open task's result, or the rest of it; False where its output cannot be written."""
        event: TaskResult = result.event
        session_id, task_id = event.session_id, event.task_id
        judgement = judge(row, task_id, task, event, result.timestamp, self._rules)
        shadow = self._rules.is_shadow(task["echo"].get("task_type"))
        if judgement.wait is not None and not shadow:
            return self._hold(row, result, task, judgement, place, now_ms, origin)
        delivered = shadow or judgement.decision == DELIVERED or task.get("wait", {}).get("delivered", False)
        disposition = "delivered" if delivered else "withheld"
        if not self._write_verdict(result, task, judgement, disposition, place, now_ms, origin, shadow=shadow):
            return False
        if judgement.redispatch and not shadow:
            self._redispatch(row, task, session_id, task_id, now_ms)
        self.store.drop_result(session_id, task_id)
        if "children" in task and not shadow:
            self._life.stop_children(session_id, row, task, "parent_ended", result.timestamp, now_ms)
        self._life.end(
            session_id,
            row,
            task_id,
            disposition,
            judgement.reason,
            result.timestamp,
            now_ms,
            [_digests(result)],
        )
        return True

    def _hold(
        self,
        row: SessionRow,
        result: Waiting,
        task: TaskRow,
        judgement: Judgement,
        place: Place,
        now_ms: int,
        origin: Origin,
    ) -> bool:
        event: TaskResult = result.event
        session_id, task_id = event.session_id, event.task_id
        before = task.get("wait")
        wait = judgement.wait
        if wait is None:
            raise ValueError("nothing is held")
        if len(wait["undecided"]) < len(judgement.parts) and not self._write_verdict(
            result, task, judgement, None, place, now_ms, origin, shadow=False
        ):
            return False
        if judgement.decision == DELIVERED:
            self._life.deliver_in_part(session_id, row, task)
        if judgement.decision == DELIVERED or (before is not None and before.get("delivered")):
            wait["delivered"] = True
        if before is not None and before["why"] == wait["why"] and before.get("over"):
            wait["over"] = True
        if before != wait:
            task["wait"] = wait
            self.store.encoder.written(session_id, row, task_id)
            self.store.keep_result(result)
            self.store.dirty[session_id] = None
            self.store.told[session_id, task_id] = None
        if judgement.redispatch:
            self._redispatch(row, task, session_id, task_id, now_ms)
        return True

    def _redispatch(self, row: SessionRow, task: TaskRow, session_id: str, task_id: str, now_ms: int) -> None:
        attempt = task.get("policy", {}).get("attempt", 1) + 1
        snapshot = {name: row["facets"][name][VALUE] for name in task["expected"] if name in row["facets"]}
        fields: dict[str, Any] = {
            "new_task_id": f"{task_id.removesuffix(f'~{attempt - 1}') if attempt > 2 else task_id}~{attempt}",
            "attempt": attempt,
            "snapshot": {name: snapshot.get(name, value) for name, value in task["expected"].items()},
        }
        if "checkpoint" in task:
            fields["checkpoint"] = task["checkpoint"]
        self.store.changes.outputs.append(
            command("task.redispatch", self._rules.source, session_id, task_id, task, fields, now_ms)
        )

    def _judge_second(self, result: Waiting, task: TaskRow, place: Place, now_ms: int, origin: Origin) -> None:
        """Another result of a task whose first one waits: a repeat, a conflict, or late."""
        event: TaskResult = result.event
        digests, seconds = _digests(result), task.get("seconds", [])
        first = _digests(self.store.results[event.session_id, event.task_id])
        if self._is_known(event, digests, [first, *seconds], origin):
            return
        judgement = all_parts(event.parts, "withheld", "late")
        if self._write_verdict(result, None, judgement, None, place, now_ms, origin, echo=task["echo"]):
            task["seconds"] = [*seconds, digests][-MAX_RESULTS:]
            self.store.encoder.written(event.session_id, self.store.row(event.session_id), event.task_id)
            self.store.dirty[event.session_id] = None

    def _judge_ended(self, result: Waiting, ended: Ended, place: Place, now_ms: int, origin: Origin) -> None:
        """A result of a task that is over, or was never known: a repeat, a conflict, or withheld."""
        event: TaskResult = result.event
        digests = _digests(result)
        if self._is_known(event, digests, ended.results, origin):
            return
        reason: Reason = "unknown_task" if ended.was_unknown else "late"
        echo = {name: value for name, value in (ended.told or {}).items() if name in _ECHO}
        shadow = self._rules.is_shadow(echo.get("task_type"))
        judgement = all_parts(event.parts, "withheld", reason)
        if self._write_verdict(
            result, None, judgement, ended.disposition, place, now_ms, origin, echo=echo, shadow=shadow
        ):
            self.store.remember(event.session_id, ended.with_result(digests))

    def _withhold_late(self, result: Waiting, place: Place, now_ms: int) -> None:
        """A result that waited when its task was stopped."""
        event: TaskResult = result.event
        ended = self.store.ended.get(event.session_id, event.task_id)
        if ended is None:  # so many others ended with it
            ended = Ended(event.task_id, None, result.timestamp, None, [])
        rest = undecided_rest(result)
        echo = {name: value for name, value in (ended.told or {}).items() if name in _ECHO}
        judgement = all_parts(rest.event.parts, "withheld", "unknown_task" if ended.was_unknown else "late")
        self._write_verdict(
            rest, None, judgement, ended.disposition, place, now_ms, _as_batch(result, self.number), echo=echo
        )
        self.store.remember(event.session_id, ended.with_result(_digests(result)))

    def _is_known(self, event: TaskResult, digests: list[str], known: list[list[str]], origin: Origin) -> bool:
        """Whether the result came before: as it is, or under its identity with other content, which is refused."""
        is_repeat = False
        for identity, content in known:
            if content == digests[1]:
                is_repeat = True
            elif identity == digests[0]:
                detail = (
                    f"event_id: {event.event_id!r} of source {event.source!r} came before with other content;"
                    " give every event its own id"
                )
                self.store.changes.refusals.append(Refusal(*origin, "identity_conflict", detail))
                return True
        if is_repeat:
            self.store.changes.duplicates["task.result"] += 1
        return is_repeat

    def _write_verdict(
        self,
        result: Waiting,
        task: TaskRow | None,
        judgement: Judgement,
        disposition: str | None,
        place: Place,
        now_ms: int,
        origin: Origin,
        *,
        echo: dict[str, Any] | None = None,
        shadow: bool = False,
    ) -> bool:
        echo = task["echo"] if task is not None else echo or {}
        trace = result.traceparent or (task.get("trace") if task is not None else None)
        facets = self.store.row(result.event.session_id)["facets"] if task is not None else {}
        judged = JudgedResult(
            result.event, result.offset, result.timestamp, trace, echo, task, judgement, disposition, shadow, facets
        )
        outputs = result_outputs(self._rules.source, judged, place, now_ms)
        largest = max(len(output.value or b"") for output in outputs)
        if largest > MAX_OUTPUT_BYTES:
            detail = (
                f"result: its output would have {largest} bytes, at most {MAX_OUTPUT_BYTES};"
                " use payload_ref for large parts"
            )
            self.store.changes.refusals.append(Refusal(*origin, "output_too_large", detail))
            return False
        self.store.changes.outputs += outputs
        self.store.changes.verdicts.append(
            Verdicted(
                judgement.decision if judgement.decision != HELD else "withheld",
                judgement.reason,
                echo.get("task_type"),
                echo.get("lane", "hot"),
                result.timestamp - task["at"] if task is not None else None,
                result.timestamp,
            )
        )
        return True

    def _park(self, result: Waiting, origin: Origin) -> None:
        event: TaskResult = result.event
        waiting = self.store.unknown.get((event.session_id, event.task_id), [])
        if not self._is_known(event, _digests(result), [_digests(each) for each in waiting], origin):
            self.store.park(result)

    # Time

    def next_due_ms(self, *, hot_only: bool | None = None) -> int | None:
        """Broker time at which the first thing falls due; None where nothing does.

        `hot_only`: of what no record of the cold lane can keep from falling due (True), of the rest (False), or of all.
        """
        dues = []
        if hot_only is not False:
            dues.append(self.store.timers.next_due_ms())
        if hot_only is not True:
            oldest = next(iter(self.store.unknown.values()), None)
            dues.append(oldest[0].timestamp + self._rules.unknown_task_grace_ms if oldest else None)
            dues.append(self.store.cold_timers.next_due_ms())
        return min((due for due in dues if due is not None), default=None)

    def act_on_due(self, place: Place, now_ms: int, *, hot_only: bool = False) -> None:
        """Act on what has fallen due at `now_ms`.

        The caller has folded and judged everything that was on the topics of both lanes at that time, with `hot_only`
        on those of the hot one, so what is on them already cannot be missed.
        """
        self.judge_ready(place, now_ms)  # nothing expires whose result or proposed effect is there
        if not hot_only:
            self._give_up_unknown(place, now_ms)
        self.store.set_timers()
        due = list(self.store.timers.take_due(now_ms))
        if not hot_only:
            due += self.store.cold_timers.take_due(now_ms)
        for session_id in dict.fromkeys(due):
            self._life.fall_due(session_id, self.store.row(session_id), now_ms, hot_only=hot_only)
            self.store.dirty[session_id] = None  # its timer is set again when it is taken
        self.judge_ready(place, now_ms)

    def _give_up_unknown(self, place: Place, now_ms: int) -> None:
        limit = now_ms - self._rules.unknown_task_grace_ms
        for name in [name for name, parked in self.store.unknown.items() if parked[0].timestamp <= limit]:
            for result in self.store.unpark(*name):
                self.store.judged(result)
                ended = self.store.ended.get(*name) or Ended(name[1], None, result.timestamp, None, [])
                self._judge_ended(result, ended, place, now_ms, _as_batch(result, self.number))

    def find_idle(self, now_ms: int, limit: int) -> None:
        """Look at the next `limit` sessions for those idle for longer than the TTL and without open tasks."""
        oldest = now_ms - self._rules.session_ttl_ms
        for looked, session_id in enumerate(self._sweep, start=1):
            raw = self.store.raw(session_id)
            if raw is not None and last_event_at(raw) < oldest and not has_open_tasks(raw):
                self._idle.append((session_id, raw))
            if looked >= limit:
                return
        self._sweep = iter(self.store.session_ids())

    def drop_idle(self) -> None:
        """Forget the sessions that were found idle, and still are.

        The caller has folded everything that was on the topics when they were found: what is on them already may be
        newer than what the rows know.
        """
        for session_id, raw in self._idle:
            if self.store.is_unchanged(session_id, raw):
                self.store.forget_ended(session_id)
                self.store.drop(session_id)
        self._idle.clear()

    # Rows

    def _row_for(self, batch: Batch, index: int, session_id: str) -> SessionRow | None:
        """The session's row, decoded; None where the record is on the wrong partition. A known session is at home."""
        row = self.store.known_row(session_id)
        if row is None and not self._is_home(session_id):
            self.store.changes.misrouted.append((batch, index))
            return None
        return self.store.row(session_id) if row is None else row

    def _is_forwarded_again(self, batch: Batch, index: int, row: SessionRow) -> bool:
        if not was_forwarded(batch.headers[index]):
            return False
        event = batch.events[index]
        identity = _identity(event)
        known = row.get("forwarded", [])
        if identity in known:
            self.store.changes.duplicates[event_type(type(event))] += 1
            return True
        row["forwarded"] = [*known, identity][-MAX_FORWARDED_REMEMBERED:]
        self.store.dirty[event.session_id] = None
        return False

    def _refuse_full(self, batch: Batch, index: int, session_id: str) -> None:
        detail = (
            f"session: the row of {session_id!r} would have more than {MAX_ROW_BYTES} bytes;"
            " use fewer facets and shorter values, or erase the session"
        )
        self.store.changes.refusals.append(Refusal(batch, index, "session_full", detail))


_ECHO: Final = frozenset({"task_type", "destination", "metadata", "request_id", "slot", "lane"})
_encode_content = msgspec.json.Encoder().encode


def _digests(result: Waiting) -> list[str]:
    """[identity, content] of a result. Content is everything but the envelope; payloads count byte for byte."""
    event: TaskResult = result.event
    content: list[Any] = [event.outcome, event.parts, event.reads, event.error]
    return [_identity(event), digest(_encode_content(content))]


def _identity(event: Any) -> str:
    return digest(orjson.dumps([event.source, event.event_id]))


def _added_by_change(event: ContextChanged, value: bytes) -> int:
    """About what a change adds to the row: itself, and what of it is own work; its source and id with each facet."""
    others = len(event.set) + len(event.unset) - 1
    added = 2 * len(value)
    return added + others * max(len(event.source) + len(event.event_id) + 64, NAME_BYTES) if others > 0 else added


def _names_new_facets(row: SessionRow, event: ContextChanged) -> bool:
    known = row["facets"].keys()
    return not (event.set.keys() <= known and known >= set(event.unset))


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


def _waiting(batch: Batch, index: int) -> Waiting:
    return Waiting(
        batch.events[index],
        batch.values[index] or b"",
        batch.keys[index],
        batch.headers[index],
        batch.offsets[index],
        batch.timestamps[index],
        batch.role,
    )


def _as_batch(waiting: Waiting, partition: int) -> Origin:
    """An event that waited as the record it came from, for the dead-letter topic."""
    offset = waiting.offset
    batch = Batch(
        waiting.role,
        partition,
        offset,
        offset + 1,
        [offset],
        [waiting.timestamp],
        [waiting.key],
        [waiting.value],
        [waiting.headers],
        0,
        [waiting.event],
    )
    return batch, 0
