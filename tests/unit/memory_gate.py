"""The fold and the gate in memory, fed one event at a time: what a broker and a worker do, without either."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from projections.decode import Batch
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.rules import Rules
from schemas.topics import Role


class MemoryGate:
    """One partition's gate. Refuses nothing quietly: an event it does not take is an AssertionError."""

    def __init__(self) -> None:
        self._partition = Partition(0, Rules())
        self._ends: Counter[str] = Counter()
        self._now_ms = 1_700_000_000_000

    def take(self, role: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Fold or judge one event (`occurred_at` may be missing); the verdict events that came of it."""
        return [event for event in self.tell(role, body) if event["type"].startswith("result.")]

    def tell(self, role: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Fold or judge one event (`occurred_at` may be missing); everything that came of it."""
        roles: dict[str, Role] = {"context": "context", "steps": "steps", "results": "results"}
        value = orjson.dumps({"occurred_at": "2024-05-15T15:00:00Z", **body})
        offset = self._ends[role]
        self._ends[role] += 1
        self._now_ms += 1
        key = body["session_id"].encode()
        batch = Batch(roles[role], 0, offset, offset + 1, [offset], [self._now_ms], [key], [value], [()], len(value))
        if role == "context":
            self._partition.fold_context(batch, self._now_ms)
        elif role == "steps":
            self._partition.fold_steps(batch, self._position, self._now_ms)
        else:
            self._partition.judge(batch, self._position, self._now_ms)
        self._partition.judge_ready(self._position, self._now_ms)
        return self._outputs()

    def later(self, seconds: float) -> list[dict[str, Any]]:
        """Let time pass; everything that came of what fell due."""
        self._now_ms += round(seconds * 1000)
        self._partition.act_on_due(self._position, self._now_ms)
        return self._outputs()

    @property
    def _position(self) -> LogPosition:
        return LogPosition(0, self._ends["context"], self._ends["steps"])

    def _outputs(self) -> list[dict[str, Any]]:
        changes = self._partition.take(self._now_ms)
        self._partition.committed()
        assert changes.refusals == []
        return [orjson.loads(output.value) for output in changes.outputs if output.value is not None]
