"""What context events and steps do to a session row.

Each function changes the row it is given, and nothing else: same row, same events, same order, same bytes. None reads a
clock.
"""

from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

import msgspec

from projections.row import CAUSE, SEVERAL, UNSEEN, VALUE, OwnChanges, SessionRow, TaskRow, differs
from schemas.events import ContextChanged, TaskDispatched, TaskStep
from schemas.identity import digest

MAX_CHAIN: Final = 64
MAX_CHAINS: Final = 16
MAX_UNDISPATCHED: Final = 32

_ECHOED: Final = ("task_type", "destination", "metadata", "request_id", "slot")


def fold_context_change(
    row: SessionRow, event: ContextChanged, offset: int, timestamp: int, *, cause_is_over: bool
) -> list[str] | None:
    """Set and unset facets.

    Returns the tasks whose staleness changed (their status is to be told), or None where the event changed nothing.
    `cause_is_over`: the task whose own work it was has ended, so its own changes are of no more use.
    """
    cause_task = event.cause.task_id if event.cause is not None else None
    changes: dict[str, Any] = event.set
    if event.unset:
        changes = {**changes, **dict.fromkeys(event.unset)}
    restaled: list[str] | None = None
    facets, tasks = row["facets"], row["tasks"]
    for name, value in changes.items():
        known = facets.get(name)
        cause = cause_task
        if known is not None and known[VALUE] == value:
            if known[CAUSE] is None or known[CAUSE] == cause_task:
                continue
            if cause_task is not None:
                cause = SEVERAL
        if restaled is None:
            restaled = []
        facets[name] = [value, offset, timestamp, event.source, event.event_id, cause]
        if cause_task is not None and (not cause_is_over):
            _remember_own(row, cause_task, name, UNSEEN if known is None else known[VALUE], value)
        for task_id, task in tasks.items():
            if name in task["expected"] and _restale(row, task, name):
                restaled.append(task_id)
    return restaled


def dispatch_digest(event: TaskDispatched) -> str:
    """Digest of everything in a dispatch but its event id and time: two dispatches of one task must agree in it."""
    content = msgspec.structs.replace(event, event_id="-", occurred_at=_NO_TIME)  # type: ignore[type-var]
    return digest(_sorted_json(content))


_sorted_json = msgspec.json.Encoder(order="sorted").encode
_NO_TIME: Final = datetime.fromtimestamp(0, UTC)


def unsupported_field(event: TaskDispatched) -> str | None:
    """The first field of a dispatch that asks for something the gate does not do yet; None where it can obey all."""
    if _asked(event) == _NOTHING_ASKED:
        return None
    for name, obeyed in _OBEYED:
        if getattr(event, name) not in obeyed:
            return name
    return None


_OBEYED: Final[tuple[tuple[str, tuple[Any, ...]], ...]] = (
    ("slot", (None,)),
    ("on_newer", ("allow",)),
    ("protected", (False,)),
    ("parent_task_id", (None,)),
    ("independent", (False,)),
    ("lane", ("hot",)),
    ("on_stale", ("withhold", "annotate")),
    ("on_stale_failure", ("withhold", "annotate")),
    ("when_absent", ("deliver", "withhold")),
    ("while_stale", ("continue",)),
    ("deadline_at", (None,)),
    ("heartbeat_timeout_seconds", (None,)),
    ("scope_grace_seconds", (None,)),
    ("hold_ttl_seconds", (None,)),
)
_asked = attrgetter(*(name for name, _ in _OBEYED))
_NOTHING_ASKED: Final = tuple(obeyed[0] for _, obeyed in _OBEYED)


def echo_of(event: TaskDispatched) -> dict[str, Any]:
    """What outputs repeat from a dispatch."""
    echo = {name: value for name in _ECHOED if (value := getattr(event, name)) is not None and value != {}}
    if event.lane != "hot":
        echo["lane"] = event.lane
    return echo


def fold_dispatch(row: SessionRow, event: TaskDispatched, timestamp: int, traceparent: str | None) -> TaskRow:
    """Open the task. The caller has made sure that it is neither running nor ended."""
    expected: dict[str, str | None] = dict(event.snapshot)
    taken: dict[str, str | None] = {}
    for name in event.depends_on:
        known = row["facets"].get(name)
        if known is not None and name not in expected:
            taken[name] = expected[name] = known[VALUE]
    task: TaskRow = {"at": timestamp, "digest": dispatch_digest(event), "echo": echo_of(event), "expected": expected}
    if taken:
        task["taken"] = taken
    policy = _policy_of(event)
    if policy:
        task["policy"] = policy
    if traceparent is not None:
        task["trace"] = traceparent
    own = row["own"].pop(event.task_id, None)
    if own is not None:
        task["own"] = own
    row["tasks"][event.task_id] = task
    for name in expected:
        _restale(row, task, name)
    return task


def _policy_of(event: TaskDispatched) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    if event.on_stale != "withhold":
        policy["on_stale"] = event.on_stale
    if event.on_stale_failure != "annotate":
        policy["on_stale_failure"] = event.on_stale_failure
    if event.when_absent != "deliver":
        policy["when_absent"] = event.when_absent
    if event.valid_until is not None:
        policy["valid_until"] = event.valid_until.isoformat()
    return policy


def fold_step(row: SessionRow, task: TaskRow, event: TaskStep) -> None:
    """What the task read, how far it is, and its last checkpoint."""
    if event.status != "progressed":
        steps = task.setdefault("steps", [0, 0])
        steps[0 if event.status == "started" else 1] += 1
    if event.progress is not None:
        task["progress"] = event.progress
    if event.message:
        task["message"] = event.message
    checkpoint = event.checkpoint
    if checkpoint is not None and checkpoint.sequence >= task.get("checkpoint", {}).get("sequence", 0):
        task["checkpoint"] = {"uri": checkpoint.uri, "sequence": checkpoint.sequence}
    if event.reads:
        fold_reads(row, task, event.reads)


def fold_reads(row: SessionRow, task: TaskRow, reads: dict[str, str | None]) -> None:
    """What a step or a result looked at joins what the task expects, or replaces it."""
    for name, value in reads.items():
        task["expected"][name] = value
        _restale(row, task, name)


def _restale(row: SessionRow, task: TaskRow, facet: str) -> bool:
    """Bring the task's list of differing facets up to date with one facet. True where it changed."""
    stale = task.get("stale", ())
    if differs(row, task, facet) == (facet in stale):
        return False
    now_stale = [name for name in stale if name != facet] if facet in stale else [*stale, facet]
    if now_stale:
        task["stale"] = now_stale
    else:
        del task["stale"]
    return True


def _remember_own(row: SessionRow, task_id: str, facet: str, before: Any, after: str | None) -> None:
    task = row["tasks"].get(task_id)
    stated: Any = UNSEEN
    if task is not None:
        own: OwnChanges = task.setdefault("own", {})
        stated = task["expected"].get(facet, UNSEEN)
    else:
        undispatched = row["own"]
        if task_id not in undispatched and len(undispatched) >= MAX_UNDISPATCHED:
            del undispatched[next(iter(undispatched))]
        own = undispatched.setdefault(task_id, {})
    chains = own.setdefault(facet, [])
    if chains and chains[-1][-1] == before:
        chain = chains[-1]
        chain.append(after)
        if len(chain) > MAX_CHAIN:  # the stated value, the first one, and the newest ones a read may yet state
            del chain[2 if chain[1] == stated else 1]
    else:
        chains.append([before, after])
        if len(chains) > MAX_CHAINS:
            del chains[0]
