"""One task as the logs show it: the evidence every check of it needs, and where its findings go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

from audit.collect import OUTPUT_ROLES, PartitionLogs
from audit.findings import Example
from audit.logs import Output, Result, Session, Status, Task
from schemas.topics import Role

STEPS_OF: Final[dict[Role, Role]] = {"results": "steps", "results.cold": "steps.cold"}
"""The steps topic of a results topic's lane."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the audit takes as given. Times in milliseconds, `now_ms` is when the committed offsets were read."""

    now_ms: int
    gate_running: bool = True
    """Whether the group has members: without any, nothing that waits can move on."""
    grace_ms: int = 30_000
    retention_ms: int = 86_400_000
    ended_per_session: int = 256
    scope_grace_ms: int = 30_000
    hold_ttl_ms: int = 600_000
    session_ttl_ms: int = 86_400_000
    margin_ms: int = 0
    """How much older than the result a record must be for the barrier to have had to cover it."""
    slack_ms: int = 5_000
    """How long something that is due may take before it counts as lost."""
    require_drained: bool = False


class Place(NamedTuple):
    """Where the logs stood when something was decided. `steps_offset` None: of which steps topic is not known."""

    context_offset: int
    steps_offset: int | None

    def is_before(self, other: Place) -> bool:
        """Whether this place is certainly the earlier one; both are of one lane."""
        if self.context_offset != other.context_offset:
            return self.context_offset < other.context_offset
        if self.steps_offset is None or other.steps_offset is None:
            return False
        return self.steps_offset < other.steps_offset


@dataclass(slots=True)
class Decision:
    """One verdict about a result, and the outputs that tell of it. Held parts are decided by a later one."""

    delivered: list[Output] = field(default_factory=list)
    withheld: list[Output] = field(default_factory=list)

    @property
    def all(self) -> list[Output]:
        """Both kinds, the delivered ones first."""
        return self.delivered + self.withheld

    @property
    def first(self) -> Output:
        """The one whose verdict is looked at."""
        return self.all[0]

    def only(self, reason: str) -> bool:
        """Whether every part got this reason."""
        return all(part.reason == reason for part in self.first.parts)

    @property
    def held(self) -> list[str]:
        """Ids of the parts left to a later decision. In shadow mode there is none: all were delivered."""
        if self.first.shadow is not None:
            return []
        return [part.part_id for part in self.first.parts if part.decision == "held"]


@dataclass(slots=True)
class Verdict:
    """Everything that was decided about one result, in order: first all parts, then those that had been held."""

    decisions: list[Decision]
    is_interim: bool = False
    """Whether the result was an interim answer, which ends nothing."""

    @property
    def first(self) -> Output:
        """The output whose verdict came first."""
        return self.decisions[0].first

    @property
    def last(self) -> Output:
        """The output whose verdict came last."""
        return self.decisions[-1].first

    def only(self, reason: str) -> bool:
        """Whether the first decision gave every part this reason."""
        return self.decisions[0].only(reason)

    @property
    def is_open(self) -> bool:
        """Whether parts are held still."""
        return bool(self.decisions[-1].held)

    @property
    def is_late(self) -> bool:
        """Whether its task had expired, and asked for its result all the same."""
        return self.decisions[0].first.late

    @property
    def was_first(self) -> bool:
        """Whether the result was looked at as its task's first: neither late nor about an unknown task."""
        return not self.is_late and not self.only("late") and not self.only("unknown_task")

    @property
    def decides(self) -> bool:
        """Whether it ended its task."""
        return not self.is_interim and self.was_first and not self.is_open and not self.decisions[-1].only("late")

    @property
    def delivers(self) -> bool:
        """Whether any part was delivered."""
        return any(decision.delivered for decision in self.decisions)


class Case:
    """One task: its dispatch, status, results and those of them that were judged."""

    def __init__(self, logs: PartitionLogs, terms: Terms, counts: Counter[str], session_id: str, task_id: str) -> None:
        self.logs = logs
        self.terms = terms
        self.counts = counts
        self.bounds = logs.bounds
        self.session_id = session_id
        self.task_id = task_id
        self.session: Session = logs.session(session_id)
        self.task: Task | None = self.session.tasks.get(task_id)
        self.status: Status | None = self.session.statuses.get(task_id)
        self.results: list[Result] = self.session.results.get(task_id, [])
        self.judged: list[tuple[Result, Verdict]] = []
        self.family: dict[str, Case] = {task_id: self}
        """All tasks of the session."""
        self.children: list[Case] = []
        self.rivals: list[Case] = []
        """All tasks of its slot, itself included."""

    def note(self, kind: str, detail: str, role: Role | None = None, offset: int | None = None) -> None:
        """A finding about this task."""
        topic = None if role is None else self.logs.names[role]
        self.logs.findings.add(kind, Example(detail, self.logs.partition, topic, offset, self.session_id, self.task_id))

    def note_at(self, kind: str, output: Output, detail: str) -> None:
        """A finding about one of the task's outputs."""
        self.note(kind, detail, output.role, output.offset)

    @property
    def disposition(self) -> str | None:
        """What the task's status says of its end."""
        return self.status.dispositions[-1] if self.status is not None and self.status.dispositions else None

    @property
    def reason_of_end(self) -> str:
        """The reason that a proposed effect is refused for once the task has ended."""
        if self.status is not None and self.disposition in ("cancelled", "expired", "rejected"):
            return self.status.reason or ""
        return "late"

    @property
    def is_open(self) -> bool:
        """Whether the task's status says that it has not ended."""
        return self.status is not None and self.status.seen and self.disposition is None

    @property
    def deciding(self) -> list[tuple[Result, Verdict]]:
        """The results that ended the task; there should be one at most."""
        return [(result, verdict) for result, verdict in self.judged if verdict.decides]

    @cached_property
    def ended_at(self) -> Place | None:
        """Where the logs stood when a result ended the task; None where none did."""
        deciding = self.deciding
        if not deciding:
            return None
        result, verdict = deciding[0]
        return self.place_of(result, verdict, len(verdict.decisions) - 1)

    @property
    def given_up(self) -> bool:
        """Whether a result was given up as unknown_task: a dispatch after that is withheld at once."""
        return any(verdict.only("unknown_task") for _, verdict in self.judged)

    @property
    def forgotten(self) -> bool:
        """Whether the gate may have forgotten how the task ended: too long ago, or too many others since."""
        if self.session.ended_at_most > self.terms.ended_per_session:
            return True
        times = [result.at_ms for result in self.results]
        if self.task is not None:
            times.append(self.task.at_ms)
        return bool(times) and self.terms.now_ms - min(times) >= self.terms.retention_ms

    @cached_property
    def unsettled(self) -> bool:
        """Whether the gate may have forgotten anything at all of the session, by erasure, age or number."""
        return bool(self.session.erased) or self.forgotten or self.session.may_have_idled(self.terms.session_ttl_ms)

    @property
    def outputs_truncated(self) -> bool:
        """Whether the oldest outputs are gone."""
        return any(self.bounds[role].truncated for role in OUTPUT_ROLES if role != "tasks")

    def truncated(self, *roles: Role) -> bool:
        """Whether the oldest records of any of these topics are gone."""
        return any(self.bounds[role].truncated for role in roles)

    def handled(self, role: Role, offset: int) -> bool:
        """Whether an input was below the committed offset."""
        return offset < self.bounds[role].handled

    def is_due(self, at_ms: int) -> bool:
        """Whether the gate must have acted on something that was due at `at_ms`."""
        terms = self.terms
        return terms.gate_running and not self.logs.waiting.total() and at_ms < terms.now_ms - terms.slack_ms

    # ---- places

    def may_wait(self, result: Result) -> bool:
        """Whether the result may have been looked at, and kept, before it was decided."""
        task = self.task
        if task is None or task.parent is not None or self.children:
            return True
        policies = {task.on_stale, task.on_stale_failure, task.when_absent, *(part.on_stale for part in result.parts)}
        if "hold" in policies or task.on_newer.startswith("enqueue"):
            return True
        at_ms = result.at_ms - self.terms.margin_ms
        return task.role != STEPS_OF[result.role] or task.at_ms >= at_ms or not result.broker_time

    def place_of(self, result: Result, verdict: Verdict, index: int) -> Place:
        """Where the logs stood at one decision.

        What waited is decided past whichever lane's barrier comes first, and the verdict does not say which: its steps
        offset may be of the other lane's topic.
        """
        output = verdict.decisions[index].first
        if result.role == "results" and not self.logs.counts["results.cold"] and not self.logs.counts["steps.cold"]:
            is_known = True
        else:
            at_once = index == 0 and not self.may_wait(result) and not verdict.only("unknown_task")
            is_known = at_once and not self.unsettled
        return Place(output.context_offset, output.steps_offset if is_known else None)

    def least_steps(self, result: Result) -> int:
        """The steps offset of its lane that a result's barrier must have reached, whatever the verdict says."""
        least = self.task.offset + 1 if self.task is not None else 0
        if result.broker_time:
            older = self.logs.clocks.last_before(STEPS_OF[result.role], result.at_ms - self.terms.margin_ms)
            least = max(least, older + 1)
        return least


def families(cases: dict[str, Case]) -> None:
    """Introduce the tasks of one session to each other."""
    slots: dict[str, list[Case]] = {}
    for case in cases.values():
        case.family = cases
        if case.task is not None and case.task.slot is not None:
            slots.setdefault(case.task.slot, []).append(case)
        parent = case.task.parent if case.task is not None else None
        above = cases.get(parent) if parent is not None and parent != case.task_id else None
        if above is not None:
            above.children.append(case)
    for rivals in slots.values():
        for case in rivals:
            case.rivals = rivals
