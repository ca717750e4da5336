"""Proposed effects of one session: each answered once, by the rules, and by what its key belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from audit.cancels import must_reach
from audit.case import Case, Place, Terms
from audit.collect import PartitionLogs
from audit.expect import BEFORE, MAX_EFFECTS, Cut, Statement, exactly, proposals_for, statements_of
from audit.findings import Example
from audit.logs import Answer, Proposal, Session
from audit.oracle import rule
from audit.room import was_never_near
from schemas.topics import Role

_OF_THE_KEY: Final = ("key_conflict", "duplicate_effect")
_OF_OPEN_TASKS: Final = ("session_closed", "request_archived")
"""Reasons that only an open task's proposal gets; `stale` with differences is another one."""


@dataclass(slots=True)
class Key:
    """What an idempotency key belongs to, as far as the answers so far tell. None: perhaps nobody has it yet."""

    owner: str
    effect: str
    fingerprint: str | None
    first_cleared: tuple[int, int] | None
    is_certain: bool


class EffectsCheck:
    """The comparison for the effects proposed in one session."""

    def __init__(self, logs: PartitionLogs, terms: Terms, session_id: str, cases: dict[str, Case]) -> None:
        self._logs = logs
        self._terms = terms
        self._session_id = session_id
        self._session: Session = logs.session(session_id)
        self._cases = cases
        self._keys: dict[str, Key] = {}
        idled = self._session.may_have_idled(terms.session_ttl_ms)
        answers = [each for several in self._session.answers.values() for each in several]
        self._answers = sorted(answers, key=lambda answer: answer.offset)
        is_older = any(answer.proposal is None for answer in answers)
        has_many = len(self._session.proposals) > MAX_EFFECTS
        self._unsettled = bool(self._session.erased) or idled or has_many or is_older

    def run(self) -> None:
        """Check every proposal and every answer."""
        counts = self._logs.counts
        counts["effects"] += sum(map(len, self._session.proposals.values()))
        counts["effect_answers"] += len(self._answers)
        for key in self._session.proposals.keys() | self._session.answers.keys():
            self._check_number(key, self._session.proposals.get(key, []), self._session.answers.get(key, []))
        for answer in self._answers:
            self._check_answer(answer)

    def _note(self, kind: str, key: str, detail: str, task_id: str, role: Role, offset: int) -> None:
        where = Example(
            f"key {key}: {detail}", self._logs.partition, self._logs.names[role], offset, self._session_id, task_id
        )
        self._logs.findings.add(kind, where)

    @property
    def _truncated(self) -> bool:
        return any(self._logs.bounds[role].truncated for role in ("steps", "steps.cold"))

    def _check_number(self, key: str, proposals: list[Proposal], answers: list[Answer]) -> None:
        """As many answers as proposals, of each task."""
        if self._logs.bounds["commands"].truncated or self._truncated:
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
                # A proposal may wait for its dispatch: only then is it answered later than at the next barrier.
                newest = max(each.at_ms for each in due) + self._terms.grace_ms
                is_due = newest < self._terms.now_ms - self._terms.slack_ms and not self._logs.waiting.total()
                if self._terms.gate_running and is_due:
                    detail = f"{len(told)} answers to {len(due)} proposals"
                    self._note("effect_unanswered", key, detail, task_id, due[-1].role, due[-1].offset)
                else:
                    self._logs.counts["effects_pending"] += len(due) - len(told)
                    if self._terms.require_drained:
                        self._note("not_drained", key, "not answered yet", task_id, due[-1].role, due[-1].offset)

    def _check_answer(self, answer: Answer) -> None:
        """What the rules say of the proposal that it answers."""
        key = answer.key
        candidates = proposals_for(self._session.proposals.get(key, []), answer)
        if self._unsettled or len(candidates) != 1:
            if candidates or self._unsettled or self._truncated:
                self._logs.counts["effects_unverifiable"] += 1
            else:
                detail = "no such effect was proposed under it"
                self._note("command_unfounded", key, detail, answer.task_id, "commands", answer.offset)
            return
        proposal = candidates[0]
        if answer.reason != "unknown_task" or key in self._keys:
            self._check_key(answer, proposal)
        if answer.reason not in _OF_THE_KEY:
            EffectCheck(self, key, proposal, answer).run()
            self._remember(answer, proposal)
        elif answer.reason == "key_conflict" and key in self._keys:
            self._keys[key].is_certain = True

    # ---- what the key belongs to

    def _family(self, task_id: str) -> str:
        """Id of the first task that it repeats."""
        task = self._session.tasks.get(task_id)
        return task_id if task is None or task.repeats is None else task.first_id

    def _belongs(self, key: Key, proposal: Proposal) -> bool:
        has_prints = key.fingerprint is not None and proposal.fingerprint is not None
        is_same = not has_prints or key.fingerprint == proposal.fingerprint
        return is_same and key.effect == proposal.effect and key.owner == self._family(proposal.task_id)

    def _duplicates(self, answer: Answer, proposal: Proposal) -> list[Key]:
        if proposal.fingerprint is None or proposal.allow_duplicate:
            return []
        return [
            each
            for name, each in self._keys.items()
            if name != answer.key and each.first_cleared is not None and each.fingerprint == proposal.fingerprint
        ]

    def _check_key(self, answer: Answer, proposal: Proposal) -> None:
        known, reason = self._keys.get(answer.key), answer.reason
        is_conflict = known is not None and not self._belongs(known, proposal)
        if is_conflict and known is not None and known.is_certain and reason != "key_conflict":
            if self._may_have_ended(proposal):  # by its name it may be an attempt of the task that owns the key
                return
            kind = "effect_cleared_stale" if reason is None else "effect_reason_wrong"
            self.note(kind, answer.key, f"{reason or 'cleared'}, but the key belongs to {known}", answer)
        elif reason == "key_conflict" and not is_conflict:
            self.note("effect_refused_fresh", answer.key, "key_conflict, but no other effect has it", answer)
        elif reason == "key_conflict" and known is not None and not _names(answer, known):
            other = None if known.is_certain else self._named(answer)
            if other is None:
                detail = f"it names {answer.conflicts_with}, should be {known}"
                self.note("effect_answered_differently", answer.key, detail, answer)
            else:
                self._keys[answer.key] = known = other
        duplicates = self._duplicates(answer, proposal)
        if reason is None and duplicates:
            self.note("effect_cleared_stale", answer.key, f"the same effect as {duplicates[0]}", answer)
        elif reason == "duplicate_effect" and not duplicates:
            self.note("effect_refused_fresh", answer.key, "duplicate_effect, but there is no other one", answer)
        first = known.first_cleared if known is not None and not is_conflict else None
        if reason not in _OF_THE_KEY and (known is None or known.is_certain) and answer.first_cleared != first:
            detail = f"first cleared at {answer.first_cleared}, should be {first}"
            self.note("effect_answered_differently", answer.key, detail, answer)
        elif reason is None and answer.repeat != (answer.first_cleared is not None):
            self.note("effect_answered_differently", answer.key, f"repeat: {answer.repeat}", answer)

    def _named(self, answer: Answer) -> Key | None:
        """What a refusal says that its key belongs to, if that was proposed under it before."""
        named = answer.conflicts_with or {}
        for each in self._session.proposals.get(answer.key, []):
            owner = self._family(each.task_id)
            if (owner, each.effect) == (named.get("task_id"), named.get("effect")):
                return Key(owner, each.effect, each.fingerprint, None, is_certain=True)
        return None

    def _may_have_ended(self, proposal: Proposal) -> bool:
        case = self._cases.get(proposal.task_id)
        return "~" in proposal.task_id and (case is None or not case.is_open)

    def _remember(self, answer: Answer, proposal: Proposal) -> None:
        """What the gate remembers under the key from now on. Not certain where it does not tell whether it had room."""
        known, reason = self._keys.get(answer.key), answer.reason
        if known is not None and not known.is_certain and not self._belongs(known, proposal):
            known = None  # then nobody had the key
            del self._keys[answer.key]
        if known is not None:
            if reason is None:
                known.first_cleared = known.first_cleared or answer.judged
                known.fingerprint = known.fingerprint or proposal.fingerprint
                known.is_certain = True
            return
        is_open = reason is None or reason in _OF_OPEN_TASKS or bool(answer.differences)
        if not is_open and reason not in ("stale", "superseded", "deadline_passed", "session_full"):
            return
        first = answer.judged if reason is None else None
        is_certain = reason is None or (is_open and self._had_room(answer))
        owner = self._family(proposal.task_id)
        self._keys[answer.key] = Key(owner, proposal.effect, proposal.fingerprint, first, is_certain)

    def _had_room(self, answer: Answer) -> bool:
        case = self._cases.get(answer.task_id)
        return case is not None and was_never_near(case)

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


def _names(answer: Answer, key: Key) -> bool:
    """Whether a refusal names what its key belongs to."""
    other = answer.conflicts_with or {}
    return (other.get("task_id"), other.get("effect")) == (key.owner, key.effect)


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
        elif answer.reason == case.reason_of_end and not answer.differences:
            if case.is_open or (ended is not None and here.is_before(ended)):
                self._note("effect_refused_fresh", f"{answer.reason}, but its task had not ended")
        elif answer.reason == "late":
            self._note("effect_refused_fresh", "late, but its task had not ended with a result")
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
        older = self._in.logs.clocks.last_before("context", proposal.at_ms - self._in.terms.margin_ms)
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
