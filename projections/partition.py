"""One partition's state in memory, and what its events make of it: rows changed, records to write, records refused.

The engine feeds it batches and writes what `take` returns in one transaction; tests feed it without Kafka. It does no
I/O and reads no clock. Rows stay bytes until an event touches them; a bounded number of them stays decoded.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from projections.ended import Ended, EndedTasks, ended_from_line
from projections.fold import (
    dispatch_digest,
    echo_of,
    fold_context_change,
    fold_dispatch,
    fold_reads,
    fold_step,
    unsupported_field,
)
from projections.gate import Place, judge, withhold_all
from projections.outputs import (
    MAX_OUTPUT_BYTES,
    JudgedResult,
    Output,
    ended_status,
    erased_status,
    result_outputs,
    running_status,
)
from projections.row import SessionRow, new_row, row_from_bytes, row_to_bytes
from schemas.decode import Batch, Refusal
from schemas.envelope import traceparent_of, was_forwarded
from schemas.events import (
    RESULT_EVENTS,
    ContextChanged,
    SessionErased,
    TaskCancelRequested,
    TaskDispatched,
    TaskEffectProposed,
    TaskResult,
    TaskStep,
)
from schemas.fields import Decision, Reason
from schemas.identity import digest
from schemas.wire import decoder, event_type, struct_of

FULL_ROW_BYTES: Final = 512 * 1024
"""A session whose row is larger takes no further facets, reads and tasks."""

MAX_DECODED_ROWS: Final = 8192
MAX_FORWARDED_REMEMBERED: Final = 32

_CONTEXT_CHANGED = struct_of(ContextChanged)
_SESSION_ERASED = struct_of(SessionErased)
_CANCEL_REQUESTED = struct_of(TaskCancelRequested)
_DISPATCHED = struct_of(TaskDispatched)
_EFFECT_PROPOSED = struct_of(TaskEffectProposed)
_STEP = struct_of(TaskStep)

SESSION_KEY: Final = b"s"
ENDED_KEY: Final = b"e"
PARKED_KEY: Final = b"r"
"""First bytes of changelog keys: the session's row; an ended task; a result that waits for its dispatch."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator sets. Times in milliseconds; `source` is the gate's own CloudEvents source."""

    source: str = "tidegate"
    unknown_task_grace_ms: int = 30_000
    ended_task_retention_ms: int = 86_400_000
    ended_tasks_per_session: int = 256


class Parked(NamedTuple):
    """A result, as judged or while it waits for the dispatch of its task. `timestamp` is the broker's (ms)."""

    event: TaskResult
    value: bytes
    offset: int
    timestamp: int
    traceparent: str | None


class Verdicted(NamedTuple):
    """One verdict, for metrics: `age_ms` from dispatch to result (None where unknown), `timestamp` of the result."""

    decision: Decision
    reason: Reason
    task_type: str | None
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


class Partition:
    """The sessions of one partition."""

    def __init__(self, number: int, rules: Rules, is_home: Callable[[str], bool] = lambda _session_id: True) -> None:
        self.number = number
        self.row_bytes = 0
        self._rules = rules
        self._is_home = is_home
        self._rows: dict[str, bytes] = {}
        self._ended = EndedTasks(rules.ended_task_retention_ms, rules.ended_tasks_per_session)
        self._parked: dict[tuple[str, str], list[Parked]] = {}
        self._ready: list[Parked] = []
        self._decoded: dict[str, SessionRow] = {}
        self._dirty: dict[str, None] = {}
        self._told: dict[tuple[str, str], None] = {}
        self._full: set[str] = set()
        self._changes = Changes()

    # What is known

    @property
    def session_count(self) -> int:
        """Sessions with a row."""
        return len(self._rows)

    @property
    def parked_count(self) -> int:
        """Results waiting for a dispatch."""
        return sum(len(parked) for parked in self._parked.values())

    @property
    def has_ready(self) -> bool:
        """Whether parked results can be judged: their dispatch has come."""
        return bool(self._ready)

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to write."""
        changes = self._changes
        return bool(
            self._dirty or self._told or changes.rows or changes.outputs or changes.refusals or changes.misrouted
        )

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """Every session's row as of the last `take`."""
        return iter(self._rows.items())

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take over one changelog record. Later records of a key replace earlier ones; None removes it."""
        kind, name = key[:1], key[1:]
        if kind == SESSION_KEY:
            session_id = name.decode()
            self.row_bytes -= len(self._rows.pop(session_id, b""))
            if value is not None:
                self._keep(session_id, value)
        elif kind == ENDED_KEY:
            session_id, task_id = orjson.loads(name)
            if value is None:
                self._ended.remove(session_id, task_id)
            else:
                self._ended.put(session_id, ended_from_line(value))
        elif kind == PARKED_KEY:
            session_id, task_id, offset = orjson.loads(name)
            waiting = [parked for parked in self._parked.pop((session_id, task_id), []) if parked.offset != offset]
            if value is not None:
                waiting.append(_parked_from_bytes(value))
            if waiting:
                self._parked[session_id, task_id] = waiting

    def settle(self) -> None:
        """Put the parked results in the order they came in, once everything is restored."""
        self._parked = dict(sorted(self._parked.items(), key=lambda parked: parked[1][0].timestamp))

    # Folding

    def fold_context(self, batch: Batch) -> None:
        """Fold a decoded batch of context events."""
        for index, event in enumerate(batch.events):
            if event is None or (row := self._row_for(batch, index, event.session_id)) is None:
                continue
            session_id = event.session_id
            kind = type(event)
            if batch.headers[index] and self._is_forwarded_again(batch, index, row):
                continue
            if kind is _CONTEXT_CHANGED:
                if session_id in self._full and event.set:
                    self._refuse_full(batch, index, session_id)
                    continue
                cause_is_over = event.cause is not None and self._is_over(session_id, event.cause.task_id)
                restaled = fold_context_change(
                    row, event, batch.offsets[index], batch.timestamps[index], cause_is_over=cause_is_over
                )
                if restaled is not None:
                    self._dirty[session_id] = None
                    for task_id in restaled:
                        self._told[session_id, task_id] = None
            elif kind is _SESSION_ERASED:
                self._erase(session_id, row)
            elif kind is _CANCEL_REQUESTED:
                self._refuse_unsupported(batch, index, "task.cancel_requested")
            else:
                self._changes.ignored["result.acknowledged"] += 1

    def fold_steps(self, batch: Batch, now_ms: int) -> None:
        """Fold a decoded batch of dispatches, steps and heartbeats. `now_ms` is told in statuses, never compared."""
        for index, event in enumerate(batch.events):
            if event is None or (row := self._row_for(batch, index, event.session_id)) is None:
                continue
            session_id, task_id = event.session_id, event.task_id
            kind = type(event)
            if batch.headers[index] and self._is_forwarded_again(batch, index, row):
                continue
            if kind is _DISPATCHED:
                self._dispatch(batch, index, row, event, now_ms)
            elif kind is _EFFECT_PROPOSED:
                self._refuse_unsupported(batch, index, "task.effect_proposed")
            elif (task := row["tasks"].get(task_id)) is None or kind is not _STEP:
                self._changes.ignored[kind.__name__] += 1
            elif session_id in self._full and event.reads:
                self._refuse_full(batch, index, session_id)
            else:
                fold_step(row, task, event)
                self._dirty[session_id] = None
                self._told[session_id, task_id] = None

    def _dispatch(self, batch: Batch, index: int, row: SessionRow, event: TaskDispatched, now_ms: int) -> None:
        session_id, task_id = event.session_id, event.task_id
        timestamp = batch.timestamps[index]
        task = row["tasks"].get(task_id)
        ended = self._ended.get(session_id, task_id) if task is None else None
        known = task["digest"] if task is not None else ended.dispatch_digest if ended is not None else None
        if known is not None:
            self._repeated_dispatch(batch, index, event, known)
            return
        unsupported = unsupported_field(event)
        if ended is not None:
            self._end_undispatched(event, "withheld", "unknown_task", None, ended.results, timestamp, now_ms)
        elif unsupported is not None:
            detail = f"{unsupported}: {getattr(event, unsupported)!s} is not supported by this version"
            self._end_undispatched(event, "rejected", "unsupported", detail, [], timestamp, now_ms)
        elif session_id in self._full:
            detail = f"session: its row has reached {FULL_ROW_BYTES} bytes"
            self._end_undispatched(event, "rejected", "unsupported", detail, [], timestamp, now_ms)
        else:
            headers = batch.headers[index]
            fold_dispatch(row, event, timestamp, traceparent_of(headers) if headers else None)
            self._dirty[session_id] = None
            self._told[session_id, task_id] = None
        if self._parked:
            self._ready += self._unpark(session_id, task_id)

    def _repeated_dispatch(self, batch: Batch, index: int, event: TaskDispatched, known: str) -> None:
        repeated = dispatch_digest(event)
        if repeated == known:
            self._changes.duplicates["task.dispatched"] += 1
            return
        detail = (
            f"task_id: {event.task_id!r} was dispatched before with other content (digest {known}, now {repeated});"
            " give every task its own id"
        )
        self._changes.refusals.append(Refusal(batch, index, "dispatch_conflict", detail))

    def _end_undispatched(
        self,
        event: TaskDispatched,
        disposition: str,
        reason: str,
        detail: str | None,
        results: list[list[str]],
        timestamp: int,
        now_ms: int,
    ) -> None:
        session_id, task_id = event.session_id, event.task_id
        row = self._decoded[session_id]
        if row["own"].pop(task_id, None) is not None:
            self._dirty[session_id] = None
        self._remember(session_id, Ended(task_id, disposition, timestamp, dispatch_digest(event), results))
        self._changes.outputs.append(
            ended_status(
                self._rules.source,
                session_id,
                task_id,
                echo_of(event),
                None,
                disposition,
                reason,
                timestamp,
                now_ms,
                detail,
            )
        )

    # Judging

    def judge(self, batch: Batch, place: Place, now_ms: int) -> None:
        """Judge a decoded batch of results. The caller has folded up to the barrier that `place` tells of."""
        for index, event in enumerate(batch.events):
            if event is None:
                continue
            unsupported = next((part for part in event.parts if part.on_stale in ("hold", "redispatch")), None)
            if unsupported is not None:
                self._refuse_unsupported(batch, index, f"part {unsupported.part_id!r}: on_stale {unsupported.on_stale}")
                continue
            headers = batch.headers[index]
            result = Parked(
                event,
                batch.values[index] or b"",
                batch.offsets[index],
                batch.timestamps[index],
                traceparent_of(headers) if headers else None,
            )
            self._judge_result(result, place, now_ms, (batch, index))

    def judge_ready(self, place: Place, now_ms: int) -> None:
        """Judge the parked results whose dispatch has come since."""
        ready, self._ready = self._ready, []
        for result in ready:
            self._judge_result(result, place, now_ms, _as_batch(result, self.number))

    def next_due_ms(self) -> int | None:
        """Broker time at which the grace of the oldest parked result is over; None where nothing is parked."""
        oldest = next(iter(self._parked.values()), None)
        return oldest[0].timestamp + self._rules.unknown_task_grace_ms if oldest else None

    def give_up_due(self, place: Place, now_ms: int) -> None:
        """Withhold the parked results whose grace is over at `now_ms`, as `unknown_task`."""
        limit = now_ms - self._rules.unknown_task_grace_ms
        due = [name for name, parked in self._parked.items() if parked[0].timestamp <= limit]
        for session_id, task_id in due:
            for result in self._unpark(session_id, task_id):
                origin = _as_batch(result, self.number)
                ended = self._ended.get(session_id, task_id)
                if ended is None:
                    ended = Ended(task_id, None, result.timestamp, None, [])
                self._judge_ended(result, ended, place, now_ms, origin)

    def _judge_result(self, result: Parked, place: Place, now_ms: int, origin: tuple[Batch, int]) -> None:
        event = result.event
        session_id, task_id = event.session_id, event.task_id
        row = self._row_for(*origin, session_id)
        if row is None:
            return
        task = row["tasks"].get(task_id)
        if task is None:
            ended = self._ended.get(session_id, task_id)
            if ended is None:
                self._park(result, origin)
            else:
                self._judge_ended(result, ended, place, now_ms, origin)
            return
        stated = task["expected"]
        if event.reads:
            task["expected"] = dict(stated)
            fold_reads(row, task, event.reads)
        judgement = judge(row, task_id, task, event)
        judged = JudgedResult(
            event,
            result.offset,
            result.timestamp,
            result.traceparent or task.get("trace"),
            task["echo"],
            task,
            judgement,
            judgement.decision,
        )
        if not self._write_verdict(judged, place, now_ms, origin):
            task["expected"] = stated
            return
        self._changes.outputs.append(
            ended_status(
                self._rules.source,
                session_id,
                task_id,
                task["echo"],
                task,
                judgement.decision,
                judgement.reason,
                result.timestamp,
                now_ms,
            )
        )
        self._told.pop((session_id, task_id), None)
        del row["tasks"][task_id]
        self._dirty[session_id] = None
        self._remember(
            session_id, Ended(task_id, judgement.decision, result.timestamp, task["digest"], [_digests(event)])
        )

    def _judge_ended(self, result: Parked, ended: Ended, place: Place, now_ms: int, origin: tuple[Batch, int]) -> None:
        """A result of a task that is over, or was never known: a repeat, a conflict, or withheld."""
        event = result.event
        digests = _digests(event)
        if self._is_known(event, digests, ended.results, origin):
            return
        reason: Reason = "unknown_task" if ended.was_unknown else "late"
        judged = JudgedResult(
            event,
            result.offset,
            result.timestamp,
            result.traceparent,
            {},
            None,
            withhold_all(event, reason),
            ended.disposition,
        )
        if self._write_verdict(judged, place, now_ms, origin):
            self._remember(event.session_id, ended.with_result(digests))

    def _is_known(
        self, event: TaskResult, digests: list[str], known: list[list[str]], origin: tuple[Batch, int]
    ) -> bool:
        """Whether the result came before: as it is, or under its identity with other content, which is refused."""
        for identity, content in known:
            if content == digests[1]:
                self._changes.duplicates["task.result"] += 1
                return True
            if identity == digests[0]:
                detail = (
                    f"event_id: {event.event_id!r} of source {event.source!r} came before with other content;"
                    " give every event its own id"
                )
                self._changes.refusals.append(Refusal(*origin, "identity_conflict", detail))
                return True
        return False

    def _write_verdict(self, judged: JudgedResult, place: Place, now_ms: int, origin: tuple[Batch, int]) -> bool:
        outputs = result_outputs(self._rules.source, judged, place, now_ms)
        largest = max(len(output.value or b"") for output in outputs)
        if largest > MAX_OUTPUT_BYTES:
            detail = (
                f"result: its output would have {largest} bytes, at most {MAX_OUTPUT_BYTES};"
                " use payload_ref for large parts"
            )
            self._changes.refusals.append(Refusal(*origin, "output_too_large", detail))
            return False
        self._changes.outputs += outputs
        judgement, task = judged.judgement, judged.task
        self._changes.verdicts.append(
            Verdicted(
                judgement.decision,
                judgement.reason,
                judged.echo.get("task_type"),
                judged.timestamp - task["at"] if task is not None else None,
                judged.timestamp,
            )
        )
        return True

    # Parking

    def _park(self, result: Parked, origin: tuple[Batch, int]) -> None:
        event = result.event
        waiting = self._parked.setdefault((event.session_id, event.task_id), [])
        known = [_digests(parked.event) for parked in waiting]
        if not self._is_known(event, _digests(event), known, origin):
            waiting.append(result)
            self._changes.rows[_parked_key(result)] = _parked_to_bytes(result)

    def _unpark(self, session_id: str, task_id: str) -> list[Parked]:
        results = self._parked.pop((session_id, task_id), [])
        for result in results:
            self._changes.rows[_parked_key(result)] = None
        return results

    # Rows

    def _row_for(self, batch: Batch, index: int, session_id: str) -> SessionRow | None:
        """The session's row, or None where the record is on the wrong partition. A session with a row is at home."""
        row = self._decoded.get(session_id)
        if row is not None:
            return row
        raw = self._rows.get(session_id)
        if raw is None and not self._is_home(session_id):
            self._changes.misrouted.append((batch, index))
            return None
        row = self._decoded[session_id] = new_row() if raw is None else row_from_bytes(raw)
        return row

    def _is_forwarded_again(self, batch: Batch, index: int, row: SessionRow) -> bool:
        if not was_forwarded(batch.headers[index]):
            return False
        event = batch.events[index]
        identity = digest(f"{event.source}\0{event.event_id}".encode())
        known = row.get("forwarded", [])
        if identity in known:
            self._changes.duplicates[event_type(type(event))] += 1
            return True
        row["forwarded"] = [*known, identity][-MAX_FORWARDED_REMEMBERED:]
        self._dirty[event.session_id] = None
        return False

    def _is_over(self, session_id: str, task_id: str) -> bool:
        return self._ended.get(session_id, task_id) is not None

    def _remember(self, session_id: str, ended: Ended) -> None:
        self._ended.put(session_id, ended)
        self._changes.rows[_ended_key(session_id, ended.task_id)] = ended.to_line()
        for task_id in self._ended.prune(session_id, ended.at):
            self._changes.rows[_ended_key(session_id, task_id)] = None

    def _keep(self, session_id: str, raw: bytes) -> None:
        self._rows[session_id] = raw
        self.row_bytes += len(raw)
        if len(raw) > FULL_ROW_BYTES:
            self._full.add(session_id)
        else:
            self._full.discard(session_id)

    def _erase(self, session_id: str, row: SessionRow) -> None:
        for task_id in row["tasks"]:
            self._told.pop((session_id, task_id), None)
            self._changes.outputs.append(erased_status(session_id, task_id))
        for task_id in self._ended.remove_all(session_id):
            self._changes.rows[_ended_key(session_id, task_id)] = None
            self._changes.outputs.append(erased_status(session_id, task_id))
        for parked_session, task_id in list(self._parked):
            if parked_session == session_id:
                self._unpark(session_id, task_id)
        del self._decoded[session_id]
        self._dirty[session_id] = None

    def _refuse_full(self, batch: Batch, index: int, session_id: str) -> None:
        detail = (
            f"session: the row of {session_id!r} has reached {FULL_ROW_BYTES} bytes; unset facets, or erase the session"
        )
        self._changes.refusals.append(Refusal(batch, index, "session_full", detail))

    def _refuse_unsupported(self, batch: Batch, index: int, what: str) -> None:
        self._changes.refusals.append(Refusal(batch, index, "unsupported", f"{what}: not supported by this version"))

    def take(self, now_ms: int) -> Changes:
        """Everything changed since the last call, to be written in one transaction. `now_ms` is told in statuses."""
        changes, self._changes = self._changes, Changes()
        for session_id, task_id in self._told:
            task = self._decoded[session_id]["tasks"][task_id]
            changes.outputs.append(running_status(self._rules.source, session_id, task_id, task, now_ms))
        self._told.clear()
        for session_id in self._dirty:
            before = self._rows.pop(session_id, None)
            self.row_bytes -= len(before or b"")
            row = self._decoded.get(session_id)
            raw = row_to_bytes(row) if row is not None else None
            if raw is not None:
                self._keep(session_id, raw)
            if raw != before:
                changes.rows[SESSION_KEY + session_id.encode()] = raw
        self._dirty.clear()
        if len(self._decoded) > MAX_DECODED_ROWS:
            self._decoded.clear()
        return changes


_encode_content = msgspec.json.Encoder(order="sorted").encode
_decode_result = decoder(RESULT_EVENTS).decode


def _digests(event: TaskResult) -> list[str]:
    """[identity, content] of a result. Content is everything but the envelope; payloads count byte for byte."""
    content: list[Any] = [event.outcome, event.parts, event.reads, event.error]
    return [digest(f"{event.source}\0{event.event_id}".encode()), digest(_encode_content(content))]


def _ended_key(session_id: str, task_id: str) -> bytes:
    return ENDED_KEY + orjson.dumps([session_id, task_id])


def _parked_key(result: Parked) -> bytes:
    return PARKED_KEY + orjson.dumps([result.event.session_id, result.event.task_id, result.offset])


def _parked_to_bytes(result: Parked) -> bytes:
    """A line of JSON that says where it came from, then the record's own bytes."""
    return orjson.dumps([result.offset, result.timestamp, result.traceparent]) + b"\n" + result.value


def _parked_from_bytes(raw: bytes) -> Parked:
    origin, value = raw.split(b"\n", 1)
    offset, timestamp, traceparent = orjson.loads(origin)
    return Parked(_decode_result(value), value, offset, timestamp, traceparent)


def _as_batch(result: Parked, partition: int) -> tuple[Batch, int]:
    """A parked result as the record it came from, for the dead-letter topic."""
    event, offset = result.event, result.offset
    keys: list[bytes | None] = [event.session_id.encode()]
    batch = Batch(
        "results", partition, offset, offset + 1, [offset], [result.timestamp], keys, [result.value], [()], 0, [event]
    )
    return batch, 0
