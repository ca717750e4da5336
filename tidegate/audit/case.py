"""One task as the logs show it: the evidence every check of it needs, and where its findings go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from schemas.topics import Role
from tidegate.audit.collect import OUTPUT_ROLES, PartitionLogs
from tidegate.audit.findings import Example
from tidegate.audit.logs import Output, Result, Session, Status, Task

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
    margin_ms: int = 0
    """How much older than the result a record must be for the barrier to have had to cover it."""
    slack_ms: int = 5_000
    """How long something that is due may take before it counts as lost."""
    require_drained: bool = False


@dataclass(slots=True)
class Verdict:
    """The outputs about one result."""

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
    def decides(self) -> bool:
        """Whether it ended its task: neither late nor about an unknown task."""
        return not self.only("late") and not self.only("unknown_task")


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
    def deciding(self) -> list[Output]:
        """The verdicts that ended the task; there should be one at most."""
        return [verdict.first for _, verdict in self.judged if verdict.decides]

    @property
    def given_up(self) -> bool:
        """Whether a result was given up as unknown_task: a dispatch after that is withheld at once."""
        return any(verdict.only("unknown_task") for _, verdict in self.judged)

    @property
    def forgotten(self) -> bool:
        """Whether the gate may have forgotten how the task ended: too long ago, or too many others since."""
        if len(self.session.outputs.keys() | self.session.statuses.keys()) > self.terms.ended_per_session:
            return True
        times = [result.at_ms for result in self.results]
        if self.task is not None:
            times.append(self.task.at_ms)
        return bool(times) and self.terms.now_ms - min(times) >= self.terms.retention_ms

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
