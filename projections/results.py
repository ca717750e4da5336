"""Results: judged past their barrier, once each, and what they and proposed effects are answered."""

from typing import Any, Final

import msgspec

from projections.changes import Verdicted
from projections.effects import answer
from projections.ended import MAX_RESULTS, Ended
from projections.fold import fold_reads
from projections.gate import DELIVERED, HELD, Judgement, Place, all_parts, judge
from projections.intake import Intake, Origin, identity_of
from projections.life import Life, undecided_rest
from projections.outputs import MAX_OUTPUT_BYTES, JudgedResult, command, result_outputs
from projections.row import VALUE, SessionRow, TaskRow, has_room_for_reads, order_of, readers
from projections.store import Store, Waiting, waiting_of
from schemas.decode import Batch, Refusal
from schemas.events import TaskResult
from schemas.fields import Reason
from schemas.identity import digest


class Results:
    """Judges the results of one partition."""

    def __init__(self, number: int, store: Store, life: Life, intake: Intake) -> None:
        self._number = number
        self._rules = store.rules
        self._store = store
        self._life = life
        self._intake = intake

    def judge(self, batch: Batch, place: Place, now_ms: int) -> None:
        """Judge a decoded batch of results. The caller has folded up to the barrier that `place` tells of.

        What waited comes first, and what a result frees comes before the next one, in whatever batches they arrive.
        """
        if self._life.has_ready or self._store.proposals:
            self.judge_ready(place, now_ms)
        life = self._life
        for index, event in enumerate(batch.events):
            if event is not None:
                self._judge_result(waiting_of(batch, index), place, now_ms, (batch, index))
                if life.freed or life.late:
                    self.judge_ready(place, now_ms)

    def judge_ready(self, place: Place, now_ms: int) -> None:
        """Judge what waited and waits no more: for its dispatch, for other tasks, for the context, for its barrier."""
        self._answer_proposals(place, now_ms)
        while self._life.has_ready:
            ready, self._life.ready = sorted(self._life.ready, key=lambda result: result.offset), []
            for result in ready:
                self._store.judged(result)
                self._judge_result(result, place, now_ms, _as_batch(result, self._number))
            freed = sorted(self._life.freed, key=self._dispatched_at)  # a restart frees in another order
            self._life.freed.clear()
            for session_id, task_id in freed:
                waiting = self._store.results.get((session_id, task_id))
                row = self._store.row(session_id)
                if waiting is not None and task_id in row["tasks"]:
                    origin = _as_batch(waiting, self._number)
                    if not self._decide(row, waiting, row["tasks"][task_id], place, now_ms, origin):
                        self._store.drop_result(session_id, task_id)  # it went to the dead letters
                        del row["tasks"][task_id]["wait"]
                        self._store.encoder.written(session_id, row, task_id)
                        self._store.dirty[session_id] = None
            late, self._life.late = self._life.late, []
            for result in late:
                self._store.judged(result)
                self._withhold_late(result, place, now_ms)

    def _dispatched_at(self, name: tuple[str, str]) -> tuple[list[int], tuple[str, str]]:
        task = self._store.row(name[0])["tasks"].get(name[1])
        return ([] if task is None else order_of(task)), name

    def _answer_proposals(self, place: Place, now_ms: int) -> None:
        proposals, self._store.proposals = self._store.proposals, []
        for proposal in proposals:
            if place.covers(proposal.role, proposal.offset):
                self._store.judged(proposal)
                answer(self._store, proposal, place, now_ms)
                row = self._store.row(proposal.event.session_id)
                task = row["tasks"].get(proposal.event.task_id)
                if task is not None and proposal.event.reads:
                    self._life.follow_reads(proposal.event.session_id, row, task)
            else:
                self._store.proposals.append(proposal)

    def _judge_result(self, result: Waiting, place: Place, now_ms: int, origin: Origin) -> None:
        event: TaskResult = result.event
        session_id, task_id = event.session_id, event.task_id
        row = self._intake.row_for(*origin, session_id)
        if row is None:
            return
        task = row["tasks"].get(task_id)
        if task is None:
            ended = self._store.ended.get(session_id, task_id)
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
            self._store.encoder.written(session_id, row, task_id)
            for each, _ in before:
                each["expected"] = dict(each["expected"])
                if "below" in each:
                    each["below"] = {name: [[*ended], {**by}] for name, (ended, by) in each["below"].items()}
            fold_reads(row, task_id, task, event.reads, result.timestamp)
        if not has_place and (len(before) > 1 or self._would_wait(row, result, task)):
            self._intake.refuse_full(*origin, session_id)
            is_decided = False
        else:
            is_decided = self._decide(row, result, task, place, now_ms, origin)
        if not is_decided:
            row["grown"] = grown
            for each, was in before:
                each.clear()  # type: ignore[attr-defined]
                each.update(was)
        elif len(before) > 1:
            self._life.follow_reads(session_id, row, before[1][0])

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
        self._store.drop_result(session_id, task_id)
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
            self._store.encoder.written(session_id, row, task_id)
            self._store.keep_result(result)
            self._store.dirty[session_id] = None
            self._store.told[session_id, task_id] = None
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
        self._store.changes.outputs.append(
            command("task.redispatch", self._rules.source, session_id, task_id, task, fields, now_ms)
        )

    def _judge_second(self, result: Waiting, task: TaskRow, place: Place, now_ms: int, origin: Origin) -> None:
        """Another result of a task whose first one waits: a repeat, a conflict, or late."""
        event: TaskResult = result.event
        digests, seconds = _digests(result), task.get("seconds", [])
        first = _digests(self._store.results[event.session_id, event.task_id])
        if self._is_known(event, digests, [first, *seconds], origin):
            return
        judgement = all_parts(event.parts, "withheld", "late")
        if self._write_verdict(result, None, judgement, None, place, now_ms, origin, echo=task["echo"]):
            task["seconds"] = [*seconds, digests][-MAX_RESULTS:]
            self._store.encoder.written(event.session_id, self._store.row(event.session_id), event.task_id)
            self._store.dirty[event.session_id] = None

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
            self._store.remember(event.session_id, ended.with_result(digests))

    def _withhold_late(self, result: Waiting, place: Place, now_ms: int) -> None:
        """A result that waited when its task was stopped."""
        event: TaskResult = result.event
        ended = self._store.ended.get(event.session_id, event.task_id)
        if ended is None:  # so many others ended with it
            ended = Ended(event.task_id, None, result.timestamp, None, [])
        rest = undecided_rest(result)
        echo = {name: value for name, value in (ended.told or {}).items() if name in _ECHO}
        judgement = all_parts(rest.event.parts, "withheld", "unknown_task" if ended.was_unknown else "late")
        self._write_verdict(
            rest, None, judgement, ended.disposition, place, now_ms, _as_batch(result, self._number), echo=echo
        )
        self._store.remember(event.session_id, ended.with_result(_digests(result)))

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
                self._store.changes.refusals.append(Refusal(*origin, "identity_conflict", detail))
                return True
        if is_repeat:
            self._store.changes.duplicates["task.result"] += 1
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
        facets = self._store.row(result.event.session_id)["facets"] if task is not None else {}
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
            self._store.changes.refusals.append(Refusal(*origin, "output_too_large", detail))
            return False
        self._store.changes.outputs += outputs
        self._store.changes.verdicts.append(
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
        waiting = self._store.unknown.get((event.session_id, event.task_id), [])
        if not self._is_known(event, _digests(result), [_digests(each) for each in waiting], origin):
            self._store.park(result)

    def give_up_unknown(self, place: Place, now_ms: int) -> None:
        """Withhold the results whose dispatch has not come within its grace at `now_ms`."""
        limit = now_ms - self._rules.unknown_task_grace_ms
        for name in [name for name, parked in self._store.unknown.items() if parked[0].timestamp <= limit]:
            for result in self._store.unpark(*name):
                self._store.judged(result)
                ended = self._store.ended.get(*name) or Ended(name[1], None, result.timestamp, None, [])
                self._judge_ended(result, ended, place, now_ms, _as_batch(result, self._number))


_ECHO: Final = frozenset({"task_type", "destination", "metadata", "request_id", "slot", "lane"})
_encode_content = msgspec.json.Encoder().encode


def _digests(result: Waiting) -> list[str]:
    """[identity, content] of a result. Content is everything but the envelope; payloads count byte for byte."""
    event: TaskResult = result.event
    content: list[Any] = [event.outcome, event.parts, event.reads, event.error]
    return [identity_of(event), digest(_encode_content(content))]


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
