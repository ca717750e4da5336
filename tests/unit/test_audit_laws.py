"""Gate and audit, written apart from the same rules, agree on any log: the one finds the other right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections import stale
from projections.changes import Changes
from projections.partition import Partition
from projections.rows import Facet, Task
from tests.unit.event_logs import CUTS, RULES, Cut, Kinds, Op, feed_ops, full_rows, laid_out, logs, restored
from tests.unit.feeding import START_MS
from tests.unit.test_audit_oracle import Rec, World
from tests.unit.test_laws import settled, with_repeats

TASKS = tuple(f"t{number}" for number in range(1, 7))
LATEST_MS = START_MS + 4_000_000
"""Before the horizon and the session TTL have passed: beyond them the audit holds nothing against the gate."""


class Logged(World):
    """The topics as a gate leaves them that is fed a log."""

    def __init__(self, ops: Sequence[Op], cuts: Sequence[Cut] = ()) -> None:
        super().__init__()
        self.terms = {
            "ended_per_session": RULES.ended_tasks_per_session,
            "hold_ttl_ms": RULES.hold_ttl_ms,
            "slack_ms": 2_000,
        }
        self._changelog: list[tuple[bytes, bytes | None]] = []
        partition = Partition(0, RULES)
        unwritten: list[Op] = []
        for place, op in enumerate(ops):
            self.now_ms = op.at_ms
            if op.body is not None and op.role != "barrier" and op.role != "time":  # noqa: PLR1714 - mypy narrows so
                self.topics[op.role, 0].append(Rec(op.offset, op.at_ms, None, orjson.dumps(op.body)))
            unwritten.append(op)
            feed_ops(partition, [op])
            cut: Cut = cuts[place] if place < len(cuts) else "take"
            if cut in ("take", "restart", "restart compacted"):
                self._commit(partition.take(op.at_ms))
                partition.committed()
                unwritten.clear()
            if cut in ("restart", "restart compacted", "crash"):
                partition = restored(self._changelog, RULES, compacted=cut == "restart compacted")
            elif cut in ("roll back", "abort"):
                if cut == "abort":
                    partition.take(op.at_ms)
                partition.roll_back()
            if cut in ("crash", "roll back", "abort"):
                for each in unwritten:
                    feed_ops(partition, [each])
        self._commit(partition.take(self.now_ms))
        self.now_ms += 10

    def _commit(self, changes: Changes) -> None:
        self._changelog += changes.rows.items()
        for output in changes.outputs:
            topic = self.topics[output.role, 0]
            topic.append(Rec(self.end(output.role), self.now_ms, output.key, output.value, output.headers))
        for refusal in changes.refusals:
            batch, index = refusal.batch, refusal.index
            origin = Rec(batch.offsets[index], batch.timestamps[index], batch.keys[index], batch.values[index])
            self.refuse(batch.role, origin, refusal.error)


def within_the_horizon(ops: list[Op]) -> list[Op]:
    """The log with an end that is near."""
    ended = settled(ops)
    far = ended[-1].at_ms - LATEST_MS
    return [op if op.at_ms < LATEST_MS else op._replace(at_ms=op.at_ms - far) for op in ended]


@given(
    ops=logs(Kinds(sessions=("s",), tasks=TASKS, erasure=False)),
    cuts=st.lists(st.sampled_from([*CUTS, "take", "take"]), max_size=60),
)
def test_the_audit_finds_nothing_wrong_whatever_happens(ops: list[Op], cuts: list[Cut]) -> None:
    findings, _, _ = Logged(within_the_horizon(ops), cuts).audit()
    assert findings.examples == {}


@given(
    ops=logs(Kinds(sessions=("s",), tasks=TASKS, erasure=False)),
    cuts=st.lists(st.sampled_from([*CUTS, "take", "take"]), max_size=60),
    limit=st.sampled_from([1000, 1500, 2500]),
)
def test_the_audit_finds_nothing_wrong_where_rows_are_full(ops: list[Op], cuts: list[Cut], limit: int) -> None:
    with full_rows(limit):
        findings, _, _ = Logged(within_the_horizon(ops), cuts).audit()
    assert findings.examples == {}


@given(
    ops=logs(Kinds(sessions=("s",), tasks=TASKS, erasure=False)),
    drawn=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 14)), max_size=12),
    cuts=st.lists(st.sampled_from([*CUTS, "take", "take"]), max_size=60),
)
def test_the_audit_finds_nothing_wrong_with_what_comes_again(
    ops: list[Op], drawn: list[tuple[int, int]], cuts: list[Cut]
) -> None:
    findings, _, _ = Logged(within_the_horizon(with_repeats(ops, drawn)), cuts).audit()
    assert findings.examples == {}


def retries() -> st.SearchStrategy[list[Op]]:
    """Tasks of one slot that are done again, and newer ones; some are cancelled, some propose effects."""
    doc = st.sampled_from(["1", "2"])
    names = ("t1", "t1~2", "t1~3", "t2")

    def of(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
        record = st.fixed_dictionaries({"type": st.just(kind), "session_id": st.just("s"), **fields})
        return st.tuples(st.just("record"), record)

    def dispatch(task_id: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
        return of(
            "task.dispatched",
            task_id=st.just(task_id),
            task_type=st.just("q"),
            snapshot=doc.map(lambda value: {"doc": value}),
            slot=st.sampled_from(["panel", "panel", "other"]),
            on_stale=st.just("redispatch"),
            max_redispatches=st.sampled_from([1, 3, 3]),
            on_newer=st.sampled_from(["allow", "enqueue", "reject", "interrupt"]),
            protected=st.sampled_from([False, False, True]),
            attempt=st.just(int(task_id[3:] or 1)),
        )

    task = st.sampled_from(names)
    parts = st.sampled_from(
        [
            [{"part_id": "p", "kind": "show"}],
            [{"part_id": "p", "kind": "show"}, {"part_id": "q", "kind": "show", "on_stale": "hold"}],
        ]
    )
    result = of("task.result", task_id=task, outcome=st.just("completed"), parts=parts)
    change = of("context.changed", set=doc.map(lambda value: {"doc": value}))
    proposal = of(
        "task.effect_proposed",
        task_id=task,
        idempotency_key=st.sampled_from(["k1", "k2"]),
        effect=st.sampled_from(["book", "pay"]),
    )
    some = st.one_of(
        change,
        change,
        result,
        result,
        result,
        *map(dispatch, names[1:]),
        proposal,
        of("task.cancel_requested", task_id=task),
        st.just(("barrier", {})),
        st.tuples(st.just("time"), st.fixed_dictionaries({"seconds": st.sampled_from([1, 31])})),
    )
    first = of("task.result", task_id=st.just("t1"), outcome=st.just("completed"), parts=parts)
    stale: tuple[str, dict[str, Any]] = ("record", {"type": "context.changed", "session_id": "s", "set": {"doc": "3"}})
    return st.builds(
        lambda opened, newer, result, drawn: laid_out([opened, *newer, stale, *result, *drawn], Kinds()),
        dispatch("t1"),
        st.lists(dispatch("t2"), max_size=1),
        st.lists(first, max_size=1),
        st.lists(some, min_size=4, max_size=18),
    )


@given(
    ops=retries(),
    drawn=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 14)), max_size=3),
    cuts=st.lists(st.sampled_from([*CUTS, "take", "take"]), max_size=24),
)
def test_the_audit_finds_nothing_wrong_with_attempts(
    ops: list[Op], drawn: list[tuple[int, int]], cuts: list[Cut]
) -> None:
    findings, _, _ = Logged(within_the_horizon(with_repeats(ops, drawn)), cuts).audit()
    assert findings.examples == {}


def fan_outs() -> st.SearchStrategy[list[Op]]:
    """A parent, children and a grandchild that look at one facet, write it and end, in any order."""
    fare = st.sampled_from(["90", "190"]).map(lambda value: {"fare": value})
    task = st.sampled_from(["t1", "t2", "t3", "t4"])
    child = st.sampled_from(["t2", "t3", "t4"])
    parts = st.just([{"part_id": "p", "kind": "show"}])

    def of(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
        record = st.fixed_dictionaries({"type": st.just(kind), "session_id": st.just("s"), **fields})
        return st.tuples(st.just("record"), record)

    step = of("task.step", task_id=task, step_id=st.just("look"), status=st.just("completed"), reads=fare)
    ends = of("task.result", task_id=child, outcome=st.just("completed"), parts=parts, reads=fare)
    cause = task.map(lambda task_id: {"task_id": task_id})
    steps = st.one_of(
        step,
        step,
        of("context.changed", set=fare),
        of("context.changed", set=fare, cause=cause),
        ends,
        of("task.cancel_requested", task_id=child),
    )
    last = of("task.result", task_id=st.just("t1"), outcome=st.just("completed"), parts=parts)
    tree = {"t1": None, "t2": "t1", "t3": "t1", "t4": "t3"}

    def log(order: list[str], drawn: list[Any], end: Any) -> list[Op]:
        dispatches = []
        for task_id in order:
            above = {"parent_task_id": tree[task_id]} if tree[task_id] else {}
            told: dict[str, Any] = {"session_id": "s", "task_id": task_id, "task_type": "q", "snapshot": {}, **above}
            dispatches.append(("record", {"type": "task.dispatched", **told}))
        return laid_out([*dispatches[:2], *drawn[:3], *dispatches[2:], *drawn[3:], end], Kinds())

    return st.builds(log, st.permutations(list(tree)), st.lists(steps, min_size=3, max_size=14), last)


@given(ops=fan_outs(), cuts=st.lists(st.sampled_from([*CUTS, "take", "take"]), max_size=24))
def test_the_audit_finds_nothing_wrong_with_what_a_fan_out_read(ops: list[Op], cuts: list[Cut]) -> None:
    findings, _, _ = Logged(within_the_horizon(ops), cuts).audit()
    assert findings.examples == {}


def test_the_audit_would_notice_another_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"session_id": "s", "task_id": "t1"}
    log = laid_out(
        [
            ("record", {"type": "context.changed", "session_id": "s", "set": {"doc/1": "2"}}),
            ("record", {"type": "task.dispatched", "task_type": "q", "snapshot": {"doc/1": "1"}, **told}),
            (
                "record",
                {"type": "task.result", "outcome": "completed", "parts": [{"part_id": "p", "kind": "show"}], **told},
            ),
        ],
        Kinds(),
    )
    assert Logged(log).audit()[0].examples == {}

    def never(_facets: dict[str, Facet], _task: Task, _name: str) -> bool:
        return False

    monkeypatch.setattr(stale, "differs", never)
    assert list(Logged(log).audit()[0].examples) == ["stale_delivered"]
