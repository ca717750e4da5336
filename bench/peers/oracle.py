"""What should have been decided, from the records in the order they were produced, with nothing of any engine.

Two places to judge a result at: in the log's order, with what was produced before it; and at delivery, with all context
and steps that were on the broker when the drain began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import orjson

from testing.workload import Record

TaskKey = tuple[str, str]
"""Session id and task id."""

Facets = dict[str, str]


class Expected(NamedTuple):
    """The right verdict on one result."""

    decision: Literal["delivered", "withheld"]
    annotated: bool
    reason: Literal["fresh", "stale"]


class _Log:
    """Facets and open tasks as the records come. A task's own change moves along what it expects, if that matched."""

    def __init__(self) -> None:
        self.facets: dict[str, Facets] = defaultdict(dict)
        self.dispatches: dict[TaskKey, dict[str, Any]] = {}

    def follow(self, event: dict[str, Any], *, is_context: bool) -> None:
        """Take in one record that is not a result."""
        if is_context:
            actual = self.facets[event["session_id"]]
            cause = event.get("cause", {}).get("task_id")
            own = self.dispatches.get((event["session_id"], cause), {"snapshot": {}})["snapshot"]
            for facet, value in event["set"].items():
                if facet in own and actual.get(facet, own[facet]) == own[facet]:
                    own[facet] = value
                actual[facet] = value
        elif event["type"] == "task.dispatched":
            self.dispatches[event["session_id"], event["task_id"]] = event
        else:
            self.dispatches[event["session_id"], event["task_id"]]["snapshot"].update(event.get("reads", {}))

    def verdict(self, result: dict[str, Any]) -> Expected:
        """The verdict on a result with what has been taken in."""
        dispatch = self.dispatches[result["session_id"], result["task_id"]]
        return _verdict(dispatch, result, self.facets[result["session_id"]])


def in_log_order(records: Iterable[Record]) -> dict[TaskKey, Expected]:
    """For every result the verdict with what was produced before it."""
    log, verdicts = _Log(), {}
    for record in records:
        event = orjson.loads(record.value)
        if record.role == "results":
            verdicts[event["session_id"], event["task_id"]] = log.verdict(event)
        else:
            log.follow(event, is_context=record.role == "context")
    return verdicts


def at_delivery(records: Iterable[Record]) -> dict[TaskKey, Expected]:
    """For every result the verdict with all context and steps there are."""
    log, results = _Log(), []
    for record in records:
        event = orjson.loads(record.value)
        if record.role == "results":
            results.append(event)
        else:
            log.follow(event, is_context=record.role == "context")
    return {(result["session_id"], result["task_id"]): log.verdict(result) for result in results}


def _verdict(dispatch: dict[str, Any], result: dict[str, Any], actual: Facets) -> Expected:
    if all(actual.get(facet, value) == value for facet, value in dispatch["snapshot"].items()):
        return Expected("delivered", annotated=False, reason="fresh")
    if result["outcome"] == "failed" or dispatch.get("on_stale") == "annotate":
        return Expected("delivered", annotated=True, reason="stale")
    return Expected("withheld", annotated=False, reason="stale")
