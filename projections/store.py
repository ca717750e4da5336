"""The sessions of one partition in memory: rows, ended tasks and waiting events, and which of them have changed.

Rows stay bytes until an event touches them; a bounded number of them stays decoded. No I/O: `restore` takes what the
changelog holds, `take` gives what to write to it.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from projections.changes import Changes
from projections.encoding import RowEncoder
from projections.ended import Ended, EndedTasks
from projections.outputs import open_status
from projections.row import SessionRow, TaskRow, has_open_tasks, new_row, row_from_bytes, row_to_bytes
from projections.rules import Rules
from projections.timers import Dues, Timers, dues_of
from schemas.decode import Batch, Decoder
from schemas.envelope import Headers, traceparent_of
from schemas.topics import Role

MAX_DECODED_ROWS: Final = 256
"""Rows that stay decoded from one transaction to the next: about what fits into a core's cache. Walking through the
objects of one that does not costs several times what it costs to decode its bytes anew."""
MAX_KEPT_ROWS: Final = 1024
"""Rows with many tasks that stay decoded, because of them only what changed is encoded."""

SESSION_KEY: Final = b"s"
TASK_KEY: Final = b"t"
ENDED_KEY: Final = b"e"
WAITING_KEY: Final = b"r"
"""First bytes of changelog keys: a session's row; an open task apart from it; an ended task; an event that waits."""


class Waiting(NamedTuple):
    """A result or a proposed effect, as judged or while it waits, with the record it came in.

    `timestamp` is the broker's (ms). `undecided`: the parts that nothing had decided when its task was stopped.
    """

    event: Any
    value: bytes
    key: bytes | None
    headers: Headers
    offset: int
    timestamp: int
    role: Role
    undecided: list[str] | None = None

    @property
    def traceparent(self) -> str | None:
        """Its own trace context."""
        return traceparent_of(self.headers) if self.headers else None


def waiting_of(batch: Batch, index: int) -> Waiting:
    """A decoded record as an event that may have to wait."""
    return Waiting(
        batch.events[index],
        batch.values[index] or b"",
        batch.keys[index],
        batch.headers[index],
        batch.offsets[index],
        batch.timestamps[index],
        batch.role,
    )


class Store:
    """Rows and what belongs to them, by session."""

    def __init__(self, rules: Rules) -> None:
        self.row_bytes = 0
        self.rules = rules
        self.ended = EndedTasks(rules.ended_task_retention_ms, rules.ended_tasks_per_session)
        self.changes = Changes()
        self.timers = Timers()
        self.cold_timers = Timers()
        """Of tasks for which something may be on the cold lane's topics."""
        self.told: dict[tuple[str, str], None] = {}
        self.dirty: dict[str, None] = {}
        self.unknown: dict[tuple[str, str], list[Waiting]] = {}
        self.results: dict[tuple[str, str], Waiting] = {}
        self.stopped: list[Waiting] = []
        self.proposals: list[Waiting] = []
        self.waiting_sessions: dict[str, int] = {}
        self._written: dict[bytes, None] = {}
        self._restoring: dict[bytes, bytes] = {}
        self._rows: dict[str, bytes] = {}
        self._tasks: dict[str, dict[str, bytes]] = {}
        """By session: the records of its open tasks, where they are apart from its row."""
        self.decoded: dict[str, SessionRow] = {}
        self.encoder = RowEncoder()

    @property
    def session_count(self) -> int:
        """Sessions with a row."""
        return len(self._rows)

    @property
    def waiting_count(self) -> int:
        """Results that wait: for a dispatch, for other tasks, for the context or for the user."""
        return sum(map(len, self.unknown.values())) + len(self.results)

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.dirty or self.told) or not self.changes.is_empty

    def session_ids(self) -> list[str]:
        """Every session that had a row at the last `take`."""
        return list(self._rows)

    def raw(self, session_id: str) -> bytes | None:
        """The session's row as of the last `take`."""
        return self._rows.get(session_id)

    def tasks_of(self, session_id: str) -> Mapping[str, bytes]:
        """The records of the session's open tasks, where they are apart from its row, as of the last `take`."""
        return self._tasks.get(session_id, {})

    # Rows

    def known_row(self, session_id: str) -> SessionRow | None:
        """The session's row, decoded; None where there is none."""
        row = self.decoded.get(session_id)
        if row is None:
            raw = self._rows.get(session_id)
            if raw is not None:
                tasks = self._tasks.get(session_id)
                row = self.decoded[session_id] = row_from_bytes(raw, tasks)
                if tasks is not None:
                    self.encoder.keep(session_id)
        return row

    def row(self, session_id: str) -> SessionRow:
        """The session's row, decoded; a new one where there is none."""
        row = self.known_row(session_id)
        if row is None:
            row = self.decoded[session_id] = new_row()
        return row

    def is_unchanged(self, session_id: str, raw: bytes) -> bool:
        """Whether the session's row still is these bytes, with no change on its way."""
        return session_id not in self.dirty and self._rows.get(session_id) == raw

    def drop(self, session_id: str) -> None:
        """Forget the session's row. Whatever comes next finds a new one."""
        self.decoded.pop(session_id, None)
        self.encoder.forget(session_id)
        self.dirty.pop(session_id, None)
        raw = self._rows.pop(session_id, None)
        if raw is not None:
            self.row_bytes -= len(raw)
            self.changes.rows[SESSION_KEY + session_id.encode()] = None
        for task_id in list(self._tasks.get(session_id, ())):
            self._keep_task(session_id, task_id, None)
            self.changes.rows[_task_key(session_id, task_id)] = None

    # Ended tasks

    def remember(self, session_id: str, ended: Ended) -> None:
        """Remember how a task ended, within the horizon. The session gets a row with it, which ends when it is idle."""
        row = self.row(session_id)
        row["at"] = max(row["at"], ended.at)
        self.dirty[session_id] = None
        line = ended.to_line()
        self.ended.put(session_id, ended.task_id, line)
        key = _ended_key(session_id, ended.task_id)
        self.changes.rows.pop(key, None)  # written in the order of memory, so that it is restored in that order
        self.changes.rows[key] = line
        for task_id in self.ended.prune(session_id, ended.at):
            self.changes.rows[_ended_key(session_id, task_id)] = None

    def forget_ended(self, session_id: str) -> list[str]:
        """Forget every ended task of the session. Returns their ids."""
        forgotten = self.ended.remove_all(session_id)
        for task_id in forgotten:
            self.changes.rows[_ended_key(session_id, task_id)] = None
        return forgotten

    # Events that wait. What is taken out to be judged stays on the changelog until `judged` says that it was.

    def park(self, result: Waiting) -> None:
        """Keep a result until the dispatch of its task comes."""
        self.unknown.setdefault((result.event.session_id, result.event.task_id), []).append(result)
        self._write("unknown", result)

    def unpark(self, session_id: str, task_id: str) -> list[Waiting]:
        """The results that waited for this dispatch."""
        return self.unknown.pop((session_id, task_id), [])

    def keep_result(self, result: Waiting) -> None:
        """Keep an open task's result until it can be decided."""
        name = result.event.session_id, result.event.task_id
        if name not in self.results:
            self._count_waiting(name[0], 1)
            self._write("result", result)
        self.results[name] = result

    def stop_result(self, session_id: str, task_id: str, undecided: list[str]) -> Waiting | None:
        """The waiting result of a task that is stopped, with the parts that are left of it."""
        result = self.results.pop((session_id, task_id), None)
        if result is not None:
            self._count_waiting(session_id, -1)
            result = result._replace(undecided=undecided)
            self._write("result", result)
        return result

    def drop_result(self, session_id: str, task_id: str) -> None:
        """The open task's result waits no more."""
        result = self.results.pop((session_id, task_id), None)
        if result is not None:
            self._count_waiting(session_id, -1)
            self.judged(result)

    def keep_proposal(self, proposal: Waiting) -> None:
        """Keep a proposed effect until its barrier is reached."""
        self.proposals.append(proposal)
        self._write("effect", proposal)

    def judged(self, waiting: Waiting) -> None:
        """An event that waited has been judged."""
        for why in ("unknown", "result", "effect"):
            key = _waiting_key(why, waiting)
            if key in self._written:
                del self._written[key]
                self.changes.rows[key] = None

    def _write(self, why: str, waiting: Waiting) -> None:
        key = _waiting_key(why, waiting)
        self._written[key] = None
        self.changes.rows[key] = _waiting_to_bytes(waiting)

    def _count_waiting(self, session_id: str, by: int) -> None:
        count = self.waiting_sessions.get(session_id, 0) + by
        if count:
            self.waiting_sessions[session_id] = count
        else:
            self.waiting_sessions.pop(session_id, None)

    # Changelog

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take over one changelog record. Later records of a key replace earlier ones; None removes it."""
        kind, name = key[:1], key[1:]
        if kind == SESSION_KEY:
            session_id = name.decode()
            if value is not None:
                self._keep(session_id, value, self._rows.get(session_id))
            else:
                self.row_bytes -= len(self._rows.pop(session_id, b""))
        elif kind == TASK_KEY:
            session_id, task_id = orjson.loads(name)
            self._keep_task(session_id, task_id, value)
        elif kind == ENDED_KEY:
            session_id, task_id = orjson.loads(name)
            if value is None:
                self.ended.remove(session_id, task_id)
            else:
                self.ended.put(session_id, task_id, value)
        elif kind == WAITING_KEY:
            if value is None:
                self._restoring.pop(name, None)
            else:
                self._restoring[name] = value

    def settle(self) -> list[Waiting]:
        """Put things in order once everything is restored: what waits, and timers from the rows.

        Returns the results that can be judged now: their dispatch has come, or their task was stopped. Raises
        `ValueError` where a row and the records of its tasks do not belong together.
        """
        ready: list[Waiting] = []
        restored = [(orjson.loads(name), _waiting_from_bytes(name, raw)) for name, raw in self._restoring.items()]
        self._restoring.clear()
        restored.sort(key=lambda each: (each[1].timestamp, each[1].offset))
        for (why, session_id, task_id, _, _), waiting in restored:
            self._written[_waiting_key(why, waiting)] = None
            if why == "effect":
                self.proposals.append(waiting)
            elif why == "result" and waiting.undecided is None:
                self.results[session_id, task_id] = waiting
                self._count_waiting(session_id, 1)
            elif why == "result" or self._is_known_task(session_id, task_id):
                ready.append(waiting)
            else:
                self.unknown.setdefault((session_id, task_id), []).append(waiting)
        for session_id, raw in self._rows.items():
            if has_open_tasks(raw):
                self._set_timers(session_id, self._restored_row(session_id, raw))
        return ready

    def _is_known_task(self, session_id: str, task_id: str) -> bool:
        if self.ended.get(session_id, task_id) is not None:
            return True
        raw = self._rows.get(session_id)
        return raw is not None and task_id in self._restored_row(session_id, raw)["tasks"]

    def _restored_row(self, session_id: str, raw: bytes) -> SessionRow:
        try:
            return row_from_bytes(raw, self._tasks.get(session_id))
        except ValueError as error:
            raise ValueError(f"session {session_id!r}: {error}") from error

    def set_timers(self) -> None:
        """Set the timers of rows that have changed since the last call of `take`."""
        for session_id in self.dirty:
            row = self.decoded.get(session_id)
            if row is not None:
                self._set_timers(session_id, row)

    def _set_timers(self, session_id: str, row: SessionRow) -> None:
        if row["tasks"] or session_id in self.timers or session_id in self.cold_timers:
            self._set_dues(session_id, dues_of(row))

    def _set_dues(self, session_id: str, dues: Dues) -> None:
        self.timers.set(session_id, dues[0])
        self.cold_timers.set(session_id, dues[1])

    def take(self, now_ms: int) -> Changes:
        """Everything changed since the last call, to be written in one transaction. `now_ms` is told in statuses."""
        changes, self.changes = self.changes, Changes()
        source = self.rules.source
        for session_id, task_id in self.told:
            task: TaskRow | None = self.row(session_id)["tasks"].get(task_id)
            if task is not None:
                changes.outputs.append(open_status(source, session_id, task_id, task, now_ms))
        self.told.clear()
        kept = self.encoder.kept
        for session_id in self.dirty:
            row = self.decoded[session_id]
            if session_id in kept:
                raw, tasks, dues = self.encoder.encode(session_id, row, self.tasks_of(session_id))
                self._set_dues(session_id, dues)
                for task_id, record in tasks.items():
                    self._keep_task(session_id, task_id, record)
                    changes.rows[_task_key(session_id, task_id)] = record
            else:
                raw = row_to_bytes(row)
                self._set_timers(session_id, row)
            before = self._rows.get(session_id)
            if raw != before:
                self._keep(session_id, raw, before)
                changes.rows[SESSION_KEY + session_id.encode()] = raw
        self.dirty.clear()
        self._let_go()
        return changes

    def _let_go(self) -> None:
        """Keep few rows decoded, of those with many tasks more than of others."""
        decoded, kept = self.decoded, self.encoder.kept
        while len(kept) > MAX_KEPT_ROWS:
            session_id = next(iter(kept))
            self.encoder.forget(session_id)
            del decoded[session_id]
        if len(decoded) - len(kept) > MAX_DECODED_ROWS:
            self.decoded = {session_id: decoded[session_id] for session_id in kept}

    def _keep(self, session_id: str, raw: bytes, before: bytes | None) -> None:
        self._rows[session_id] = raw
        self.row_bytes += len(raw) - (0 if before is None else len(before))

    def _keep_task(self, session_id: str, task_id: str, record: bytes | None) -> None:
        tasks = self._tasks.setdefault(session_id, {})
        self.row_bytes += len(record or b"") - len(tasks.pop(task_id, b""))
        if record is not None:
            tasks[task_id] = record
        elif not tasks:
            del self._tasks[session_id]


def _task_key(session_id: str, task_id: str) -> bytes:
    return TASK_KEY + orjson.dumps([session_id, task_id])


def _ended_key(session_id: str, task_id: str) -> bytes:
    return ENDED_KEY + orjson.dumps([session_id, task_id])


def _waiting_key(why: str, waiting: Waiting) -> bytes:
    event = waiting.event
    return WAITING_KEY + orjson.dumps([why, event.session_id, event.task_id, waiting.role, waiting.offset])


def _waiting_to_bytes(waiting: Waiting) -> bytes:
    """A line of JSON that says where it came from, then the record's own bytes."""
    headers = [(name, value.decode("latin-1") if value is not None else None) for name, value in waiting.headers]
    origin = [waiting.offset, waiting.timestamp, waiting.key is not None, headers, waiting.undecided]
    return orjson.dumps(origin) + b"\n" + waiting.value


_RESULTS: Final = Decoder("results")
_STEPS: Final = Decoder("steps")


def _waiting_from_bytes(name: bytes, raw: bytes) -> Waiting:
    why, session_id, _, role, _ = orjson.loads(name)
    origin, value = raw.split(b"\n", 1)
    offset, timestamp, has_key, texts, undecided = orjson.loads(origin)
    headers = [(header, text.encode("latin-1") if text is not None else None) for header, text in texts]
    event = (_STEPS if why == "effect" else _RESULTS).event_of(value, headers)
    return Waiting(event, value, session_id.encode() if has_key else None, headers, offset, timestamp, role, undecided)
