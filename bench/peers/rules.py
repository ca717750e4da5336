"""What the two hand-written loops keep and decide: facets and open tasks in a dict, no validation, no Kafka.

The least code that does the work described in README.md.
"""

from __future__ import annotations

from typing import Any

import orjson

CONTEXT, STEPS, RESULTS = range(3)
TOPICS = ("context", "steps", "results")
"""By their number, above."""


class Sessions:
    """Every session's row, and which of them the running transaction has changed."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.changed: dict[str, int] = {}
        """Session ids with their partitions."""

    def fold_context(self, event: dict[str, Any], partition: int) -> None:
        """Take the new values; a task's own change moves along what it expects."""
        session_id = event["session_id"]
        row = self._row(session_id)
        facets = row["facets"]
        cause = event.get("cause")
        task = row["tasks"].get(cause["task_id"]) if cause is not None else None
        if task is not None:
            expected = task["expected"]
            for facet, value in event["set"].items():
                if facet in expected and facets.get(facet, expected[facet]) == expected[facet]:
                    expected[facet] = value
        facets.update(event["set"])
        self.changed[session_id] = partition

    def fold_step(self, event: dict[str, Any], partition: int) -> None:
        """Open a task, or take what it read."""
        session_id = event["session_id"]
        if event["type"] == "task.dispatched":
            self._row(session_id)["tasks"][event["task_id"]] = {
                "expected": event["snapshot"],
                "annotate": event.get("on_stale") == "annotate",
            }
            self.changed[session_id] = partition
        elif "reads" in event:
            task = self._row(session_id)["tasks"].get(event["task_id"])
            if task is not None:
                task["expected"].update(event["reads"])
                self.changed[session_id] = partition

    def judge(self, result: dict[str, Any], partition: int) -> dict[str, Any]:
        """The verdict on a result. Its task is over."""
        session_id, task_id = result["session_id"], result["task_id"]
        row = self._row(session_id)
        task = row["tasks"].pop(task_id, None)
        decision, annotated, reason = "delivered", False, "fresh"
        if task is None:
            decision, reason = "withheld", "unknown_task"
        else:
            self.changed[session_id] = partition
            facets = row["facets"]
            for facet, value in task["expected"].items():
                if facets.get(facet, value) != value:
                    reason = "stale"
                    annotated = task["annotate"] or result["outcome"] == "failed"
                    decision = "delivered" if annotated else "withheld"
                    break
        return {
            "session_id": session_id,
            "task_id": task_id,
            "decision": decision,
            "annotated": annotated,
            "reason": reason,
            "parts": result["parts"],
        }

    def take_changed(self) -> list[tuple[int, str, bytes]]:
        """Partition, session id and row of each session changed since the last call."""
        rows, dumps = self.rows, orjson.dumps
        changed = [(partition, session_id, dumps(rows[session_id])) for session_id, partition in self.changed.items()]
        self.changed.clear()
        return changed

    def restore(self, session_id: str, row: bytes) -> None:
        """Take a row from the changelog."""
        self.rows[session_id] = orjson.loads(row)

    def _row(self, session_id: str) -> dict[str, Any]:
        row = self.rows.get(session_id)
        if row is None:
            row = self.rows[session_id] = {"facets": {}, "tasks": {}}
        return row
