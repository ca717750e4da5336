"""The audit on hand-made logs: clean histories have no finding, and every corruption of one is found."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from audit.case import Terms
from audit.check import PartitionCheck
from audit.collect import FORWARDED_HEADER, OUTPUT_ROLES, PartitionLogs
from audit.findings import HEADLINES, MAX_EXAMPLES, Example, Findings
from audit.forwarding import check_forwarding
from audit.logs import Bounds, Clock, Clocks
from audit.report import Report
from schemas.events import INPUT_EVENTS
from schemas.outputs import OUTPUT_EVENTS
from schemas.topics import INPUT_ROLES, Role, topic_name

S = "s-3"  # at home on partition 0 of 2
T = "t-1"
START_MS = 1_764_000_000_000
TICK_MS = 10
MODELS = {event.model_fields["type"].annotation.__args__[0]: event for event in (*INPUT_EVENTS, *OUTPUT_EVENTS)}  # type: ignore[union-attr]


@dataclass(frozen=True)
class Rec:
    """A Kafka record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_type: int = 1

    @property
    def body(self) -> Any:
        return orjson.loads(self.value or b"null")


PartSpec = tuple[str, str, str, dict[str, Any]]
"""Part id, decision, reason, and more fields of its verdict."""


class World:
    """The topics of a small cluster, and hands that write on them."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions = partitions
        self.topics: dict[tuple[Role, int], list[Rec]] = {
            (role, partition): [] for role in (*INPUT_ROLES, *OUTPUT_ROLES) for partition in range(partitions)
        }
        self.begins: Counter[tuple[Role, int]] = Counter()
        self.committed: dict[tuple[Role, int], int | None] = {}
        self.now_ms = START_MS
        self.terms: dict[str, Any] = {}
        self._ids = 0

    def append(self, role: Role, key: bytes | None, value: bytes | None, *, partition: int = 0, **more: Any) -> Rec:
        self.now_ms += TICK_MS
        log = self.topics[role, partition]
        rec = Rec(self.end(role, partition), self.now_ms, key, value, **more)
        log.append(rec)
        return rec

    def end(self, role: Role, partition: int = 0) -> int:
        log = self.topics[role, partition]
        return log[-1].offset + 1 if log else self.begins[role, partition]

    def put(self, role: Role, type_: str, session: str = S, /, *, partition: int = 0, **fields: Any) -> Rec:
        """Write an event, checked against the contract's model."""
        self._ids += 1
        body = {
            "type": type_,
            "source": "test",
            "event_id": f"e-{self._ids}",
            "session_id": session,
            "occurred_at": "2025-11-24T16:00:00Z",
            **fields,
        }
        MODELS[type_].model_validate_json(orjson.dumps(body))
        key = orjson.dumps([session, fields["task_id"]]) if type_ == "task.status" else session.encode()
        return self.append(role, key, orjson.dumps(body), partition=partition)

    # inputs

    def context(
        self, changed: dict[str, str] | None = None, /, *, unset: Sequence[str] = (), cause: str | None = None
    ) -> Rec:
        more: dict[str, Any] = {"cause": {"task_id": cause}} if cause else {}
        return self.put("context", "context.changed", set=changed or {}, unset=list(unset), **more)

    def dispatch(self, task: str = T, /, **fields: Any) -> Rec:
        role: Role = "steps.cold" if fields.get("lane") == "cold" else "steps"
        return self.put(role, "task.dispatched", task_id=task, task_type="answer", **fields)

    def step(
        self, reads: dict[str, str | None], task: str = T, /, step: str = "1", status: str = "completed", lane: str = ""
    ) -> Rec:
        role: Role = "steps.cold" if lane else "steps"
        return self.put(role, "task.step", task_id=task, step_id=step, status=status, reads=reads)

    def heartbeat(self, task: str = T, /) -> Rec:
        return self.put("steps", "task.heartbeat", task_id=task)

    def cancel(self, task: str = T, /) -> Rec:
        return self.put("context", "task.cancel_requested", task_id=task)

    def propose(self, key: str = "k", task: str = T, /, **fields: Any) -> Rec:
        return self.put("steps", "task.effect_proposed", task_id=task, idempotency_key=key, effect="pay", **fields)

    def result(
        self, task: str = T, /, parts: Sequence[dict[str, Any]] = (), role: Role = "results", **fields: Any
    ) -> Rec:
        shown = list(parts) or [{"part_id": "p", "kind": "show", "payload": {"text": "hello"}}]
        return self.put(role, "task.result", **{"task_id": task, "outcome": "completed", "parts": shown, **fields})

    # outputs

    def running(self, task: str = T, /, **fields: Any) -> Rec:
        return self.put("tasks", "task.status", task_id=task, status="running", **fields)

    def waiting(self, why: str, task: str = T, /) -> Rec:
        return self.put("tasks", "task.status", task_id=task, status="waiting", waiting_for=why)

    def times(self, role: Role) -> str:
        """The time of the topic's last record."""
        return datetime.fromtimestamp(self.topics[role, 0][-1].timestamp / 1000, UTC).isoformat()

    def ended(self, disposition: str, task: str = T, /, **fields: Any) -> Rec:
        more = {"disposition": disposition, "ended_at": self.time, **fields}
        return self.put("tasks", "task.status", task_id=task, status="ended", **more)

    def stopped(self, disposition: str, reason: str, task: str = T, /, **fields: Any) -> Rec:
        """The end of a task before its time, and the command that goes with it."""
        self.put("commands", "task.cancel", task_id=task, reason=reason)
        judged = self.judged("steps")
        return self.ended(disposition, task, **{"reason": reason, "receipt": {}, "judged": judged, **fields})

    def answer(self, proposed: Rec, reason: str | None = None, **more: Any) -> Rec:
        """The answer to a proposed effect, at the logs' present ends."""
        body = proposed.body
        fields = {name: body[name] for name in ("task_id", "idempotency_key", "effect")}
        named = {"source": body["source"], "event_id": body["event_id"], "offset": proposed.offset, "at": self.time}
        more = {"proposal": named, **more}
        if reason is not None:
            more = {"reason": reason, **more}
        type_ = "effect.cleared" if reason is None else "effect.refused"
        return self.put("commands", type_, **{**fields, "judged": self.judged("steps"), **more})

    @property
    def time(self) -> str:
        return datetime.fromtimestamp(self.now_ms / 1000, UTC).isoformat().replace("+00:00", "Z")

    def judged(self, steps: Role) -> dict[str, Any]:
        return {
            "partition": 0,
            "context_offset": self.end("context"),
            "steps_offset": self.end(steps),
            "at": self.time,
        }

    def verdict(
        self, result: Rec, *parts: PartSpec, disposition: str | None = "", end: bool = True, **more: Any
    ) -> None:
        """Write the outputs of a verdict at the logs' present ends, and the task's status."""
        body = result.body
        decisions = {name: decision for name, decision, _, _ in parts}
        decision = "delivered" if "delivered" in decisions.values() else "withheld"
        is_cold = result in self.topics["results.cold", 0]
        if disposition == "":
            disposition = None if "held" in decisions.values() else "delivered" if "shadow" in more else decision
        verdict = {
            "decision": decision,
            "reason": parts[0][2],
            "parts": [{"part_id": name, "decision": what, "reason": why, **rest} for name, what, why, rest in parts],
            "judged": self.judged("steps.cold" if is_cold else "steps"),
            "disposition": disposition,
        }
        identity = {"source": body["source"], "event_id": body["event_id"], "offset": result.offset}
        for kind in ("delivered", "withheld"):
            carried = [part for part in body["parts"] if decisions.get(part["part_id"]) == kind]
            if "shadow" in more:
                carried = body["parts"] if kind == "delivered" else []
            if carried:
                self.put(
                    "withheld" if kind == "withheld" else "delivered.cold" if is_cold else "delivered",
                    f"result.{kind}",
                    task_id=body["task_id"],
                    outcome=body["outcome"],
                    parts=carried,
                    result={**identity, "at": "2025-11-24T16:00:00Z"},
                    verdict=verdict,
                    **more,
                )
        if end and disposition is not None:
            self.ended(disposition, body["task_id"])

    def fresh(self, result: Rec) -> None:
        self.verdict(result, ("p", "delivered", "fresh", {}))

    def withheld(self, result: Rec, reason: str, **more: Any) -> None:
        self.verdict(result, ("p", "withheld", reason, {}), **more)

    def late(self, result: Rec, disposition: str) -> None:
        self.withheld(result, "late", disposition=disposition, end=False)

    def unknown(self, result: Rec) -> None:
        self.withheld(result, "unknown_task", disposition=None, end=False)

    def refuse(self, role: Role, rec: Rec, error: str = "unsupported", **changes: Any) -> Rec:
        headers = {
            "tidegate_error": error,
            "tidegate_origin_topic": topic_name(role),
            "tidegate_origin_partition": "0",
            "tidegate_origin_offset": str(rec.offset),
        }
        raw = [*rec.headers, *((name, value.encode()) for name, value in headers.items())]
        return self.append("dlq", rec.key, changes.get("value", rec.value), headers=raw)

    # corruption

    def drop(self, role: Role, index: int = -1, partition: int = 0) -> Rec:
        return self.topics[role, partition].pop(index)

    def edit(self, role: Role, change: Callable[[Any], None], index: int = -1) -> None:
        log = self.topics[role, 0]
        body = log[index].body
        change(body)
        log[index] = replace(log[index], value=orjson.dumps(body))

    def truncate(self, role: Role) -> Rec:
        """The broker deletes all the topic holds."""
        self.begins[role, 0] = self.end(role)
        last = self.topics[role, 0][-1]
        self.topics[role, 0].clear()
        return last

    # audit

    def audit(self) -> tuple[Findings, Counter[str], Counter[tuple[str, str]]]:
        findings, counts, reasons, all_logs = Findings(), Counter[str](), Counter[tuple[str, str]](), []
        for partition in range(self.partitions):
            bounds = {}
            for role in (*INPUT_ROLES, *OUTPUT_ROLES):
                end = self.end(role, partition)
                committed = self.committed.get((role, partition), end) if role in INPUT_ROLES else None
                bounds[role] = Bounds(self.begins[role, partition], end, committed, settled=end)
            logs = PartitionLogs(partition, self.partitions, bounds, findings, "tidegate")
            for role in (*OUTPUT_ROLES, *INPUT_ROLES):
                logs.add(role, self.topics[role, partition])
            terms = Terms(**{"now_ms": self.now_ms, **self.terms})
            check = PartitionCheck(logs, terms)
            check.run()
            counts += check.counts
            counts += Counter({name: logs.counts[name] for name in ("dlq", "forwarded", "results_refused")})
            reasons += check.reasons
            all_logs.append(logs)
        check_forwarding(all_logs)
        counts["waiting"] += sum(logs.waiting.total() for logs in all_logs)
        return findings, counts, reasons


def difference(facet: str, expected: str | None, actual: str | None, by: Rec, since: str = "running") -> dict[str, Any]:
    changed_by = {"source": "test", "event_id": by.body["event_id"], "offset": by.offset, "at": "2025-11-24T16:00:00Z"}
    return {"facet": facet, "expected": expected, "actual": actual, "changed_by": changed_by, "since": since}


def stale(part: str, *differences: dict[str, Any]) -> PartSpec:
    return (part, "withheld", "stale", {"differences": list(differences)})


def held(part: str, *differences: dict[str, Any]) -> PartSpec:
    return (part, "held", "stale", {"differences": list(differences)})


def expired(part: str, *differences: dict[str, Any]) -> PartSpec:
    return (part, "withheld", "hold_expired", {"differences": list(differences)})


def annotated(part: str, *differences: dict[str, Any]) -> PartSpec:
    return (part, "delivered", "stale", {"annotated": True, "differences": list(differences)})


# ---- clean histories: name, world, parts by decision and reason


def fresh() -> World:
    w = World()
    w.context({"doc": "1", "other": "a"})
    w.dispatch(snapshot={"doc": "1", "never": "seen"})
    w.running()
    w.context({"other": "b"})
    w.fresh(w.result())
    return w


def moved_away_and_back() -> World:
    w = World()
    w.context({"doc": "1"})
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    w.context({"doc": "1"})
    w.fresh(w.result())
    return w


def withheld_stale() -> World:
    w = World()
    w.context({"doc": "1"})
    w.dispatch(snapshot={"doc": "1"})
    by = w.context({"doc": "2"})
    w.verdict(w.result(), stale("p", difference("doc", "1", "2", by)))
    return w


def stale_at_dispatch() -> World:
    w = World()
    by = w.context(unset=["doc"])
    w.context(unset=["doc"])
    w.dispatch(snapshot={"doc": "1"})
    w.verdict(w.result(), stale("p", difference("doc", "1", None, by, "dispatch")))
    return w


def absence_expected() -> World:
    w = World()
    w.context(unset=["doc"])
    w.dispatch(snapshot={"doc": None})
    w.fresh(w.result())
    return w


def failure_annotated() -> World:
    w = World()
    w.dispatch(snapshot={"doc": "1"})
    by = w.context({"doc": "2"})
    result = w.result(outcome="failed", error={"code": "boom"})
    w.verdict(result, annotated("p", difference("doc", "1", "2", by)))
    return w


def mixed_parts() -> World:
    w = World()
    w.dispatch(snapshot={"doc": "1", "calendar": "1"})
    by = w.context({"calendar": "2"})
    parts: list[dict[str, Any]] = [
        {"part_id": "show", "kind": "show", "payload": "text", "depends_on": ["doc"]},
        {"part_id": "apply", "kind": "apply", "payload": [1, 2.5], "depends_on": ["calendar", "doc"]},
        {"part_id": "marked", "kind": "show", "payload": None, "on_stale": "annotate"},
    ]
    told = difference("calendar", "1", "2", by)
    w.verdict(
        w.result(parts=parts), ("show", "delivered", "fresh", {}), stale("apply", told), annotated("marked", told)
    )
    return w


def own_change() -> World:
    w = World()
    w.context({"doc": "1"})
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"}, cause=T)
    w.context({"doc": "3"}, cause=T)
    w.fresh(w.result())
    return w


def own_change_of_something_unseen() -> World:
    w = World()
    w.dispatch(snapshot={"doc": "9"})
    w.context({"doc": "1"}, cause=T)
    w.fresh(w.result())
    return w


def own_change_after_anothers() -> World:
    """It did not match just before its own change, so that does not move its expectation."""
    w = World()
    w.context({"doc": "1"})
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2"})
    by = w.context({"doc": "3"}, cause=T)
    w.verdict(w.result(), stale("p", difference("doc", "1", "3", by)))
    return w


def reads_replace() -> World:
    w = World()
    w.context({"doc": "1", "list": "a"})
    w.dispatch(snapshot={"doc": "1"})
    w.context({"doc": "2", "list": "b"})
    w.step({"doc": "2"})
    w.fresh(w.result(reads={"list": "b"}))
    return w


def depends_on_taken() -> World:
    w = World()
    w.context({"doc": "1"})
    w.dispatch(depends_on=["doc", "unknown"])
    w.running(taken={"doc": "1"})
    by = w.context({"doc": "2"})
    result = w.result()
    w.verdict(result, stale("p", difference("doc", "1", "2", by)), snapshot={"doc": "1"})
    return w


def repeated() -> World:
    w = World()
    w.dispatch()
    again = w.topics["steps", 0][0].body
    w.put("steps", "task.dispatched", **{**again, "type": "task.dispatched", "event_id": "again"})
    first = w.result()
    w.fresh(first)
    w.append("results", first.key, first.value)
    w.result()
    return w


def unknown_task() -> World:
    w = World()
    w.unknown(w.result())
    w.now_ms += 60_000
    return w


def unknown_then_dispatched() -> World:
    w = World()
    w.unknown(w.result())
    w.now_ms += 60_000
    w.dispatch()
    w.ended("withheld", reason="unknown_task")
    w.late(w.result(reads={"doc": "1"}), "withheld")
    return w


def parked_then_judged() -> World:
    w = World()
    result = w.result()
    w.dispatch()
    w.fresh(result)
    return w


def late() -> World:
    w = World()
    w.dispatch()
    w.fresh(w.result())
    w.late(w.result(outcome="failed"), "delivered")
    return w


def rejected() -> World:
    w = World()
    w.dispatch("t-0", slot="panel")
    w.running("t-0")
    w.dispatch(slot="panel", on_newer="reject")
    w.ended("rejected", reason="slot_taken", detail="slot")
    w.late(w.result(), "rejected")
    return w


def session_closed() -> World:
    w = World()
    w.dispatch(request_id="r", snapshot={"doc": "1"})
    w.context({"doc": "2", "request/r": "archived"})
    w.context({"session": "closed"})
    w.withheld(w.result(), "session_closed")
    return w


def request_archived() -> World:
    w = World()
    w.dispatch(request_id="r", when_absent="withhold")
    w.context({"request/r": "archived", "presence/a": "absent"})
    w.withheld(w.result(), "request_archived")
    return w


def archived_by_its_child() -> World:
    w = World()
    w.dispatch("parent", request_id="r")
    w.dispatch("child", parent_task_id="parent")
    w.context({"request/r": "archived"}, cause="child")
    w.fresh(w.result("child"))
    w.fresh(w.result("parent"))
    return w


def archived_by_itself() -> World:
    w = World()
    w.dispatch(request_id="r")
    w.context({"request/r": "archived", "session": "closed"}, cause=T)
    w.fresh(w.result())
    return w


def user_absent() -> World:
    w = World()
    w.context({"presence/a": "present", "presence/b": "present"})
    w.dispatch(when_absent="withhold")
    w.context({"presence/a": "absent"}, unset=["presence/b"])
    w.withheld(w.result(), "user_absent")
    return w


def user_half_present() -> World:
    w = World()
    w.dispatch(when_absent="withhold")
    w.context({"presence/a": "absent", "presence/b": "present"})
    w.fresh(w.result())
    return w


def refused() -> World:
    w = World()
    w.refuse("context", w.append("context", b"k", b"{not json"), "invalid_event")
    w.refuse("context", w.append("context", S.encode(), None), "empty_value")
    w.refuse("steps", w.append("steps", b"other", b'{"type":"task.dispatched"}'), "invalid_event")
    w.refuse("steps", w.put("steps", "task.dispatched", task_id=T, task_type="answer", lane="cold"), "invalid_event")
    return w


def conflicts_refused() -> World:
    w = World()
    w.dispatch()
    w.refuse("steps", w.dispatch(snapshot={"doc": "1"}), "dispatch_conflict")
    first = w.result()
    w.fresh(first)
    other = w.append("results", first.key, orjson.dumps({**first.body, "outcome": "failed"}))
    w.refuse("results", other, "identity_conflict")
    return w


def headers_complete() -> World:
    w = World()
    body = {"set": {"doc": "2"}}
    headers = [("ce_type", "context.changed"), ("ce_source", "x"), ("ce_id", "1"), ("ce_subject", S)]
    raw = [(name, value.encode()) for name, value in [*headers, ("ce_time", "2025-11-24T16:00:00Z")]]
    w.append("context", S.encode(), orjson.dumps(body), headers=raw)
    w.dispatch(snapshot={"doc": "1"})
    told = {
        "facet": "doc",
        "expected": "1",
        "actual": "2",
        "changed_by": {"source": "x", "event_id": "1", "offset": 0, "at": "2025-11-24T16:00:00Z"},
        "since": "dispatch",
    }
    w.verdict(w.result(), stale("p", told))
    return w


def behind() -> World:
    w = fresh()
    w.committed["results", 0] = w.end("results")
    w.dispatch("t-2")
    w.committed["steps", 0] = w.end("steps") - 1
    w.result("t-2")
    return w


def repeat_of_one_refused() -> World:
    """Both came before their dispatch: the second is known as a repeat, and then there is no room for the first."""
    w = World()
    w.refuse("results", w.result(reads={"doc": "1"}), "session_full")
    w.result(reads={"doc": "1"})
    w.dispatch()
    w.running()
    w.now_ms += 60_000
    return w


def parked_within_grace() -> World:
    w = World()
    w.result()
    return w


def erased() -> World:
    w = World()
    w.context({"doc": "1"})
    w.dispatch(snapshot={"doc": "2"})
    w.running()
    w.put("context", "session.erased")
    w.append("tasks", orjson.dumps([S, T]), None)
    w.result()
    w.dispatch("t-2", snapshot={"doc": "2"})
    w.fresh(w.result("t-2"))
    return w


def forwarded() -> World:
    w = World(partitions=2)
    stray = w.put("context", "context.changed", partition=1, set={"doc": "1"})
    origin = f"{topic_name('context')}/1/{stray.offset}".encode()
    w.append("context", stray.key, stray.value, headers=[(FORWARDED_HEADER, origin)])
    return w


def forwarded_twice() -> World:
    """A crash between sending on and committing sends on again: only the first copy counts."""
    w = forwarded()
    copied = w.topics["context", 0][0]
    w.put("context", "context.changed", set={"doc": "2"})
    w.append("context", copied.key, copied.value, headers=copied.headers)
    w.put("steps", "task.dispatched", task_id=T, task_type="answer", snapshot={"doc": "2"})
    result = w.result()
    w.fresh(result)
    return w


def forwarded_and_refused() -> World:
    w = World(partitions=2)
    stray = w.put("context", "context.changed", partition=1, set={"doc": "1"})
    origin = f"{topic_name('context')}/1/{stray.offset}".encode()
    copied = w.append("context", stray.key, stray.value, headers=[(FORWARDED_HEADER, origin)])
    w.refuse("context", copied, "session_full")
    return w


def truncated() -> World:
    """The oldest records are gone, so what rests on them cannot be held against the gate."""
    w = withheld_stale()
    for role in ("context", "steps", "results"):
        w.truncate(role)
    return w


# ---- the whole life of a task


TWO: list[dict[str, Any]] = [
    {"part_id": "p", "kind": "show", "depends_on": ["doc"]},
    {"part_id": "q", "kind": "apply", "depends_on": ["list"]},
]
HOLD = {"on_stale": "hold", "hold_ttl_seconds": 0.05}


def cold_lane() -> World:
    w = World()
    w.dispatch("other")
    w.running("other")
    w.dispatch(lane="cold", snapshot={"doc": "1"})
    w.step({"doc": "2"}, lane="cold")
    w.context({"doc": "2"})
    w.fresh(w.result(role="results.cold"))
    return w


def held_then_released() -> World:
    w = World()
    w.dispatch(snapshot={"doc": "1", "list": "a"}, **HOLD)
    by = w.context({"doc": "2"})
    result = w.result(parts=TWO)
    w.verdict(result, held("p", difference("doc", "1", "2", by)), ("q", "delivered", "fresh", {}))
    w.waiting("context")
    w.context({"doc": "1"})
    w.fresh(result)
    return w


def held_and_expired() -> World:
    w = World()
    w.dispatch(snapshot={"doc": "1"}, **HOLD)
    by = w.context({"doc": "2"})
    result = w.result()
    w.waiting("context")
    w.now_ms += 100
    w.verdict(result, expired("p", difference("doc", "1", "2", by)))
    return w


def held_for_the_user() -> World:
    w = World()
    w.context({"presence/a": "absent"})
    w.dispatch(when_absent="hold", hold_ttl_seconds=0.05)
    result = w.result()
    w.waiting("user")
    w.now_ms += 100
    w.verdict(result, ("p", "withheld", "hold_expired", {}))
    return w


def held_and_open() -> World:
    w = World()
    w.dispatch(snapshot={"doc": "1", "list": "a"}, on_stale="hold")
    by = w.context({"doc": "2"})
    w.verdict(w.result(parts=TWO), held("p", difference("doc", "1", "2", by)), ("q", "delivered", "fresh", {}))
    w.waiting("context")
    return w


def held_and_cancelled() -> World:
    """What was delivered stays delivered; the rest comes late."""
    w = World()
    w.dispatch(snapshot={"doc": "1", "list": "a"}, on_stale="hold")
    by = w.context({"doc": "2"})
    result = w.result(parts=TWO)
    w.verdict(result, held("p", difference("doc", "1", "2", by)), ("q", "delivered", "fresh", {}))
    w.waiting("context")
    w.cancel()
    w.stopped("delivered", "cancelled")
    w.late(result, "delivered")
    return w


def second_while_waiting() -> World:
    w = World()
    w.dispatch(when_absent="hold")
    w.context({"presence/a": "absent"})
    first = w.result()
    w.waiting("user")
    w.withheld(w.result(reads={"doc": "1"}), "late", disposition=None, end=False)
    w.context({"presence/a": "present"})
    w.fresh(first)
    return w


def superseded() -> World:
    w = World()
    w.dispatch("old", slot="panel")
    w.running("old")
    w.dispatch("new", slot="panel")
    w.fresh(w.result("new"))
    w.context({"any": "1"})
    w.withheld(w.result("old"), "superseded")
    return w


def superseded_by_a_part() -> World:
    """What stands in the slot stands there, even if the rest of it waits and is decided after the older result."""
    w = World()
    w.dispatch("old", slot="panel")
    w.running("old")
    w.dispatch("new", slot="panel", snapshot={"doc": "1", "list": "a"}, **HOLD)
    by = w.context({"doc": "2"})
    newer = w.result("new", parts=TWO)
    w.verdict(newer, held("p", difference("doc", "1", "2", by)), ("q", "delivered", "fresh", {}))
    w.waiting("context", "new")
    w.context({"any": "1"})
    w.withheld(w.result("old"), "superseded")
    w.context({"doc": "1"})
    w.fresh(newer)
    return w


def protected_from_newer() -> World:
    w = World()
    w.dispatch("old", slot="panel", protected=True)
    w.running("old")
    w.dispatch("new", slot="panel", on_newer="interrupt")
    w.fresh(w.result("new"))
    w.context({"any": "1"})
    w.fresh(w.result("old"))
    return w


def interrupted() -> World:
    w = World()
    w.dispatch(slot="panel", plan=["1", "2", "3"])
    w.running()
    w.step({}, T, "1", "completed")
    w.step({}, T, "2", "started")
    w.dispatch("new", slot="panel", on_newer="interrupt")
    receipt = {"done": ["1"], "in_flight": ["2"], "not_attempted": ["3"]}
    w.stopped("cancelled", "superseded", receipt=receipt)
    w.fresh(w.result("new"))
    w.late(w.result(), "cancelled")
    return w


def enqueued() -> World:
    w = World()
    w.dispatch("old", slot="panel")
    w.running("old")
    w.dispatch("new", slot="panel", on_newer="enqueue")
    result = w.result("new")
    w.waiting("slot", "new")
    w.fresh(w.result("old"))
    w.fresh(result)
    return w


def enqueued_beside_cold_work() -> World:
    """Where there is cold work, a verdict that waited does not tell where among the steps it was given."""
    w = World()
    w.dispatch("elsewhere", lane="cold")
    w.running("elsewhere")
    w.dispatch("old", slot="panel")
    w.running("old")
    w.dispatch("new", slot="panel", on_newer="enqueue")
    result = w.result("new")
    w.waiting("slot", "new")
    w.fresh(w.result("old"))
    w.fresh(result)
    return w


def parent_and_child() -> World:
    w = World()
    w.dispatch("parent")
    w.dispatch("child", parent_task_id="parent")
    w.fresh(w.result("child"))
    w.fresh(w.result("parent"))
    return w


def cancelled() -> World:
    w = World()
    w.dispatch()
    w.running()
    w.cancel()
    w.cancel()
    w.stopped("cancelled", "cancelled")
    w.late(w.result(), "cancelled")
    return w


def cancelled_after_steps() -> World:
    w = World()
    w.dispatch()
    w.running()
    w.step({}, T, "1", "completed")
    w.now_ms += 60_000
    w.cancel()
    w.stopped("cancelled", "cancelled", receipt={"done": ["1"]})
    return w


def cancelled_before_dispatch() -> World:
    w = World()
    w.cancel()
    w.dispatch()
    w.stopped("cancelled", "cancelled")
    return w


def deadline_passed() -> World:
    w = World()
    w.dispatch(deadline_at="2025-11-24T16:00:00.100Z")
    w.now_ms += 200
    w.withheld(w.result(), "deadline_passed")
    return w


def expired_by_deadline() -> World:
    w = World()
    w.dispatch(deadline_at="2025-11-24T16:00:00.100Z")
    w.running()
    w.now_ms += 200
    w.stopped("expired", "deadline_passed")
    w.late(w.result(), "expired")
    return w


def expired_by_silence() -> World:
    w = World()
    w.dispatch(heartbeat_timeout_seconds=0.1)
    w.heartbeat()
    w.now_ms += 200
    w.stopped("expired", "heartbeat_missed")
    return w


def stopped_while_stale() -> World:
    w = World()
    w.dispatch(snapshot={"doc": "1"}, while_stale="cancel", while_stale_grace_seconds=0.05)
    w.context({"doc": "2"})
    w.now_ms += 100
    w.stopped("cancelled", "stale")
    return w


def childs_read() -> World:
    """What a child read is what its parent depends on, unless it is independent; its own work is its parent's."""
    w = World()
    w.context({"doc": "1", "list": "a", "own": "1"})
    w.dispatch("parent", snapshot={"own": "1"})
    w.dispatch("child", parent_task_id="parent", snapshot={"doc": "1"})
    w.dispatch("alone", parent_task_id="parent", independent=True, snapshot={"list": "a"})
    w.step({"doc": "2"}, "child")
    w.context({"own": "2"}, cause="child")
    waiting = w.result("parent")
    w.waiting("children", "parent")
    w.context({"list": "b"})
    by = w.context({"doc": "3"})
    w.verdict(w.result("child"), stale("p", difference("doc", "2", "3", by)))
    w.verdict(w.result("alone"), stale("p", difference("list", "a", "b", w.topics["context", 0][2])))
    w.verdict(waiting, stale("p", difference("doc", "2", "3", by)))
    return w


def scope_closed() -> World:
    w = World()
    w.dispatch("parent", scope_grace_seconds=0.05)
    w.dispatch("child", parent_task_id="parent")
    w.running("child")
    result = w.result("parent")
    w.waiting("children", "parent")
    w.now_ms += 100
    w.stopped("cancelled", "scope_closed", "child")
    w.fresh(result)
    return w


def parent_cancelled() -> World:
    w = World()
    w.dispatch("parent")
    w.dispatch("child", parent_task_id="parent")
    w.cancel("parent")
    w.stopped("cancelled", "parent_ended", "child")
    w.stopped("cancelled", "cancelled", "parent")
    w.dispatch("orphan", parent_task_id="parent")
    w.ended("rejected", "orphan", reason="parent_ended")
    return w


def unknown_parent() -> World:
    w = World()
    w.dispatch(parent_task_id="nobody")
    w.now_ms += 31_000
    w.stopped("rejected", "unknown_parent")
    w.dispatch("self", parent_task_id="self")
    w.ended("rejected", "self", reason="unknown_parent", ended_at=w.time)
    w.edit("tasks", lambda body: body.update(ended_at=w.times("steps")))
    return w


def redispatched() -> World:
    w = World()
    w.dispatch(snapshot={"doc": "1", "never": "x"}, on_stale="redispatch")
    by = w.context({"doc": "2"})
    w.verdict(w.result(), stale("p", difference("doc", "1", "2", by)))
    again: dict[str, Any] = {"new_task_id": f"{T}~2", "attempt": 2, "snapshot": {"doc": "2", "never": "x"}}
    w.put("commands", "task.redispatch", task_id=T, **again)
    return w


def redispatched_no_more() -> World:
    w = World()
    w.dispatch(f"{T}~2", snapshot={"doc": "1"}, on_stale="redispatch", attempt=2)
    by = w.context({"doc": "2"})
    w.verdict(w.result(f"{T}~2"), stale("p", difference("doc", "1", "2", by)))
    return w


def acknowledged() -> World:
    w = fresh()
    w.put("context", "result.acknowledged", task_id=T, outcome="refused", reason="changed")
    w.ended("delivered", acknowledged="refused")
    return w


def effects() -> World:
    w = World()
    w.context({"doc": "1", "list": "a"})
    w.dispatch(snapshot={"doc": "1"})
    w.running()
    first = w.answer(w.propose("fine")).body["judged"]
    w.answer(w.propose("fine"), repeat=True, first_cleared=first)
    by = w.context({"doc": "2"})
    w.answer(w.propose("stale"), "stale", differences=[difference("doc", "1", "2", by)])
    w.context({"session": "closed"})
    w.answer(w.propose("closed"), "session_closed")
    w.withheld(w.result(), "session_closed")
    w.answer(w.propose("late"), "late")
    w.answer(w.propose("nobody", "t-9"), "unknown_task")
    return w


def effect_keys() -> World:
    """A key belongs to one effect of one task; a fingerprint to one effect."""
    w = World()
    for task in (T, "t-2"):
        w.dispatch(task)
        w.running(task)
    first = w.answer(w.propose("k", fingerprint="f")).body["judged"]
    other = {"idempotency_key": "k", "task_id": T, "effect": "pay"}
    w.answer(w.propose("k", "t-2"), "key_conflict", conflicts_with=other)
    w.answer(w.propose("k2", fingerprint="f"), "duplicate_effect", conflicts_with=other)
    w.cancel()
    w.stopped("cancelled", "cancelled")
    w.answer(w.propose("k"), "cancelled", first_cleared=first)
    return w


def effect_read() -> World:
    """What an effect was based on is what its task depends on from then on."""
    w = World()
    w.context({"doc": "1"})
    w.dispatch()
    w.answer(w.propose(reads={"doc": "1"}))
    by = w.context({"doc": "2"})
    w.verdict(w.result(), stale("p", difference("doc", "1", "2", by)))
    return w


def effect_without_room() -> World:
    """What an effect was based on is not remembered where the session's row is full, and its agent is told."""
    w = World()
    w.context({"doc": "1"})
    w.dispatch()
    w.answer(w.propose(reads={"doc": "1"}), "session_full")
    w.context({"doc": "2"})
    w.fresh(w.result())
    return w


def effect_read_after_erasure() -> World:
    """Erased with its session, an answer is given anew: what that effect was based on counts."""
    w = World()
    w.dispatch("before")
    w.running("before")
    w.answer(w.propose("k", "before"))
    w.put("context", "session.erased")
    w.append("tasks", b'["s-3","before"]', None)
    w.context({"doc": "2"})
    w.dispatch(snapshot={"doc": "1"})
    w.answer(w.propose("k", reads={"doc": "2"}))
    w.fresh(w.result())
    return w


def shadow() -> World:
    w = World()
    w.dispatch(snapshot={"doc": "1"})
    by = w.context({"doc": "2"})
    told = {"decision": "withheld", "reason": "stale"}
    w.verdict(w.result(), stale("p", difference("doc", "1", "2", by)), shadow=told)
    return w


CLEAN: list[tuple[Callable[[], World], dict[tuple[str, str], int]]] = [
    (fresh, {("delivered", "fresh"): 1}),
    (moved_away_and_back, {("delivered", "fresh"): 1}),
    (withheld_stale, {("withheld", "stale"): 1}),
    (stale_at_dispatch, {("withheld", "stale"): 1}),
    (absence_expected, {("delivered", "fresh"): 1}),
    (failure_annotated, {("annotated", "stale"): 1}),
    (mixed_parts, {("delivered", "fresh"): 1, ("withheld", "stale"): 1, ("annotated", "stale"): 1}),
    (own_change, {("delivered", "fresh"): 1}),
    (own_change_of_something_unseen, {("delivered", "fresh"): 1}),
    (own_change_after_anothers, {("withheld", "stale"): 1}),
    (reads_replace, {("delivered", "fresh"): 1}),
    (depends_on_taken, {("withheld", "stale"): 1}),
    (repeated, {("delivered", "fresh"): 1}),
    (unknown_task, {("withheld", "unknown_task"): 1}),
    (unknown_then_dispatched, {("withheld", "unknown_task"): 1, ("withheld", "late"): 1}),
    (parked_then_judged, {("delivered", "fresh"): 1}),
    (late, {("delivered", "fresh"): 1, ("withheld", "late"): 1}),
    (rejected, {("withheld", "late"): 1}),
    (session_closed, {("withheld", "session_closed"): 1}),
    (request_archived, {("withheld", "request_archived"): 1}),
    (archived_by_itself, {("delivered", "fresh"): 1}),
    (archived_by_its_child, {("delivered", "fresh"): 2}),
    (user_absent, {("withheld", "user_absent"): 1}),
    (user_half_present, {("delivered", "fresh"): 1}),
    (refused, {}),
    (conflicts_refused, {("delivered", "fresh"): 1}),
    (headers_complete, {("withheld", "stale"): 1}),
    (behind, {("delivered", "fresh"): 1}),
    (repeat_of_one_refused, {}),
    (parked_within_grace, {}),
    (erased, {("delivered", "fresh"): 1}),
    (forwarded, {}),
    (forwarded_twice, {("delivered", "fresh"): 1}),
    (forwarded_and_refused, {}),
    (truncated, {}),
    (cold_lane, {("delivered", "fresh"): 1}),
    (held_then_released, {("delivered", "fresh"): 2}),
    (held_and_expired, {("withheld", "hold_expired"): 1}),
    (held_for_the_user, {("withheld", "hold_expired"): 1}),
    (held_and_open, {("delivered", "fresh"): 1}),
    (held_and_cancelled, {("delivered", "fresh"): 1, ("withheld", "late"): 1}),
    (second_while_waiting, {("delivered", "fresh"): 1, ("withheld", "late"): 1}),
    (superseded, {("delivered", "fresh"): 1, ("withheld", "superseded"): 1}),
    (superseded_by_a_part, {("delivered", "fresh"): 2, ("withheld", "superseded"): 1}),
    (protected_from_newer, {("delivered", "fresh"): 2}),
    (interrupted, {("delivered", "fresh"): 1, ("withheld", "late"): 1}),
    (enqueued, {("delivered", "fresh"): 2}),
    (enqueued_beside_cold_work, {("delivered", "fresh"): 2}),
    (parent_and_child, {("delivered", "fresh"): 2}),
    (cancelled, {("withheld", "late"): 1}),
    (cancelled_before_dispatch, {}),
    (deadline_passed, {("withheld", "deadline_passed"): 1}),
    (expired_by_deadline, {("withheld", "late"): 1}),
    (expired_by_silence, {}),
    (stopped_while_stale, {}),
    (childs_read, {("withheld", "stale"): 3}),
    (scope_closed, {("delivered", "fresh"): 1}),
    (parent_cancelled, {}),
    (unknown_parent, {}),
    (redispatched, {("withheld", "stale"): 1}),
    (redispatched_no_more, {("withheld", "stale"): 1}),
    (acknowledged, {("delivered", "fresh"): 1}),
    (effects, {("withheld", "session_closed"): 1}),
    (effect_keys, {}),
    (effect_read, {("withheld", "stale"): 1}),
    (effect_without_room, {("delivered", "fresh"): 1}),
    (effect_read_after_erasure, {("delivered", "fresh"): 1}),
    (shadow, {("shadow", "stale"): 1}),
]


@pytest.mark.parametrize(("make", "parts"), CLEAN, ids=[make.__name__ for make, _ in CLEAN])
def test_a_clean_history_has_no_finding(make: Callable[[], World], parts: dict[tuple[str, str], int]) -> None:
    findings, _, reasons = make().audit()

    assert findings.examples == {}
    assert reasons == parts


# ---- corruptions: one for each kind of finding, and more where a kind has several faces


def _judged(body: Any, **offsets: int) -> None:
    body["verdict"]["judged"].update(offsets)


def _both(w: World, change: Callable[[Any], None]) -> None:
    for role in ("delivered", "withheld"):
        if w.topics[role, 0]:
            w.edit(role, change)


def _deliver(w: World) -> None:
    """Turn the withheld output into an unmarked delivery."""
    body = w.drop("withheld").body
    w.drop("tasks")
    del body["type"]
    del body["session_id"]
    part = body["verdict"]["parts"][0]
    part.update(decision="delivered", reason="fresh", differences=[])
    body["verdict"].update(decision="delivered", reason="fresh", disposition="delivered")
    w.put("delivered", "result.delivered", **body)
    w.ended("delivered")


def _withhold(w: World, reason: str = "stale") -> None:
    """Turn the delivered output into a withheld one."""
    body = w.drop("delivered").body
    w.drop("tasks")
    del body["type"]
    del body["session_id"]
    body["verdict"]["parts"][0].update(decision="withheld", reason=reason, annotated=False)
    body["verdict"].update(decision="withheld", reason=reason, disposition="withheld")
    w.put("withheld", "result.withheld", **body)
    w.ended("withheld")


def _repeat(w: World, role: Role, **changes: Any) -> None:
    last = w.topics[role, 0][-1].body
    kind, session = last.pop("type"), last.pop("session_id")
    w.put(role, kind, session, **{**last, "event_id": "again", **changes})


def _second_result_judged(w: World) -> None:
    w.verdict(w.result(outcome="failed"), ("p", "delivered", "fresh", {}))


def _repeat_judged(w: World) -> None:
    w.late(w.result(), "delivered")


def _status(w: World, disposition: str) -> Rec:
    w.drop("tasks")
    return w.ended(disposition)


def _conflicting_dispatch(w: World) -> None:
    w.dispatch(snapshot={"doc": "7"})


def _conflicting_result(w: World) -> None:
    first = w.topics["results", 0][0]
    again = w.append("results", first.key, orjson.dumps({**first.body, "outcome": "failed"}))
    w.late(again, "delivered")


def _older_context_not_folded(w: World) -> None:
    """Older than the result, of the same partition, but not below the offset the verdict names."""
    _both(w, lambda body: _judged(body, context_offset=1))


def _grace_cut_short(w: World) -> None:
    w.terms["grace_ms"] = 120_000


def _half_a_step(w: World) -> None:
    w.append("steps", S.encode(), b'{"type":"task.step","source":"a","event_id":"b"}')


def _dlq_from_nowhere(w: World) -> None:
    w.refuse("context", Rec(77, 0, None, b""))


def _dlq_without_headers(w: World) -> None:
    w.append("dlq", None, b"?")


def _valid_refused(w: World) -> None:
    w.refuse("context", w.context({"doc": "1"}), "invalid_event")


def _valid_unsupported(w: World) -> None:
    w.refuse("context", w.context({"doc": "1"}), "unsupported")


def _judged_refused(w: World) -> None:
    w.refuse("results", w.topics["results", 0][0], "output_too_large")


def _copy_altered(w: World) -> None:
    copied = w.topics["context", 0][0]
    w.topics["context", 0][0] = replace(copied, value=(copied.value or b"") + b" ")


def _copy_from_nowhere(w: World) -> None:
    origin = f"{topic_name('context')}/1/55".encode()
    copied = w.topics["context", 0][0]
    w.append("context", copied.key, copied.value, headers=[(FORWARDED_HEADER, origin)])


def _wrong_key(w: World) -> None:
    w.topics["delivered", 0][-1] = replace(w.topics["delivered", 0][-1], key=b"s-2")


def _wrong_partition(w: World) -> None:
    w.put("commands", "task.cancel", partition=1, task_id=T, reason="stale")


def _named_difference(field: str, value: Any) -> Callable[[World], None]:
    def change(body: Any) -> None:
        body["verdict"]["parts"][0]["differences"][0][field] = value

    return lambda w: w.edit("withheld", change)


def _other_giver(w: World) -> None:
    def change(body: Any) -> None:
        body["verdict"]["parts"][0]["differences"][0]["changed_by"]["offset"] = 0

    w.edit("withheld", change)


def _no_differences(w: World) -> None:
    w.edit("withheld", lambda body: body["verdict"]["parts"][0].update(differences=[]))


def _parked_without_end(w: World) -> None:
    w.now_ms += 120_000


def _without_status(w: World, *tasks: str) -> None:
    w.topics["tasks", 0] = [rec for rec in w.topics["tasks", 0] if rec.body["task_id"] not in tasks]


def _went_on(w: World, *tasks: str) -> None:
    """Nothing stopped them after all."""
    _without_status(w, *tasks)
    w.topics["commands", 0] = [rec for rec in w.topics["commands", 0] if rec.body["task_id"] not in tasks]
    for task in tasks:
        w.running(task)


def _drop_late(w: World) -> None:
    w.drop("withheld")
    w.now_ms += 60_000


def _much_later(w: World) -> None:
    w.now_ms += 3_600_000


def _told(w: World, **changes: Any) -> None:
    w.edit("commands", lambda body: body.update(changes))


def _child_stopped_by_its_parents_result(w: World) -> None:
    w.drop("delivered", 0)
    w.drop("results", 0)
    w.drop("tasks", 0)
    w.stopped("cancelled", "parent_ended", "child")


def _parent_ends_before_its_child(w: World) -> None:
    w.topics["tasks", 0] = [replace(rec, offset=1 - rec.offset) for rec in reversed(w.topics["tasks", 0])]


def _released_before(w: World) -> None:
    """The newer result is decided first."""
    for rec in [w.topics["delivered", 0][-1]]:
        body = rec.body
        body["verdict"]["judged"]["context_offset"] = 0
        w.topics["delivered", 0][-1] = replace(rec, value=orjson.dumps(body))
    w.edit("delivered", lambda body: _judged(body, context_offset=1), 0)
    w.context({"any": "1"})


def _parent_first(w: World) -> None:
    """The parent's result is decided before those of its children."""
    for index in range(2):
        w.edit("withheld", lambda body: _judged(body, context_offset=6), index)
    w.context({"any": "1"})


def _answered_otherwise(w: World) -> None:
    """What was cleared again is not marked as a repeat."""

    def unmarked(body: dict[str, Any]) -> None:
        del body["repeat"], body["first_cleared"]

    w.edit("commands", unmarked, 1)


def _clear(key: str) -> Callable[[World], None]:
    def change(w: World) -> None:
        log = w.topics["commands", 0]
        for index, rec in enumerate(log):
            body = rec.body
            if body["idempotency_key"] == key:
                log[index] = replace(rec, value=orjson.dumps({**body, "type": "effect.cleared"}))

    return change


def _refuse(key: str, reason: str) -> Callable[[World], None]:
    def change(w: World) -> None:
        log = w.topics["commands", 0]
        for index, rec in enumerate(log):
            body = {**rec.body, "type": "effect.refused", "reason": reason}
            if body.get("idempotency_key") == key:
                log[index] = replace(rec, value=orjson.dumps(body))

    return change


def _judged_although_cancelled(w: World) -> None:
    _went_on(w, T)
    w.drop("withheld")
    w.fresh(w.result())


def _drained_required(w: World) -> None:
    w.terms["require_drained"] = True


def _altered(rec: Rec) -> Rec:
    return replace(rec, value=(rec.value or b"") + b"\n")


def _unmark(body: Any) -> None:
    body["verdict"]["parts"][0].update(annotated=False, reason="fresh", differences=[])


def _reason(body: Any, reason: str) -> None:
    body["verdict"]["parts"][0]["reason"] = reason


def _odd_end(w: World) -> None:
    w.edit("tasks", lambda body: body.update(disposition="other"))


def _then(*changes: Callable[[World], object]) -> Callable[[World], None]:
    """One corruption after the other."""

    def change(w: World) -> None:
        for each in changes:
            each(w)

    return change


def _expired_after_its_result(w: World) -> None:
    w.edit("steps", lambda body: body.update(deadline_at="2025-11-24T16:00:00.300Z"))
    w.edit("tasks", lambda body: body.update(ended_at="2025-11-24T16:00:00.400Z"))


def _goes_on(w: World) -> None:
    _went_on(w, T)


def _as_withheld(body: Any) -> None:
    body["verdict"]["disposition"] = "delivered"


def _dispatch_first(w: World) -> None:
    w.dispatch()
    w.running()
    w.edit("withheld", lambda body: _judged(body, steps_offset=1))


def _cut_before_the_steps(w: World) -> None:
    """What the gate had known of the steps is consistent, and too little."""
    w.edit("tasks", lambda body: body.update(receipt={}, judged={**body["judged"], "steps_offset": 1}), -1)


CORRUPTIONS: list[tuple[str, Callable[[], World], Callable[[World], object]]] = [
    # lost
    ("result_without_verdict", fresh, lambda w: (w.drop("delivered"), w.drop("tasks"))),
    ("result_without_verdict", parked_within_grace, _parked_without_end),
    ("result_without_verdict", late, lambda w: w.drop("withheld")),
    ("result_without_verdict", repeat_of_one_refused, lambda w: w.edit("results", lambda body: body.update(reads={}))),
    ("task_without_disposition", fresh, lambda w: w.drop("tasks")),
    ("task_without_disposition", unknown_then_dispatched, lambda w: (w.drop("tasks"), w.running())),
    ("dispatch_without_status", fresh, lambda w: w.dispatch("t-2")),
    ("disposition_without_output", fresh, lambda w: (w.drop("results"), w.drop("delivered"))),
    ("output_missing", mixed_parts, lambda w: w.drop("withheld")),
    ("output_missing", mixed_parts, lambda w: w.drop("delivered")),
    ("part_altered", fresh, lambda w: w.edit("delivered", lambda body: body["parts"][0].update(payload="cut"))),
    ("part_altered", withheld_stale, lambda w: w.edit("withheld", lambda body: body["parts"][0].pop("payload"))),
    ("input_unaccounted", refused, lambda w: w.drop("dlq", 0)),
    ("input_unaccounted", refused, lambda w: w.drop("dlq", 1)),
    ("input_unaccounted", refused, lambda w: w.drop("dlq", 2)),
    ("input_unaccounted", refused, lambda w: w.drop("dlq", 3)),
    ("input_unaccounted", fresh, _half_a_step),
    ("conflict_unaccounted", fresh, _conflicting_dispatch),
    ("conflict_unaccounted", fresh, _conflicting_result),
    ("misrouted_not_forwarded", forwarded, lambda w: w.drop("context")),
    ("forwarded_altered", forwarded, _copy_altered),
    ("input_deleted_unfolded", fresh, lambda w: (w.truncate("context"), w.committed.update({("context", 0): 1}))),
    ("dlq_altered", refused, lambda w: w.topics["dlq", 0].append(_altered(w.drop("dlq")))),
    ("held_undecided", held_and_cancelled, _drop_late),
    ("waits_too_long", held_and_open, _much_later),
    ("waits_too_long", held_and_expired, _then(lambda w: w.drop("withheld"), lambda w: w.drop("tasks"), _much_later)),
    ("cancel_not_sent", cancelled, lambda w: w.drop("commands")),
    ("cancel_not_sent", expired_by_silence, lambda w: w.drop("commands")),
    ("cancel_not_sent", unknown_parent, lambda w: w.drop("commands")),
    ("redispatch_missing", redispatched, lambda w: w.drop("commands")),
    ("effect_unanswered", effects, _then(lambda w: w.drop("commands"), _much_later)),
    ("not_expired", expired_by_silence, _then(_goes_on, _much_later)),
    (
        "not_expired",
        expired_by_deadline,
        _then(_goes_on, lambda w: w.drop("withheld"), lambda w: w.drop("results"), _much_later),
    ),
    ("child_outlives_parent", scope_closed, lambda w: _went_on(w, "child")),
    ("child_outlives_parent", parent_cancelled, _then(lambda w: _went_on(w, "orphan"), _much_later)),
    ("result_without_verdict", second_while_waiting, lambda w: w.drop("withheld")),
    ("result_without_verdict", cancelled, _drop_late),
    ("input_unaccounted", fresh, lambda w: w.edit("steps", lambda body: body.update(lane="cold"))),
    ("verdict_inconsistent", held_then_released, lambda w: w.drop("delivered", 0)),
    # duplicated
    ("verdict_twice", held_then_released, lambda w: _repeat(w, "delivered")),
    ("effect_answered_twice", effects, lambda w: _repeat(w, "commands")),
    ("effect_answered_differently", effects, _answered_otherwise),
    ("effect_answered_differently", effect_keys, lambda w: w.edit("commands", lambda b: b.pop("first_cleared"), -1)),
    (
        "effect_answered_differently",
        effect_keys,
        lambda w: w.edit("commands", lambda b: b["conflicts_with"].update(effect="book"), 1),
    ),
    ("effect_reason_wrong", effect_keys, lambda w: w.edit("commands", lambda b: b.update(reason="stale"), 1)),
    ("effect_cleared_stale", effect_keys, lambda w: w.edit("commands", lambda b: b.update(type="effect.cleared"), 1)),
    ("effect_cleared_stale", effect_keys, lambda w: w.edit("commands", lambda b: b.update(type="effect.cleared"), 2)),
    ("effect_refused_fresh", effect_keys, _refuse("k", "key_conflict")),
    ("effect_refused_fresh", effects, _refuse("fine", "duplicate_effect")),
    ("two_dispositions", cancelled, lambda w: w.ended("delivered")),
    ("event_id_twice", fresh, lambda w: w.topics["tasks", 0].append(replace(w.topics["tasks", 0][-1], offset=9))),
    ("verdict_twice", fresh, lambda w: _repeat(w, "delivered")),
    ("verdict_twice", withheld_stale, lambda w: _repeat(w, "withheld")),
    ("verdict_twice", mixed_parts, lambda w: w.edit("withheld", lambda body: _judged(body, steps_offset=0))),
    ("repeat_judged", fresh, _repeat_judged),
    ("task_judged_twice", fresh, _second_result_judged),
    ("two_dispositions", fresh, lambda w: w.ended("withheld")),
    ("ended_then_running", fresh, lambda w: w.running()),
    ("dlq_twice", refused, lambda w: w.topics["dlq", 0].append(replace(w.topics["dlq", 0][-1], offset=9))),
    ("dlq_and_verdict", fresh, _judged_refused),
    # stale delivered
    ("stale_delivered", withheld_stale, _deliver),
    ("stale_delivered", stale_at_dispatch, _deliver),
    ("stale_delivered", own_change_after_anothers, _deliver),
    ("stale_delivered", depends_on_taken, _deliver),
    ("stale_delivered", session_closed, _deliver),
    ("stale_delivered", request_archived, _deliver),
    ("stale_delivered", user_absent, _deliver),
    ("stale_delivered", own_change, lambda w: w.edit("context", lambda body: body.pop("cause"))),
    ("stale_delivered", reads_replace, lambda w: w.edit("steps", lambda body: body.update(reads={}))),
    ("stale_delivered", failure_annotated, lambda w: w.edit("delivered", _unmark)),
    ("stale_delivered", archived_by_itself, lambda w: w.edit("context", lambda body: body.pop("cause"))),
    ("barrier_missed", fresh, _older_context_not_folded),
    ("barrier_missed", moved_away_and_back, _older_context_not_folded),
    ("barrier_missed", reads_replace, lambda w: w.edit("delivered", lambda body: _judged(body, steps_offset=1))),
    ("stale_delivered", superseded, _deliver),
    ("stale_delivered", superseded_by_a_part, _deliver),
    ("stale_delivered", deadline_passed, _deliver),
    ("stale_delivered", childs_read, _deliver),
    ("stale_delivered", effect_read, _deliver),
    ("stale_delivered", redispatched_no_more, _deliver),
    ("stale_delivered", held_and_expired, _deliver),
    ("stale_delivered", cold_lane, lambda w: w.edit("steps.cold", lambda body: body.update(reads={}))),
    ("barrier_missed", cold_lane, lambda w: w.edit("delivered.cold", lambda body: _judged(body, steps_offset=1))),
    ("effect_cleared_stale", effects, _clear("stale")),
    ("effect_cleared_stale", effects, _clear("closed")),
    ("effect_cleared_stale", effects, _clear("late")),
    ("effect_cleared_stale", effects, _clear("nobody")),
    ("cancel_not_obeyed", cancelled, _judged_although_cancelled),
    ("cancel_not_obeyed", cancelled, _then(lambda w: w.drop("withheld"), lambda w: w.drop("results"), _goes_on)),
    ("child_outlives_parent", parent_and_child, _parent_ends_before_its_child),
    ("barrier_missed", effects, lambda w: w.edit("commands", lambda b: b["judged"].update(context_offset=0), 0)),
    # fresh withheld
    ("stopped_without_reason", cancelled, lambda w: w.topics["context", 0].clear()),
    ("stopped_without_reason", interrupted, lambda w: w.edit("steps", lambda body: body.update(on_newer="allow"))),
    ("stopped_without_reason", interrupted, lambda w: w.edit("steps", lambda body: body.update(protected=True), 0)),
    ("stopped_without_reason", scope_closed, lambda w: w.edit("steps", lambda b: b.update(scope_grace_seconds=9), 0)),
    (
        "stopped_without_reason",
        expired_by_silence,
        lambda w: w.edit("tasks", lambda b: b.update(ended_at=w.times("steps"))),
    ),
    ("stopped_without_reason", expired_by_deadline, lambda w: w.edit("steps", lambda b: b.pop("deadline_at"))),
    (
        "stopped_without_reason",
        stopped_while_stale,
        lambda w: w.edit("steps", lambda b: b.update(while_stale="continue")),
    ),
    ("stopped_without_reason", parent_cancelled, lambda w: _went_on(w, "parent")),
    ("stopped_without_reason", unknown_parent, lambda w: w.terms.update(grace_ms=60_000)),
    ("stopped_without_reason", expired_by_deadline, _expired_after_its_result),
    ("rejected_without_reason", rejected, lambda w: w.edit("steps", lambda body: body.update(slot="other"), 0)),
    (
        "rejected_without_reason",
        unknown_parent,
        lambda w: w.edit("steps", lambda body: body.update(parent_task_id="t")),
    ),
    ("hold_cut_short", held_and_expired, lambda w: w.edit("steps", lambda body: body.update(hold_ttl_seconds=5))),
    ("effect_refused_fresh", effects, _refuse("fine", "stale")),
    ("effect_refused_fresh", effects, _refuse("fine", "late")),
    ("effect_refused_fresh", effects, _refuse("fine", "session_full")),
    ("effect_refused_fresh", effects, _refuse("fine", "request_archived")),
    ("reason_false", superseded, lambda w: w.edit("steps", lambda body: body.update(slot="other"))),
    ("reason_false", held_for_the_user, lambda w: w.topics["context", 0].clear()),
    ("late_without_end", second_while_waiting, lambda w: (w.drop("results", 0), w.drop("delivered"), w.drop("tasks"))),
    ("fresh_withheld", childs_read, lambda w: w.edit("steps", lambda body: body.update(independent=True), 1)),
    ("fresh_withheld", fresh, _withhold),
    ("fresh_withheld", moved_away_and_back, _withhold),
    ("fresh_withheld", own_change, _withhold),
    ("fresh_withheld", own_change_of_something_unseen, _withhold),
    ("fresh_withheld", absence_expected, _withhold),
    ("fresh_withheld", reads_replace, _withhold),
    (
        "fresh_withheld",
        mixed_parts,
        lambda w: w.edit("results", lambda body: body["parts"][1].update(depends_on=["doc"])),
    ),
    ("reason_false", fresh, lambda w: _withhold(w, "session_closed")),
    ("reason_false", archived_by_itself, lambda w: _withhold(w, "request_archived")),
    ("reason_false", user_half_present, lambda w: _withhold(w, "user_absent")),
    (
        "late_without_end",
        late,
        lambda w: w.edit("withheld", lambda body: body["verdict"].update(disposition="withheld")),
    ),
    ("late_without_end", late, lambda w: (w.drop("delivered"), w.drop("results", 0))),
    ("known_task_unknown", unknown_task, _dispatch_first),
    ("unknown_too_early", unknown_then_dispatched, _grace_cut_short),
    ("rejected_without_reason", rejected, lambda w: w.edit("steps", lambda body: body.pop("on_newer"))),
    # inconsistent
    ("barrier_missed_withheld", stale_at_dispatch, _older_context_not_folded),
    ("annotated_fresh", failure_annotated, lambda w: w.edit("context", lambda body: body.update(set={"doc": "1"}))),
    ("policy_not_followed", withheld_stale, lambda w: w.edit("steps", lambda body: body.update(on_stale="annotate"))),
    ("policy_not_followed", failure_annotated, lambda w: w.edit("results", lambda b: b.update(outcome="completed"))),
    ("reason_order", session_closed, lambda w: w.edit("withheld", lambda body: _reason(body, "request_archived"))),
    ("reason_order", session_closed, lambda w: w.edit("withheld", lambda body: _reason(body, "stale"))),
    ("difference_wrong", withheld_stale, _named_difference("expected", "7")),
    ("difference_wrong", withheld_stale, _named_difference("actual", "7")),
    ("difference_wrong", withheld_stale, _named_difference("facet", "other")),
    ("difference_wrong", withheld_stale, _named_difference("since", "dispatch")),
    ("difference_wrong", withheld_stale, _other_giver),
    ("difference_wrong", withheld_stale, _no_differences),
    ("taken_never_held", depends_on_taken, lambda w: w.edit("tasks", lambda body: body.update(taken={"doc": "5"}))),
    ("reason_unexpected", fresh, lambda w: _withhold(w, "unsupported")),
    ("reason_unexpected", late, _then(lambda w: w.topics["delivered", 0].clear(), _odd_end)),
    ("reason_order", superseded, lambda w: w.edit("steps", lambda b: b.update(deadline_at="2025-11-24T16:00:00Z"), 0)),
    ("policy_not_followed", held_and_expired, lambda w: w.edit("steps", lambda body: body.update(on_stale="withhold"))),
    ("policy_not_followed", held_for_the_user, _deliver),
    ("verdict_inconsistent", held_and_open, _then(lambda w: w.drop("tasks"), lambda w: w.running())),
    ("verdict_inconsistent", shadow, lambda w: w.edit("delivered", lambda b: b["shadow"].update(reason="late"))),
    ("verdict_inconsistent", held_then_released, lambda w: w.edit("delivered", _as_withheld, 0)),
    ("scope_not_awaited", childs_read, _parent_first),
    ("scope_not_awaited", parent_and_child, _child_stopped_by_its_parents_result),
    ("slot_not_awaited", enqueued, _released_before),
    ("slot_not_awaited", enqueued_beside_cold_work, _released_before),
    ("slot_not_respected", enqueued, lambda w: w.edit("steps", lambda body: body.update(on_newer="reject"))),
    ("slot_not_respected", enqueued, lambda w: w.edit("steps", lambda body: body.update(on_newer="interrupt"))),
    ("command_unfounded", fresh, lambda w: w.put("commands", "task.cancel", task_id=T, reason="stale")),
    ("command_unfounded", fresh, lambda w: w.put("commands", "task.cancel", task_id="t-9", reason="stale")),
    ("command_unfounded", effects, lambda w: w.edit("steps", lambda body: body.update(effect="other"), 2)),
    ("receipt_wrong", cancelled, lambda w: w.edit("tasks", lambda body: body.pop("receipt"))),
    ("receipt_wrong", interrupted, lambda w: w.edit("tasks", lambda body: body["judged"].update(steps_offset=2), 1)),
    ("receipt_wrong", cancelled_after_steps, lambda w: w.edit("tasks", lambda body: body["receipt"].pop("done"))),
    ("receipt_wrong", cancelled_after_steps, _cut_before_the_steps),
    ("judged_before_request", cancelled, lambda w: w.edit("tasks", lambda b: b["judged"].update(context_offset=0), -1)),
    ("judged_past_end", cancelled, lambda w: w.edit("tasks", lambda b: b["judged"].update(context_offset=9), -1)),
    ("verdict_inconsistent", cancelled, lambda w: w.edit("tasks", lambda b: b["judged"].update(partition=1), -1)),
    ("receipt_wrong", interrupted, lambda w: w.edit("steps", lambda body: body.update(step_id="9"), 1)),
    ("receipt_wrong", interrupted, lambda w: w.edit("steps", lambda body: body.update(plan=["1", "4"]), 0)),
    ("redispatch_wrong", redispatched, lambda w: _told(w, attempt=3)),
    ("redispatch_wrong", redispatched, lambda w: _told(w, snapshot={"doc": "1"})),
    ("redispatch_wrong", redispatched, lambda w: _repeat(w, "commands")),
    ("redispatch_wrong", redispatched, lambda w: w.edit("steps", lambda body: body.update(max_redispatches=0))),
    ("redispatch_wrong", redispatched, lambda w: w.edit("steps", lambda body: body.update(on_stale="withhold"))),
    ("acknowledgement_unfounded", acknowledged, lambda w: w.drop("context")),
    ("effect_reason_wrong", effects, _refuse("closed", "stale")),
    ("effect_reason_wrong", effects, _refuse("nobody", "stale")),
    ("verdict_inconsistent", fresh, lambda w: w.edit("delivered", lambda b: b["verdict"].update(decision="withheld"))),
    ("verdict_inconsistent", fresh, lambda w: w.edit("delivered", lambda body: _judged(body, partition=3))),
    ("verdict_inconsistent", fresh, lambda w: w.edit("delivered", lambda body: body["verdict"].update(parts=[]))),
    ("verdict_inconsistent", mixed_parts, lambda w: w.edit("withheld", lambda body: body["parts"].clear())),
    (
        "verdict_inconsistent",
        unknown_task,
        lambda w: w.edit("withheld", lambda b: b["verdict"].update(disposition="late")),
    ),
    ("verdict_without_result", fresh, lambda w: w.drop("results")),
    ("judged_before_dispatch", fresh, lambda w: w.edit("delivered", lambda body: _judged(body, steps_offset=0))),
    ("judged_before_dispatch", fresh, lambda w: w.drop("steps")),
    ("judged_past_end", fresh, lambda w: w.edit("delivered", lambda body: _judged(body, context_offset=99))),
    ("disposition_contradicts", fresh, lambda w: _status(w, "withheld")),
    ("status_without_dispatch", fresh, lambda w: w.running("t-9")),
    ("output_unreadable", fresh, lambda w: w.edit("delivered", lambda body: body.pop("verdict"))),
    ("output_unreadable", fresh, lambda w: w.append("tasks", b"?", b"{}")),
    ("output_misplaced", fresh, _wrong_key),
    ("output_misplaced", forwarded, _wrong_partition),
    ("dlq_without_origin", refused, _dlq_from_nowhere),
    ("dlq_without_origin", refused, _dlq_without_headers),
    ("forwarded_without_origin", forwarded, _copy_from_nowhere),
    ("dlq_unfounded", fresh, _valid_refused),
    ("dlq_unfounded", fresh, _valid_unsupported),
    ("committed_past_end", fresh, lambda w: w.committed.update({("context", 0): 99})),
    ("not_drained", behind, _drained_required),
    ("not_drained", parked_within_grace, _drained_required),
]


@pytest.mark.parametrize(
    ("kind", "make", "corrupt"),
    CORRUPTIONS,
    ids=[f"{kind}-{make.__name__}-{index}" for index, (kind, make, _) in enumerate(CORRUPTIONS)],
)
def test_a_corrupted_history_is_found(kind: str, make: Callable[[], World], corrupt: Callable[[World], object]) -> None:
    world = make()
    corrupt(world)

    findings, _, _ = world.audit()

    assert kind in findings.counts, findings.examples


def test_every_clean_rule_breaks_when_its_own_events_are_anothers() -> None:
    """Nothing is fresh by luck: without the cause, an own change is somebody else's."""
    for make in (own_change, own_change_of_something_unseen):
        world = make()
        for index in range(len(world.topics["context", 0])):
            world.edit("context", lambda body: body.pop("cause", None), index)
        findings, _, _ = world.audit()
        assert findings.headline("stale_delivered") == 1


# ---- what is counted, and what is tolerated


def test_results_add_up() -> None:
    for make, _ in CLEAN:
        _, counts, _ = make().audit()
        accounted = ("verdicts", "repeats", "pending", "results_refused", "erased")
        assert counts["results"] == sum(counts[name] for name in accounted), make.__name__


def test_what_is_behind_or_parked_is_pending_and_not_lost() -> None:
    _, counts, _ = behind().audit()
    assert (counts["pending"], counts["waiting"]) == (1, 2)

    _, counts, _ = parked_within_grace().audit()
    assert counts["pending"] == 1


def test_a_parked_result_waits_as_long_as_no_worker_runs() -> None:
    world = parked_within_grace()
    world.now_ms += 120_000
    world.terms["gate_running"] = False

    findings, counts, _ = world.audit()

    assert not findings
    assert counts["pending"] == 1


def test_a_dispatch_older_than_the_result_leaves_no_excuse_for_parking() -> None:
    world = World()
    world.dispatch()
    world.running()
    world.result()
    world.terms["gate_running"] = False

    findings, _, _ = world.audit()

    assert findings.headline("lost") == 1


def test_a_group_without_offsets_leaves_everything_waiting() -> None:
    world = World()
    world.dispatch()
    world.result()
    world.committed = {("steps", 0): None, ("results", 0): None}

    findings, counts, _ = world.audit()

    assert not findings
    assert counts["waiting"] == 2


def test_a_compacted_tasks_topic_is_enough() -> None:
    world = fresh()
    world.drop("tasks", 0)

    findings, _, _ = world.audit()

    assert not findings


def test_a_verdict_is_judged_at_the_place_it_names_and_not_at_the_end() -> None:
    world = fresh()
    world.context({"doc": "9", "session": "closed"})

    findings, _, _ = world.audit()

    assert not findings


def test_a_context_event_of_the_same_millisecond_is_no_missed_barrier() -> None:
    world = fresh()
    result = world.topics["results", 0][0]
    log = world.topics["context", 0]
    log.append(Rec(2, result.timestamp, S.encode(), log[0].value))
    assert not world.audit()[0]

    log[-1] = replace(log[-1], timestamp=result.timestamp - 1)
    assert world.audit()[0].headline("stale_delivered") == 1

    world.terms["margin_ms"] = 1
    assert not world.audit()[0]


def test_a_producers_time_says_nothing_about_the_barrier() -> None:
    world = fresh()
    _older_context_not_folded(world)
    world.topics["results", 0][0] = replace(world.topics["results", 0][0], timestamp_type=0)

    findings, counts, _ = world.audit()

    assert not findings
    assert counts["barrier_unverifiable"] == 2


def test_an_older_record_is_found_although_the_clock_was_set_back() -> None:
    clock = Clock()
    for offset, at_ms in enumerate([10, 50, 20, 30, 60]):
        clock.add(offset, at_ms)

    assert [clock.last_before(at_ms) for at_ms in (10, 11, 25, 40, 60, 61)] == [-1, 0, 2, 3, 3, 4]


def test_of_times_between_which_a_clock_was_set_back_nothing_is_concluded() -> None:
    """What came after the setting back is stamped earlier than what came before it, on any of the topics."""
    clocks = Clocks(("context", "steps", "results"))
    for offset, at_ms in enumerate([100, 4_000, 6_000, 11_000]):
        clocks.add("context", offset, at_ms)
    assert clocks.last_before("context", 9_000) == 2

    clocks = Clocks(("context", "steps", "results"))
    for offset, at_ms in enumerate([100, 4_000, 6_000, 11_000]):
        clocks.add("context", offset, at_ms)
    for offset, at_ms in enumerate([10_000, 5_500]):
        clocks.add("results", offset, at_ms)
    assert [clocks.last_before("context", at_ms) for at_ms in (4_500, 9_000, 10_000, 10_001, 12_000)] == [1, 1, 1, 2, 3]


def test_a_repeat_is_forgiven_once_the_task_may_be_forgotten() -> None:
    world = fresh()
    _repeat_judged(world)
    assert world.audit()[0]

    world.terms["retention_ms"] = 1
    assert not world.audit()[0]


def test_the_same_decision_after_an_erasure_has_the_same_event_id() -> None:
    world = World()
    first = world.result()
    world.unknown(first)
    world.now_ms += 60_000
    again = world.append("results", first.key, first.value)
    world.unknown(again)
    world.edit("withheld", lambda body: body.update(event_id=world.topics["withheld", 0][0].body["event_id"]))
    assert "event_id_twice" in world.audit()[0].counts

    world.put("context", "session.erased")
    assert not world.audit()[0]


def test_a_result_of_a_forgotten_task_is_parked_like_that_of_an_unknown_one() -> None:
    world = fresh()
    world.result(reads={"doc": "1"})
    assert world.audit()[0].headline("lost") == 1

    world.terms["retention_ms"] = 1
    assert not world.audit()[0]


def test_a_forgotten_task_may_be_rejected_after_it_was_given_up() -> None:
    world = World()
    world.unknown(world.result())
    world.now_ms += 60_000
    world.dispatch(parent_task_id=T)
    world.ended("rejected", reason="unknown_parent", ended_at=world.times("steps"))

    assert not world.audit()[0]


def test_what_an_erasure_left_of_a_task_dispatched_twice_is_not_verifiable() -> None:
    world = World()
    world.dispatch(snapshot={"doc": "1"})
    world.put("context", "session.erased")
    by = world.context({"doc": "2"})
    world.dispatch(snapshot={"doc": "3"})
    world.verdict(world.result(), stale("p", difference("doc", "3", "2", by)))

    findings, counts, _ = world.audit()
    assert not findings
    assert counts["unverifiable"] == 1

    world.drop("context", 0)
    assert set(world.audit()[0].counts) == {"conflict_unaccounted", "difference_wrong"}


def test_a_full_session_may_reject_tasks() -> None:
    world = World()
    world.dispatch()
    world.ended("rejected", reason="session_full", detail="session: its row")

    assert not world.audit()[0]


def test_findings_count_all_and_keep_a_few() -> None:
    findings = Findings()
    for number in range(MAX_EXAMPLES + 5):
        findings.add("stale_delivered", Example(str(number)))

    assert findings.counts["stale_delivered"] == findings.headline("stale_delivered") == MAX_EXAMPLES + 5
    assert len(findings.examples["stale_delivered"]) == MAX_EXAMPLES
    with pytest.raises(KeyError):
        findings.add("no such kind", Example(""))


def test_the_report_is_one_json_object() -> None:
    world = withheld_stale()
    _deliver(world)
    findings, counts, reasons = world.audit()
    report = Report("tidegate", "gate", 1, counts, reasons, findings, ["a note"])

    told = orjson.loads(report.to_json())

    assert told["clean"] is False
    assert {name: told[name] for name in HEADLINES} == {
        "lost": 0,
        "duplicated": 0,
        "stale_delivered": 1,
        "fresh_withheld": 0,
    }
    assert (told["tasks"], told["dispositions"], told["results"], told["verdicts"]) == (1, 1, 1, 1)
    assert (told["pending"], told["dlq"], told["forwarded"]) == (0, 0, 0)
    (finding,) = told["findings"]
    assert (finding["kind"], finding["count"]) == ("stale_delivered", 1)
    assert finding["examples"][0]["session_id"] == S
    assert finding["examples"][0]["task_id"] == T


def test_the_table_names_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    world = withheld_stale()
    _deliver(world)
    findings, counts, reasons = world.audit()
    Report("tidegate", "gate", 1, counts, reasons, findings).print(Console(width=200))
    told = capsys.readouterr().out
    assert "stale_delivered (1): a part was delivered unmarked" in told
    assert f"session {S}, task {T}, at {topic_name('delivered')}/0/0" in told

    findings, counts, reasons = fresh().audit()
    Report("tidegate", "gate", 1, counts, reasons, findings).print(Console(width=200))
    assert "clean" in capsys.readouterr().out


def test_an_audit_changes_nothing_it_reads() -> None:
    world = mixed_parts()
    before = copy.deepcopy(world.topics)
    world.audit()
    assert world.topics == before
