"""What a partition's events led to since the last transaction: records to write, and what to count."""

from collections import Counter

from mypy_extensions import mypyc_attr

from projections.decode import Batch, Refusal
from projections.facts import EventIgnored, EventRepeated, Fact, ResultAcknowledged, ResultJudged, TaskEnded
from projections.gate import HELD
from projections.publish import Output
from schemas.topics import Role


@mypyc_attr(acyclic=True)
class Verdicted:
    """One verdict, for metrics: `age_ms` from dispatch to result (None if unknown), `timestamp` of the result."""

    def __init__(
        self, decision: str, reason: str, task_type: str | None, lane: str, age_ms: int | None, timestamp: int
    ) -> None:
        self.decision = decision
        self.reason = reason
        self.task_type = task_type
        self.lane = lane
        self.age_ms = age_ms
        self.timestamp = timestamp


class Changes:
    """What one transaction has to write, and what to count. `rows`: changelog keys and values, None for a tombstone."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.outputs: list[Output] = []
        self.refusals: list[Refusal] = []
        self.misrouted: list[tuple[Batch, int]] = []
        self.verdicts: list[Verdicted] = []
        self.events: dict[Role, dict[type, int]] = {}
        """How many events were decoded, by the role of their topic and the class of their struct."""
        self.duplicates: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.endings: dict[tuple[str, str], int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.rows or self.outputs or self.refusals or self.misrouted)

    def count(self, fact: Fact) -> None:
        """Count what was established."""
        if isinstance(fact, ResultJudged):
            task, judgement = fact.task, fact.judgement
            self.verdicts.append(
                Verdicted(
                    judgement.decision if judgement.decision != HELD else "withheld",
                    judgement.reason,
                    fact.task_type,
                    "cold" if fact.is_cold else "hot",
                    fact.result.timestamp - task.dispatched_at if task is not None else None,
                    fact.result.timestamp,
                )
            )
        elif isinstance(fact, TaskEnded):
            ending = fact.ended.disposition or "", fact.ended.reason or ""
            self.endings[ending] = self.endings.get(ending, 0) + 1
        elif isinstance(fact, EventRepeated):
            self.duplicates[fact.event_type] += 1
        elif isinstance(fact, EventIgnored):
            self.ignored[fact.event_type] += 1
        elif isinstance(fact, ResultAcknowledged):
            self.acknowledged[fact.outcome] += 1
