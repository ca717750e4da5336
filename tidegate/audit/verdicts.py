"""One verdict compared with its result and with what the rules say at the place it names."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Final

from schemas.topics import Role
from tidegate.audit.case import STEPS_OF, Case, Verdict
from tidegate.audit.logs import Facets, JudgedPart, Result, ResultPart, Task
from tidegate.audit.oracle import Contradiction, Ruling, contradictions_of, policy_of, rule, unsupported_part

_BLOCKERS: Final = ("session_closed", "request_archived", "user_absent")


class VerdictCheck:
    """The comparison for one judged result."""

    def __init__(self, case: Case, result: Result, verdict: Verdict) -> None:
        self._case = case
        self._result = result
        self._verdict = verdict
        self._output = verdict.first

    def run(self, reasons: Counter[tuple[str, str]]) -> None:
        """Check everything of the verdict; count its parts in `reasons` by what became of them and why."""
        verdict, output = self._verdict, self._output
        if len(verdict.delivered) > 1 or len(verdict.withheld) > 1 or len({one.digest for one in verdict.all}) > 1:
            name = f"{self._result.source} {self._result.event_id}"
            self._case.note_at(
                "verdict_twice", verdict.all[-1], f"result {name} was judged at {output.role}/{output.offset} already"
            )
        self._check_shape()
        self._check_barrier()
        if [part.part_id for part in output.parts] != [part.part_id for part in self._result.parts]:
            self._note("verdict_inconsistent", "its parts are not those of the result")
            return
        for part in output.parts:
            reasons["annotated" if part.annotated else part.decision, part.reason] += 1
        self._check_reasons()

    def _note(self, kind: str, detail: str) -> None:
        self._case.note_at(kind, self._output, detail)

    def _check_shape(self) -> None:
        """The outputs of the verdict: that they agree with it and carry the parts it names, whole."""
        case, output = self._case, self._output
        decided = {part.decision for part in output.parts}
        if output.decision != ("delivered" if "delivered" in decided else "withheld"):
            self._note("verdict_inconsistent", f"decision {output.decision}, parts {sorted(decided)}")
        if output.partition != case.logs.partition:
            self._note("verdict_inconsistent", f"judged on partition {output.partition}")
        whole = {part.part_id: part.digest for part in self._result.parts}
        for decision, carriers in (("delivered", self._verdict.delivered), ("withheld", self._verdict.withheld)):
            named = [part.part_id for part in output.parts if part.decision == decision]
            if not carriers:
                if named and output.offset < case.bounds[output.role].settled and not case.outputs_truncated:
                    self._note("output_missing", f"{decision}: {', '.join(named)}")
                continue
            carrier = carriers[0]
            if [part_id for part_id, _ in carrier.carried] != named:
                case.note_at("verdict_inconsistent", carrier, f"it does not carry the {decision} parts")
            for part_id, digest in carrier.carried:
                if part_id in whole and whole[part_id] != digest:
                    case.note_at("part_altered", carrier, f"part {part_id}")

    def _check_barrier(self) -> None:
        """Everything older than the result must be below the offsets its verdict names."""
        case, result, output = self._case, self._result, self._output
        steps = STEPS_OF[result.role]
        judged: tuple[tuple[Role, int], ...] = (("context", output.context_offset), (steps, output.steps_offset))
        for role, offset in judged:
            if offset > case.bounds[role].end:
                self._note("judged_past_end", f"{role} {offset} of {case.bounds[role].end}")
            if not result.broker_time:
                case.counts["barrier_unverifiable"] += 1
                continue
            older = case.logs.clocks[role].last_before(result.at_ms - case.terms.margin_ms)
            if older >= offset:
                unmarked = any(part.decision == "delivered" and not part.annotated for part in output.parts)
                self._note(
                    "barrier_missed" if unmarked else "barrier_missed_withheld",
                    f"{role} {older} is older than the result at {result.offset}, but judged at {offset}",
                )

    def _check_reasons(self) -> None:
        task = self._case.task
        if (asks := unsupported_part(self._result)) is not None:
            self._note("unsupported_obeyed", f"part {asks} of the result at {self._result.offset}")
        elif self._verdict.only("unknown_task"):
            self._check_unknown()
        elif self._verdict.only("late"):
            self._check_late()
        elif task is not None:
            self._check_judgement(task)
        elif self._case.truncated("steps", "steps.cold"):
            self._case.counts["unverifiable"] += 1
        else:
            self._note("judged_before_dispatch", "no dispatch of the task exists")

    # ---- unknown_task and late

    def _check_unknown(self) -> None:
        case, output, task = self._case, self._output, self._case.task
        if self._delivers or output.disposition is not None:
            self._note("verdict_inconsistent", "unknown_task, but delivered or with a disposition")
        if task is None or case.session.erased:
            return
        if task.offset < output.steps_offset and task.role == STEPS_OF[self._result.role]:
            if not self._may_have_forgotten(task):
                self._note("known_task_unknown", f"dispatched at {task.offset}, judged at {output.steps_offset}")
            return
        # All results that wait for one dispatch are given up with the first of them.
        waited = min(result.at_ms for result, verdict in case.judged if verdict.only("unknown_task"))
        if task.at_ms + case.terms.margin_ms < waited + case.terms.grace_ms:
            self._note(
                "unknown_too_early",
                f"dispatched {task.at_ms - waited} ms after the first result, grace {case.terms.grace_ms} ms",
            )

    @property
    def _delivers(self) -> bool:
        return any(part.decision != "withheld" for part in self._output.parts)

    def _may_have_forgotten(self, task: Task) -> bool:
        """Whether the task had ended so long before this verdict that the gate may not know of it."""
        case = self._case
        ended = [result.at_ms for result, verdict in case.judged if verdict.decides]
        if not ended and case.disposition is not None:
            ended = [task.at_ms]
        if not ended:
            return False
        judged_ms = int(datetime.fromisoformat(self._output.at).timestamp() * 1000)
        return case.forgotten or judged_ms - min(ended) >= case.terms.retention_ms

    def _check_late(self) -> None:
        case, output = self._case, self._output
        if self._delivers:
            self._note("verdict_inconsistent", "late, but delivered")
        if case.session.erased:
            return
        if case.deciding:
            first = case.deciding[0]
            before = first.context_offset <= output.context_offset and first.steps_offset <= output.steps_offset
            if first.disposition != output.disposition or not before:
                ended = f"the task ended {first.disposition} by {first.role}/{first.offset}"
                self._note("late_without_end", f"{output.disposition}; {ended}")
            return
        without_verdict = case.disposition == "rejected" or case.given_up or case.outputs_truncated
        if output.disposition != case.disposition or not without_verdict:
            self._note("late_without_end", f"{output.disposition}; the task's status says {case.disposition}")

    # ---- a running task

    def _check_judgement(self, task: Task) -> None:
        result, output = self._result, self._output
        if task.role == STEPS_OF[result.role] and task.offset >= output.steps_offset:
            self._note("judged_before_dispatch", f"dispatched at {task.offset}, judged at {output.steps_offset}")
        if output.disposition != output.decision:
            self._note("verdict_inconsistent", f"decision {output.decision}, disposition {output.disposition}")
        if task.again and self._case.session.erased_before(output.context_offset) >= 0:
            # Which of its dispatches the erasure took away depends on how the topics interleaved.
            self._case.counts["unverifiable"] += 1
            return
        ruling = rule(
            self._case.session,
            self._case.task_id,
            task,
            result,
            context_offset=output.context_offset,
            steps_offset=output.steps_offset,
            taken=self._taken(task),
        )
        for part, judged in zip(result.parts, output.parts, strict=True):
            self._check_part(task, part, judged, ruling)

    def _taken(self, task: Task) -> Facets:
        """What the gate says it took for `depends_on`: its status where there is one, else what the verdict echoes."""
        if not task.depends_on:
            return {}
        case, echo = self._case, self._output.snapshot
        read = set(self._result.reads)
        for _, _, reads in case.session.reads.get(case.task_id, ()):
            read |= reads.keys()
        taken = {name: echo[name] for name in task.depends_on if name in echo and name not in read}
        if case.status is not None:
            taken |= case.status.taken
        if not case.truncated("context"):
            for name, value in taken.items():
                facet = case.session.facets.get(name)
                if name not in task.snapshot and (facet is None or value not in facet.values):
                    self._note("taken_never_held", f"{name} = {value!r}")
        return taken

    def _check_part(self, task: Task, part: ResultPart, judged: JudgedPart, ruling: Ruling) -> None:
        stale = contradictions_of(part, ruling)
        policy = policy_of(part, task, self._result)
        # With the oldest context gone, what stood against a part may be gone, too.
        whole = not self._case.truncated("context")

        def note(kind: str, detail: str) -> None:
            place = f"judged at context {self._output.context_offset}, steps {self._output.steps_offset}"
            self._note(kind, f"part {part.part_id} of the result at {self._result.offset}, {place}: {detail}")

        if judged.decision == "delivered":
            if ruling.blockers:
                note("stale_delivered", ruling.blockers[0])
            elif judged.reason == "fresh" and not judged.annotated:
                if stale:
                    note("stale_delivered", _named(stale))
            elif judged.reason != "stale" or not judged.annotated:
                note("reason_unexpected", f"delivered, reason {judged.reason}, annotated {judged.annotated}")
            elif stale:
                if policy != "annotate":
                    note("policy_not_followed", f"on_stale is {policy}, but it was annotated")
                self._check_differences(judged, stale, task)
            elif whole:
                note("annotated_fresh", "nothing contradicts it")
        elif judged.reason == "stale":
            if stale:
                if ruling.blockers:
                    note("reason_order", f"{ruling.blockers[0]} comes before stale")
                elif policy != "withhold":
                    note("policy_not_followed", f"on_stale is {policy}, but it was withheld")
                self._check_differences(judged, stale, task)
            elif whole:
                note("fresh_withheld", "nothing contradicts it")
        elif judged.reason in _BLOCKERS:
            if judged.reason in ruling.blockers:
                if judged.reason != ruling.blockers[0]:
                    note("reason_order", f"{ruling.blockers[0]} comes before {judged.reason}")
            elif whole:
                note("reason_false", f"{judged.reason} does not hold")
        else:
            note("reason_unexpected", f"withheld, reason {judged.reason}")

    def _check_differences(self, judged: JudgedPart, stale: dict[str, Contradiction], task: Task) -> None:
        """The differences a verdict names for a part: that they are those the logs show."""
        if self._case.truncated("context"):
            return
        problems = []
        if len(judged.differences) + judged.omitted != len(stale) or not judged.differences:
            problems.append(f"{len(judged.differences)} named, {judged.omitted} omitted, {len(stale)} there are")
        for difference in judged.differences:
            name, by = difference["facet"], difference["changed_by"]
            contradiction = stale.get(name)
            if contradiction is None:
                problems.append(f"{name} is not contradicted")
                continue
            told = (difference["expected"], difference["actual"])
            if told != (contradiction.expected, contradiction.actual):
                problems.append(f"{name}: {told}, should be {(contradiction.expected, contradiction.actual)}")
            giver = next((event for event in contradiction.givers if event.offset == by["offset"]), None)
            if giver is None or (giver.source, giver.event_id) != (by["source"], by["event_id"]):
                offsets = [event.offset for event in contradiction.givers[:5]]
                problems.append(f"{name}: changed by {by['event_id']} at {by['offset']}, should be one of {offsets}")
            elif difference["since"] != ("dispatch" if giver.at_ms <= task.at_ms else "running"):
                problems.append(f"{name}: since {difference['since']}")
        if problems:
            self._note("difference_wrong", f"part {judged.part_id}: {'; '.join(problems)}")


def _named(stale: dict[str, Contradiction]) -> str:
    told = [
        f"{name}: expected {each.expected!r}, but {each.actual!r} since offset {each.givers[-1].offset}"
        for name, each in list(stale.items())[:3]
    ]
    return "; ".join(told) + ("; ..." if len(stale) > 3 else "")
