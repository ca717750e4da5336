"""What was decided about one result, compared with it and with what the rules say at the places the verdicts name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from audit.case import STEPS_OF, Case, Decision, Verdict
from audit.expect import ANYTHING, cut_of, statements_of
from audit.logs import JudgedPart, Output, Result, ResultPart, Task
from audit.oracle import PRESENCE, Contradiction, Ruling, contradictions_of, policy_of, rule
from audit.room import may_be_unknown
from schemas.topics import Role

_BLOCKERS: Final = ("session_closed", "request_archived", "deadline_passed", "superseded", "user_absent")
_BEFORE_WAITING: Final = frozenset(_BLOCKERS[:4])
"""Reasons that come before the wait for other tasks."""


class VerdictCheck:
    """The comparison for one judged result."""

    def __init__(self, case: Case, result: Result, verdict: Verdict) -> None:
        self._case = case
        self._result = result
        self._verdict = verdict

    def run(self, reasons: Counter[tuple[str, str]]) -> None:
        """Check everything of the verdict; count its parts in `reasons` by what became of them and why."""
        left = [part.part_id for part in self._result.parts]
        for index, decision in enumerate(self._verdict.decisions):
            told = [part.part_id for part in decision.first.parts]
            check = DecisionCheck(self._case, self._result, self._verdict, index)
            if told != left:
                if not left or (index and told == [part.part_id for part in self._before(index).parts]):
                    before = self._before(index)
                    name = f"{self._result.source} {self._result.event_id}"
                    detail = f"result {name} was judged at {before.role}/{before.offset} already"
                    self._case.note_at("verdict_twice", decision.all[-1], detail)
                elif index == 0 and self._case.outputs_truncated:
                    self._case.counts["unverifiable"] += 1
                else:
                    check.note("verdict_inconsistent", "its parts are not those of the result that were undecided")
                check.check_shape()
                return
            check.run(reasons)
            left = decision.held

    def _before(self, index: int) -> Output:
        return self._verdict.decisions[max(index - 1, 0)].first


class DecisionCheck:
    """The comparison for one decision about a result: on all of its parts, or on those that had been held."""

    def __init__(self, case: Case, result: Result, verdict: Verdict, index: int) -> None:
        self._case = case
        self._result = result
        self._verdict = verdict
        self._decision: Decision = verdict.decisions[index]
        self._output = self._decision.first
        self._place = case.place_of(result, verdict, index)
        self._delivered_before = any(each.delivered for each in verdict.decisions[:index])
        self._is_rest = index > 0

    def run(self, reasons: Counter[tuple[str, str]]) -> None:
        """Check everything of the decision; count the parts it decides."""
        output, decision = self._output, self._decision
        if len(decision.delivered) > 1 or len(decision.withheld) > 1:
            self._case.note_at("verdict_twice", decision.all[-1], f"told at {output.role}/{output.offset} already")
        self.check_shape()
        self._check_barrier()
        for part in output.parts:
            if output.shadow is not None:
                reasons["shadow", part.reason] += 1
            elif part.decision != "held":
                reasons["annotated" if part.annotated else part.decision, part.reason] += 1
        self._check_reasons()

    def note(self, kind: str, detail: str) -> None:
        """A finding about the decision's first output."""
        self._case.note_at(kind, self._output, detail)

    def check_shape(self) -> None:
        """The outputs of the decision: that they agree with it and carry the parts it names, whole."""
        case, output = self._case, self._output
        decided = {part.decision for part in output.parts}
        if output.decision != ("delivered" if "delivered" in decided else "withheld"):
            self.note("verdict_inconsistent", f"decision {output.decision}, parts {sorted(decided)}")
        if any(each.final != self._result.final for each in self._decision.all):
            self.note("verdict_inconsistent", f"final {output.final}, but the result says {self._result.final}")
        if output.partition != case.logs.partition:
            self.note("verdict_inconsistent", f"judged on partition {output.partition}")
        whole = {part.part_id: part.digest for part in self._result.parts}
        for decision, carriers in (("delivered", self._decision.delivered), ("withheld", self._decision.withheld)):
            named = [part.part_id for part in output.parts if part.decision == decision]
            if output.shadow is not None:
                named = [part.part_id for part in output.parts] if decision == "delivered" else []
            if not carriers:
                if named and output.offset < case.bounds[output.role].settled and not case.outputs_truncated:
                    self.note("output_missing", f"{decision}: {', '.join(named)}")
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
        judged: list[tuple[Role, int]] = [("context", output.context_offset)]
        if self._place.steps_offset is not None:
            judged.append((steps, output.steps_offset))
        else:
            case.counts["steps_unverifiable"] += 1
        for role, offset in judged:
            if offset > case.bounds[role].end:
                self.note("judged_past_end", f"{role} {offset} of {case.bounds[role].end}")
            if not result.broker_time:
                case.counts["barrier_unverifiable"] += 1
                continue
            older = case.logs.clocks.last_before(role, result.at_ms - case.terms.margin_ms)
            if older >= offset:
                unmarked = any(part.decision == "delivered" and not part.annotated for part in output.parts)
                self.note(
                    "barrier_missed" if unmarked and output.shadow is None else "barrier_missed_withheld",
                    f"{role} {older} is older than the result at {result.offset}, but judged at {offset}",
                )

    def _check_reasons(self) -> None:
        task = self._case.task
        if not self._output.parts:
            return
        if self._output.late:
            self._check_late_but_complete(task)
        elif self._decision.only("unknown_task") and not self._is_rest:
            self._check_unknown()
        elif self._decision.only("late"):
            self._check_late()
        elif task is not None:
            self._check_judgement(task)
        elif self._case.truncated("steps", "steps.cold"):
            self._case.counts["unverifiable"] += 1
        else:
            self.note("judged_before_dispatch", "no dispatch of the task exists")

    # ---- unknown_task and late

    def _check_unknown(self) -> None:
        case, output, task = self._case, self._output, self._case.task
        if self._delivers or output.disposition is not None:
            self.note("verdict_inconsistent", "unknown_task, but delivered or with a disposition")
        if task is None or case.session.erased:
            return
        steps_offset = self._place.steps_offset
        if steps_offset is not None and task.offset < steps_offset and task.role == STEPS_OF[self._result.role]:
            if not self._may_have_forgotten(task):
                self.note("known_task_unknown", f"dispatched at {task.offset}, judged at {steps_offset}")
            return
        # All results that wait for one dispatch are given up with the first of them.
        waited = min(result.at_ms for result, verdict in case.judged if verdict.only("unknown_task"))
        if task.at_ms + case.terms.margin_ms < waited + case.terms.grace_ms and not self._may_have_forgotten(task):
            self.note(
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
        return case.unsettled or self._output.at_ms - min(ended) >= case.terms.retention_ms

    def _check_late(self) -> None:
        case, output = self._case, self._output
        if self._delivers:
            self.note("verdict_inconsistent", "late, but delivered")
        if case.unsettled:
            return
        if output.disposition is None and not self._is_rest:
            self._check_second()
            return
        task = case.task
        asks = task is not None and task.delivers_late and self._result.final and case.disposition == "expired"
        was_delivered = any(verdict.is_late and verdict.delivers for _, verdict in case.judged)
        if asks and not was_delivered and not self._is_rest:
            self.note("policy_not_followed", "its task had expired, and asks for its result all the same")
        if case.deciding:
            first, ended = case.deciding[0][1].last, case.ended_at
            is_before = ended is not None and self._place.is_before(ended)
            if first.disposition != output.disposition or is_before:
                told = f"the task ended {first.disposition} by {first.role}/{first.offset}"
                self.note("late_without_end", f"{output.disposition}; {told}")
            return
        stopped = case.disposition in ("rejected", "cancelled", "expired") or any(
            verdict.delivers for _, verdict in case.judged
        )
        without_verdict = stopped or case.given_up or case.outputs_truncated
        if output.disposition != case.disposition or not without_verdict:
            self.note("late_without_end", f"{output.disposition}; the task's status says {case.disposition}")

    def _check_late_but_complete(self, task: Task | None) -> None:
        """A result of a task that had expired, and asks for it: all rules hold but that about ended tasks."""
        case = self._case
        if task is None or case.unsettled:
            case.counts["unverifiable"] += 1
            return
        if not task.delivers_late or not self._result.final or case.disposition != "expired":
            self.note("policy_not_followed", f"judged as late, but its task ended {case.disposition}")
        elif case.session.reads.get(case.task_id):
            case.counts["unverifiable"] += 1  # nothing says which of them came before its end
        else:
            self._check_judgement(task)

    def _check_second(self) -> None:
        """Late although its task had not ended: another result of it was there, and waited."""
        case, result = self._case, self._result
        for other in case.results:
            if other is result or not other.final or (other.role == result.role and other.offset > result.offset):
                continue
            verdict = next((verdict for each, verdict in case.judged if each is other), None)
            if verdict is None:
                return
            if not verdict.only("unknown_task"):
                decided = case.place_of(other, verdict, len(verdict.decisions) - 1)
                if verdict.is_open or not decided.is_before(self._place):
                    return
        if case.outputs_truncated or case.truncated("results", "results.cold"):
            case.counts["unverifiable"] += 1
            return
        self.note("late_without_end", "the task had not ended, and no other result of it was waiting")

    # ---- an open task

    def _check_judgement(self, task: Task) -> None:
        case, result, output = self._case, self._result, self._output
        steps_offset = self._place.steps_offset
        if task.role == STEPS_OF[result.role] and steps_offset is not None and task.offset >= steps_offset:
            self.note("judged_before_dispatch", f"dispatched at {task.offset}, judged at {steps_offset}")
        delivered = self._delivered_before or bool(self._decision.delivered)
        is_interim = self._verdict.is_interim
        due = None if self._decision.held or is_interim else "delivered" if delivered else "withheld"
        if output.late:
            due = "expired"
        if is_interim and self._decision.held:
            self.note("policy_not_followed", "an interim answer waits")
        if output.disposition != due:
            self.note("verdict_inconsistent", f"disposition {output.disposition}, should be {due}")
        if output.shadow is not None:
            case.counts["shadow"] += 1
            if output.shadow[1] != output.reason:
                self.note("verdict_inconsistent", f"shadow reason {output.shadow[1]}, verdict {output.reason}")
            return
        erased = case.session.erased_before(output.context_offset) >= 0
        if task.again and (erased or (case.unsettled and not case.session.erased)):
            # Which of its dispatches the gate has forgotten depends on how the topics interleaved.
            case.counts["unverifiable"] += 1
            return
        if case.session.may_have_idled(case.terms.session_ttl_ms):
            case.counts["unverifiable"] += 1
            return
        cut = cut_of(case, result, steps_offset)
        here = self._place if task.role == STEPS_OF[result.role] else None
        statements = statements_of(case, here, result, output)
        self._check_taken(task)
        ruling = rule(case, task, result.at_ms, self._place, cut, statements, output.at_ms)
        if ruling.maybe.keys() != ruling.stale.keys():
            case.counts["uncertain"] += 1
        parts = {part.part_id: part for part in result.parts}
        for judged in output.parts:
            self._check_part(task, parts[judged.part_id], judged, ruling)
        if not all(part.reason in _BEFORE_WAITING or part.reason in _INSTEAD_OF_WAITING for part in output.parts):
            self._check_waited(task)

    def _check_taken(self, task: Task) -> None:
        """What the gate says it took for `depends_on`: that the facet had that value once."""
        case = self._case
        if not task.depends_on or case.truncated("context"):
            return
        names = [name for name in task.depends_on if name not in task.snapshot]
        taken = case.status.taken if case.status is not None and case.status.seen else {}
        for name in names:
            facet = case.session.facets.get(name)
            if name in taken and (facet is None or taken[name] not in facet.values):
                self.note("taken_never_held", f"{name} = {taken[name]!r}")

    def _check_waited(self, task: Task) -> None:
        """That the result waited for the tasks it had to wait for."""
        case, steps_offset = self._case, self._place.steps_offset
        if case.unsettled:
            return
        for child in case.children if self._verdict.decides and not self._decision.held else ():
            if child.status is not None and (child.disposition, child.status.reason) == ("cancelled", "parent_ended"):
                self.note("scope_not_awaited", f"task {child.task_id} was open, and stopped by it")
        if task.role != STEPS_OF[self._result.role]:
            return
        folded = case.least_steps(self._result) if steps_offset is None else steps_offset
        ends_scope = not self._verdict.is_interim and not self._output.late
        awaited = [(child, "scope_not_awaited") for child in case.children if ends_scope]
        if task.on_newer.startswith("enqueue"):
            awaited += [(rival, "slot_not_awaited") for rival in case.rivals if _is_older(rival, task)]
        for other, kind in awaited:
            there = other.task
            if there is None or there.role != task.role or there.offset >= folded:
                continue
            if kind == "scope_not_awaited" and there.offset < task.offset:
                continue  # it may have ended before it joined
            ended = other.ended_at
            if other.given_up or (not other.is_open and ended is None):
                continue
            if other.unsettled or (other.is_open and not case.handled(there.role, there.offset)):
                continue
            if ended is None or self._place.is_before(ended):
                self.note(kind, f"task {other.task_id} was open")

    def _check_part(self, task: Task, part: ResultPart, judged: JudgedPart, ruling: Ruling) -> None:
        stale, maybe = contradictions_of(part, ruling.stale), contradictions_of(part, ruling.maybe)
        policy = policy_of(part, task, self._result)
        blocked = ruling.blocked
        # With the oldest context gone, what stood against a part may be gone, too.
        whole = not self._case.truncated("context")

        def note(kind: str, detail: str) -> None:
            place = f"judged at context {self._output.context_offset}, steps {self._output.steps_offset}"
            self.note(kind, f"part {part.part_id} of the result at {self._result.offset}, {place}: {detail}")

        if self._output.late and (judged.decision, judged.reason) == ("delivered", "late"):
            judged = replace(judged, reason="fresh")
        if (self._verdict.is_interim or self._output.late) and judged.decision == "withheld":
            if judged.reason == "user_absent" and task.when_absent == "hold":
                if not ruling.may_hold_for_user and whole:
                    note("reason_false", "user_absent does not hold")
                return
            if judged.reason in _INSTEAD_OF_WAITING:
                why_not = self._why_not_instead(task, judged.reason)
                if why_not is not None:
                    note("reason_false", f"{judged.reason}: {why_not}")
                return
            if judged.reason == "stale" and policy == "hold":
                policy = "withhold"
        if judged.reason in _BLOCKERS:
            if judged.decision != "withheld":
                note("reason_unexpected", f"{judged.decision}, reason {judged.reason}")
            elif judged.reason in ruling.blockers:
                if blocked is not None and _BLOCKERS.index(blocked) < _BLOCKERS.index(judged.reason):
                    note("reason_order", f"{blocked} comes before {judged.reason}")
            elif judged.reason == "superseded":
                if not self._case.outputs_truncated and not self._case.session.erased:
                    note("reason_false", "no newer task of its slot was delivered")
            elif whole:
                note("reason_false", f"{judged.reason} does not hold")
            return
        if judged.reason not in _REASONS.get(judged.decision, ()) or judged.annotated != (
            judged.decision == "delivered" and judged.reason == "stale"
        ):
            if judged.decision == "delivered" and (blocked or stale):
                note("stale_delivered", blocked or _named(stale))
            else:
                note("reason_unexpected", f"{judged.decision}, reason {judged.reason}, annotated {judged.annotated}")
            return
        is_unknown = judged.reason == "session_full" and self._may_be_unknown(self._implied(task))
        if blocked is not None and not is_unknown:
            kind = "stale_delivered" if judged.decision == "delivered" else "reason_order"
            note(kind, f"{blocked} comes before {judged.reason}")
        elif judged.reason == "fresh":
            if stale:
                note("stale_delivered", _named(stale))
            elif ruling.holds_for_user:
                note("policy_not_followed", "the user is absent, and the task is to be held")
        elif ruling.holds_for_user and not is_unknown:
            if judged.reason != "hold_expired":
                note("policy_not_followed", "the user is absent, and the task is to be held")
        elif judged.reason == "session_full":
            names = ruling.expected if part.depends_on is None else ruling.expected.intersection(part.depends_on)
            if whole and not is_unknown and not self._may_be_unknown(names):
                note("reason_false", "the session had room for every change of what it depends on")
            if judged.differences:
                note("difference_wrong", "a facet that is unknown has no difference")
        elif judged.reason == "hold_expired" and ruling.may_hold_for_user and not judged.differences:
            pass  # it waited for the user, whose lease has run out since the result came
        elif not maybe:
            if whole:
                note(_UNFOUNDED[judged.decision, judged.reason], "nothing contradicts it")
        else:
            if policy not in _POLICIES[judged.decision, judged.reason]:
                note("policy_not_followed", f"on_stale is {policy}, but it was {judged.decision} as {judged.reason}")
            self._check_differences(judged, stale, maybe, task)
        if judged.reason == "hold_expired":
            due = self._result.at_ms + (self._case.terms.hold_ttl_ms if task.hold_ttl_ms is None else task.hold_ttl_ms)
            if self._output.at_ms + self._case.terms.margin_ms < due:
                note("hold_cut_short", f"{due - self._output.at_ms} ms before its time")

    def _why_not_instead(self, task: Task, reason: str) -> str | None:
        """What speaks against an interim answer that is withheld because a final one would wait."""
        if reason == "slot_taken":
            older = [rival for rival in self._case.rivals if _is_older(rival, task)]
            return None if older and task.on_newer.startswith("enqueue") else "it does not queue for its slot"
        return None if task.parent is not None else "it has no parent"

    def _implied(self, task: Task) -> list[str]:
        """The facets that every part of a result depends on, whatever it states."""
        names = ["session"]
        if task.request_id is not None:
            names.append(f"request/{task.request_id}")
        if task.when_absent != "deliver":
            names += [name for name in self._case.session.facets if name.startswith(PRESENCE)]
        return names

    def _may_be_unknown(self, names: Iterable[str]) -> bool:
        """Whether the session may have had no room for the last change of one of these facets."""
        return any(may_be_unknown(self._case, name, self._output.context_offset) for name in names)

    def _check_differences(
        self, judged: JudgedPart, stale: dict[str, Contradiction], maybe: dict[str, Contradiction], task: Task
    ) -> None:
        """The differences a verdict names for a part: that they are those the logs show."""
        if self._case.truncated("context"):
            return
        problems = []
        named = len(judged.differences) + judged.omitted
        if not len(stale) <= named <= len(maybe) or not judged.differences:
            there = f"{len(stale)} to {len(maybe)}" if len(stale) != len(maybe) else f"{len(stale)}"
            problems.append(f"{len(judged.differences)} named, {judged.omitted} omitted, {there} there are")
        for difference in judged.differences:
            name, by = difference["facet"], difference["changed_by"]
            contradiction = maybe.get(name)
            if contradiction is None:
                problems.append(f"{name} is not contradicted")
                continue
            expected = contradiction.expected
            if difference["actual"] != contradiction.actual or expected.isdisjoint((difference["expected"], ANYTHING)):
                told = (difference["expected"], difference["actual"])
                problems.append(f"{name}: {told}, should be {(sorted(map(str, expected)), contradiction.actual)}")
            giver = next((event for event in contradiction.givers if event.offset == by["offset"]), None)
            if giver is None or (giver.source, giver.event_id) != (by["source"], by["event_id"]):
                offsets = [event.offset for event in contradiction.givers[:5]]
                problems.append(f"{name}: changed by {by['event_id']} at {by['offset']}, should be one of {offsets}")
            elif difference["since"] != ("dispatch" if giver.at_ms <= task.at_ms else "running"):
                problems.append(f"{name}: since {difference['since']}")
        if problems:
            self.note("difference_wrong", f"part {judged.part_id}: {'; '.join(problems)}")


_INSTEAD_OF_WAITING: Final = ("slot_taken", "unknown_parent")
"""Why an interim answer is withheld where a final one would wait for other tasks."""
_REASONS: Final = {
    "delivered": ("fresh", "stale"),
    "withheld": ("stale", "hold_expired", "session_full"),
    "held": ("stale",),
}
_POLICIES: Final = {
    ("delivered", "stale"): ("annotate",),
    ("withheld", "stale"): ("withhold", "redispatch"),
    ("withheld", "hold_expired"): ("hold",),
    ("held", "stale"): ("hold",),
}
_UNFOUNDED: Final = {
    ("delivered", "stale"): "annotated_fresh",
    ("withheld", "stale"): "fresh_withheld",
    ("withheld", "hold_expired"): "reason_false",
    ("held", "stale"): "fresh_withheld",
}


def _is_older(other: Case, task: Task) -> bool:
    return other.task is not None and other.task.is_older(task)


def _named(stale: dict[str, Contradiction]) -> str:
    told = [
        f"{name}: expected {sorted(map(str, each.expected))}, but {each.actual!r} since offset {each.givers[-1].offset}"
        for name, each in list(stale.items())[:3]
    ]
    return "; ".join(told) + ("; ..." if len(stale) > 3 else "")
