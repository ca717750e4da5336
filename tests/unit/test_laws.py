"""What must hold for any log: laws of the fold and the gate, tried on random sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from projections import keys, store
from projections.partition import Partition
from projections.rules import Rules
from tests.unit.event_logs import (
    CUTS,
    PLAIN,
    RULES,
    Cut,
    Kinds,
    Op,
    Written,
    feed_ops,
    full_rows,
    laid_out,
    logs,
    restored,
    run,
)
from tests.unit.feeding import START_MS
from tests.unit.session_checks import kept_in, tasks_inside

EVERYTHING = Kinds()
cuts = st.lists(st.sampled_from(CUTS), max_size=50)


# (a) The fold is pure


def same(one: Written, other: Written) -> None:
    """Both runs wrote the same, but for how often an open task's status was told."""
    assert one.final == other.final
    assert one.rows == other.rows
    assert one.statuses == other.statuses
    assert one.refusals == other.refusals
    assert one.duplicates == other.duplicates
    assert one.ignored == other.ignored


SESSIONS_DECODED = st.sampled_from([0, 1, 8192])


@given(
    ops=logs(EVERYTHING),
    drawn=cuts,
    decoded=SESSIONS_DECODED,
    indexed=SESSIONS_DECODED,
    inside=st.sampled_from([0, 1, 2, 8]),
)
def test_batches_transactions_crashes_and_evictions_change_nothing(
    ops: list[Op], drawn: list[Cut], decoded: int, indexed: int, inside: int
) -> None:
    with tasks_inside(inside):
        whole = run(ops)
        with patch.multiple(store, MAX_DECODED=decoded, MAX_DECODED_INDEXED=indexed):
            same(run(ops, drawn), whole)


@given(ops=logs(EVERYTHING), drawn=cuts, inside=st.sampled_from([0, 1, 2, 3]))
def test_where_a_task_is_written_changes_nothing_else(ops: list[Op], drawn: list[Cut], inside: int) -> None:
    with tasks_inside(1_000_000):
        whole = run(ops, drawn)
    with tasks_inside(inside):
        divided = run(ops, drawn)
    assert divided.outputs == whole.outputs
    assert divided.sessions == whole.sessions
    assert divided.refusals == whole.refusals
    assert divided.duplicates == whole.duplicates
    assert divided.ignored == whole.ignored


@given(ops=logs(EVERYTHING), drawn=cuts, limit=st.sampled_from([1000, 1500, 2500]))
def test_they_change_nothing_where_rows_are_full(ops: list[Op], drawn: list[Cut], limit: int) -> None:
    with full_rows(limit):
        same(run(ops, drawn), run(ops))


@given(
    ops=logs(EVERYTHING),
    committed=st.integers(0, 40),
    folded=st.integers(0, 40),
    begun=st.booleans(),
    inside=st.sampled_from([0, 1, 8]),
)
def test_to_roll_back_is_as_if_nothing_had_been_folded_since(
    ops: list[Op],
    committed: int,
    folded: int,
    *,
    begun: bool,
    inside: int,
) -> None:
    with tasks_inside(inside):
        partition, written = Partition(0, RULES), Written()
        for op in ops[:committed]:
            feed_ops(partition, [op])
        written.add(partition.take(START_MS))
        partition.committed()
        for op in ops[committed : committed + folded]:
            feed_ops(partition, [op])
        if begun:
            partition.take(START_MS)
        partition.roll_back()
        other = restored(written.changelog, RULES, compacted=False)
        assert kept_of_all(partition) == kept_of_all(other)
        assert dues_of(partition) == dues_of(other)
        assert not partition.has_changes
        after = [Written(), Written()]
        for op in ops[committed:]:
            for each, told in ((partition, after[0]), (other, after[1])):
                feed_ops(each, [op])
                told.add(each.take(START_MS))
                each.committed()
            assert dues_of(partition) == dues_of(other)
        assert after[0] == after[1]


def kept_of_all(partition: Partition) -> dict[str, Any]:
    of = partition.store
    sessions = sorted({*of.session_ids(), *of.sessions_with_waiting(), *of._ended, *of._tasks})
    counters = of.row_bytes, of.ended_bytes, of.waiting_bytes, of.waiting_count
    return {"counters": counters, **{session_id: kept_in(of, session_id) for session_id in sessions}}


def dues_of(partition: Partition) -> list[Any]:
    dues = [partition.next_due_ms(hot_only=hot_only) for hot_only in (True, False, None)]
    return [*dues, partition.has_ready, *(partition.has_cancels(cold=cold) for cold in (False, True))]


# (b) No verdict depends on how the topics interleaved

# Left out: `depends_on`, whose values are taken when the dispatch is folded, and says which; what stops a task from
# outside (cancellation, erasure) or by time, which is a race by its nature; proposed effects, which are answered early.
ORDERLY = Kinds(depends_on=False, cancels=False, erasure=False, effects=False, time=False, results_last=True)


@given(ops=logs(ORDERLY), drawn=st.lists(st.booleans(), max_size=60))
def test_verdicts_do_not_depend_on_how_context_and_steps_interleave(ops: list[Op], drawn: list[bool]) -> None:
    assert run(interleaved(ops, drawn)).verdicts == run(ops).verdicts


def interleaved(ops: Sequence[Op], context_first: Sequence[bool]) -> list[Op]:
    """Context and steps each in their order, but the one or the other first as drawn; then the rest."""
    context = [op for op in ops if op.role == "context"]
    steps = [op for op in ops if op.role == "steps"]
    rest = [op for op in ops if op.role not in ("context", "steps")]
    mixed = []
    for first in context_first:
        queue = context if first else steps
        if queue:
            mixed.append(queue.pop(0))
    return [*mixed, *context, *steps, *rest]


# (c) Unrelated changes and own work change no verdict


def gist(written: Written) -> list[Any]:
    """Decisions, reasons and differences, without where in the logs they were found."""
    return [
        (
            body["session_id"],
            body["task_id"],
            [
                (part["part_id"], part["decision"], part["reason"], part.get("annotated"), _pairs(part))
                for part in body["verdict"]["parts"]
            ],
        )
        for body in written.verdicts
    ]


def _pairs(part: dict[str, Any]) -> list[Any]:
    return [(each["facet"], each["expected"], each["actual"], each["since"]) for each in part.get("differences", [])]


def with_context(ops: Sequence[Op], changes: Sequence[tuple[int, dict[str, Any]]]) -> list[Op]:
    """The log with more context events, each at a place; everything else at the time it was."""
    mixed: list[Op] = []
    placed = sorted(changes, key=lambda change: change[0])
    number = 0
    for place, op in enumerate(ops):
        while placed and placed[0][0] <= place:
            mixed.append(_change(number, placed.pop(0)[1], op))
            number += 1
        mixed.append(op)
    ends: Counter[str] = Counter()
    relaid = []
    for op in mixed:
        offset = ends[op.role]
        ends[op.role] += 1
        position = type(op.position)(0, ends["context"], ends["steps"])
        relaid.append(op._replace(offset=offset, position=position))
    return relaid


def _change(number: int, fields: dict[str, Any], op: Op) -> Op:
    body = {
        "type": "context.changed",
        "source": "more",
        "event_id": f"more-{number}",
        "session_id": "s",
        "occurred_at": "2025-11-24T16:00:00Z",
        **fields,
    }
    return Op("context", body, -1, op.at_ms, op.position)


@given(
    ops=logs(EVERYTHING),
    more=st.lists(
        st.tuples(
            st.integers(0, 50),
            st.fixed_dictionaries(
                {
                    "session_id": st.sampled_from(["s", "s2", "s3"]),
                    "set": st.dictionaries(st.sampled_from(["unrelated", "view/b", "doc/9"]), st.sampled_from("xyz")),
                    "unset": st.lists(st.sampled_from(["unrelated", "request/r9"]), max_size=1),
                },
                optional={"cause": st.sampled_from([{"task_id": "t1"}, {"task_id": "ghost"}])},
            ),
        ),
        max_size=10,
    ),
)
def test_unrelated_changes_change_no_verdict(ops: list[Op], more: list[tuple[int, dict[str, Any]]]) -> None:
    assert gist(run(with_context(ops, more))) == gist(run(ops))


def with_repeats(ops: Sequence[Op], drawn: Sequence[tuple[int, int]]) -> list[Op]:
    """The log in which events come again, within the horizon; everything else at the time it was."""
    mixed: list[Op] = []
    for place, op in enumerate(ops):
        mixed.append(op)
        for at, back in drawn:
            if at != place:
                continue
            earlier = [each for each in mixed[-15:] if may_repeat(mixed, each)]
            if earlier:
                mixed.append(earlier[back % len(earlier)]._replace(at_ms=op.at_ms))
    ends: Counter[str] = Counter()
    relaid = []
    for op in mixed:
        offset = ends[op.role]
        ends[op.role] += 1
        relaid.append(op._replace(offset=offset, position=type(op.position)(0, ends["context"], ends["steps"])))
    return relaid


def may_repeat(ops: Sequence[Op], op: Op) -> bool:
    """Whether the event changes nothing when it comes again.

    Effects are answered again, and a step that came before its dispatch was none: its repeat is the first one.
    """
    if op.body is None or op.body["type"] == "task.effect_proposed":
        return False
    if op.body["type"] not in ("task.step", "task.heartbeat"):
        return True
    task = op.body["session_id"], op.body["task_id"]
    first = next((each for each in ops if each.body is not None and _opens(each.body, task)), None)
    return first is not None and any(each is op for each in ops[ops.index(first) :])


def _opens(body: dict[str, Any], task: tuple[str, str]) -> bool:
    return body["type"] == "task.dispatched" and (body["session_id"], body["task_id"]) == task


TOLD_AGAIN = Kinds(erasure=False)
"""After an erasure, a dispatch that comes again is one of a session never heard of."""


@given(ops=logs(TOLD_AGAIN), drawn=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 14)), max_size=12), cuts=cuts)
def test_sending_events_again_changes_nothing(ops: list[Op], drawn: list[tuple[int, int]], cuts: list[Cut]) -> None:
    once, again = run(settled(ops)), run(settled(with_repeats(ops, drawn)), cuts)
    assert gist(again) == gist(once)
    assert ends_of(again) == ends_of(once)


def ends_of(written: Written) -> dict[bytes, tuple[Any, ...]]:
    """How every task ended."""
    bodies = {key: orjson.loads(value) for key, value in written.statuses.items() if value is not None}
    return {
        key: (body.get("disposition"), body.get("reason"), body.get("acknowledged"), body.get("stale_facets"))
        for key, body in bodies.items()
    }


ALONE = Kinds(sessions=("s",), tasks=("t1",), scopes=False, slots=False, time=False, erasure=False, results_last=True)


@given(ops=logs(ALONE), names=st.lists(st.sampled_from(PLAIN), min_size=1, max_size=6))
def test_a_task_is_never_stale_by_its_own_work(ops: list[Op], names: list[str]) -> None:
    last = max((place for place, op in enumerate(ops) if op.role in ("context", "steps")), default=0) + 1
    work = [(last, {"set": {name: f"own-{number}"}, "cause": {"task_id": "t1"}}) for number, name in enumerate(names)]
    before, after = run(ops), run(with_context(ops, work))
    assert decisions(after) == decisions(before)


def decisions(written: Written) -> list[Any]:
    return [(task_id, [part[:4] for part in parts]) for _, task_id, parts in gist(written)]


# (d) Every task ends once, and (f) every result is accounted for


def settled(ops: list[Op]) -> list[Op]:
    """And then every task that has not answered does, and so much time passes that nothing waits any more."""
    last = ops[-1]
    answered = {name for op in ops if (name := _named(op, "task.result")) is not None}
    silent = dict.fromkeys(name for op in ops if (name := _named(op, "task.dispatched")) is not None)
    end = sum(op.role == "results" for op in ops)
    for number, (session_id, task_id) in enumerate(name for name in silent if name not in answered):
        body = {
            "type": "task.result",
            "source": "last",
            "event_id": f"last-{number}",
            "session_id": session_id,
            "occurred_at": "2025-11-24T16:00:00Z",
            "task_id": task_id,
            "outcome": "completed",
            "parts": [{"part_id": "p0", "kind": "show"}],
        }
        ops = [*ops, last._replace(role="results", body=body, offset=end + number)]
    later = last.at_ms + 100_000_000
    return [*ops, *(last._replace(role="time", body=None, offset=-1, at_ms=later + number) for number in range(4))]


NOT_ERASED = Kinds(erasure=False)


@given(ops=logs(NOT_ERASED), drawn=cuts)
def test_every_task_with_a_result_ends_exactly_once(ops: list[Op], drawn: list[Cut]) -> None:
    ops = settled(ops)
    written = run(ops, drawn, Rules(hold_ttl_ms=600_000))
    endings: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for _, _, value in written.final:
        body = orjson.loads(value or b"{}")
        if body.get("status") == "ended":
            told = endings.setdefault((body["session_id"], body["task_id"]), [])
            told.append((body["disposition"], body["ended_at"], body.get("acknowledged")))  # type: ignore[arg-type]
    dispatched = {name for op in ops if (name := _named(op, "task.dispatched")) is not None}
    answered = {name for op in ops if (name := _named(op, "task.result")) is not None}
    assert dispatched & answered <= endings.keys() <= dispatched
    for told in endings.values():
        assert len({(disposition, ended_at) for disposition, ended_at, _ in told}) == 1  # type: ignore[misc]
        assert sum(acknowledged is None for _, _, acknowledged in told) <= 1  # type: ignore[misc]


def _named(op: Op, kind: str) -> tuple[str, str] | None:
    if op.body is None or op.body["type"] != kind:
        return None
    return op.body["session_id"], op.body["task_id"]


@given(ops=logs(NOT_ERASED), drawn=cuts)
def test_every_result_is_judged_once_whole_or_it_is_a_repeat_or_refused(ops: list[Op], drawn: list[Cut]) -> None:
    ops = settled(ops)
    written = run(ops, drawn, Rules(hold_ttl_ms=600_000))
    told: dict[int, list[str]] = {}
    for body in written.verdicts:
        told.setdefault(body["result"]["offset"], []).extend(part["part_id"] for part in body["parts"])
    refused = {offset for role, offset, _ in written.refusals if role == "results"}
    repeats = 0
    for op in ops:
        if op.role != "results" or op.body is None:
            continue
        parts = [part["part_id"] for part in op.body["parts"]]
        if op.offset in told:
            assert sorted(told[op.offset]) == parts
            assert op.offset not in refused
        elif op.offset not in refused:
            repeats += 1
    assert repeats == written.duplicates["task.result"]
    assert len({body["event_id"] for body in written.verdicts}) == len(written.verdicts)


@given(ops=logs(EVERYTHING), drawn=cuts)
def test_nothing_that_waits_is_kept_for_ever(ops: list[Op], drawn: list[Cut]) -> None:
    written = run(settled(ops), drawn)
    assert not [key for key in written.rows if key.startswith(keys.WAITING_KEY)]


# (e) Nothing is delivered unmarked that the context contradicts, nothing withheld that it does not

# Left out: `depends_on` (the oracle does not know what was taken), scopes (what a child read), and proposed effects.
JUDGED = Kinds(depends_on=False, scopes=False, effects=False, erasure=False)


class Oracle:
    """What the rules say of one verdict, by looking back at the whole log. Shares nothing with the gate."""

    def __init__(self, ops: Sequence[Op], verdict: dict[str, Any]) -> None:
        self.session, self.task = verdict["session_id"], verdict["task_id"]
        judged = verdict["verdict"]["judged"]
        self._context = [op for op in self._of(ops, "context") if op.offset < judged["context_offset"]]
        self._steps = [op for op in self._of(ops, "steps") if op.offset < judged["steps_offset"]]
        results = {op.offset: op.body for op in ops if op.role == "results" and op.body is not None}
        self.result = results[verdict["result"]["offset"]]
        self._dispatch = next(
            op for op in self._steps if op.body and _named(op, "task.dispatched") == (self.session, self.task)
        )
        early = [op for op in self._context if self._is_own(op) and op.at_ms <= self._dispatch.at_ms]
        self._is_forgotten = bool(early) and self._dispatch.at_ms - early[-1].at_ms > Rules().unknown_task_grace_ms
        """Whether what the task changed before its dispatch was too long ago to count as its own work."""

    def _of(self, ops: Sequence[Op], role: str) -> list[Op]:
        return [op for op in ops if op.role == role and op.body is not None and op.body["session_id"] == self.session]

    def _is_own(self, op: Op) -> bool:
        return op.body is not None and op.body.get("cause", {}).get("task_id") == self.task

    def history(self, name: str) -> list[tuple[str | None, str | None]]:
        """Each value the facet was given, and by the work of which task."""
        given_values: list[tuple[str | None, str | None]] = []
        for op in self._context:
            body = op.body or {}
            if body["type"] != "context.changed":
                continue
            cause = body.get("cause", {}).get("task_id")
            if self._is_forgotten and self._is_own(op) and op.at_ms <= self._dispatch.at_ms:
                cause = None
            if name in body.get("unset", ()):
                given_values.append((None, cause))
            elif name in body["set"]:
                given_values.append((body["set"][name], cause))
        return given_values

    def expected(self) -> dict[str, str | None]:
        """What the task stated last of each facet."""
        dispatch = self._dispatch
        stated: dict[str, str | None] = dict((dispatch.body or {})["snapshot"])
        for op in self._steps:
            if op.offset > dispatch.offset and op.body and _named(op, "task.step") == (self.session, self.task):
                stated |= op.body.get("reads", {})
        stated.update(self.result.get("reads", {}))
        return stated

    def contradicted(self, only: Sequence[str] | None) -> set[str]:
        """The facets that differ, of those that matter."""
        differing = set()
        for name, stated in self.expected().items():
            history = self.history(name)
            begins = [0]
            if history and history[0][1] == self.task:
                begins.append(1)  # the task may have read what others made of its own first change
            expected = {self._moved(stated, history, begin) for begin in begins}
            if history and history[-1][0] not in expected and (only is None or name in only):
                differing.add(name)
        return differing

    def _moved(self, stated: str | None, history: Sequence[tuple[str | None, str | None]], begin: int) -> str | None:
        expected, before = stated, [..., *(value for value, _ in history)]
        for place, (value, cause) in enumerate(history[begin:], start=begin):
            if cause == self.task and before[place] in (..., expected):
                expected = value
        return expected

    def is_by_another(self, name: str, value: str) -> bool:
        """Whether the facet has the value, and not by the task's own work alone."""
        history = self.history(name)
        causes = []
        for given_value, cause in reversed(history):
            if given_value != value:
                break
            causes.append(cause)
        return any(cause != self.task for cause in causes)


@given(ops=logs(JUDGED), drawn=cuts)
def test_verdicts_agree_with_one_who_looks_back_at_the_whole_log(ops: list[Op], drawn: list[Cut]) -> None:
    ops = settled(ops)
    for body in run(ops, drawn, Rules(hold_ttl_ms=600_000)).verdicts:
        verdict = body["verdict"]
        if verdict["reason"] in ("late", "unknown_task"):
            continue
        oracle = Oracle(ops, body)
        parts = {part["part_id"]: part for part in oracle.result["parts"]}
        for part in verdict["parts"]:
            told = {each["facet"] for each in part.get("differences", ())}
            differing = oracle.contradicted(parts[part["part_id"]].get("depends_on"))
            if part["reason"] == "fresh":
                assert part["decision"] == "delivered"
                assert differing == set()
                assert not oracle.is_by_another("session", "closed")
                assert body.get("request_id") is None or not oracle.is_by_another("request/r1", "archived")
            elif part["reason"] == "stale":
                assert differing == told != set()
                assert part["decision"] in ("withheld", "held") or part.get("annotated") is True
            elif part["reason"] == "hold_expired":
                assert part["decision"] == "withheld"
                assert told in (differing, set())  # none: it was the user who did not come back
            elif part["reason"] == "session_closed":
                assert oracle.is_by_another("session", "closed")
            elif part["reason"] == "request_archived":
                assert oracle.is_by_another("request/r1", "archived")


# That these tests can fail


def test_the_logs_are_worth_trying() -> None:
    reasons: Counter[str] = Counter()

    @settings(max_examples=400, database=None, derandomize=True, phases=[Phase.generate])
    @given(ops=logs(EVERYTHING))
    def count(ops: list[Op]) -> None:
        for body in run(settled(ops)).verdicts:
            reasons.update(part["reason"] for part in body["verdict"]["parts"])

    count()
    assert all(reasons[reason] > 0 for reason in ("fresh", "stale", "late", "unknown_task"))


@pytest.mark.parametrize("change", ["value", "order"])
def test_the_laws_would_notice(change: str) -> None:
    def log(value: str) -> list[Op]:
        told = {"session_id": "s", "task_id": "t1"}
        part = [{"part_id": "p0", "kind": "show"}]
        changes = [
            ("record", {"type": "context.changed", "session_id": "s", "set": {"doc/1": each}}) for each in ("1", value)
        ]
        return laid_out(
            [
                *(reversed(changes) if change == "order" else changes),
                ("record", {"type": "task.dispatched", "task_type": "q", "snapshot": {"doc/1": "1"}, **told}),
                ("record", {"type": "task.result", "outcome": "completed", "parts": part, **told}),
            ],
            EVERYTHING,
        )

    with pytest.raises(AssertionError):
        same(run(log("1")), run(log("2")))
    assert log("1")[0].at_ms > START_MS
