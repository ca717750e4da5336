"""What should have been decided, from the records in the order they were produced, with nothing of any engine.

Two places to judge a result at: in the log's order, with what was produced before it; and at delivery, with all context
and steps that were on the broker when the drain began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import orjson

from bench.workload import Record

TaskKey = tuple[str, str]
"""Session id and task id."""

Facets = dict[str, str]


class Expected(NamedTuple):
    """The right verdict on one result."""

    decision: Literal["delivered", "withheld"]
    annotated: bool
    reason: Literal["fresh", "stale"]


def in_log_order(records: Iterable[Record]) -> dict[TaskKey, Expected]:
    """For every result the verdict with what was produced before it."""
    facets: dict[str, Facets] = defaultdict(dict)
    dispatches: dict[TaskKey, dict[str, Any]] = {}
    verdicts: dict[TaskKey, Expected] = {}
    for record in records:
        event = orjson.loads(record.value)
        actual = facets[event["session_id"]]
        if record.role == "context":
            cause = event.get("cause", {}).get("task_id")
            own = dispatches.get((event["session_id"], cause), {"snapshot": {}})["snapshot"]
            for facet, value in event["set"].items():
                if facet in own and actual.get(facet, own[facet]) == own[facet]:
                    own[facet] = value
                actual[facet] = value
            continue
        key = event["session_id"], event["task_id"]
        if event["type"] == "task.dispatched":
            dispatches[key] = event
        elif event["type"] == "task.step":
            dispatches[key]["snapshot"].update(event.get("reads", {}))
        else:
            dispatch = dispatches.pop(key)
            verdicts[key] = _verdict(dispatch, event, dispatch["snapshot"], actual)
    return verdicts


def at_delivery(records: Iterable[Record]) -> dict[TaskKey, Expected]:
    """For every result the verdict with all context and steps there are.

    What a task itself changed moves along what it last said it expects, change by change in the order of the log.
    """
    facets: dict[str, Facets] = defaultdict(dict)
    dispatches: dict[TaskKey, dict[str, Any]] = {}
    results: dict[TaskKey, dict[str, Any]] = {}
    own: dict[TaskKey, list[tuple[str, str | None, str]]] = defaultdict(list)
    for record in records:
        event = orjson.loads(record.value)
        actual = facets[event["session_id"]]
        if record.role == "context":
            cause = event.get("cause", {}).get("task_id")
            for facet, value in event["set"].items():
                if cause is not None:
                    own[event["session_id"], cause].append((facet, actual.get(facet), value))
                actual[facet] = value
            continue
        key = event["session_id"], event["task_id"]
        if event["type"] == "task.dispatched":
            dispatches[key] = event
        elif event["type"] == "task.step":
            dispatches[key]["snapshot"].update(event.get("reads", {}))
        else:
            results[key] = event
    verdicts: dict[TaskKey, Expected] = {}
    for key, result in results.items():
        expected: Facets = dispatches[key]["snapshot"]
        for facet, before, after in own[key]:
            if facet in expected and before in {None, expected[facet]}:
                expected[facet] = after
        verdicts[key] = _verdict(dispatches[key], result, expected, facets[key[0]])
    return verdicts


def _verdict(dispatch: dict[str, Any], result: dict[str, Any], expected: Facets, actual: Facets) -> Expected:
    if all(actual.get(facet, value) == value for facet, value in expected.items()):
        return Expected("delivered", annotated=False, reason="fresh")
    if result["outcome"] == "failed" or dispatch.get("on_stale") == "annotate":
        return Expected("delivered", annotated=True, reason="stale")
    return Expected("withheld", annotated=False, reason="stale")
