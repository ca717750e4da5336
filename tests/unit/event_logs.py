"""Random logs of several sessions, and runs of them through a partition: batched, written, crashed and restarted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple
from unittest.mock import patch

import orjson
from hypothesis import strategies as st

from projections import budget
from projections.changes import Changes
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.rows import SessionRow
from projections.rules import Rules
from projections.store import Store
from schemas.topics import Role
from tests.unit.feeding import START_MS, make_batch, role_of

RULES: Final = Rules(hold_ttl_ms=600_000, ended_tasks_per_session=8)
SESSIONS: Final = ("s", "s2")
TASKS: Final = ("t1", "t2", "t3")
NEVER_DISPATCHED: Final = "ghost"
PLAIN: Final = ("conversation", "view/a", "doc/1", "doc/2")
VALUES: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(PLAIN, ("1", "2", "3")),
    "presence/a": ("present", "absent"),
    "presence/b": ("present", "absent"),
    "request/r1": ("1", "archived"),
    "session": ("open", "closed"),
}


class Op(NamedTuple):
    """One thing that happens: a record, a barrier that is reached, or time that has passed.

    `body` is None where it is no record. `at_ms` is broker time; `position` where the logs stand after it.
    """

    role: Role | Literal["barrier", "time"]
    body: dict[str, Any] | None
    offset: int
    at_ms: int
    position: LogPosition


# Drawing logs


@dataclass(frozen=True, slots=True)
class Kinds:
    """What a log may hold."""

    sessions: Sequence[str] = SESSIONS
    tasks: Sequence[str] = TASKS
    depends_on: bool = True
    scopes: bool = True
    slots: bool = True
    waits: bool = True
    effects: bool = True
    cancels: bool = True
    erasure: bool = True
    time: bool = True
    additions: bool = False
    """Leases and versions, requests that cancel several tasks, interim answers, and clocks that are put off."""
    results_last: bool = False


def logs(kinds: Kinds, max_size: int = 40) -> st.SearchStrategy[list[Op]]:
    """Logs of these kinds, in the order in which things happened."""
    change, dispatch, any_step = _steps(kinds)
    begin = st.tuples(st.lists(change, max_size=2), st.lists(dispatch, min_size=3, max_size=6))
    return st.tuples(begin, st.lists(any_step, min_size=8, max_size=max_size)).map(
        lambda drawn: laid_out([*drawn[0][0], *drawn[0][1], *drawn[1]], kinds)
    )


def laid_out(drawn: list[tuple[str, dict[str, Any]]], kinds: Kinds) -> list[Op]:
    """The records with offsets, ids and times; what repeats an earlier result or dispatch takes its content."""
    ops: list[Op] = []
    ends: Counter[str] = Counter()
    at_ms = START_MS
    if kinds.results_last:
        drawn = sorted(drawn, key=lambda step: step[1].get("type") in ("task.result", "again"))
    for number, (what, fields) in enumerate(drawn):
        at_ms += 1000
        if what in ("barrier", "time"):
            at_ms += int(fields.get("seconds", 0)) * 1000
            ops.append(Op(what, None, -1, at_ms, _position(ends)))  # type: ignore[arg-type]
            continue
        body = _body(ops, number, fields)
        is_dispatch = body is not None and body["type"] == "task.dispatched"
        if body is None or (is_dispatch and fields["type"] != "again" and _is_dispatched(ops, body)):
            continue
        role = role_of(body)
        ops.append(Op(role, body, ends[role], at_ms, _position(ends)))
        ends[role] += 1
        ops[-1] = ops[-1]._replace(position=_position(ends))
    ops.append(Op("barrier", None, -1, at_ms + 1000, _position(ends)))
    return ops


def _body(ops: list[Op], number: int, fields: dict[str, Any]) -> dict[str, Any] | None:
    if fields["type"] != "again":
        return {"source": "test", "event_id": f"e-{number}", "occurred_at": "2025-11-24T16:00:00Z", **fields}
    kinds = ("task.result", "task.dispatched")
    earlier = [op.body for op in ops if op.body is not None and op.body["type"] in kinds]
    if not earlier:
        return None
    chosen = earlier[fields["which"] % len(earlier)]
    how = fields["how"]
    if how == "same":
        return dict(chosen)
    if how == "new id":
        return {**chosen, "event_id": f"e-{number}"}
    changed = {"outcome": "failed"} if chosen["type"] == "task.result" else {"task_type": "another"}
    return {**chosen, **changed}


def _is_dispatched(ops: list[Op], body: dict[str, Any]) -> bool:
    name = body["session_id"], body["task_id"]
    dispatches = (op.body for op in ops if op.body is not None and op.body["type"] == "task.dispatched")
    return any((each["session_id"], each["task_id"]) == name for each in dispatches)


def _position(ends: Counter[str]) -> LogPosition:
    return LogPosition(0, ends["context"], ends["steps"])


def _facets(*, absent: bool = True, names: Sequence[str] = tuple(VALUES)) -> st.SearchStrategy[dict[str, Any]]:
    pairs = [(name, value) for name in names for value in (*VALUES[name], *([None] if absent else []))]
    return st.lists(st.sampled_from(pairs), max_size=3).map(dict)


Step = st.SearchStrategy[tuple[str, dict[str, Any]]]


def _steps(kinds: Kinds) -> tuple[Step, Step, Step]:
    """A change of context, a dispatch, and anything."""
    session = st.sampled_from([*list(kinds.sessions)[:1] * 4, *kinds.sessions])
    task = st.sampled_from(list(kinds.tasks))
    anybody = st.sampled_from([*list(kinds.tasks) * 2, NEVER_DISPATCHED])
    policies, part_policies = _policies(kinds), _part_policies(kinds)

    def of(kind: str, required: dict[str, Any], optional: dict[str, Any] | None = None) -> Any:
        fields: dict[str, st.SearchStrategy[Any]] = {"type": st.just(kind), "session_id": session, **required}
        more: dict[str, st.SearchStrategy[Any]] = optional or {}
        return st.tuples(st.just("record"), st.fixed_dictionaries(fields, optional=more))

    def named(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"part_id": f"p{number}", "kind": "show", **part} for number, part in enumerate(parts)]

    change = of(
        "context.changed",
        {"set": _facets(absent=False)},
        {
            "unset": st.lists(st.sampled_from(list(VALUES)), max_size=1),
            "cause": anybody.map(lambda name: {"task_id": name}),
        },
    )
    if kinds.additions:
        change = change.flatmap(_stated_of)
    dispatch = of("task.dispatched", {"task_id": task, "task_type": st.just("q"), "snapshot": _facets()}).flatmap(
        lambda step: st.lists(st.sampled_from(policies), max_size=3).map(
            lambda drawn: ("record", {**step[1], **dict(drawn)})
        )
    )
    statuses = ["started", "completed", "failed", *(["input_required"] if kinds.additions else [])]
    step = of(
        "task.step",
        {"task_id": anybody, "step_id": st.just("x"), "status": st.sampled_from(statuses)},
        {"reads": _facets(), "progress": st.just(0.5), "checkpoint": st.just({"uri": "cp"})},
    )
    part = st.lists(st.sampled_from(part_policies), max_size=2).map(dict)
    result = of(
        "task.result",
        {
            "task_id": st.sampled_from([*list(kinds.tasks) * 3, NEVER_DISPATCHED]),
            "outcome": st.sampled_from(["completed", "completed", "failed"]),
            "parts": st.lists(part, min_size=1, max_size=3).map(named),
        },
        {"reads": _facets(), **({"final": st.booleans()} if kinds.additions else {})},
    )
    again = {
        "type": st.just("again"),
        "which": st.integers(0, 9),
        "how": st.sampled_from(["same", "new id", "other content"]),
    }
    choices = [change] * 5 + [dispatch] * 3 + [step] * 3 + [result] * 6
    choices.append(st.tuples(st.just("record"), st.fixed_dictionaries(again)))
    told = {"task_id": anybody, "outcome": st.sampled_from(["shown", "refused"])}
    choices.append(of("result.acknowledged", told))
    choices.append(of("task.heartbeat", {"task_id": anybody}))
    if kinds.effects:
        proposed = {"task_id": task, "idempotency_key": st.sampled_from(["k1", "k2"]), "effect": st.just("book")}
        choices.append(of("task.effect_proposed", proposed, {"reads": _facets()}))
    if kinds.cancels:
        choices.append(of("task.cancel_requested", {"task_id": anybody}))
        if kinds.additions:
            choices.append(of("task.cancel_requested", {"slot": st.just("panel")}))
            choices.append(of("task.cancel_requested", {"request_id": st.just("r1")}))
            choices.append(of("task.cancel_requested", {"all": st.just(True)}))
    if kinds.additions:
        choices.append(of("task.extended", {"task_id": task, "deadline_seconds": st.sampled_from([5, 100])}))
    if kinds.erasure:
        choices.append(of("session.erased", {"session_id": st.just(kinds.sessions[-1])}))
    if not kinds.results_last:
        choices.append(st.just(("barrier", {})))
    if kinds.time:
        seconds = st.sampled_from([1, 31, 61, 601])
        choices.append(st.tuples(st.just("time"), st.fixed_dictionaries({"seconds": seconds})))
    return change, dispatch, st.sampled_from(choices).flatmap(lambda strategy: strategy)


def _policies(kinds: Kinds) -> list[tuple[str, Any]]:
    policies: list[tuple[str, Any]] = [
        ("on_stale", "annotate"),
        ("on_stale_failure", "withhold"),
        ("when_absent", "withhold"),
        ("request_id", "r1"),
        ("metadata", {"tasks": {}}),
    ]
    if kinds.waits:
        policies += [("on_stale", "hold"), ("on_stale", "redispatch"), ("when_absent", "hold"), ("max_redispatches", 3)]
    if kinds.depends_on:
        policies += [("depends_on", [name]) for name in ("doc/1", "conversation")]
    if kinds.scopes:
        policies += [("parent_task_id", name) for name in kinds.tasks] + [("independent", True)]
    if kinds.slots:
        policies += [("slot", "panel")] * 3 + [("on_newer", how) for how in ("enqueue", "reject", "interrupt")]
        policies += [("protected", True)]
    if kinds.time:
        policies += [("while_stale", "cancel"), ("heartbeat_timeout_seconds", 60)]
        policies += [("deadline_at", "2025-11-24T16:00:09Z")]
    if kinds.additions:
        policies += [("on_newer", "enqueue_latest"), ("slot", "panel"), ("on_late", "deliver"), ("watch_seconds", 7)]
        policies += [("start_timeout_seconds", 3), ("deadline_seconds", 6), ("on_newer", "enqueue")]
        policies += [("detached", True)]
    return policies


def _stated_of(step: tuple[str, dict[str, Any]]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """The same change, perhaps with leases and versions."""
    names = list(step[1]["set"])
    if not names:
        return st.just(step)
    some = st.sampled_from(names)
    leases = st.dictionaries(some, st.sampled_from([1, 5]), max_size=1)
    versions = st.dictionaries(some, st.integers(1, 3), max_size=1)
    more = st.fixed_dictionaries({}, optional={"expires_in_seconds": leases, "versions": versions})
    return more.map(lambda stated: (step[0], {**step[1], **stated}))


def _part_policies(kinds: Kinds) -> list[tuple[str, Any]]:
    on_stale = ["withhold", "annotate", *(["hold", "redispatch"] if kinds.waits else [])]
    policies: list[tuple[str, Any]] = [("on_stale", policy) for policy in on_stale]
    return [*policies, ("depends_on", []), ("depends_on", ["doc/1"]), ("payload", None), ("payload", "x")]


# Running them

Cut = Literal["join", "split", "take", "restart", "restart compacted", "crash", "roll back", "abort"]
"""`crash` loses what was not written, `roll back` undoes it, and `abort` does so after a transaction was begun."""
CUTS: Final[tuple[Cut, ...]] = (
    "join",
    "join",
    "split",
    "take",
    "restart",
    "restart compacted",
    "crash",
    "roll back",
    "abort",
)


@dataclass
class Written:
    """Everything that came out of a run and was committed."""

    outputs: list[tuple[str, bytes, bytes | None]] = field(default_factory=list)
    changelog: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    refusals: list[tuple[str, int, str]] = field(default_factory=list)
    duplicates: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, changes: Changes) -> None:
        """Commit one transaction."""
        self.outputs += [(output.role, output.key, output.value) for output in changes.outputs]
        self.changelog += changes.rows.items()
        self.refusals += [
            (refusal.batch.role, refusal.batch.offsets[refusal.index], refusal.error) for refusal in changes.refusals
        ]
        self.duplicates += changes.duplicates
        self.ignored += changes.ignored

    @property
    def rows(self) -> dict[bytes, bytes]:
        """What the changelog comes to. How often the status of an open task was published is left out."""
        newest = dict(self.changelog)
        return {key: value for key, value in newest.items() if value is not None}

    @property
    def sessions(self) -> dict[str, SessionRow]:
        """The sessions' rows, wherever their tasks are written."""
        store = Store(0)
        for key, value in dict(self.changelog).items():
            store.restore(key, value)
        store.settle()
        found = {session_id: store.session(session_id).row() for session_id in store.session_ids()}
        for row in found.values():
            for task in row.tasks.values():
                task.position = 0
        return found

    @property
    def statuses(self) -> dict[bytes, bytes | None]:
        """What the tasks topic comes to."""
        return {key: value for role, key, value in self.outputs if role == "tasks"}

    @property
    def final(self) -> list[tuple[str, bytes, bytes | None]]:
        """All outputs but the statuses of open tasks: those are told as often as there are transactions."""
        return [
            output
            for output in self.outputs
            if output[0] != "tasks" or output[2] is None or b'"status":"ended"' in output[2]
        ]

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """The verdict events."""
        bodies = [orjson.loads(value) for role, _, value in self.outputs if role in ("delivered", "withheld") and value]
        return [body for body in bodies if body["type"].startswith("result.")]


def run(ops: Sequence[Op], cuts: Sequence[Cut] = (), rules: Rules = RULES) -> Written:
    """Feed a partition; between an op and the next one do what `cuts` say, by default nothing. Write at the end."""
    written = Written()
    partition = Partition(0, rules)
    taken = 0
    begin = 0
    for place in range(len(ops)):
        cut: Cut = cuts[place] if place < len(cuts) else "split"
        if cut == "join" and place + 1 < len(ops) and ops[place].body is not None:
            after = ops[place + 1]
            if after.body is not None and after.role == ops[place].role:
                continue
        feed_ops(partition, ops[begin : place + 1])
        begin = place + 1
        if cut in ("take", "restart", "restart compacted"):
            written.add(partition.take(START_MS))
            partition.committed()
            taken = begin
        if cut in ("restart", "restart compacted", "crash"):
            partition = restored(written.changelog, rules, compacted=cut == "restart compacted")
        elif cut in ("roll back", "abort"):
            if cut == "abort":
                partition.take(START_MS)
            partition.roll_back()
        if cut in ("crash", "roll back", "abort"):
            for op in ops[taken:begin]:
                feed_ops(partition, [op])
    written.add(partition.take(START_MS))
    return written


@contextmanager
def full_rows(limit: int) -> Iterator[None]:
    """Rows take nothing new beyond `limit` bytes, and nothing at all beyond twice as much."""
    with patch.multiple(budget, MAX_ROW_BYTES=limit, MAX_FULL_ROW_BYTES=2 * limit):
        yield


def feed_ops(partition: Partition, ops: Sequence[Op]) -> None:
    """Feed ops that one fetch could have brought, as one batch."""
    # The partition moves a position along: those of the ops are for the next run as well.
    last = ops[-1]._replace(position=copy(ops[-1].position))
    if last.role == "barrier":
        partition.judge_ready(last.position, START_MS)
        return
    if last.role == "time":
        partition.act_on_due(last.position, last.at_ms)
        return
    values = [orjson.dumps(op.body) for op in ops]
    batch = make_batch(last.role, ops[0].offset, values, [op.at_ms for op in ops])
    if last.role == "context":
        partition.fold_context(batch, START_MS)
    elif last.role == "steps":
        position = LogPosition(0, last.position.context_offset, batch.start)
        partition.fold_steps(batch, position, START_MS)
    else:
        partition.judge(batch, last.position, START_MS)


def restored(changelog: Sequence[tuple[bytes, bytes | None]], rules: Rules, *, compacted: bool) -> Partition:
    """A partition as another worker restores it."""
    records = list(changelog)
    if compacted:
        newest = {key: at for at, (key, _) in enumerate(records)}
        records = [records[at] for at in sorted(newest.values())]
    partition = Partition(0, rules)
    for key, value in records:
        partition.restore(key, value)
    partition.settle()
    return partition
