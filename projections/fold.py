"""What context events and steps do to a session row.

Each function changes the row it is given, and nothing else: same row, same events, same order, same bytes. None reads a clock.
"""

from typing import Any, Final

from projections.row import (
    CAUSE,
    DISPATCH_DIGEST,
    DISPOSITION,
    UNSEEN,
    VALUE,
    OwnChanges,
    SessionRow,
    TaskRow,
    differs,
)
from schemas.identity import digest
from schemas.wire import Event

MAX_CHAIN: Final = 64
MAX_CHAINS: Final = 16
MAX_UNDISPATCHED: Final = 32

_NOT_CONTENT: Final = ("event_id", "occurred_at")
_ECHOED: Final = ("task_type", "destination", "metadata", "request_id")
_POLICY: Final = ("on_stale", "on_stale_failure", "when_absent", "valid_until")


def fold_context_change(row: SessionRow, event: Event, offset: int, timestamp: int) -> list[str]:
    """Set and unset facets. Returns the tasks whose staleness changed (their status is to be told)."""
    cause = event.get("cause")
    cause_task: str | None = cause["task_id"] if cause else None
    restaled: list[str] = []
    changes: dict[str, str | None] = event.get("set", {})
    unset = event.get("unset")
    if unset:
        changes = {**changes, **dict.fromkeys(unset)}
    facets, tasks = row["facets"], row["tasks"]
    for name, value in changes.items():
        known = facets.get(name)
        if known is not None and known[VALUE] == value and (cause_task is not None or known[CAUSE] is None):
            continue
        facets[name] = [value, offset, timestamp, event["source"], event["event_id"], cause_task]
        if cause_task is not None:
            _remember_own(row, cause_task, name, UNSEEN if known is None else known[VALUE], value)
        for task_id, task in tasks.items():
            if name in task["expected"] and _restale(row, task, name):
                restaled.append(task_id)
    return restaled


def dispatch_digest(event: Event) -> str:
    """Digest of everything in a dispatch but its event id and time: two dispatches of one task must agree in it."""
    return digest({name: value for name, value in event.items() if name not in _NOT_CONTENT})


def unsupported_field(event: Event) -> str | None:
    """The first field of a dispatch that asks for something the gate does not do yet; None where it can obey all."""
    for name, obeyed in _OBEYED.items():
        if name in event and event[name] not in obeyed:
            return name
    return None


_OBEYED: Final[dict[str, tuple[Any, ...]]] = {
    "slot": (None,),
    "on_newer": ("allow",),
    "protected": (False,),
    "parent_task_id": (None,),
    "independent": (False,),
    "lane": ("hot",),
    "on_stale": ("withhold", "annotate"),
    "on_stale_failure": ("withhold", "annotate"),
    "when_absent": ("deliver", "withhold"),
    "while_stale": ("continue",),
    "deadline_at": (None,),
    "heartbeat_timeout_seconds": (None,),
    "scope_grace_seconds": (None,),
    "hold_ttl_seconds": (None,),
}


def echo_of(event: Event) -> dict[str, Any]:
    """What outputs repeat from a dispatch."""
    return {name: event[name] for name in _ECHOED if event.get(name)}


def fold_dispatch(row: SessionRow, event: Event, timestamp: int, traceparent: str | None) -> TaskRow:
    """Open the task. The caller has made sure that it is neither running nor ended."""
    expected: dict[str, str | None] = dict(event.get("snapshot", {}))
    taken: dict[str, str | None] = {}
    for name in event.get("depends_on", ()):
        known = row["facets"].get(name)
        if known is not None and name not in expected:
            taken[name] = expected[name] = known[VALUE]
    task: TaskRow = {"at": timestamp, "digest": dispatch_digest(event), "echo": echo_of(event), "expected": expected}
    if taken:
        task["taken"] = taken
    policy = {name: event[name] for name in _POLICY if event.get(name)}
    if policy:
        task["policy"] = policy
    if traceparent is not None:
        task["trace"] = traceparent
    own = row["own"].pop(event["task_id"], None)
    if own is not None:
        task["own"] = own
    row["tasks"][event["task_id"]] = task
    for name in expected:
        _restale(row, task, name)
    return task


def fold_step(row: SessionRow, task: TaskRow, event: Event) -> None:
    """What the task read, how far it is, and its last checkpoint."""
    status = event["status"]
    if status != "progressed":
        steps = task.setdefault("steps", [0, 0])
        steps[0 if status == "started" else 1] += 1
    if "progress" in event and event["progress"] is not None:
        task["progress"] = event["progress"]
    if event.get("message"):
        task["message"] = event["message"]
    checkpoint = event.get("checkpoint")
    if checkpoint and checkpoint.get("sequence", 0) >= task.get("checkpoint", {}).get("sequence", 0):
        task["checkpoint"] = checkpoint
    if event.get("reads"):
        fold_reads(row, task, event["reads"])


def fold_reads(row: SessionRow, task: TaskRow, reads: dict[str, str | None]) -> None:
    """What a step or a result looked at joins what the task expects, or replaces it."""
    for name, value in reads.items():
        task["expected"][name] = value
        _restale(row, task, name)


def end_task(  # noqa: PLR0913 - one argument for each thing remembered
    row: SessionRow,
    task_id: str,
    disposition: str | None,
    timestamp: int,
    dispatch: str | None,
    results: list[list[str]],
    horizon: "Horizon",
) -> None:
    """Forget the task's work and remember how it ended, within the horizon."""
    row["tasks"].pop(task_id, None)
    row["own"].pop(task_id, None)
    ended = row["ended"]
    ended[task_id] = [disposition, timestamp, dispatch, results]
    horizon.prune(row, timestamp)


class Horizon:
    """How long ended tasks are remembered: `retention_ms` of broker time, and at most `count` per session."""

    def __init__(self, retention_ms: int, count: int) -> None:
        self.retention_ms = retention_ms
        self.count = count

    def prune(self, row: SessionRow, now_ms: int) -> None:
        """Forget what is older than the horizon at `now_ms`. Ended tasks stand in the order they ended."""
        ended = row["ended"]
        while ended:
            oldest = next(iter(ended))
            if len(ended) <= self.count and ended[oldest][1] >= now_ms - self.retention_ms:
                return
            del ended[oldest]


def is_ended_unknown(row: SessionRow, task_id: str) -> bool:
    """Whether a result of this task was given up as unknown before any dispatch of it was seen."""
    ended = row["ended"].get(task_id)
    return ended is not None and ended[DISPOSITION] is None and ended[DISPATCH_DIGEST] is None


def _restale(row: SessionRow, task: TaskRow, facet: str) -> bool:
    """Bring the task's list of differing facets up to date with one facet. True where it changed."""
    stale = task.get("stale", [])
    if differs(row, task, facet) == (facet in stale):
        return False
    if facet in stale:
        stale.remove(facet)
        if not stale:
            del task["stale"]
    else:
        task["stale"] = [*stale, facet]
    return True


def _remember_own(row: SessionRow, task_id: str, facet: str, before: Any, after: str | None) -> None:
    task = row["tasks"].get(task_id)
    if task is not None:
        own: OwnChanges = task.setdefault("own", {})
    elif task_id in row["ended"]:
        return
    else:
        undispatched = row["own"]
        if task_id not in undispatched and len(undispatched) >= MAX_UNDISPATCHED:
            del undispatched[next(iter(undispatched))]
        own = undispatched.setdefault(task_id, {})
    chains = own.setdefault(facet, [])
    if chains and chains[-1][-1] == before:
        chain = chains[-1]
        chain.append(after)
        if len(chain) > MAX_CHAIN:  # the first value and the newest ones are those a read can state
            del chain[1]
    else:
        chains.append([before, after])
        if len(chains) > MAX_CHAINS:
            del chains[0]
