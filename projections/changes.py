"""What a partition's events led to since the last transaction: rows and records to write, and what to count."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from projections.outputs import Output
from schemas.decode import Batch, Refusal


class Verdicted(NamedTuple):
    """One verdict, for metrics: `age_ms` from dispatch to result (None where unknown), `timestamp` of the result."""

    decision: str
    reason: str
    task_type: str | None
    lane: str
    age_ms: int | None
    timestamp: int


@dataclass(slots=True)
class Changes:
    """What one transaction has to write, and what to count. `rows`: changelog keys and values, None for a tombstone."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    misrouted: list[tuple[Batch, int]] = field(default_factory=list)
    verdicts: list[Verdicted] = field(default_factory=list)
    duplicates: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    endings: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.rows or self.outputs or self.refusals or self.misrouted)
