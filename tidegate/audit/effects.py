"""Proposed effects of one session: each key answered, always the same, and as the rules have it."""

from __future__ import annotations

from typing import Final

from schemas.topics import Role
from tidegate.audit.cancels import must_reach
from tidegate.audit.case import Case, Place, Terms
from tidegate.audit.collect import PartitionLogs
from tidegate.audit.expect import BEFORE, MAX_EFFECTS, Cut, Statement, exactly, proposals_for, statements_of
from tidegate.audit.findings import Example
from tidegate.audit.logs import Answer, Proposal, Session
from tidegate.audit.oracle import rule
from tidegate.audit.room import was_never_near


class EffectsCheck:
    """The comparison for the effects proposed in one session."""

    def __init__(self, logs: PartitionLogs, terms: Terms, session_id: str, cases: dict[str, Case]) -> None:
        self._logs = logs
        self._terms = terms
        self._session_id = session_id
        self._session: Session = logs.session(session_id)
        self._cases = cases
        idled = self._session.may_have_idled(terms.session_ttl_ms)
        self._unsettled = bool(self._session.erased) or idled or len(self._session.proposals) > MAX_EFFECTS

    def run(self) -> None:
        """Check every key."""
        for key in self._session.proposals.keys() | self._session.answers.keys():
            proposals, answers = self._session.proposals.get(key, []), self._session.answers.get(key, [])
            self._check_answered(key, proposals, answers)
            if answers:
                self._check_first(key, proposals, answers[0])

    def _note(self, kind: str, key: str, detail: str, task_id: str, role: Role, offset: int) -> None:
        where = Example(
            f"key {key}: {detail}", self._logs.partition, self._logs.names[role], offset, self._session_id, task_id
        )
        self._logs.findings.add(kind, where)

    def _check_answered(self, key: str, proposals: list[Proposal], answers: list[Answer]) -> None:
        """As many answers as proposals, of which all say the same."""
        counts = self._logs.counts
        counts["effects"] += len(proposals)
        counts["effect_answers"] += len(answers)
        self._check_number(key, proposals, answers)
        if self._unsettled or not answers:
            return
        first = answers[0]
        for answer in answers[1:]:
            if answer.told != first.told:
                detail = f"{answer.told}, but {first.told} at {first.offset}"
                self._note("effect_answered_differently", key, detail, answer.task_id, "commands", answer.offset)

    def _check_number(self, key: str, proposals: list[Proposal], answers: list[Answer]) -> None:
        if self._logs.bounds["commands"].truncated or any(
            self._logs.bounds[role].truncated for role in ("steps", "steps.cold")
        ):
            return
        for task_id in {each.task_id for each in proposals} | {each.task_id for each in answers}:
            asked = [each for each in proposals if each.task_id == task_id]
            told = [each for each in answers if each.task_id == task_id]
            if len(told) > len(asked):
                last = told[-1]
                detail = f"{len(told)} answers to {len(asked)} proposals"
                self._note("effect_answered_twice", key, detail, task_id, "commands", last.offset)
            due = [each for each in asked if each.offset < self._logs.bounds[each.role].handled]
            if len(told) < len(due) and not self._session.erased:
                newest = max(each.at_ms for each in due)
                is_due = newest < self._terms.now_ms - self._terms.slack_ms and not self._logs.waiting.total()
                if self._terms.gate_running and is_due:
                    detail = f"{len(told)} answers to {len(due)} proposals"
                    self._note("effect_unanswered", key, detail, task_id, due[-1].role, due[-1].offset)
                else:
                    self._logs.counts["effects_pending"] += len(due) - len(told)
                    if self._terms.require_drained:
                        self._note("not_drained", key, "not answered yet", task_id, due[-1].role, due[-1].offset)

    def _check_first(self, key: str, proposals: list[Proposal], answer: Answer) -> None:
        """What the rules say of the proposal that was answered first."""
        candidates = proposals_for(proposals, answer)
        if self._unsettled or len(candidates) != 1:
            if (
                candidates
                or self._unsettled
                or any(self._logs.bounds[role].truncated for role in ("steps", "steps.cold"))
            ):
                self._logs.counts["effects_unverifiable"] += 1
            else:
                detail = "no such effect was proposed under it"
                self._note("command_unfounded", key, detail, answer.task_id, "commands", answer.offset)
            return
        EffectCheck(self, key, candidates[0], answer).run()

    def note(self, kind: str, key: str, detail: str, answer: Answer) -> None:
        """A finding about an answer."""
        self._note(kind, key, detail, answer.task_id, "commands", answer.offset)

    @property
    def logs(self) -> PartitionLogs:
        """The partition's logs."""
        return self._logs

    @property
    def terms(self) -> Terms:
        """What is taken as given."""
        return self._terms

    def case(self, task_id: str) -> Case | None:
        """The task that proposed an effect, if anything is known of it."""
        return self._cases.get(task_id)


class EffectCheck:
    """The comparison for one answer."""

    def __init__(self, session: EffectsCheck, key: str, proposal: Proposal, answer: Answer) -> None:
        self._in = session
        self._key = key
        self._proposal = proposal
        self._answer = answer
        self._case = session.case(proposal.task_id)

    def run(self) -> None:
        """Check that the answer follows from the logs at the place it names."""
        proposal, answer, case = self._proposal, self._answer, self._case
        self._check_barrier()
        if answer.partition != self._in.logs.partition or answer.steps_offset <= proposal.offset:
            self._note("verdict_inconsistent", f"answered at {answer.partition}/{answer.steps_offset}")
            return
        if case is None or case.task is None:
            known = case is not None and case.given_up and answer.reason == "late"
            if answer.reason != "unknown_task" and not known and not self._truncated:
                self._refuse_or_clear("its task is not known")
            return
        task = case.task
        if case.unsettled:
            self._in.logs.counts["effects_unverifiable"] += 1
            return
        is_same_lane = task.role == proposal.role
        was_known = is_same_lane and task.offset < answer.steps_offset
        here = Place(answer.context_offset, answer.steps_offset if is_same_lane else None)
        ended = case.ended_at
        if answer.reason == "unknown_task":
            if was_known:
                self._note("effect_refused_fresh", f"unknown_task, but it was dispatched at {task.offset}")
        elif is_same_lane and not was_known:
            if not case.given_up:
                self._refuse_or_clear("its task was not known yet")
        elif answer.reason == "late":
            if case.is_open or (ended is not None and here.is_before(ended)):
                self._note("effect_refused_fresh", "late, but its task had not ended")
        elif ended is not None and ended.is_before(here):
            self._refuse_or_clear("its task had ended")
        else:
            self._check_ruling(case, here, was_known=was_known)

    @property
    def _truncated(self) -> bool:
        return any(self._in.logs.bounds[role].truncated for role in ("steps", "steps.cold"))

    def _note(self, kind: str, detail: str) -> None:
        self._in.note(kind, self._key, f"{detail} (judged at {self._answer[6:]})", self._answer)

    def _refuse_or_clear(self, why: str) -> None:
        kind = "effect_cleared_stale" if self._answer.reason is None else "effect_reason_wrong"
        self._note(kind, f"{self._answer.reason or 'cleared'}, but {why}")

    def _check_barrier(self) -> None:
        proposal, answer = self._proposal, self._answer
        if not proposal.broker_time:
            return
        older = self._in.logs.clocks["context"].last_before(proposal.at_ms - self._in.terms.margin_ms)
        if older >= answer.context_offset:
            kind = "barrier_missed" if answer.reason is None else "barrier_missed_withheld"
            self._note(kind, f"context {older} is older than the proposal at {proposal.offset}")

    def _check_ruling(self, case: Case, here: Place, *, was_known: bool) -> None:
        """An open task: the same rules as for a result, but nothing waits and nothing is annotated."""
        task, proposal, answer, session = case.task, self._proposal, self._answer, case.session
        if task is None:
            return
        cancels = [each.offset for each in session.cancels if must_reach(case, task, each)]
        if was_known and any(offset < answer.context_offset for offset in cancels) and answer.reason is None:
            self._note("effect_cleared_stale", "its task had been cancelled")
            return
        at = answer.steps_offset
        if task.role == proposal.role:
            cut = Cut(at - BEFORE, at)
            read = Statement(case.task_id, at - BEFORE, at + BEFORE, exactly(proposal.reads), is_inside=True)
        else:
            cut = Cut(task.offset + 1, float("inf"))
            read = Statement(case.task_id, task.offset, float("inf"), exactly(proposal.reads), is_inside=True)
        ruling = rule(case, task, proposal.at_ms, here, cut, [*statements_of(case, here), read], proposal.at_ms)
        ruling.blockers.pop("user_absent", None)
        if answer.reason is None:
            if ruling.blocked or ruling.stale:
                self._note("effect_cleared_stale", ruling.blocked or f"{', '.join(ruling.stale)} contradicted")
        elif answer.reason == "stale":
            if ruling.blocked:
                self._note("effect_reason_wrong", f"{ruling.blocked} comes before stale")
            elif not ruling.maybe and not case.truncated("context"):
                self._note("effect_refused_fresh", "stale, but nothing contradicts it")
            elif (
                not set(ruling.stale)
                <= set(named := [each["facet"] for each in answer.differences])
                <= set(ruling.maybe)
                and len(named) < _MAX_DIFFERENCES
                and not case.truncated("context")
            ):
                self._note("difference_wrong", f"{named}, should be {sorted(ruling.stale)} at least")
        elif answer.reason == "session_full":
            if not proposal.reads and was_never_near(case):
                self._note("effect_refused_fresh", "session_full, but it read nothing, and the session had room")
        elif answer.reason not in ruling.blockers and not case.truncated("context"):
            self._note("effect_refused_fresh", f"{answer.reason} does not hold")


_MAX_DIFFERENCES: Final = 32
