"""`tidegate orphans`: what is open in the gate's rows without a live parent, without a sign of life, or without an end.

It reads the sessions changelog, committed records only, up to an end fixed at the start, and judges it at that moment.
It may run beside the gate. With a gate that runs and is not behind there is nothing to list; what is listed while no
worker runs is what the next one will end.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar

import orjson
import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from projections import ended
from projections.clocks import deadline_of, given_up_at
from projections.keys import ENDED_KEY, SESSION_KEY, TASK_KEY, WAITING_KEY
from projections.records import head_from_bytes, row_from_bytes
from projections.rows import Scope, SessionRow, Task
from projections.rules import Rules
from projections.timers import due_ms
from schemas.times import rfc3339
from schemas.topics import topic_name
from tidegate.errors import TidegateError
from tidegate.refusals import tell_once, unanswered
from tidegate.settings import Settings
from tidegate.topics import describe_topics

KINDS: Final[Mapping[str, str]] = {
    "parent_not_open": "its parent is not open",
    "parent_grace_over": "its parent was not dispatched in time",
    "parent_unaware": "its parent does not wait for it",
    "overdue": "was due to end",
    "child_not_open": "waits for a child that is not open",
    "result_missing": "waits with a result that is not kept",
    "result_without_task": "its result waits, and it is not open",
    "dispatch_grace_over": "has a result, was not dispatched in time",
}
"""What can be wrong, in words."""

_FETCH_BYTES: Final = 4 * 1024 * 1024
_STUCK_SECONDS: Final = 60.0
_SHOWN_AT_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Orphan:
    """One thing that is open and should not be. `due_at` is RFC 3339, where it should have ended at a certain time."""

    kind: str
    partition: int
    session_id: str
    task_id: str
    detail: str
    due_at: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The moment to judge at, how late the gate may be (both in ms), and what an operator set."""

    now_ms: int
    margin_ms: int
    rules: Rules


@dataclass(slots=True)
class OpenState:
    """What one partition's changelog says is open: rows with open tasks, and events that wait.

    `tasks` are those that have records of their own, by session and task.
    `watched` are the ended tasks whose results are delivered in shadow mode, before their children have ended.
    """

    partition: int
    rules: Rules
    rows: dict[bytes, bytes] = field(default_factory=dict)
    tasks: dict[bytes, dict[str, bytes]] = field(default_factory=dict)
    waiting: dict[bytes, bytes] = field(default_factory=dict)
    watched: set[bytes] = field(default_factory=set)

    def take(self, key: bytes, value: bytes | None) -> None:
        """Take over one changelog record. Later records of a key replace earlier ones; None removes it.

        Raises `ValueError` for a record of another version.
        """
        kind, name = key[:1], key[1:]
        if kind == SESSION_KEY:
            _set(self.rows, name, value if value is not None and head_from_bytes(value).open_tasks else None)
        elif kind == TASK_KEY:
            session_id, task_id = orjson.loads(name)
            _set(self.tasks.setdefault(session_id.encode(), {}), task_id, value)
        elif kind == WAITING_KEY:
            _set(self.waiting, name, value)
        elif kind == ENDED_KEY and (self.rules.shadow or self.rules.shadow_task_types):
            task = ended.task_of(value) if value is not None else None
            if task is not None and not task.was_unknown and self.rules.is_shadow(task.task_type):
                self.watched.add(name)
            else:
                self.watched.discard(name)

    def decoded(self) -> dict[str, SessionRow]:
        """The rows with open tasks. Raises `ValueError` for one that the gate did not write so."""
        return {name.decode(): row_from_bytes(raw, self.tasks.get(name)) for name, raw in self.rows.items()}

    def may_be_without(self, session_id: str, parent_id: str) -> bool:
        """Whether the parent's result was delivered although its children were at work: in shadow mode it is."""
        return orjson.dumps([session_id, parent_id]) in self.watched


@dataclass(frozen=True, slots=True)
class Found:
    """What is open, counted, and which of it is orphaned."""

    partitions: int
    sessions: int
    open_tasks: int
    waiting_results: int
    orphans: list[Orphan]


def orphans_in(state: OpenState, rows: dict[str, SessionRow], limits: Limits) -> Iterator[Orphan]:
    """Everything orphaned in one partition; `rows` are those `decoded`.

    Raises `ValueError` for a row or a key that the gate did not write.
    """
    kept: set[tuple[str, str]] = set()
    for name, value in state.waiting.items():
        why, session_id, task_id, *_ = orjson.loads(name)
        if why == "effect":
            continue  # answered at the next barrier
        # the fields up to the undecided parts are the same in every format
        _, timestamp, _, _, undecided, *_ = orjson.loads(value.split(b"\n", 1)[0])
        is_open = session_id in rows and task_id in rows[session_id].tasks
        if why == "result":
            kept.add((session_id, task_id))
            if not is_open and (undecided is None or _is_past(timestamp, limits)):
                yield Orphan("result_without_task", state.partition, session_id, task_id, _since(timestamp))
        elif not is_open and _is_past(timestamp + limits.rules.unknown_task_grace_ms, limits):
            due_at = rfc3339(timestamp + limits.rules.unknown_task_grace_ms)
            yield Orphan("dispatch_grace_over", state.partition, session_id, task_id, "", due_at)
    for session_id, row in rows.items():
        for task_id, task in row.tasks.items():
            parent = task.scope.parent if task.scope is not None else None
            for kind, detail, due in _wrong_with(row, task_id, task, limits):
                if kind == "parent_not_open" and parent is not None and state.may_be_without(session_id, parent):
                    continue
                told_due = rfc3339(due) if due is not None else None
                yield Orphan(kind, state.partition, session_id, task_id, detail, told_due)
            if task.wait is not None and (session_id, task_id) not in kept:
                detail = f"waits for {task.wait.why}"
                yield Orphan("result_missing", state.partition, session_id, task_id, detail)


def _wrong_with(row: SessionRow, task_id: str, task: Task, limits: Limits) -> Iterator[tuple[str, str, int | None]]:
    """What is wrong with an open task: kind, detail, and when it was due (ms)."""
    tasks = row.tasks
    scope = task.scope if task.scope is not None else Scope()
    grace_until = scope.parentless_until
    if grace_until is not None:
        if _is_past(grace_until, limits):
            yield "parent_grace_over", f"parent {scope.parent}", grace_until
    elif scope.parent is not None:
        parent = tasks.get(scope.parent)
        if parent is None:
            yield "parent_not_open", f"parent {scope.parent}", None
        elif parent.scope is None or task_id not in parent.scope.children:
            yield "parent_unaware", f"parent {scope.parent}", None
    for child_id in scope.children:
        if child_id not in tasks:
            yield "child_not_open", f"child {child_id}", None
    due = due_ms(task)
    if due is not None and due != grace_until and _is_past(due, limits):
        yield "overdue", _due_for(task, due), due


def _due_for(task: Task, due: int) -> str:
    if task.wait is not None:
        return f"waits for {task.wait.why}"
    if deadline_of(task) == due:
        return "deadline"
    silent = given_up_at(task)
    if silent is not None and silent[0] == due:
        return "start" if silent[1] == "not_started" else "heartbeat"
    return "stale, and to be stopped"


def _is_past(due_ms: int, limits: Limits) -> bool:
    return due_ms + limits.margin_ms < limits.now_ms


def _since(timestamp: int) -> str:
    return f"since {rfc3339(timestamp)}"


_Name = TypeVar("_Name", str, bytes)


def _set(store: dict[_Name, bytes], name: _Name, value: bytes | None) -> None:
    if value is None:
        store.pop(name, None)
    else:
        store[name] = value


def run(settings: Settings, *, json: bool = False, margin_seconds: float = 10.0) -> int:
    """Print what is orphaned, and return the exit status: 0 if nothing is, 1 otherwise.

    json: one JSON object on standard output instead of a table.
    Raises `TidegateError` if the broker cannot be reached or the topic is missing.
    """
    tell_once()
    found = asyncio.run(find_orphans(settings, margin_seconds=margin_seconds))
    if json:
        typer.echo(orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2).decode())
    else:
        show(found, Console())
    return 1 if found.orphans else 0


async def find_orphans(settings: Settings, *, margin_seconds: float = 10.0) -> Found:
    """What is open and orphaned now. May be called while the gate runs.

    margin_seconds: how late the gate may be with something due.
    Raises `TidegateError` if the broker cannot be reached or the topic is missing. Cancelled, it leaves nothing behind.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    topic = topic_name("sessions.changelog", settings.topic_prefix)
    there = (await describe_topics(settings, [topic])).get(topic)
    if there is None:
        raise TidegateError(
            f"There is no topic {topic} at {settings.bootstrap_servers}.",
            "Is TIDEGATE_TOPIC_PREFIX right? `tidegate topics create` makes the topics.",
        )
    rules = Rules(
        unknown_task_grace_ms=round(settings.unknown_task_grace_seconds * 1000),
        shadow=settings.shadow,
        shadow_task_types=frozenset(settings.shadow_task_types),
    )
    states = [OpenState(partition, rules) for partition in range(there.partitions)]
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("reading", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        async with _consumer(settings) as consumer:
            now_ms = time.time_ns() // 1_000_000
            await _read(consumer, topic, states, tell)
    return found_in(states, Limits(now_ms, round(margin_seconds * 1000), rules), topic)


def found_in(states: list[OpenState], limits: Limits, topic: str) -> Found:
    """What is open in all partitions of `topic`, and what of it is orphaned.

    Raises `TidegateError` for a row or a key that this version cannot read.
    """
    orphans: list[Orphan] = []
    open_tasks = 0
    for state in states:
        try:
            rows = state.decoded()
            orphans += orphans_in(state, rows, limits)
            open_tasks += sum(len(row.tasks) for row in rows.values())
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(topic, state.partition, error) from error
    orphans.sort(key=lambda each: (each.partition, each.session_id, each.task_id, each.kind))
    return Found(
        partitions=len(states),
        sessions=sum(len(state.rows) for state in states),
        open_tasks=open_tasks,
        waiting_results=sum(_is_result(name) for state in states for name in state.waiting),
        orphans=orphans,
    )


def _is_result(name: bytes) -> bool:
    """Whether what waits under the key is a result, and not a proposed effect."""
    role: str = orjson.loads(name)[3]
    return role.startswith("results")


def _unreadable(topic: str, partition: int, error: Exception) -> TidegateError:
    return TidegateError(
        f"{topic}/{partition} has a row that this version cannot read: {error!r}.",
        "Run it again: the topic may have been compacted meanwhile. Was it written by another version of the gate? Use"
        " the version that the workers run.",
    )


async def _read(consumer: Any, topic: str, states: list[OpenState], tell: Callable[[int, int], None]) -> None:
    """Give every record that is committed now to its partition's state. `tell` is told how far it is, in offsets."""
    wanted = {TopicPartition(topic, state.partition): state for state in states}
    ends = await consumer.end_offsets(list(wanted))
    begins = await consumer.beginning_offsets(list(wanted))
    total = sum(ends.values()) - sum(begins.values())
    wanted = {tp: state for tp, state in wanted.items() if begins[tp] < ends[tp]}
    consumer.assign(list(wanted))
    for tp in wanted:
        consumer.seek(tp, begins[tp])  # an explicit place: resetting to the beginning races with the reset policy
    positions = dict(begins)
    moved_at = time.monotonic()
    while wanted:
        for tp, records in (await consumer.getmany(timeout_ms=100)).items():
            state = wanted.get(tp)
            for record in records:
                if state is not None and record.key is not None and record.offset < ends[tp]:
                    try:
                        state.take(record.key, record.value)
                    except ValueError as error:
                        raise _unreadable(topic, tp.partition, error) from error
        for tp in list(wanted):
            position = await consumer.position(tp)
            if position != positions[tp]:
                positions[tp] = position
                moved_at = time.monotonic()
            if position >= ends[tp]:
                del wanted[tp]
        tell(sum(min(positions[tp], ends[tp]) for tp in ends) - sum(begins.values()), total)
        if time.monotonic() - moved_at > _STUCK_SECONDS:
            raise TidegateError(
                f"Nothing more comes from {', '.join(f'{tp.topic}/{tp.partition}' for tp in wanted)}.",
                "Are the brokers that lead these partitions up?",
            )


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(
        **settings.kafka_kwargs(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        request_timeout_ms=round(settings.request_timeout_seconds * 1000),
        retry_backoff_ms=20,
        max_partition_fetch_bytes=_FETCH_BYTES,
        check_crcs=False,
    )
    try:
        await consumer.start()
        yield consumer
    except OffsetOutOfRangeError as error:
        raise TidegateError(f"The changelog was cut while it was read: {error}", "Run it again.") from error
    except (KafkaError, TimeoutError) as error:
        raise unanswered(settings, error) from error
    finally:
        with suppress(KafkaError):
            await consumer.stop()


def show(found: Found, console: Console) -> None:
    """A table of the orphans, if there are any, and a line of counts."""
    if found.orphans:
        table = Table(box=None, pad_edge=False)
        for head in ("session", "task", "what is wrong", "detail"):
            table.add_column(head, overflow="fold")
        table.add_column("due", no_wrap=True)
        for each in found.orphans[:_SHOWN_AT_MOST]:
            told = KINDS[each.kind]
            due = each.due_at[:19] if each.due_at is not None else ""
            table.add_row(*map(escape, (each.session_id, each.task_id, told, each.detail, due)))
        console.print(table)
        if len(found.orphans) > _SHOWN_AT_MOST:
            console.print(f"and {len(found.orphans) - _SHOWN_AT_MOST:,} more; --json has all of them")
        console.print()
    console.print(
        f"{found.open_tasks:,} open tasks in {found.sessions:,} sessions of {found.partitions} partitions, "
        f"{found.waiting_results:,} waiting results: {len(found.orphans):,} orphaned",
        highlight=False,
        soft_wrap=True,
    )
