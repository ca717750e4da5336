"""The session row: everything the gate knows of one session, as JSON values, and its bytes on the changelog.

Shapes only, and the questions one can ask of a facet. What events do to a row is `fold`; what a row says of a result is
`gate`. Tasks that ended are kept beside the row, in `ended`: they would be rewritten with every event otherwise.
"""

from typing import Any, Final, NotRequired, TypedDict, cast

import orjson

Facet = list[Any]
"""[value or None, offset, broker timestamp (ms), source, event_id, cause task or None]: the last change of one
facet.
"""

VALUE: Final = 0
OFFSET: Final = 1
TIMESTAMP: Final = 2
SOURCE: Final = 3
EVENT_ID: Final = 4
CAUSE: Final = 5

UNSEEN: Final = 0
"""Stands for the value of a facet before its first change: it contradicts nothing. Values are strings or None."""

SEVERAL: Final = ""
"""Stands for the cause of a value that several tasks gave a facet one after the other: it is nobody's own."""

OwnChanges = dict[str, list[list[Any]]]
"""For each facet the chains of values that a task's own changes led through: [[a, b, c], [x, y]] is a→b→c and x→y."""


class TaskRow(TypedDict):
    """One running task. Fields at their contract defaults are absent."""

    at: int
    """Broker timestamp of the dispatch (ms)."""
    digest: str
    """Of the dispatch's content."""
    echo: dict[str, Any]
    """What every output repeats: task_type, destination, metadata, request_id."""
    expected: dict[str, str | None]
    """Facets the task depends on, with the values last stated."""
    own: NotRequired[OwnChanges]
    taken: NotRequired[dict[str, str | None]]
    policy: NotRequired[dict[str, Any]]
    """on_stale, on_stale_failure, when_absent, valid_until."""
    trace: NotRequired[str]
    steps: NotRequired[list[int]]
    """[started, completed or failed]."""
    progress: NotRequired[float]
    message: NotRequired[str]
    checkpoint: NotRequired[dict[str, Any]]
    stale: NotRequired[list[str]]
    """Facets that differ now, in the order they broke."""


class SessionRow(TypedDict):
    """One session."""

    facets: dict[str, Facet]
    tasks: dict[str, TaskRow]
    own: dict[str, OwnChanges]
    """Own changes of tasks whose dispatch has not been folded yet: topics have no common order."""
    forwarded: NotRequired[list[str]]
    """Digests of the last events that were sent on from a wrong partition: a crash in between sends one twice."""


def new_row() -> SessionRow:
    """A session that nothing is known of."""
    return {"facets": {}, "tasks": {}, "own": {}}


def row_from_bytes(raw: bytes) -> SessionRow:
    """The row that `row_to_bytes` wrote."""
    return cast("SessionRow", orjson.loads(raw))


def row_to_bytes(row: SessionRow) -> bytes:
    """The row as it stands on the changelog. Equal rows built by the same events in the same order are equal bytes."""
    return orjson.dumps(row)


def expected_now(task: TaskRow, facet: str) -> str | None:
    """The value the task expects of `facet`, moved along by the task's own changes.

    A change moves the expectation along if the expectation matched just before it. Evaluated over the whole chain, so
    it does not matter whether the read or the change was folded first.
    """
    value = task["expected"][facet]
    for chain in task.get("own", {}).get(facet, ()):
        if chain[0] == UNSEEN or value in chain[:-1]:
            value = chain[-1]
    return value


def all_expected_now(task: TaskRow) -> dict[str, str | None]:
    """Every facet the task depends on, with the value it expects now."""
    expected = task["expected"]
    if "own" not in task:
        return expected
    return {facet: expected_now(task, facet) for facet in expected}


def differs(row: SessionRow, task: TaskRow, facet: str) -> bool:
    """Whether the row contradicts what the task expects of `facet`. A facet never seen contradicts nothing."""
    known = row["facets"].get(facet)
    if known is None:
        return False
    return bool(known[VALUE] != (expected_now(task, facet) if "own" in task else task["expected"][facet]))


def is_user_absent(row: SessionRow) -> bool:
    """True when clients are known and every one of them is absent or gone."""
    known = [facet[VALUE] for name, facet in row["facets"].items() if name.startswith("presence/")]
    return bool(known) and all(value is None or value == "absent" for value in known)
