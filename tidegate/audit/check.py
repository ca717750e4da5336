"""Compare what the gate wrote with what the rules say, for one partition at a time. Pure: time and settings are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from schemas.topics import INPUT_ROLES, Role
from tidegate.audit.collect import OUTPUT_ROLES, PartitionLogs, Passed
from tidegate.audit.findings import Example
from tidegate.audit.logs import Facets, JudgedPart, Output, Result, ResultPart, Session, Status, Task
from tidegate.audit.oracle import (
    Contradiction,
    Ruling,
    contradictions_of,
    policy_of,
    rule,
    unsupported_part,
)

REPEATS_REMEMBERED: Final = 16
"""A repeat of a result is known as one only among this many results of its task."""

_STEPS_OF: Final[dict[Role, Role]] = {"results": "steps", "results.cold": "steps.cold"}
_BLOCKERS: Final = ("session_closed", "request_archived", "user_absent")
_ENDINGS: Final = ("delivered", "withheld", "rejected")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the audit takes as given. Times in milliseconds, `now_ms` is when the committed offsets were read."""

    now_ms: int
    gate_running: bool = True
    """Whether the group has members: without any, nothing that waits can move on."""
    grace_ms: int = 30_000
    retention_ms: int = 86_400_000
    ended_per_session: int = 256
    margin_ms: int = 0
    """How much older than the result a record must be for the barrier to have had to cover it."""
    slack_ms: int = 5_000
    """How long something that is due may take before it counts as lost."""
    require_drained: bool = False


@dataclass(slots=True)
class _Verdict:
    """The outputs about one result."""

    delivered: list[Output] = field(default_factory=list)
    withheld: list[Output] = field(default_factory=list)

    @property
    def all(self) -> list[Output]:
        return self.delivered + self.withheld

    @property
    def first(self) -> Output:
        return self.all[0]

    def only(self, reason: str) -> bool:
        """Whether every part got this reason."""
        return all(part.reason == reason for part in self.first.parts)


class PartitionCheck:
    """The comparison for one partition. `run` fills the logs' findings and `counts`."""

    def __init__(self, logs: PartitionLogs, terms: Terms) -> None:
        self.logs = logs
        self.terms = terms
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        """Parts by what became of them (`delivered`, `annotated`, `withheld`) and reason."""
        self._bounds = logs.bounds

    def run(self) -> None:
        """Check everything of the partition."""
        self._check_topics()
        for session_id, session in self.logs.sessions.items():
            names = session.tasks.keys() | session.results.keys() | session.outputs.keys() | session.statuses.keys()
            self.counts["tasks"] += len(session.tasks)
            for task_id, role, offset in session.conflicts:
                self._check_conflict(session_id, session, task_id, role, offset)
            for task_id in sorted(names):
                TaskCheck(self, session_id, session, task_id).run()
        self.counts["sessions"] += len(self.logs.sessions)
        self.counts["results"] += self.logs.counts["results_refused"]

    def _check_topics(self) -> None:
        logs = self.logs
        for role in INPUT_ROLES:
            bounds = self._bounds[role]
            if bounds.committed is not None and bounds.committed < bounds.beginning:
                detail = f"folded below {bounds.committed}, but the topic now begins at {bounds.beginning}"
                logs.note("input_deleted_unfolded", detail, role, bounds.committed)
            if bounds.handled > bounds.end:
                logs.note("committed_past_end", f"committed {bounds.committed}, end {bounds.end}", role, bounds.end)
            if logs.waiting[role] and self.terms.require_drained:
                detail = f"{logs.waiting[role]} records from the committed offset {bounds.committed} on"
                logs.note("not_drained", detail, role, bounds.handled)
        for (role, offset), refused in logs.refused.items():
            if not refused.seen and self._bounds[role].beginning <= offset:
                where = f"{logs.names[role]}/{logs.partition}/{offset}"
                logs.note("dlq_without_origin", f"there is no record at {where}", "dlq", refused.offset)
            elif not refused.seen:
                self.counts["unverifiable"] += 1

    def _check_conflict(self, session_id: str, session: Session, task_id: str, role: Role, offset: int) -> None:
        if offset < self._bounds[role].handled and not session.erased and not self.forgotten(session, task_id):
            detail = "dispatched before with other content"
            self.note("conflict_unaccounted", session_id, task_id, detail, role, offset)

    def note(
        self, kind: str, session_id: str, task_id: str, detail: str, role: Role | None = None, offset: int | None = None
    ) -> None:
        """A finding about a task."""
        topic = None if role is None else self.logs.names[role]
        self.logs.findings.add(kind, Example(detail, self.logs.partition, topic, offset, session_id, task_id))

    def forgotten(self, session: Session, task_id: str) -> bool:
        """Whether the gate may have forgotten how the task ended: too long ago, or too many others since."""
        if len(session.outputs.keys() | session.statuses.keys()) > self.terms.ended_per_session:
            return True
        times = [result.at_ms for result in session.results.get(task_id, ())]
        if task_id in session.tasks:
            times.append(session.tasks[task_id].at_ms)
        return bool(times) and self.terms.now_ms - min(times) >= self.terms.retention_ms


class TaskCheck:
    """The comparison for one task: its results, their verdicts, and its disposition."""

    def __init__(self, partition: PartitionCheck, session_id: str, session: Session, task_id: str) -> None:
        self._partition = partition
        self._terms = partition.terms
        self._bounds = partition.logs.bounds
        self._session_id = session_id
        self._session = session
        self._task_id = task_id
        self._task: Task | None = session.tasks.get(task_id)
        self._status: Status | None = session.statuses.get(task_id)
        self._results: list[Result] = session.results.get(task_id, [])
        self._judged: list[tuple[Result, _Verdict]] = []
        self._forgotten = partition.forgotten(session, task_id)

    def run(self) -> None:
        """Check everything of the task."""
        self._match(self._verdicts())
        for result, verdict in self._judged:
            self._check_result(result, verdict)
        self._check_repeats()
        self._check_unjudged()
        if not self._session.erased:
            self._check_disposition()
        elif self._status is not None and self._status.dispositions:
            self._partition.counts["dispositions"] += 1

    def _note(self, kind: str, detail: str, role: Role | None = None, offset: int | None = None) -> None:
        self._partition.note(kind, self._session_id, self._task_id, detail, role, offset)

    # ---- verdicts and their results

    def _verdicts(self) -> dict[tuple[str, str, int], _Verdict]:
        verdicts: dict[tuple[str, str, int], _Verdict] = {}
        for output in self._session.outputs.get(self._task_id, ()):
            verdict = verdicts.setdefault((output.source, output.event_id, output.result_offset), _Verdict())
            (verdict.withheld if output.role == "withheld" else verdict.delivered).append(output)
        return verdicts

    def _match(self, verdicts: dict[tuple[str, str, int], _Verdict]) -> None:
        for result in self._results:
            verdict = verdicts.pop((result.source, result.event_id, result.offset), None)
            if verdict is not None:
                self._judged.append((result, verdict))
        for (source, event_id, offset), verdict in verdicts.items():
            refused = [self._partition.logs.refused.get((role, offset)) for role in _STEPS_OF]
            name = (self._session_id, self._task_id, source, event_id)
            output = verdict.first
            if any(one is not None and one.result == name for one in refused):
                self._note("dlq_and_verdict", f"result {source} {event_id} at {offset}", output.role, output.offset)
            elif all(offset >= self._bounds[role].beginning for role in _STEPS_OF):
                self._note("verdict_without_result", f"result {source} {event_id} at {offset}", output.role, output.offset)
            else:
                self._partition.counts["unverifiable"] += 1
        self._partition.counts["verdicts"] += len(self._judged)

    def _check_result(self, result: Result, verdict: _Verdict) -> None:
        output = verdict.first
        if len(verdict.delivered) > 1 or len(verdict.withheld) > 1 or len({one.digest for one in verdict.all}) > 1:
            again = verdict.all[-1]
            detail = f"result {result.source} {result.event_id} was judged at {output.role}/{output.offset} already"
            self._note("verdict_twice", detail, again.role, again.offset)
        self._check_shape(result, verdict)
        self._check_barrier(result, output)
        if [part.part_id for part in output.parts] != [part.part_id for part in result.parts]:
            self._note("verdict_inconsistent", "its parts are not those of the result", output.role, output.offset)
            return
        for part in output.parts:
            decision = "annotated" if part.annotated else part.decision
            self._partition.reasons[decision, part.reason] += 1
        self._check_reasons(result, verdict)

    def _check_shape(self, result: Result, verdict: _Verdict) -> None:
        """The outputs of one verdict: that they agree with it and carry the parts it names, whole."""
        output = verdict.first
        decided = {part.decision for part in output.parts}
        if output.decision != ("delivered" if "delivered" in decided else "withheld"):
            self._note("verdict_inconsistent", f"decision {output.decision}, parts {decided}", output.role, output.offset)
        if output.partition != self._partition.logs.partition:
            self._note("verdict_inconsistent", f"judged on partition {output.partition}", output.role, output.offset)
        whole = {part.part_id: part.digest for part in result.parts}
        for decision, outputs in (("delivered", verdict.delivered), ("withheld", verdict.withheld)):
            named = [part.part_id for part in output.parts if part.decision == decision]
            if not outputs:
                if named and output.offset < self._bounds[output.role].settled and not self._outputs_truncated:
                    self._note("output_missing", f"{decision}: {', '.join(named)}", output.role, output.offset)
                continue
            carrier = outputs[0]
            if [part_id for part_id, _ in carrier.carried] != named:
                self._note("verdict_inconsistent", f"it does not carry the {decision} parts", carrier.role, carrier.offset)
            for part_id, digest in carrier.carried:
                if part_id in whole and whole[part_id] != digest:
                    self._note("part_altered", f"part {part_id}", carrier.role, carrier.offset)

    @property
    def _outputs_truncated(self) -> bool:
        return any(self._bounds[role].truncated for role in OUTPUT_ROLES if role != "tasks")

    def _check_barrier(self, result: Result, output: Output) -> None:
        """Everything older than the result must be below the offsets its verdict names."""
        steps = _STEPS_OF[result.role]
        judged: tuple[tuple[Role, int], ...] = (("context", output.context_offset), (steps, output.steps_offset))
        for role, offset in judged:
            if offset > self._bounds[role].end:
                self._note("judged_past_end", f"{role} {offset} of {self._bounds[role].end}", output.role, output.offset)
            if not result.broker_time:
                self._partition.counts["barrier_unverifiable"] += 1
                continue
            older = self._partition.logs.clocks[role].last_before(result.at_ms - self._terms.margin_ms)
            if older >= offset:
                unmarked = any(part.decision == "delivered" and not part.annotated for part in output.parts)
                kind = "barrier_missed" if unmarked else "barrier_missed_withheld"
                detail = f"{role} {older} is older than the result at {result.offset}, but judged at {offset}"
                self._note(kind, detail, output.role, output.offset)

    # ---- reasons

    def _check_reasons(self, result: Result, verdict: _Verdict) -> None:
        output = verdict.first
        if (asks := unsupported_part(result)) is not None:
            self._note("unsupported_obeyed", f"part {asks} of the result at {result.offset}", output.role, output.offset)
        elif verdict.only("unknown_task"):
            self._check_unknown(result, output)
        elif verdict.only("late"):
            self._check_late(output)
        elif self._task is None:
            if not self._truncated("steps", "steps.cold"):
                self._note("judged_before_dispatch", "no dispatch of the task exists", output.role, output.offset)
            else:
                self._partition.counts["unverifiable"] += 1
        else:
            self._check_judgement(result, output, self._task)

    def _truncated(self, *roles: Role) -> bool:
        return any(self._bounds[role].truncated for role in roles)

    def _check_unknown(self, result: Result, output: Output) -> None:
        if any(part.decision != "withheld" for part in output.parts) or output.disposition is not None:
            self._note("verdict_inconsistent", "unknown_task, but delivered or with a disposition", output.role, output.offset)
        task = self._task
        if task is None or self._session.erased:
            return
        judged_ms = _milliseconds(output.at)
        if task.offset < output.steps_offset and task.role == _STEPS_OF[result.role]:
            ended = self._ended_ms()
            if ended is None or not (self._forgotten or judged_ms - ended >= self._terms.retention_ms):
                detail = f"dispatched at {task.offset}, judged at {output.steps_offset}"
                self._note("known_task_unknown", detail, output.role, output.offset)
            return
        waited = [one.at_ms for one, verdict in self._judged if verdict.only("unknown_task")]
        if task.at_ms + self._terms.margin_ms < min(waited) + self._terms.grace_ms:
            detail = f"dispatched {task.at_ms - result.at_ms} ms after the result, grace {self._terms.grace_ms} ms"
            self._note("unknown_too_early", detail, output.role, output.offset)

    def _ended_ms(self) -> int | None:
        """When the task ended, as the times of its deciding result or refused dispatch tell; None if it did not."""
        decided = [result.at_ms for result, verdict in self._judged if _decides(verdict)]
        if decided:
            return min(decided)
        return self._task.at_ms if self._task is not None and self._status is not None and self._disposition else None

    @property
    def _disposition(self) -> str | None:
        return self._status.dispositions[-1] if self._status is not None and self._status.dispositions else None

    def _check_late(self, output: Output) -> None:
        if any(part.decision != "withheld" for part in output.parts):
            self._note("verdict_inconsistent", "late, but delivered", output.role, output.offset)
        if self._session.erased:
            return
        deciding = [verdict.first for _, verdict in self._judged if _decides(verdict)]
        if deciding:
            first = deciding[0]
            before = first.context_offset <= output.context_offset and first.steps_offset <= output.steps_offset
            if first.disposition == output.disposition and before:
                return
            detail = f"{output.disposition}; the task ended {first.disposition} by {first.role}/{first.offset}"
        elif output.disposition == self._disposition and (
            self._disposition == "rejected" or self._given_up or self._outputs_truncated
        ):
            return
        else:
            detail = f"{output.disposition}; the task's status says {self._disposition}"
        self._note("late_without_end", detail, output.role, output.offset)

    @property
    def _given_up(self) -> bool:
        """Whether a result was given up as unknown_task: a dispatch after that is withheld at once."""
        return any(verdict.only("unknown_task") for _, verdict in self._judged)

    def _check_judgement(self, result: Result, output: Output, task: Task) -> None:
        if task.role == _STEPS_OF[result.role] and task.offset >= output.steps_offset:
            detail = f"dispatched at {task.offset}, judged at {output.steps_offset}"
            self._note("judged_before_dispatch", detail, output.role, output.offset)
        if output.disposition != output.decision:
            detail = f"decision {output.decision}, disposition {output.disposition}"
            self._note("verdict_inconsistent", detail, output.role, output.offset)
        taken = self._taken(result, output, task)
        ruling = rule(
            self._session,
            self._task_id,
            task,
            result,
            context_offset=output.context_offset,
            steps_offset=output.steps_offset,
            taken=taken,
        )
        for part, judged in zip(result.parts, output.parts, strict=True):
            self._check_part(result, output, task, part, judged, ruling)

    def _taken(self, result: Result, output: Output, task: Task) -> Facets:
        """What the gate says it took for `depends_on`: its status where there is one, else what the verdict echoes."""
        if not task.depends_on:
            return {}
        read = set(result.reads)
        for _, _, reads in self._session.reads.get(self._task_id, ()):
            read |= reads.keys()
        taken = {name: output.snapshot[name] for name in task.depends_on if name in output.snapshot and name not in read}
        if self._status is not None:
            taken |= self._status.taken
        if not self._truncated("context"):
            for name, value in taken.items():
                facet = self._session.facets.get(name)
                if name not in task.snapshot and (facet is None or value not in facet.values):
                    self._note("taken_never_held", f"{name} = {value!r}", output.role, output.offset)
        return taken

    def _check_part(  # noqa: PLR0917 - everything one part's comparison needs
        self, result: Result, output: Output, task: Task, part: ResultPart, judged: JudgedPart, ruling: Ruling
    ) -> None:
        stale = contradictions_of(part, ruling)
        policy = policy_of(part, task, result)
        where = f"part {part.part_id} of the result at {result.offset}"

        def note(kind: str, detail: str) -> None:
            place = f"judged at context {output.context_offset}, steps {output.steps_offset}"
            self._note(kind, f"{where}, {place}: {detail}", output.role, output.offset)

        if judged.decision == "delivered":
            if ruling.blockers:
                note("stale_delivered", ruling.blockers[0])
            elif judged.reason == "fresh" and not judged.annotated:
                if stale:
                    note("stale_delivered", _named(stale))
            elif judged.reason != "stale" or not judged.annotated:
                note("reason_unexpected", f"delivered, reason {judged.reason}, annotated {judged.annotated}")
            elif not stale:
                # With the oldest context gone, what made it stale may be gone, too.
                if not self._truncated("context"):
                    note("annotated_fresh", "nothing contradicts it")
            else:
                if policy != "annotate":
                    note("policy_not_followed", f"on_stale is {policy}, but it was annotated")
                self._check_differences(judged, stale, task, note_to=output)
        elif judged.reason == "stale":
            if not stale:
                if not self._truncated("context"):
                    note("fresh_withheld", "nothing contradicts it")
                return
            if ruling.blockers:
                note("reason_order", f"{ruling.blockers[0]} comes before stale")
            elif policy != "withhold":
                note("policy_not_followed", f"on_stale is {policy}, but it was withheld")
            self._check_differences(judged, stale, task, note_to=output)
        elif judged.reason in _BLOCKERS:
            if judged.reason not in ruling.blockers:
                if not self._truncated("context"):
                    note("reason_false", f"{judged.reason} does not hold")
            elif judged.reason != ruling.blockers[0]:
                note("reason_order", f"{ruling.blockers[0]} comes before {judged.reason}")
        else:
            note("reason_unexpected", f"withheld, reason {judged.reason}")

    def _check_differences(
        self, judged: JudgedPart, stale: dict[str, Contradiction], task: Task, note_to: Output
    ) -> None:
        if self._truncated("context"):
            return
        problems = []
        if len(judged.differences) + judged.omitted != len(stale) or not judged.differences:
            problems.append(f"{len(judged.differences)} named, {judged.omitted} omitted, {len(stale)} there are")
        for difference in judged.differences:
            name = difference["facet"]
            contradiction = stale.get(name)
            if contradiction is None:
                problems.append(f"{name} is not contradicted")
                continue
            told = (difference["expected"], difference["actual"])
            if told != (contradiction.expected, contradiction.actual):
                problems.append(f"{name}: {told}, should be {(contradiction.expected, contradiction.actual)}")
            by = difference["changed_by"]
            giver = next((event for event in contradiction.givers if event.offset == by["offset"]), None)
            if giver is None or (giver.source, giver.event_id) != (by["source"], by["event_id"]):
                offsets = [event.offset for event in contradiction.givers]
                problems.append(f"{name}: changed by {by['event_id']} at {by['offset']}, should be one of {offsets[:5]}")
            elif difference["since"] != ("dispatch" if giver.at_ms <= task.at_ms else "running"):
                problems.append(f"{name}: since {difference['since']}")
        if problems:
            detail = f"part {judged.part_id}: {'; '.join(problems)}"
            self._note("difference_wrong", detail, note_to.role, note_to.offset)

    # ---- results without a verdict, and repeats

    def _check_repeats(self) -> None:
        """Repeats must not be judged again, and only one result may decide."""
        if self._session.erased or self._forgotten:
            return
        known = [(result, verdict) for result, verdict in self._judged if not verdict.only("unknown_task")]
        if len(known) <= REPEATS_REMEMBERED:
            seen: dict[int, Result] = {}
            identities: dict[tuple[str, str], Result] = {}
            for result, verdict in known:
                output = verdict.first
                earlier = seen.setdefault(result.digest, result)
                same_id = identities.setdefault((result.source, result.event_id), result)
                if earlier is not result:
                    detail = f"the result at {result.offset} repeats the one at {earlier.offset}"
                    self._note("repeat_judged", detail, output.role, output.offset)
                elif same_id is not result:
                    detail = f"the result at {result.offset} contradicts the one at {same_id.offset} with the same id"
                    self._note("conflict_unaccounted", detail, output.role, output.offset)
        deciding = [verdict.first for _, verdict in self._judged if _decides(verdict)]
        for output in deciding[1:]:
            detail = f"decided at {deciding[0].role}/{deciding[0].offset} already"
            self._note("task_judged_twice", detail, output.role, output.offset)

    def _check_unjudged(self) -> None:
        counts = self._partition.counts
        counts["results"] += len(self._results)
        if len(self._results) == len(self._judged):
            return
        judged = {id(result) for result, _ in self._judged}
        contents = {result.digest for result, _ in self._judged}
        waiting: set[int] = set()
        for result in self._results:
            if id(result) in judged:
                continue
            if result.digest in contents:
                counts["repeats"] += 1
            elif result.digest in waiting:
                counts["repeats"] += 1
            elif self._session.erased:
                counts["erased"] += 1
            elif (why := self._why_waiting(result)) is not None:
                waiting.add(result.digest)
                counts["pending"] += 1
                if self._terms.require_drained and why == "parked":
                    self._note("not_drained", "parked: its task is not known yet", result.role, result.offset)
            elif not self._outputs_truncated:
                self._note("result_without_verdict", f"result {result.source} {result.event_id}", result.role, result.offset)
            else:
                counts["unverifiable"] += 1

    def _why_waiting(self, result: Result) -> str | None:
        """`behind` the committed offset, `parked` until its dispatch comes, or None: it should have been judged."""
        if result.offset >= self._bounds[result.role].handled:
            return "behind"
        task, now = self._task, self._terms.now_ms - self._terms.slack_ms
        if task is None or task.offset >= self._bounds[task.role].handled:
            due = result.at_ms + self._terms.grace_ms
        elif task.at_ms >= result.at_ms:
            due = task.at_ms  # it may have been parked, and is to be judged now that the dispatch has come
        else:
            return None
        return "parked" if due > now or not self._terms.gate_running else None

    # ---- disposition

    def _check_disposition(self) -> None:
        task, status, disposition = self._task, self._status, self._disposition
        if disposition is not None:
            self._partition.counts["dispositions"] += 1
        if status is not None and not self._forgotten:
            if len(status.dispositions) > 1:
                self._note("two_dispositions", " and ".join(status.dispositions), "tasks", status.ended_offset)
            if status.reopened:
                self._note("ended_then_running", f"ended {disposition}", "tasks", status.ended_offset)
        if status is not None and status.tombstone and disposition is None:
            return
        deciding = next((verdict.first for _, verdict in self._judged if _decides(verdict)), None)
        if task is None:
            if status is not None and not self._truncated("steps", "steps.cold"):
                self._note("status_without_dispatch", f"status ended {disposition}", "tasks", None)
            return
        if status is None:
            if task.offset < self._bounds[task.role].handled:
                self._note("dispatch_without_status", "", task.role, task.offset)
        elif task.unsupported is not None and disposition is not None and not self._given_up:
            if disposition != "rejected":
                self._note("not_rejected", f"{task.unsupported}: ended {disposition}", task.role, task.offset)
        elif task.unsupported is not None and not self._given_up:
            self._note("not_rejected", f"{task.unsupported}: not ended", task.role, task.offset)
        elif deciding is not None:
            if disposition is None:
                self._note("task_without_disposition", "its status says running", deciding.role, deciding.offset)
            elif disposition != deciding.disposition:
                detail = f"status {disposition}, verdict {deciding.disposition}"
                self._note("disposition_contradicts", detail, deciding.role, deciding.offset)
        elif disposition is not None:
            self._check_ended_without_verdict(task, status, disposition)
        elif self._given_up and task.offset < self._bounds[task.role].handled and not self._forgotten:
            self._note("task_without_disposition", "its result was given up as unknown_task", task.role, task.offset)

    def _check_ended_without_verdict(self, task: Task, status: Status, disposition: str) -> None:
        """The status says ended, but no verdict decided it."""
        if disposition not in _ENDINGS:
            self._note("reason_unexpected", f"disposition {disposition}", "tasks", status.ended_offset)
        elif disposition == "rejected":
            # A session whose row is full takes no tasks; the logs do not tell how full it is.
            if not status.detail.startswith("session:"):
                self._note("rejected_without_reason", status.detail, task.role, task.offset)
        elif disposition == "withheld" and self._given_up:
            return
        elif status.ended_offset < self._bounds["tasks"].settled and not self._outputs_truncated:
            self._note("disposition_without_output", f"ended {disposition}", "tasks", status.ended_offset)


def check_forwarding(partitions: Sequence[PartitionLogs]) -> int:
    """Compare records met on a wrong partition with the copies sent on; how many still wait for that.

    `partitions` are all of them; findings are noted there.
    """
    copies: dict[tuple[Role, int, int], list[tuple[PartitionLogs, Passed]]] = {}
    for logs in partitions:
        for copy in logs.copies:
            copies.setdefault((copy.role, copy.partition, copy.offset), []).append((logs, copy))
    waiting = 0
    for logs in partitions:
        for stray in logs.strays:
            sent = copies.pop((stray.role, stray.partition, stray.offset), [])
            if any(copy.digest != stray.digest for _, copy in sent):
                logs.note("forwarded_altered", "the copy differs", stray.role, stray.offset)
            if not sent and stray.handled:
                logs.note("misrouted_not_forwarded", "no copy on the right partition", stray.role, stray.offset)
            waiting += not sent and not stray.handled
    begins = {logs.partition: logs.bounds for logs in partitions}
    for (role, partition, offset), sent in copies.items():
        for logs, _ in sent:
            if partition not in begins or offset >= begins[partition][role].beginning:
                logs.note("forwarded_without_origin", f"{logs.names[role]}/{partition}/{offset}", role, None)
    return waiting


def _decides(verdict: _Verdict) -> bool:
    """Whether this verdict ended the task: one that is neither late nor about an unknown task."""
    return not verdict.only("late") and not verdict.only("unknown_task")


def _named(stale: dict[str, Contradiction]) -> str:
    told = [
        f"{name} expected {contradiction.expected!r} but {contradiction.actual!r} since {contradiction.givers[-1].offset}"
        for name, contradiction in list(stale.items())[:3]
    ]
    return "; ".join(told) + ("; ..." if len(stale) > 3 else "")


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
