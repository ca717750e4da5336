"""Which answers were given and what the gate said of each. Kept while playing; `report` sums it up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from local.replay.plan import Answer, AnswerId


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a consumer learned of one answer. `seconds` from the moment its result was produced."""

    delivered: bool
    reason: str
    stale: frozenset[str]
    seconds: float


@dataclass(slots=True)
class Ledger:
    """Answers produced, verdicts received, and events the gate refused to take."""

    answers: dict[AnswerId, Answer] = field(default_factory=dict)
    verdicts: dict[AnswerId, Verdict] = field(default_factory=dict)
    judged_again: list[AnswerId] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _outstanding: dict[AnswerId, float] = field(default_factory=dict)

    @property
    def missing(self) -> list[AnswerId]:
        """Answers produced that have no verdict yet, in the order they were produced."""
        return list(self._outstanding)

    def produced(self, answer: Answer, at_seconds: float) -> None:
        """Note that the answer's result is being sent at this time of a monotonic clock."""
        self.answers[answer.name] = answer
        self._outstanding[answer.name] = at_seconds

    def judged(self, event: dict[str, Any], at_seconds: float) -> AnswerId:
        """Note a `result.delivered` or `result.withheld` event received at this time of the same clock."""
        name = (event["session_id"], event["task_id"])
        if name in self.verdicts:
            self.judged_again.append(name)
            return name
        verdict = event["verdict"]
        stale = {difference["facet"] for part in verdict["parts"] for difference in part.get("differences", ())}
        produced = self._outstanding.pop(name, at_seconds)
        self.verdicts[name] = Verdict(
            verdict["decision"] == "delivered", verdict["reason"], frozenset(stale), at_seconds - produced
        )
        return name
