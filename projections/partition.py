"""One partition's state in memory, and what its events make of it: rows changed, records to write, records refused.

The engine feeds it batches and writes what `take` returns in one transaction; tests and replays feed it without Kafka.
It does no I/O and reads no clock. Rows stay bytes until an event touches them, and are bytes again after `take`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from projections.fold import (
    Horizon,
    dispatch_digest,
    echo_of,
    end_task,
    fold_context_change,
    fold_dispatch,
    fold_reads,
    fold_step,
    is_ended_unknown,
    unsupported_field,
)
from projections.gate import Judgement, Place, judge, withhold_all
from projections.outputs import (
    MAX_OUTPUT_BYTES,
    JudgedResult,
    Output,
    ended_status,
    erased_status,
    result_outputs,
    running_status,
)
from projections.row import (
    DISPATCH_DIGEST,
    DISPOSITION,
    RESULTS,
    SessionRow,
    TaskRow,
    new_row,
    row_from_bytes,
    row_to_bytes,
)
from schemas.decode import Batch, Refusal
from schemas.envelope import Headers, traceparent_of
from schemas.identity import digest
from schemas.wire import Event

FULL_ROW_BYTES: Final = 512 * 1024
"""A session whose row is larger takes no further facets and tasks."""

MAX_RESULTS_REMEMBERED: Final = 16
"""Results of one ended task that are known again as repeats."""

SESSION_KEY: Final = b"s"
PARKED_KEY: Final = b"r"


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator sets. Times in milliseconds; `source` is the gate's own CloudEvents source."""

    source: str = "tidegate"
    unknown_task_grace_ms: int = 30_000
    ended_task_retention_ms: int = 86_400_000
    ended_tasks_per_session: int = 256


class Parked(NamedTuple):
    """A result that waits for the dispatch of its task. `timestamp` is the broker's, in ms."""

    event: Event
    offset: int
    timestamp: int
    traceparent: str | None


class Verdicted(NamedTuple):
    """For metrics: one verdict, the lag from dispatch to result (ms, None where unknown) and the result's timestamp (ms)."""

    decision: str
    reason: str
    task_type: str | None
    age_ms: int | None
    timestamp: int


@dataclass(slots=True)
class Changes:
    """What one transaction has to write, and what to count. `rows` maps changelog keys to values, None for a tombstone."""

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
        self._horizon = Horizon(rules.ended_task_retention_ms, rules.ended_tasks_per_session)
        self._is_home = is_home
        self._rows: dict[str, bytes] = {}
        self._touched: dict[str, SessionRow | None] = {}
        self._full: set[str] = set()
        self._parked: dict[tuple[str, str], list[Parked]] = {}
        self._ready: list[Parked] = []
        self._told: dict[tuple[str, str], None] = {}
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
        """Whether `take` would return anything to write."""
        changes = self._changes
        return bool(self._touched or self._told or changes.rows or changes.outputs or changes.refusals)

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
        elif kind == PARKED_KEY:
            session_id, task_id, offset = orjson.loads(name)
            waiting = [parked for parked in self._parked.pop((session_id, task_id), []) if parked.offset != offset]
            if value is not None:
                waiting.append(Parked(**orjson.loads(value)))
            if waiting:
                self._parked[session_id, task_id] = waiting

    def settle(self) -> None:
        """Put the parked results in the order they came in, once everything is restored."""
        self._parked = dict(sorted(self._parked.items(), key=lambda parked: parked[1][0].timestamp))

    # Folding

    def fold_context(self, batch: Batch) -> None:
        """Fold a decoded batch of context events."""
        for index, event in enumerate(batch.events):
            if event is None:
                continue
            session_id = event["session_id"]
            if (row := self._row_for(batch, index, session_id)) is None:
                continue
            event_type = event["type"]
            if event_type == "context.changed":
                if session_id in self._full and event.get("set"):
                    self._refuse_full(batch, index, session_id)
                    continue
                for task_id in fold_context_change(row, event, batch.offsets[index], batch.timestamps[index]):
                    self._told[session_id, task_id] = None
            elif event_type == "session.erased":
                self._erase(session_id, row)
            elif event_type == "task.cancel_requested":
                self._refuse_unsupported(batch, index, event_type)
            else:
                self._changes.ignored[event_type] += 1

    def fold_steps(self, batch: Batch, now_ms: int) -> None:
        """Fold a decoded batch of dispatches, steps and heartbeats. `now_ms` is told in statuses, never compared."""
        for index, event in enumerate(batch.events):
            if event is None:
                continue
            session_id = event["session_id"]
            if (row := self._row_for(batch, index, session_id)) is None:
                continue
            event_type = event["type"]
            if event_type == "task.dispatched":
                self._dispatch(batch, index, row, event, now_ms)
            elif event_type == "task.effect_proposed":
                self._refuse_unsupported(batch, index, event_type)
            elif (task := row["tasks"].get(event["task_id"])) is None:
                self._changes.ignored[event_type] += 1
            elif event_type == "task.step":
                if session_id in self._full and event.get("reads"):
                    self._refuse_full(batch, index, session_id)
                    continue
                fold_step(row, task, event)
                self._told[session_id, event["task_id"]] = None

    def _dispatch(self, batch: Batch, index: int, row: SessionRow, event: Event, now_ms: int) -> None:
        session_id, task_id = event["session_id"], event["task_id"]
        timestamp = batch.timestamps[index]
        known = self._dispatched_before(row, task_id)
        if known is not None:
            self._repeated_dispatch(batch, index, event, known)
            return
        field_name = unsupported_field(event)
        if is_ended_unknown(row, task_id):
            results = row["ended"].pop(task_id)[RESULTS]
            self._end_undispatched(row, event, "withheld", "unknown_task", None, results, timestamp, now_ms)
        elif field_name is not None:
            detail = f"{field_name}: {event[field_name]!s} is not supported by this version"
            self._end_undispatched(row, event, "rejected", "unsupported", detail, [], timestamp, now_ms)
        elif session_id in self._full:
            detail = f"session: its row has reached {FULL_ROW_BYTES} bytes"
            self._end_undispatched(row, event, "rejected", "unsupported", detail, [], timestamp, now_ms)
        else:
            fold_dispatch(row, event, timestamp, traceparent_of(batch.headers[index]))
            self._told[session_id, task_id] = None
        self._ready += self._unpark(session_id, task_id)

    def _dispatched_before(self, row: SessionRow, task_id: str) -> str | None:
        task = row["tasks"].get(task_id)
        if task is not None:
            return task["digest"]
        ended = row["ended"].get(task_id)
        return ended[DISPATCH_DIGEST] if ended is not None else None

    def _repeated_dispatch(self, batch: Batch, index: int, event: Event, known: str) -> None:
        repeated = dispatch_digest(event)
        if repeated == known:
            self._changes.duplicates[event["type"]] += 1
            return
        detail = (
            f"task_id: {event['task_id']!r} was dispatched before with other content (digest {known}, now {repeated});"
            " give every task its own id"
        )
        self._changes.refusals.append(Refusal(batch, index, "dispatch_conflict", detail))

    def _end_undispatched(  # noqa: PLR0913 - one argument for each thing remembered or told
        self,
        row: SessionRow,
        event: Event,
        disposition: str,
        reason: str,
        detail: str | None,
        results: list[list[str]],
        timestamp: int,
        now_ms: int,
    ) -> None:
        session_id, task_id = event["session_id"], event["task_id"]
        end_task(row, task_id, disposition, timestamp, dispatch_digest(event), results, self._horizon)
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
            for part in event["parts"]:
                if part.get("on_stale") in ("hold", "redispatch"):
                    self._refuse_unsupported(batch, index, f"part {part['part_id']}: on_stale {part['on_stale']}")
                    break
            else:
                headers: Headers = batch.headers[index]
                result = Parked(
                    event, batch.offsets[index], batch.timestamps[index], traceparent_of(headers) if headers else None
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
                self._withhold_unknown(result, place, now_ms)

    def _judge_result(self, result: Parked, place: Place, now_ms: int, origin: tuple[Batch, int]) -> None:
        event = result.event
        session_id, task_id = event["session_id"], event["task_id"]
        row = self._row_for(*origin, session_id)
        if row is None:
            return
        ended = row["ended"].get(task_id)
        if ended is not None:
            self._judge_ended(row, result, ended, place, now_ms, origin)
            return
        task = row["tasks"].get(task_id)
        if task is None:
            self._park(result, origin)
            return
        stated = dict(task["expected"])
        if event.get("reads"):
            fold_reads(row, task, event["reads"])
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
        end_task(
            row,
            task_id,
            judgement.decision,
            result.timestamp,
            task["digest"],
            [_digests(event)],
            self._horizon,
        )

    def _judge_ended(  # noqa: PLR0913 - the result, the row, and where it stood
        self, row: SessionRow, result: Parked, ended: list[Any], place: Place, now_ms: int, origin: tuple[Batch, int]
    ) -> None:
        event = result.event
        identity, content = digests = _digests(event)
        for known_identity, known_content in ended[RESULTS]:
            if known_content == content:
                self._changes.duplicates[event["type"]] += 1
                return
            if known_identity == identity:
                detail = (
                    f"event_id: {event['event_id']!r} of source {event['source']!r} came before with other content;"
                    " give every event its own id"
                )
                self._changes.refusals.append(Refusal(*origin, "identity_conflict", detail))
                return
        disposition = ended[DISPOSITION]
        reason = "late" if disposition is not None else "unknown_task"
        self._withhold_without_task(result, reason, disposition, place, now_ms, origin)
        ended[RESULTS] = [*ended[RESULTS], digests][-MAX_RESULTS_REMEMBERED:]

    def _withhold_unknown(self, result: Parked, place: Place, now_ms: int) -> None:
        event = result.event
        session_id, task_id = event["session_id"], event["task_id"]
        row = self._row(session_id)
        ended = row["ended"].get(task_id)
        origin = _as_batch(result, self.number)
        if ended is not None:
            self._judge_ended(row, result, ended, place, now_ms, origin)
            return
        self._withhold_without_task(result, "unknown_task", None, place, now_ms, origin)
        end_task(row, task_id, None, result.timestamp, None, [_digests(event)], self._horizon)

    def _withhold_without_task(  # noqa: PLR0913 - the result, the reason, and where it stood
        self,
        result: Parked,
        reason: str,
        disposition: str | None,
        place: Place,
        now_ms: int,
        origin: tuple[Batch, int],
    ) -> None:
        judged = JudgedResult(
            result.event,
            result.offset,
            result.timestamp,
            result.traceparent,
            {},
            None,
            withhold_all(result.event, reason),
            disposition,
        )
        self._write_verdict(judged, place, now_ms, origin)

    def _write_verdict(self, judged: JudgedResult, place: Place, now_ms: int, origin: tuple[Batch, int]) -> bool:
        outputs = result_outputs(self._rules.source, judged, place, now_ms)
        largest = max(len(output.value or b"") for output in outputs)
        if largest > MAX_OUTPUT_BYTES:
            detail = (
                f"result: its output would have {largest} bytes, at most {MAX_OUTPUT_BYTES}; use payload_ref for large parts"
            )
            self._changes.refusals.append(Refusal(*origin, "output_too_large", detail))
            return False
        self._changes.outputs += outputs
        judgement: Judgement = judged.judgement
        task_type = judged.echo.get("task_type")
        age_ms = judged.timestamp - judged.task["at"] if judged.task is not None else None
        self._changes.verdicts.append(
            Verdicted(judgement.decision, judgement.reason, task_type, age_ms, judged.timestamp)
        )
        return True

    # Parking

    def _park(self, result: Parked, origin: tuple[Batch, int]) -> None:
        event = result.event
        session_id, task_id = event["session_id"], event["task_id"]
        identity, content = _digests(event)
        for parked in self._parked.get((session_id, task_id), ()):
            known_identity, known_content = _digests(parked.event)
            if known_content == content:
                self._changes.duplicates[event["type"]] += 1
                return
            if known_identity == identity:
                detail = f"event_id: {event['event_id']!r} came before with other content; give every event its own id"
                self._changes.refusals.append(Refusal(*origin, "identity_conflict", detail))
                return
        self._parked.setdefault((session_id, task_id), []).append(result)
        self._changes.rows[_parked_key(result)] = orjson.dumps(result._asdict())

    def _unpark(self, session_id: str, task_id: str) -> list[Parked]:
        results = self._parked.pop((session_id, task_id), [])
        for result in results:
            self._changes.rows[_parked_key(result)] = None
        return results

    # Rows

    def _row(self, session_id: str) -> SessionRow:
        row = self._touched.get(session_id)
        if row is None:
            raw = self._rows.get(session_id) if session_id not in self._touched else None
            row = self._touched[session_id] = row_from_bytes(raw) if raw is not None else new_row()
        return row

    def _row_for(self, batch: Batch, index: int, session_id: str) -> SessionRow | None:
        """The session's row, or None where the record is on the wrong partition. Rows are at home: those need no look."""
        row = self._touched.get(session_id)
        if row is not None:
            return row
        if session_id not in self._rows and session_id not in self._touched and not self._is_home(session_id):
            self._changes.misrouted.append((batch, index))
            return None
        return self._row(session_id)

    def _keep(self, session_id: str, raw: bytes) -> None:
        self._rows[session_id] = raw
        self.row_bytes += len(raw)
        if len(raw) > FULL_ROW_BYTES:
            self._full.add(session_id)
        else:
            self._full.discard(session_id)

    def _erase(self, session_id: str, row: SessionRow) -> None:
        for task_id in (*row["tasks"], *row["ended"]):
            self._told.pop((session_id, task_id), None)
            self._changes.outputs.append(erased_status(session_id, task_id))
        for parked_session, task_id in list(self._parked):
            if parked_session == session_id:
                self._unpark(session_id, task_id)
        self._touched[session_id] = None

    def _refuse_full(self, batch: Batch, index: int, session_id: str) -> None:
        detail = f"session: the row of {session_id!r} has reached {FULL_ROW_BYTES} bytes; unset facets, or erase the session"
        self._changes.refusals.append(Refusal(batch, index, "session_full", detail))

    def _refuse_unsupported(self, batch: Batch, index: int, what: str) -> None:
        detail = f"{what}: not supported by this version"
        self._changes.refusals.append(Refusal(batch, index, "unsupported", detail))

    def take(self, now_ms: int) -> Changes:
        """Everything changed since the last call. Rows are bytes again, and nothing is remembered as changed."""
        changes, self._changes = self._changes, Changes()
        for session_id, task_id in self._told:
            row = self._touched.get(session_id)
            task: TaskRow | None = row["tasks"].get(task_id) if row is not None else None
            if task is not None:
                changes.outputs.append(running_status(self._rules.source, session_id, task_id, task, now_ms))
        self._told.clear()
        for session_id, touched in self._touched.items():
            before = self._rows.pop(session_id, None)
            self.row_bytes -= len(before or b"")
            if touched is None:
                self._full.discard(session_id)
                if before is not None:
                    changes.rows[SESSION_KEY + session_id.encode()] = None
                continue
            raw = row_to_bytes(touched)
            self._keep(session_id, raw)
            if raw != before:
                changes.rows[SESSION_KEY + session_id.encode()] = raw
        self._touched.clear()
        return changes


def _digests(event: Event) -> list[str]:
    """[identity, content] of a result."""
    content = {name: event.get(name) for name in ("outcome", "parts", "reads", "error")}
    return [digest([event["source"], event["event_id"]]), digest(content)]


def _parked_key(result: Parked) -> bytes:
    return PARKED_KEY + orjson.dumps([result.event["session_id"], result.event["task_id"], result.offset])


def _as_batch(result: Parked, partition: int) -> tuple[Batch, int]:
    """A parked result as the record it came from, for the dead-letter topic."""
    event, offset = result.event, result.offset
    key, value = event["session_id"].encode(), orjson.dumps(event)
    return Batch(
        "results", partition, offset, offset + 1, [offset], [result.timestamp], [key], [value], [()], 0, [event]
    ), 0
