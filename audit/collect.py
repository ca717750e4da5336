"""From the records of one partition to its `logs`: parsing, accounting for what is not folded, nothing judged.

Outputs and DLQ records must be added before inputs: an input is compared with its DLQ record as it passes by, so that
no bytes are kept. Input events are read with orjson alone; the contract's models are asked only about odd ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import orjson
from aiokafka.partitioner import murmur2
from pydantic import TypeAdapter, ValidationError

from audit.findings import Example, Findings
from audit.json_equality import load
from audit.logs import (
    NEVER,
    Bounds,
    Clocks,
    ContextEvent,
    Facet,
    Lease,
    Recent,
    Session,
    Sign,
    Status,
    StepTaken,
    Value,
)
from audit.parse import (
    Record,
    answer_of,
    cancel_of,
    completed,
    contradicts_itself,
    extension_of,
    instant_ms,
    is_unknown_value,
    judged_at_of,
    on_lane,
    outdated_of,
    output_of,
    proposal_of,
    redispatch_of,
    result_of,
    task_of,
    unmatched_of,
)
from schemas.events import CONTEXT_EVENTS, RESULT_EVENTS, STEP_EVENTS, Event
from schemas.fields import MAX_METADATA_BYTES
from schemas.topics import INPUT_ROLES, Role, topics

FORWARDED_HEADER: Final = "tidegate_forwarded_from"
OUTPUT_ROLES: Final[tuple[Role, ...]] = ("dlq", "delivered", "delivered.cold", "withheld", "tasks", "commands")
"""The gate's topics that are read, the DLQ first. The changelog is the engine's own and is not."""

_FOR_WANT_OF_ROOM: Final = ("session_full", "output_too_large")
_LARGE_INTEGER: Final = re.compile(rb"\d{19}")
_MODELS: Final[dict[str, tuple[type[Event], ...]]] = {
    "context": CONTEXT_EVENTS,
    "steps": STEP_EVENTS,
    "results": RESULT_EVENTS,
}


@dataclass(slots=True)
class Refused:
    """One DLQ record: what it says of its origin, as digests."""

    offset: int
    key: int
    value: int
    error: str
    result: tuple[str, str, str, str] | None = None
    """Session, task, source and event id, once the origin has turned out to be a result."""
    seen: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    """A record met on a partition that is not its session's, or a copy that says it comes from there."""

    role: Role
    partition: int
    offset: int
    """Of the origin."""
    digest: int
    handled: bool
    """Origin: below the committed offset."""


class PartitionLogs:
    """What the topics of one partition say. Add the records of each topic in order, outputs before inputs."""

    def __init__(
        self, partition: int, partitions: int, bounds: Mapping[Role, Bounds], findings: Findings, prefix: str
    ) -> None:
        self.partition = partition
        self.bounds = bounds
        self.findings = findings
        self.names = {topic.role: topic.name for topic in topics(prefix)}
        self.sessions: dict[str, Session] = {}
        self.clocks = Clocks(INPUT_ROLES)
        self.counts: Counter[str] = Counter()
        self.waiting: Counter[Role] = Counter()
        """Inputs at or beyond the committed offset, per topic."""
        self.refused: dict[tuple[Role, int], Refused] = {}
        self.repeated_ids: list[tuple[str, str, str, Role, int]] = []
        """Outputs whose event id another one has: session, task, event id, role, offset."""
        self.strays: list[Passed] = []
        self.copies: list[Passed] = []
        self._partitions = partitions
        self._roles = {name: role for role, name in self.names.items()}
        self._homes: dict[str, int] = {}
        self._output_ids: set[str] = set()
        self._sources: dict[str, str] = {}
        self._adapters: dict[Role, TypeAdapter[Any]] = {}
        self._takers: dict[str, Callable[[Role, Record, dict[str, Any], Session], bool]] = {
            "context.changed": self._context_changed,
            "task.cancel_requested": self._cancel_requested,
            "result.acknowledged": self._acknowledged,
            "session.erased": self._session_erased,
            "task.dispatched": self._dispatched,
            "task.step": self._step,
            "task.heartbeat": self._heartbeat,
            "task.extended": self._extended,
            "task.effect_proposed": self._effect_proposed,
            "task.result": self._result,
        }
        self._types: dict[Role, frozenset[str]] = {t.role: frozenset(t.event_types) for t in topics(prefix)}

    def add(self, role: Role, records: Iterable[Record]) -> None:
        """Take the next records of one topic. Those at or beyond its end are left out."""
        end = self.bounds[role].end
        if role in INPUT_ROLES:
            add = self._input
        elif role == "dlq":
            add = self._refused
        elif role == "tasks":
            add = self._status
        else:
            add = self._output
        for record in records:
            if record.offset < end:
                add(role, record)

    def session(self, session_id: str) -> Session:
        """The session's logs, empty if nothing is known of it yet."""
        found = self.sessions.get(session_id)
        if found is None:
            found = self.sessions[session_id] = Session()
        return found

    def note(self, kind: str, detail: str, role: Role | None = None, offset: int | None = None) -> None:
        """A finding about a record of this partition."""
        topic = None if role is None else self.names[role]
        self.findings.add(kind, Example(detail, self.partition, topic, offset))

    # ---- inputs

    def _input(self, role: Role, record: Record) -> None:
        offset, value = record.offset, record.value
        self.counts[role] += 1
        handled = offset < self.bounds[role].handled
        if not handled:
            self.waiting[role] += 1
        if record.timestamp_type == 1:
            self.clocks.add(role, offset, record.timestamp)
        refused = self.refused.get((role, offset))
        origin = self._origin(role, record) if record.headers else None
        body = self._parsed(role, record)
        if refused is not None:
            self._compare(role, record, refused, body)
            return
        if body is None:
            self._unaccounted(role, offset, "is not an event of this topic", handled=handled)
            return
        session_id = body["session_id"]
        if self._home(session_id) != self.partition:
            self.strays.append(Passed(role, self.partition, offset, hash(value), handled))
            return
        session = self.session(session_id)
        if origin is not None and not session.is_new_copy(body["source"], body["event_id"]):
            self.counts["forwarded_again"] += 1
            return
        session.heard_at(record.timestamp)
        if session.leases and role == "context":
            self._run_out(session, record)
        if role == "context" and session.recent.is_repeat(body["source"], body["event_id"]):
            self.counts["repeated"] += 1
            return
        if not self._takers[body["type"]](role, record, body, session):
            self._unaccounted(role, offset, f"{body['type']} cannot be folded", handled=handled)

    def _unaccounted(self, role: Role, offset: int, what: str, *, handled: bool) -> None:
        if handled:
            self.note("input_unaccounted", what, role, offset)

    def _parsed(self, role: Role, record: Record) -> dict[str, Any] | None:
        """The event in a record, or None. What looks odd is left to the contract's models."""
        value = record.value
        if value is None:
            return None
        try:
            body = load(value) if role.startswith("results") else orjson.loads(value)
            if (
                body["type"] in self._types[role]
                and type(body["source"]) is str
                and type(body["event_id"]) is str
                and type(body["occurred_at"]) is str
                and (record.key is None or record.key == body["session_id"].encode())
            ):
                return body  # type: ignore[no-any-return]
        except (ValueError, LookupError, TypeError, AttributeError):
            pass
        return self._valid(role, record)

    def _valid(self, role: Role, record: Record) -> dict[str, Any] | None:
        """The event in a record by the contract's models, its headers considered; None where there is none."""
        adapter = self._adapters.get(role)
        if adapter is None:
            models = _MODELS[role.split(".")[0]]
            union: Any = models[0]
            for model in models[1:]:
                union = union | model
            adapter = self._adapters[role] = TypeAdapter(union)
        body = completed(record)
        try:
            adapter.validate_json(orjson.dumps(body, default=_as_zero, option=orjson.OPT_PASSTHROUGH_SUBCLASS))
        except ValidationError:
            return None
        return body if record.key is None or record.key == body["session_id"].encode() else None

    def _home(self, session_id: str) -> int:
        home = self._homes.get(session_id)
        if home is None:
            home = (murmur2(session_id.encode()) & 0x7FFFFFFF) % self._partitions
            self._homes[session_id] = home
        return home

    def _origin(self, role: Role, record: Record) -> Passed | None:
        """Where the record says it was sent on from, if it does; noted to be compared with what was met there."""
        said = next((value for name, value in record.headers if name == FORWARDED_HEADER), None)
        if said is None:
            return None
        self.counts["forwarded"] += 1
        topic, _, rest = said.decode(errors="replace").partition("/")
        partition, _, offset = rest.partition("/")
        if self._roles.get(topic) != role or not partition.isdecimal() or not offset.isdecimal():
            self.note("forwarded_without_origin", f"{FORWARDED_HEADER}: {said!r}", role, record.offset)
            return None
        origin = Passed(role, int(partition), int(offset), hash(record.value), handled=True)
        self.copies.append(origin)
        return origin

    def _cancel_requested(self, _role: Role, record: Record, body: dict[str, Any], session: Session) -> bool:
        request = cancel_of(record, body)
        if request is None:
            return False
        session.cancels.append(request)
        return True

    def _acknowledged(self, _role: Role, _record: Record, body: dict[str, Any], session: Session) -> bool:
        task_id, outcome = body.get("task_id"), body.get("outcome")
        if type(task_id) is not str or type(outcome) is not str:
            return False
        session.acknowledged.setdefault(task_id, set()).add(outcome)
        session.outcomes.setdefault(task_id, []).append((outcome, body.get("part_ids")))
        return True

    def _heartbeat(self, role: Role, record: Record, body: dict[str, Any], session: Session) -> bool:
        task_id = body.get("task_id")
        if type(task_id) is not str:
            return False
        if not self._is_repeated(session, task_id, role, body, "heartbeats"):
            self._sign(session, task_id, Sign(role, record.offset, record.timestamp))
        return True

    def _is_repeated(self, session: Session, task_id: str, role: Role, body: dict[str, Any], what: str) -> bool:
        """Whether a step or heartbeat is one of the last ones of its task again. Before the dispatch there are none.

        Of a step on the other lane's topic the order is not known.
        """
        task = session.tasks.get(task_id)
        if task is None or task.role != role:
            return False
        recent = task.recent.get(what)
        if recent is None:
            recent = task.recent[what] = Recent()
        if not recent.is_repeat(body["source"], body["event_id"]):
            return False
        self.counts["repeated"] += 1
        return True

    def _sign(self, session: Session, task_id: str, sign: Sign) -> None:
        """Note it, unless the task is known to have no clock that it could move."""
        task = session.tasks.get(task_id)
        if task is None or (task.heartbeat_ms, task.deadline_ms, task.start_ms) != (None, None, None):
            session.signs.setdefault(task_id, []).append(sign)

    def _extended(self, role: Role, record: Record, body: dict[str, Any], session: Session) -> bool:
        task_id, extension = body.get("task_id"), extension_of(role, record, body)
        if type(task_id) is not str or extension is None:
            return False
        self._sign(session, task_id, extension)
        return True

    def _effect_proposed(self, role: Role, record: Record, body: dict[str, Any], session: Session) -> bool:
        proposal, key = proposal_of(role, record, body), body.get("idempotency_key")
        if proposal is None or type(key) is not str:
            return False
        session.proposals.setdefault(key, []).append(proposal)
        return True

    def _context_changed(self, role: Role, record: Record, body: dict[str, Any], session: Session) -> bool:
        changed, unset, cause = body.get("set", {}), body.get("unset", ()), body.get("cause")
        if cause is not None:
            cause = cause.get("task_id") if type(cause) is dict else cause
            if type(cause) is not str:
                return False
        versions = body.get("versions", {})
        if type(changed) is not dict or type(unset) not in (list, tuple) or type(versions) is not dict:
            return False
        leases = body.get("expires_in_seconds", {})
        if not versions.keys() <= {*changed, *unset} or type(leases) is not dict or not leases.keys() <= changed.keys():
            return False
        if any(is_unknown_value(name, value) for name, value in changed.items()):
            return False
        source = self._sources.setdefault(body["source"], body["source"])
        event = ContextEvent(record.offset, record.timestamp, cause, source, body["event_id"], len(record.value or b""))
        # Refused for want of room, an event still changes the facets that the gate knew.
        is_refused = (role, record.offset) in self.refused
        for name, value in ({**changed, **dict.fromkeys(unset)} if unset else changed).items():
            if name in versions:
                if versions[name] <= session.versions.get(name, -1):
                    continue
                if not is_refused or name in session.facets:
                    session.versions[name] = versions[name]
            self._lease(session, name, leases.get(name), event)
            known = session.facets.get(name)
            before = known.values[-1] if known is not None else NEVER
            is_certain = not is_refused or before is not NEVER
            self._change(session.facets if is_certain else session.perhaps, session, name, before, value, event)
        return True

    def _lease(self, session: Session, name: str, seconds: float | None, event: ContextEvent) -> None:
        """A change of a facet with or without a lease. Before it, what had run out by its time is in the history."""
        leases = session.leases.get(name)
        if leases is None:
            if seconds is None:
                return
            leases = session.leases[name] = []
        lease = None if seconds is None else Lease(event.at_ms + round(seconds * 1000), event)
        leases.append((event.offset, lease))

    def _run_out(self, session: Session, record: Record) -> None:
        """Leases that had run out when the context event came: their facets have changed before it."""
        for name, leases in session.leases.items():
            lease = leases[-1][1]
            if lease is None or lease.until_ms >= record.timestamp:  # at that moment, an event still finds it
                continue
            leases.append((record.offset, None))
            known = session.facets.get(name)
            expired = "absent" if name.startswith("presence/") else None
            if known is not None and known.values[-1] != expired:
                event = lease.event._replace(at_ms=lease.until_ms, cause=None)
                known.offsets.append(record.offset)
                known.values.append(expired)
                known.events.append(event)

    def _change(
        self,
        histories: dict[str, Facet],
        session: Session,
        name: str,
        before: Value,
        value: str | None,
        event: ContextEvent,
    ) -> None:
        facet = histories.get(name)
        if facet is None:
            facet = histories[name] = Facet()
        if event.cause is not None:
            session.own.setdefault(event.cause, {}).setdefault(name, []).append((event.offset, before, value))
            session.own_times.setdefault(event.cause, []).append((event.offset, event.at_ms))
        facet.offsets.append(event.offset)
        facet.values.append(value)
        facet.events.append(event)

    def _session_erased(self, _role: Role, record: Record, body: dict[str, Any], session: Session) -> bool:
        session.erased.append(record.offset)
        session.versions = {}
        for leases in session.leases.values():
            leases.append((record.offset, None))
        event = ContextEvent(record.offset, record.timestamp, None, body["source"], body["event_id"], 0)
        for facet in (*session.facets.values(), *session.perhaps.values()):
            facet.offsets.append(record.offset)
            facet.values.append(NEVER)
            facet.events.append(event)
        return True

    def _dispatched(self, role: Role, record: Record, body: dict[str, Any], session: Session) -> bool:
        task = task_of(role, record, body) if on_lane(role, body) else None
        if task is None:
            return False
        first = session.tasks.setdefault(body["task_id"], task)
        if first is not task:
            first.again = True
            if first.digest != task.digest:
                session.conflicts.append((body["task_id"], role, record.offset))
        return True

    def _step(self, role: Role, record: Record, body: dict[str, Any], session: Session) -> bool:
        task_id, reads, step_id, status = (
            body.get("task_id"),
            body.get("reads"),
            body.get("step_id"),
            body.get("status"),
        )
        if type(task_id) is not str or type(status) is not str or type(step_id) is not str:
            return False
        if self._is_repeated(session, task_id, role, body, "steps"):
            return True
        session.steps.setdefault(task_id, []).append(StepTaken(role, record.offset, step_id, status))
        self._sign(session, task_id, Sign(role, record.offset, record.timestamp, status == "input_required"))
        if reads:
            session.reads.setdefault(task_id, []).append((role, record.offset, reads))
        return True

    def _result(self, role: Role, record: Record, body: dict[str, Any], session: Session) -> bool:
        result = result_of(role, record, body)
        if result is None:
            return False
        known = session.results.setdefault(body["task_id"], [])
        is_repeat = any(each.digest == result.digest for each in known)
        known.append(result)
        if not result.final and not is_repeat:  # it comes after every step that was written before
            sign = Sign("steps.cold" if role == "results.cold" else "steps", inf, record.timestamp)
            self._sign(session, body["task_id"], sign)
        return True

    # ---- outputs

    def _refused(self, role: Role, record: Record) -> None:
        self.counts["dlq"] += 1
        said = {
            name: (value or b"").decode(errors="replace")
            for name, value in record.headers
            if name.startswith("tidegate_")
        }
        origin = self._roles.get(said.get("tidegate_origin_topic", ""))
        partition, offset = said.get("tidegate_origin_partition", ""), said.get("tidegate_origin_offset", "")
        if origin not in INPUT_ROLES or partition != str(self.partition) or not offset.isdecimal():
            self.note("dlq_without_origin", f"its headers name {said}", role, record.offset)
            return
        key = (origin, int(offset))
        if key in self.refused:
            self.note("dlq_twice", f"{self.names[origin]}/{partition}/{offset}", role, record.offset)
            return
        self.refused[key] = Refused(record.offset, hash(record.key), hash(record.value), said.get("tidegate_error", ""))

    def _compare(self, role: Role, record: Record, refused: Refused, body: dict[str, Any] | None) -> None:
        refused.seen = True
        where = f"{self.names[role]}/{self.partition}/{record.offset}"
        if (refused.key, refused.value) != (hash(record.key), hash(record.value)):
            self.note("dlq_altered", where, "dlq", refused.offset)
        if role.startswith("results"):
            self.counts["results_refused"] += 1
        event = None if body is None else self._valid(role, record)
        if event is None:
            return
        misplaced = event["type"] == "task.dispatched" and not on_lane(role, event)
        parts = [part["part_id"] for part in event.get("parts") or ()]
        repeats_parts = len(set(parts)) < len(parts)
        invalid = misplaced or repeats_parts or contradicts_itself(event) or _may_exceed(record.value or b"")
        if refused.error == "unsupported" or (refused.error in ("invalid_event", "empty_value") and not invalid):
            self.note(
                "dlq_unfounded", f"{where} is a valid event, but was refused as {refused.error}", "dlq", refused.offset
            )
        if event["type"] == "context.changed" and refused.error == "session_full":
            session = self.session(event["session_id"])
            session.recent.is_repeat(event["source"], event["event_id"])
            self._context_changed(role, record, event, session)
        if event["type"] == "task.step" and refused.error == "session_full":
            self._is_repeated(self.session(event["session_id"]), event["task_id"], role, event, "steps")
        if event["type"] == "result.acknowledged" and refused.error == "unknown_part":
            parts = self.session(event["session_id"]).unknown_parts.setdefault(event["task_id"], [])
            parts.append((refused.offset, event.get("part_ids") or []))
        if event["type"] == "task.result":
            refused.result = (event["session_id"], event["task_id"], event["source"], event["event_id"])
            result = result_of(role, record, event) if refused.error in _FOR_WANT_OF_ROOM else None
            if result is not None:
                self.session(event["session_id"]).refused.setdefault(event["task_id"], []).append(result)

    def _status(self, role: Role, record: Record) -> None:
        try:
            key = orjson.loads(record.key or b"")
            session_id, task_id = key
        except (ValueError, TypeError):
            self.note("output_unreadable", f"key {record.key!r} is not a session and a task", role, record.offset)
            return
        self._placed(role, record, session_id, orjson.dumps([session_id, task_id]))
        statuses = self.session(session_id).statuses
        status = statuses.get(task_id)
        if status is None:
            status = statuses[task_id] = Status()
        if record.value is None:
            statuses[task_id] = Status(tombstone=True)
            return
        self.counts["statuses"] += 1
        try:
            body = orjson.loads(record.value)
            self._output_id(role, record, body)
            if (body["session_id"], body["task_id"]) != (session_id, task_id):
                self.note("output_misplaced", "the key names another task than the body", role, record.offset)
            status.taken = body.get("taken") or status.taken
            ended = body["status"] == "ended"
            status.seen = True
            status.queued = body.get("queued", False)
            status.waiting_for = body["waiting_for"] if body["status"] == "waiting" else None
            ended_at = body.get("ended_at") if ended else None
            ended_ms = 0 if ended_at is None else instant_ms(ended_at)
            judged = body.get("judged") if ended else None
            if judged is not None:
                status.judged = judged_at_of(judged)
        except (ValueError, LookupError, TypeError):
            self.note("output_unreadable", "not a task.status event", role, record.offset)
            return
        if not ended:
            status.reopened = status.reopened or status.ended_offset >= 0
            return
        if status.ended_offset < 0:
            status.ended_offset = record.offset
        status.reason, status.detail = body.get("reason"), body.get("detail") or ""
        status.ended_ms, status.receipt, status.acknowledged = ended_ms, body.get("receipt"), body.get("acknowledged")
        status.acknowledged_parts = body.get("acknowledged_parts") or {}
        disposition = str(body.get("disposition"))
        if disposition not in status.dispositions:
            status.dispositions.append(disposition)

    def _output(self, role: Role, record: Record) -> None:
        try:
            body = orjson.loads(record.value or b"") if role == "commands" else load(record.value or b"")
            session_id = body["session_id"]
            if role == "commands":
                self._command(record, body, self.session(session_id))
            else:
                self._output_id(role, record, body)
                output, task_id = output_of(role, record, body), body["task_id"]
                self.session(session_id).outputs.setdefault(task_id, []).append(output)
        except (ValueError, LookupError, TypeError, AttributeError):
            self.note("output_unreadable", f"not an event of {self.names[role]}", role, record.offset)
            return
        self.counts["outputs"] += 1
        self._placed(role, record, session_id, session_id.encode())

    def _command(self, record: Record, body: dict[str, Any], session: Session) -> None:
        kind, task_id = body["type"], body.get("task_id")
        if kind.startswith("effect."):
            if body.get("proposal"):
                self._output_id("commands", record, body)
            session.answers.setdefault(body["idempotency_key"], []).append(answer_of(record, body))
            return
        self._output_id("commands", record, body)
        if kind == "task.cancel_unmatched":
            session.unmatched.append(unmatched_of(record, body))
        elif task_id is None:
            raise LookupError("task_id")
        elif kind == "task.cancel":
            session.stops.setdefault(task_id, []).append((body["reason"], record.offset))
        elif kind == "task.start":
            session.starts.setdefault(task_id, []).append(record.offset)
        elif kind == "result.outdated":
            session.outdated.setdefault(task_id, []).append(outdated_of(record, body))
        elif kind == "task.redispatch":
            session.redispatches.setdefault(task_id, []).append(redispatch_of(record, body))
        else:
            raise LookupError(kind)

    def _output_id(self, role: Role, record: Record, body: dict[str, Any]) -> None:
        event_id = body["event_id"]
        if event_id in self._output_ids:
            self.repeated_ids.append((body["session_id"], body.get("task_id", ""), event_id, role, record.offset))
        self._output_ids.add(event_id)

    def _placed(self, role: Role, record: Record, session_id: str, key: bytes) -> None:
        if self._home(session_id) != self.partition:
            self.note("output_misplaced", f"belongs on partition {self._home(session_id)}", role, record.offset)
        elif record.key != key:
            self.note("output_misplaced", f"key {record.key!r}", role, record.offset)


def _as_zero(_number: Any) -> int:
    """Stands for a number that JSON libraries do not take: where the models allow a number, they allow any."""
    return 0


def _may_exceed(value: bytes) -> bool:
    """Whether the event may break a bound the models do not state: sizes in bytes, depth, size of integers."""
    long = len(value) > MAX_METADATA_BYTES or not value.isascii() or b"\\u" in value
    return long or value.count(b"[") + value.count(b"{") > 100 or _LARGE_INTEGER.search(value) is not None
