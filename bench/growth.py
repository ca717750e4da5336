"""What an event costs in memory with many sessions, or with many open tasks in a session, and what a session weighs.

Each measurement runs in a process of its own, so that its memory is its own.

Sessions: a partition is given idle sessions as a restore would give them, row by row (their growth of the process is
the memory of a session; also measured alone, without and with one remembered ended task), then the events of the usual
workload for active ones among them. Once 10,000 are active,
whatever the number of idle ones; and once so many that nearly every event meets a session whose row has to be decoded
and written for this event alone.

Tasks: sessions that each have so many tasks open all the time, as many in all every time, in short cycles: the gate
keeps up, and nearly every event has its session's row written for it alone. Working off a backlog, many share it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final, NamedTuple

import orjson
import psutil

from bench.pipeline import Run, garbage_out_of_the_way, logs_of
from projections.changes import Changes
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.rules import Rules
from testing.workload import Record, Workload

CYCLE_RECORDS: Final = 8_192
SHORT_CYCLE_RECORDS: Final = 64
ACTIVE: Final = 10_000
NOW_MS: Final = 1_750_000_000_000
IDLE_ID: Final = "acme/user-{:07d}"
IDLE_TASK_ID: Final = b"task-0000001f"
IDLE_FACETS: Final = {
    "conversation": "conv-00001f",
    "view/tab-1": "calendar/week?at=0000001f",
    "presence/tab-1": "absent",
    "calendar/0": "etag-000001",
    "calendar/1": "etag-000001",
    "doc/0": "sha256:000001f0c2d94be1a07f",
}


def in_own_process(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `measure` returns, run in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def with_sessions(sessions: int, active: int, events: int, ended_tasks: int) -> dict[str, Any]:
    """CPU of an event while `sessions` are in memory and `active` others send events; the memory of an idle session."""
    workload = Workload(sessions=active, partitions=1)
    ramp = logs_of(workload.records(events // 4, finish=False), 1, CYCLE_RECORDS)
    logs = logs_of(workload.records(events), 1, CYCLE_RECORDS)
    partition = Partition(0, Rules())
    with garbage_out_of_the_way():
        idle = max(0, sessions - active)
        restored = _restore(partition, idle, ended_tasks)
        Run().feed(partition, ramp[0])
        run = Run()
        run.feed(partition, logs[0])
    return {
        "sessions": max(sessions, active),
        "active": active,
        "cpu_us_per_event": _per_event(run, events),
        "rows_written_per_event": round(run.counts["rows_written"] / events, 3),
        **(
            {
                "bytes_per_idle_session": round(restored.memory_bytes / idle),
                "row_bytes": restored.row_bytes,
                "ended_tasks": ended_tasks,
                "restore_us_per_session": round(restored.cpu_seconds / idle * 1e6, 2),
            }
            if idle
            else {}
        ),
    }


def idle_sessions(sessions: int) -> dict[str, Any]:
    """Memory of one of so many idle sessions, without and with one remembered ended task."""
    bare, remembering = (in_own_process(_restored_alone, sessions, ended_tasks) for ended_tasks in (0, 1))
    return {
        "sessions": sessions,
        "bytes_per_idle_session": bare["bytes_per_idle_session"],
        "bytes_per_idle_session_with_ended_task": remembering["bytes_per_idle_session"],
        "row_bytes": bare["row_bytes"],
        "ended_task_bytes": remembering["ended_task_bytes"],
    }


def with_open_tasks(tasks: int, sessions: int, events: int) -> dict[str, Any]:
    """CPU of an event while every session has about `tasks` open tasks, with the size of its row."""
    workload = Workload(sessions=sessions, partitions=1, open_tasks=tasks * sessions)
    # one event in ten opens a task, and none ends before all are there
    ramp = logs_of(workload.records(tasks * sessions * 10 + events // 4, finish=False), 1, CYCLE_RECORDS)
    logs = logs_of(workload.records(events, finish=False), 1, SHORT_CYCLE_RECORDS)
    partition = Partition(0, Rules())
    with garbage_out_of_the_way():
        Run().feed(partition, ramp[0])
        run = Run()
        run.feed(partition, logs[0])
    return {
        "open_tasks": tasks,
        "sessions": sessions,
        "cpu_us_per_event": _per_event(run, events),
        "stages_us_per_event": {stage: round(seconds / events * 1e6, 2) for stage, seconds in run.cpu_seconds.items()},
        "row_bytes": round(partition.store.row_bytes / partition.store.session_count),
        "records_written_per_event": round(run.counts["rows_written"] / events, 3),
        "row_bytes_written_per_event": round(run.counts["row_bytes_written"] / events),
        "row_bytes_sent_per_event": round(run.counts["row_bytes_sent"] / events),
    }


def _restored_alone(sessions: int, ended_tasks: int) -> dict[str, Any]:
    with garbage_out_of_the_way():
        restored = _restore(Partition(0, Rules()), sessions, ended_tasks)
    return {
        "bytes_per_idle_session": round(restored.memory_bytes / sessions),
        "row_bytes": restored.row_bytes,
        "ended_task_bytes": restored.ended_task_bytes,
    }


class _Restored(NamedTuple):
    """What idle sessions have cost: memory is the growth of the process; sizes are those of values on the changelog."""

    memory_bytes: int
    cpu_seconds: float
    row_bytes: int
    ended_task_bytes: int


def _restore(partition: Partition, sessions: int, ended_tasks: int) -> _Restored:
    row, ended = idle_session(0)
    before = psutil.Process().memory_info().rss
    run = Run()
    with run.stage("restore"):
        for number in range(sessions):
            session_id = IDLE_ID.format(number)
            partition.restore(b"s" + session_id.encode(), row.replace(b"%012x" % 0, b"%012x" % number))
            for task in range(ended_tasks):
                key = b"e" + orjson.dumps([session_id, f"task-{task:08x}"])
                partition.restore(key, ended.replace(IDLE_TASK_ID, b"task-%08x" % task))
        partition.settle()
    grown = psutil.Process().memory_info().rss - before
    return _Restored(grown, run.cpu_seconds["restore"], len(row), len(ended))


def idle_session(number: int) -> tuple[bytes, bytes]:
    """The row of a session whose user has left, and the line of the one task that it remembers, as on the changelog.

    It knows a conversation, a view, whether the user is there, and three things that tasks depend on.
    """
    session_id = IDLE_ID.format(number)
    common = {"source": "web", "session_id": session_id, "occurred_at": "2025-06-02T08:30:00Z"}
    events: tuple[tuple[Any, dict[str, Any]], ...] = (
        ("context", {"type": "context.changed", "set": IDLE_FACETS}),
        (
            "steps",
            {
                "type": "task.dispatched",
                "task_id": IDLE_TASK_ID.decode(),
                "task_type": "flight_search",
                "snapshot": {name: IDLE_FACETS[name] for name in ("conversation", "calendar/1")},
            },
        ),
        (
            "results",
            {
                "type": "task.result",
                "task_id": IDLE_TASK_ID.decode(),
                "outcome": "completed",
                "parts": [{"part_id": "answer", "kind": "show", "payload": {"text": "The answer."}}],
            },
        ),
    )
    records = [
        Record(
            role,
            0,
            session_id.encode(),
            orjson.dumps({**body, **common, "event_id": f"00000001-7a1d-4c3e-9b52-{number:012x}"}),
            None,
        )
        for role, body in events
    ]
    rows = _changes_of(records).rows
    (row,) = (value for key, value in rows.items() if key.startswith(b"s") and value is not None)
    (ended,) = (value for key, value in rows.items() if key.startswith(b"e") and value is not None)
    return row, ended


def _changes_of(records: list[Record]) -> Changes:
    partition = Partition(0, Rules())
    for batch in logs_of(records, 1, len(records))[0][0]:
        if batch.role == "context":
            partition.fold_context(batch, NOW_MS)
        elif batch.role == "steps":
            partition.fold_steps(batch, LogPosition(0, 0, 0), NOW_MS)
        else:
            partition.judge(batch, LogPosition(0, 0, 0), NOW_MS)
    return partition.take(NOW_MS)


def _per_event(run: Run, events: int) -> float:
    return round(sum(run.cpu_seconds.values()) / events * 1e6, 2)
