"""A partition fed by hand: records in, decisions out, restarts at will. What a worker does, without broker or clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import orjson

from projections.changes import Changes
from projections.decode import Batch, Decoder, Refusal
from projections.facets import Facets
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.publish import Output
from projections.records import row_from_bytes, row_to_bytes
from projections.rows import SessionRow
from projections.rules import Rules
from schemas.envelope import Headers
from schemas.topics import Role

START_MS: Final = 1_764_000_000_000
"""Broker time of the first record. Each record comes a second after the one before, unless told otherwise."""

DECODERS: Final[dict[str, Decoder]] = {role: Decoder(role) for role in ("context", "steps", "results")}

_ROLE_OF: Final[dict[str, Role]] = {
    "context.changed": "context",
    "task.cancel_requested": "context",
    "result.acknowledged": "context",
    "session.erased": "context",
    "task.dispatched": "steps",
    "task.step": "steps",
    "task.heartbeat": "steps",
    "task.extended": "steps",
    "task.effect_proposed": "steps",
    "task.result": "results",
}


def role_of(body: dict[str, Any]) -> Role:
    """The input topic an event belongs on, when everything is hot."""
    return _ROLE_OF[body["type"]]


def make_batch(
    role: Role,
    start: int,
    values: Sequence[bytes],
    timestamps: Sequence[int],
    headers: Sequence[Headers] | None = None,
    keys: Sequence[bytes | None] | None = None,
    number: int = 0,
) -> Batch:
    """Records as one fetched batch. All of them are events."""
    count = len(values)
    batch = Batch(
        role,
        number,
        start,
        start + count,
        list(range(start, start + count)),
        list(timestamps),
        list(keys) if keys is not None else [None] * count,
        list(values),
        list(headers) if headers is not None else [()] * count,
    )
    refusals: list[Refusal] = []
    DECODERS[role.split(".", maxsplit=1)[0]].decode(batch, refusals)
    assert [refusal.detail for refusal in refusals] == []
    return batch


class Feed:
    """One partition, and everything it wrote so far.

    `send` fills in what an event needs besides: ids, times, the session. Results are judged as they are sent. Time
    moves by a second with every record.
    """

    def __init__(self, rules: Rules | None = None, session: str = "s") -> None:
        self.rules = rules or Rules()
        self.partition = Partition(0, self.rules)
        self.session = session
        self.now_ms = START_MS
        self.ends: Counter[Role] = Counter()
        self.changelog: list[tuple[bytes, bytes | None]] = []
        self.outputs: list[Output] = []
        self.changes: list[Changes] = []
        self._sent = 0
        self.reaches_cuts = True
        """Whether every record has a cut of its own, right after it."""

    # Sending

    def send(self, kind: str, *, headers: Headers = (), role: Role | None = None, **fields: Any) -> None:
        """Fold or judge one event."""
        self._sent += 1
        body: dict[str, Any] = {
            "type": kind,
            "source": "test",
            "event_id": f"e-{self._sent}",
            "session_id": self.session,
            "occurred_at": "2025-11-24T16:00:00Z",
            **fields,
        }
        self.send_value(role or role_of(body), orjson.dumps(body), headers)

    def send_value(self, role: Role, value: bytes, headers: Headers = ()) -> None:
        """Fold or judge one record."""
        self.now_ms += 1000
        start = self.ends[role]
        self.ends[role] += 1
        self.feed(make_batch(role, start, [value], [self.now_ms], [headers]))

    def feed(self, batch: Batch) -> None:
        """Fold or judge a batch."""
        if batch.role == "context":
            self.partition.fold_context(batch, self.now_ms)
        elif batch.role.startswith("steps"):
            self.partition.fold_steps(batch, self.position, self.now_ms)
        else:
            self.partition.judge(batch, self.position, self.now_ms)
        if self.reaches_cuts:
            self.partition.judge_ready(self.position, self.now_ms)
            self.partition.has_folded(self.now_ms)

    @property
    def position(self) -> LogPosition:
        """Where the logs stand: everything sent was folded."""
        return LogPosition(0, self.ends["context"], self.ends["steps"])

    def changed(self, _set: dict[str, str] | None = None, *, by: str | None = None, **more: Any) -> None:
        """`context.changed`; `by` names the task whose own work it is, `unset` what is gone."""
        if by is not None:
            more["cause"] = {"task_id": by}
        self.send("context.changed", set=_set or {}, **more)

    def dispatched(self, task_id: str, snapshot: dict[str, str | None] | None = None, **fields: Any) -> None:
        """`task.dispatched`."""
        fields = {"task_type": "search", **fields}
        self.send("task.dispatched", task_id=task_id, snapshot=snapshot or {}, **fields)

    def step(self, task_id: str, reads: dict[str, str | None] | None = None, **fields: Any) -> None:
        """`task.step`, completed."""
        fields = {"step_id": "step", "status": "completed", **fields}
        self.send("task.step", task_id=task_id, reads=reads or {}, **fields)

    def result(self, task_id: str, *parts: dict[str, Any], **fields: Any) -> None:
        """`task.result`, completed, with one part to show unless told otherwise. Judged at once."""
        told = [{"kind": "show", **part} for part in parts] or [{"part_id": "text", "kind": "show", "payload": "done"}]
        fields = {"outcome": "completed", "parts": told, **fields}
        self.send("task.result", task_id=task_id, **fields)

    # Time

    def barrier(self) -> None:
        """A barrier is reached: what waited for one is judged."""
        self.partition.judge_ready(self.position, self.now_ms)

    def wait(self, seconds: float) -> None:
        """Let time pass, and act on what falls due."""
        self.now_ms += round(seconds * 1000)
        self.partition.act_on_due(self.position, self.now_ms)

    # Writing and restarting

    def take(self) -> list[dict[str, Any]]:
        """Write a transaction; the bodies of its outputs, tombstones left out."""
        changes = self.partition.take(self.now_ms)
        self.partition.committed()
        self.changes.append(changes)
        self.changelog += changes.rows.items()
        self.outputs += changes.outputs
        return [orjson.loads(output.value) for output in changes.outputs if output.value is not None]

    def restart(self, *, compacted: bool = False) -> None:
        """Take what was not written as lost, and begin again from what the changelog holds."""
        records = self.changelog
        if compacted:
            newest = {key: at for at, (key, _) in enumerate(records)}
            records = [records[at] for at in sorted(newest.values())]
        self.partition = Partition(0, self.rules)
        for key, value in records:
            self.partition.restore(key, value)
        self.partition.settle()

    # Reading

    def waits(self, task_id: str) -> str | None:
        """What the result of an open task waits for."""
        wait = self.row.tasks[task_id].wait
        return wait.why if wait is not None else None

    @property
    def row_bytes(self) -> int:
        """What the session's row takes with all its tasks."""
        return len(row_to_bytes(self.row))

    def verdicts(self) -> list[dict[str, Any]]:
        """`result.delivered` and `result.withheld` events of the next transaction."""
        return [body for body in self.take() if body["type"].startswith("result.")]

    def verdict(self) -> dict[str, Any]:
        """The one output about a result in the next transaction."""
        (only,) = self.verdicts()
        return only

    def statuses(self) -> dict[str, dict[str, Any]]:
        """The newest status of each task in the next transaction, by task id."""
        return {body["task_id"]: body for body in self.take() if body["type"] == "task.status"}

    @property
    def facets(self) -> Facets:
        """The facets of a copy of the session's row."""
        return Facets(self.row.facets)

    @property
    def row(self) -> SessionRow:
        """A copy of the session's row, as it stands."""
        return row_from_bytes(row_to_bytes(self.partition.store.session(self.session).row()))


def reason_of(body: dict[str, Any]) -> tuple[str, str]:
    """What a verdict event says in two words: decision and reason."""
    return body["verdict"]["decision"], body["verdict"]["reason"]
