"""The session row: everything the gate knows of one session, as JSON values, and its bytes on the changelog.

Shapes only, and the questions one can ask of a facet or a task. What events do to a row is `fold`; what a row says of a
result is `gate`. What would be rewritten with every event otherwise is kept beside the row: tasks that ended in
`ended`, and of many open tasks each in a record of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NotRequired, TypedDict, cast

import orjson

Facet = list[Any]
"""[value or None, offset, broker timestamp (ms), source, event_id, cause task or None]: a facet's last change."""

VALUE: Final = 0
OFFSET: Final = 1
TIMESTAMP: Final = 2
SOURCE: Final = 3
EVENT_ID: Final = 4
CAUSE: Final = 5

MAX_ROW_BYTES: Final = 512 * 1024
"""A session whose row is larger takes no further facets, reads and tasks. It must fit into one record."""

NAME_BYTES: Final = 128
"""What a facet that is known, or that a task depends on, counts at least: it may always get a value that is longer."""

MAX_TASKS_INSIDE: Final = 8
"""Open tasks that are part of the row's own record. When there are more, each has a record of its own until none is
open any more: an event then rewrites only those that it changes."""

UNSEEN: Final = 0
"""Stands for the value of a facet before its first change: it contradicts nothing. Values are strings or None."""

OwnChanges = dict[str, list[list[Any]]]
"""For each facet the changes that a task's own work made: [[offset, value before, value after], …] by offset."""


Below = list[Any]
"""[values that tasks below stated which have ended, {open task below, or ITSELF: value it stated last}] of a facet."""

ITSELF: Final = ""
"""Stands for the task itself among those that stated a value; left out where `expected` is what it stated."""


SEVERAL: Final = ""
"""Stands for the cause of a value that several tasks gave a facet one after the other: it is nobody's own."""


class Wait(TypedDict):
    """A result that is there and cannot be decided yet."""

    why: str
    """children, slot, parent, context or user."""
    undecided: list[str]
    """Ids of the parts that wait."""
    until: NotRequired[int]
    """Broker time (ms) at which waiting ends."""
    over: NotRequired[bool]
    """True once that time has come."""
    delivered: NotRequired[bool]
    """True where other parts were delivered already."""


class TaskRow(TypedDict):
    """One open task. Fields at their contract defaults are absent. Times are the broker's, in ms."""

    at: int
    """Timestamp of the dispatch."""
    offset: int
    """Offset of the dispatch."""
    digest: str
    """Of the dispatch's content."""
    echo: dict[str, Any]
    """What every output repeats: task_type, destination, metadata, request_id, slot, lane."""
    expected: dict[str, str | None]
    """Facets the task depends on, with the values last stated."""
    below: NotRequired[dict[str, Below]]
    """Of the facets that tasks below stated: what stands beside `expected`."""
    own: NotRequired[OwnChanges]
    taken: NotRequired[dict[str, str | None]]
    policy: NotRequired[dict[str, Any]]
    """The dispatch's policies and deadlines, where they are not the defaults."""
    trace: NotRequired[str]
    parent: NotRequired[str]
    children: NotRequired[list[str]]
    """Open children."""
    parentless_until: NotRequired[int]
    """The parent's dispatch has not come; when to give up."""
    heard: NotRequired[int]
    """Last sign of life, where silence has a limit."""
    stale_since: NotRequired[int]
    """When the snapshot broke, where that stops the task."""
    wait: NotRequired[Wait]
    seconds: NotRequired[list[list[str]]]
    """Further results that came while the first one waits, as [identity digest, content digest]."""
    said: NotRequired[dict[str, str]]
    """What its consumer said of the parts that were delivered, while others wait: acknowledged, detail."""
    steps: NotRequired[list[int]]
    """[started, completed or failed]."""
    done: NotRequired[list[str]]
    failed: NotRequired[list[str]]
    in_flight: NotRequired[list[str]]
    progress: NotRequired[float]
    message: NotRequired[str]
    checkpoint: NotRequired[dict[str, Any]]
    stale: NotRequired[list[str]]
    """Facets that differ now, in the order they broke."""
    apart: NotRequired[int]
    """Its place among the open tasks, where each has a record of its own."""


class SessionRow(TypedDict):
    """One session. `at` comes first: idle sessions are found without decoding their rows."""

    at: int
    """Timestamp of the last event (ms)."""
    grown: int
    """No less than the row's size in bytes: what it was when last measured, and what events have added since."""
    facets: dict[str, Facet]
    tasks: dict[str, TaskRow]
    """In the order in which their dispatches were folded. All are inside the row's record, or all apart."""
    own: dict[str, OwnChanges]
    """Own changes of tasks whose dispatch has not been folded yet: topics have no common order."""
    slots: NotRequired[dict[str, list[int]]]
    """For each slot the `order_of` the newest dispatch whose result was delivered into it."""
    cancels: NotRequired[dict[str, int]]
    """Tasks that were cancelled before their dispatch was folded."""
    effects: NotRequired[dict[str, list[Any]]]
    """By idempotency key: the answer given."""
    forwarded: NotRequired[list[str]]
    """Digests of the last events that were sent on from a wrong partition: a crash in between sends one twice."""


def new_row() -> SessionRow:
    """A session that nothing is known of."""
    return {"at": 0, "grown": 0, "facets": {}, "tasks": {}, "own": {}}


def row_from_bytes(raw: bytes, apart: Mapping[str, bytes] | None = None) -> SessionRow:
    """The row that `row_to_bytes` wrote, with the records of its tasks where they are `apart`.

    Raises `ValueError` where there are not as many of these as the row says.
    """
    row: Any = orjson.loads(raw)
    said = row["tasks"] if isinstance(row["tasks"], int) else 0
    if apart or said:
        tasks = [(task_id, orjson.loads(task)) for task_id, task in (apart or {}).items()]
        if len(tasks) != said:
            raise ValueError(f"the row says that {said} open tasks have records of their own, but {len(tasks)} do")
        row["tasks"] = dict(sorted(tasks, key=_place_apart))
    return cast("SessionRow", row)


def _place_apart(named: tuple[str, TaskRow]) -> int:
    return named[1]["apart"]


def row_to_bytes(row: SessionRow, apart: int = 0) -> bytes:
    """The row as bytes, with its tasks or, where these are `apart`, with their number.

    Equal rows built by the same events in the same order are equal bytes.
    """
    return orjson.dumps({**row, "tasks": apart} if apart else row)


def add_task(row: SessionRow, task_id: str, task: TaskRow) -> None:
    """Put an open task into the row, after the others."""
    tasks = row["tasks"]
    last = next(reversed(tasks.values()), None)
    tasks[task_id] = task
    if last is not None and "apart" in last:
        task["apart"] = last["apart"] + 1
    elif len(tasks) > MAX_TASKS_INSIDE:
        for place, each in enumerate(tasks.values()):
            each["apart"] = place


def last_event_at(raw: bytes) -> int:
    """`at` of a row's bytes, without decoding them."""
    return int(raw[6 : raw.index(b",", 6)])


def has_open_tasks(raw: bytes) -> bool:
    """Whether a row has an open task, by the bytes of its own record, without decoding them.

    Before `tasks` there are only facets, whose values are lists: nothing there reads like it.
    """
    return not raw.startswith(b"{}", raw.index(_TASKS) + len(_TASKS))


_TASKS: Final = b'},"tasks":'


def expected_now(task: TaskRow, facet: str, actual: Any = UNSEEN) -> str | None:
    """The value the task expects of `facet`, moved along by its own changes and its descendants'.

    A change moves the expectation along if the expectation matched just before it. Evaluated over the whole history, so
    it does not matter whether the read or the change was folded first. A change of a facet never seen before may have
    come before the read or after it: if what was read is what there `actual`ly is, it came before.
    """
    return _now(task, facet, task["expected"][facet], actual)


def _now(task: TaskRow, facet: str, stated: str | None, actual: Any) -> str | None:
    changes = task.get("own", {}).get(facet, [])
    value = _moved(stated, changes)
    if value != actual and changes and changes[0][1] == UNSEEN and _moved(stated, changes[1:]) == actual:
        return cast("str | None", actual)
    return value


def _moved(value: str | None, changes: list[list[Any]]) -> str | None:
    for _offset, before, after in changes:
        if before in (UNSEEN, value):
            value = after
    return value


def all_expected_now(task: TaskRow, facets: dict[str, Facet]) -> dict[str, str | None]:
    """Every facet the task depends on, with the value it expects now."""
    if "own" not in task:
        return task["expected"]
    actual = {facet: facets[facet][VALUE] for facet in task["expected"] if facet in facets}
    return {facet: expected_now(task, facet, actual.get(facet, UNSEEN)) for facet in task["expected"]}


def is_nearly_full(row: SessionRow, added_bytes: int) -> bool:
    """Whether `has_room` has to look at what an event of this size would add."""
    return row["grown"] + added_bytes > MAX_ROW_BYTES


def has_room(row: SessionRow, added_bytes: int, *, adds_names: bool = True) -> bool:
    """Whether the row may take an event of this size, or adds no names to it; counts it as taken.

    Measured only when the count says that it might be too large, so it does not depend on when the row was written.
    """
    grown = row["grown"] + added_bytes
    if grown > MAX_ROW_BYTES and adds_names:
        names = len(row["facets"]) + sum(len(task["expected"]) for task in row["tasks"].values())
        grown = max(len(row_to_bytes(row)), names * NAME_BYTES) + added_bytes
        if grown > MAX_ROW_BYTES:
            return False
    row["grown"] = grown
    return True


def differs(row: SessionRow, task: TaskRow, facet: str) -> bool:
    """Whether the row contradicts what the task expects of `facet`. A facet never seen contradicts nothing."""
    known = row["facets"].get(facet)
    if known is None:
        return False
    actual = known[VALUE]
    if "below" in task:
        return any(_now(task, facet, stated, actual) != actual for stated in _standing(task, facet))
    return bool(actual != (expected_now(task, facet, actual) if "own" in task else task["expected"][facet]))


def contradicted_now(task: TaskRow, facet: str, actual: str | None) -> str | None:
    """Of what the task and those below it expect of a facet that differs, the first that is not what it `actual`ly is.

    As it was moved along, as if nobody knew what the facet is.
    """
    for stated in _standing(task, facet):
        if _now(task, facet, stated, actual) != actual:
            return _now(task, facet, stated, UNSEEN)
    raise ValueError(f"{facet} does not differ")


def _standing(task: TaskRow, facet: str) -> Iterator[str | None]:
    """What was stated of a facet and not replaced by who stated it."""
    yield task["expected"][facet]
    if "below" in task and facet in task["below"]:
        ended, by = task["below"][facet]
        yield from ended
        yield from by.values()


def is_user_absent(row: SessionRow) -> bool:
    """True when clients are known and every one of them is absent or gone."""
    known = [facet[VALUE] for name, facet in row["facets"].items() if name.startswith("presence/")]
    return bool(known) and all(value is None or value == "absent" for value in known)


def order_of(task: TaskRow) -> list[int]:
    """Places tasks of one slot in the order of their dispatches: time and offset, and a mark for the cold lane's."""
    return [task["at"], task["offset"], *([1] if task["echo"].get("lane") == "cold" else [])]


def is_older(one: list[int], other: list[int]) -> bool:
    """Whether the one dispatch came before the other: in the log of their lane; between lanes, by the broker's time.

    Not by time within a lane: a broker's clock may be set back, and another leader has another clock.
    """
    return one[1] < other[1] if len(one) == len(other) else one < other


def older_in_slot(row: SessionRow, task_id: str, slot: str, order: list[int]) -> list[str]:
    """Open tasks of the slot that were dispatched before."""
    return [
        other_id
        for other_id, other in row["tasks"].items()
        if other_id != task_id and other["echo"].get("slot") == slot and is_older(order_of(other), order)
    ]


def ancestors(row: SessionRow, task: TaskRow) -> Iterator[TaskRow]:
    """The open tasks above this one, nearest first: its own changes are theirs."""
    seen = {id(task)}
    while "parent" in task:
        above = row["tasks"].get(task["parent"])
        if above is None or id(above) in seen:
            return
        seen.add(id(above))
        yield above
        task = above


def readers(row: SessionRow, task: TaskRow) -> Iterator[TaskRow]:
    """The task and those above it that its reads count for: up to the first independent child."""
    yield task
    for above in ancestors(row, task):
        if task.get("policy", {}).get("independent"):
            return
        yield above
        task = above


def added_above(task_id: str, count: int, size: int) -> int:
    """About what `count` facets of `size` bytes that a task states add to a task above: as expected, and as its."""
    return 3 * size + count * (len(task_id) + 16)


def has_room_for_reads(row: SessionRow, task_id: str, task: TaskRow, reads: dict[str, str | None]) -> bool:
    """Whether the row may take what a result or a proposed effect read, for the task and those above it.

    Facets that the task depends on already may always be read anew. A name is there twice where its value differs.
    """
    size, above = max(len(orjson.dumps(reads)), len(reads) * NAME_BYTES), sum(1 for _ in readers(row, task)) - 1
    added = 2 * size + above * added_above(task_id, len(reads), size)
    return has_room(row, added, adds_names=not reads.keys() <= task["expected"].keys())
