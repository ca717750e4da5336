"""What `tidegate orphans` finds in changelogs: those a gate wrote, and those it must never write."""

from __future__ import annotations

import copy
import io
from typing import Any

import msgspec
import orjson
import pytest
from rich.console import Console

from projections.decode import Batch
from projections.ended import EndedTask
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.records import change_to_bytes, row_to_bytes, task_to_bytes
from projections.rows import FORMAT, Facet, Policy, Scope, Task, Wait, new_row
from projections.rules import Rules
from schemas.topics import Role
from tidegate.errors import TidegateError
from tidegate.orphans import KINDS, Found, Limits, OpenState, Orphan, found_in, orphans_in, show

NOW = 1_764_000_000_000
GRACE = 30_000
MARGIN = 10_000
RULES = Rules(unknown_task_grace_ms=GRACE)
LIMITS = Limits(NOW, MARGIN, RULES)
SESSION = "s-1"


def task(
    parent: str | None = None, children: tuple[str, ...] = (), parentless_until: int | None = None, **fields: Any
) -> Task:
    scope = Scope(parent, dict.fromkeys(children), parentless_until) if parent is not None or children else None
    return Task(FORMAT, NOW - 60_000, 7, "-", "search", "", {}, scope=scope, **fields)


def state(tasks: dict[str, Task], waiting: dict[bytes, bytes] | None = None) -> OpenState:
    found = OpenState(3, RULES)
    row = new_row()
    row.tasks.update(tasks)
    row.open_tasks = len(tasks)
    found.take(b"s" + SESSION.encode(), row_to_bytes(row))
    for key, value in (waiting or {}).items():
        found.take(b"r" + key, value)
    return found


def kept(why: str, task_id: str, timestamp: int, undecided: list[str] | None = None) -> dict[bytes, bytes]:
    key = orjson.dumps([why, SESSION, task_id, "results", 5])
    return {key: orjson.dumps([5, timestamp, True, [], undecided, FORMAT]) + b"\n{}"}


def orphans(found: OpenState, limits: Limits = LIMITS) -> list[Orphan]:
    return list(orphans_in(found, found.decoded(), limits))


def kinds(found: OpenState) -> list[tuple[str, str]]:
    return [(each.kind, each.task_id) for each in orphans(found)]


def test_nothing_is_orphaned_where_nothing_is_open() -> None:
    assert kinds(state({})) == []
    assert state({}).rows == {}


def test_an_open_task_without_limits_is_no_orphan() -> None:
    assert kinds(state({"t": task()})) == []


def test_a_family_is_no_orphan() -> None:
    assert kinds(state({"p": task(children=("c",)), "c": task(parent="p")})) == []


def test_a_child_whose_parent_is_gone() -> None:
    (orphan,) = orphans(state({"c": task(parent="p")}))
    assert orphan == Orphan("parent_not_open", 3, SESSION, "c", "parent p")


def test_a_child_its_parent_does_not_know() -> None:
    assert kinds(state({"p": task(), "c": task(parent="p")})) == [("parent_unaware", "c")]


@pytest.mark.parametrize(("until", "listed"), [(NOW + 1, False), (NOW - MARGIN, False), (NOW - MARGIN - 1, True)])
def test_a_child_may_wait_for_its_parent_for_the_grace_period(until: int, *, listed: bool) -> None:
    found = kinds(state({"c": task(parent="p", parentless_until=until)}))
    assert found == ([("parent_grace_over", "c")] if listed else [])


def test_a_parent_that_waits_for_nobody() -> None:
    assert kinds(state({"p": task(children=("c",))})) == [("child_not_open", "p")]


@pytest.mark.parametrize("late_ms", [0, MARGIN, MARGIN + 1])
@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        (lambda due: {"policy": Policy(deadline_ms=due)}, "deadline"),
        (lambda due: {"policy": Policy(heartbeat_timeout_ms=5000), "last_heartbeat": due - 5000}, "heartbeat"),
        (
            lambda due: {"policy": Policy(while_stale_grace_ms=500), "stale_since": due - 500},
            "stale, and to be stopped",
        ),
    ],
)
def test_what_should_have_ended_by_now(late_ms: int, fields: Any, detail: str) -> None:
    due = NOW - late_ms
    found = orphans(state({"t": task(**fields(due))}))
    assert [each.kind for each in found] == (["overdue"] if late_ms > MARGIN else [])
    assert all(each.detail.startswith(detail) and each.due_at for each in found)


def test_a_hold_that_is_over_and_not_decided() -> None:
    wait = Wait("context", ["text"], NOW - 60_000)
    found = state({"t": task(wait=wait)}, kept("result", "t", NOW - 90_000))
    (orphan,) = orphans(found)
    assert (orphan.kind, orphan.detail, orphan.due_at) == ("overdue", "waits for context", "2025-11-24T15:59:00.000Z")


def test_a_task_that_waits_with_a_result_nobody_kept() -> None:
    assert kinds(state({"t": task(wait=Wait("slot", ["text"]))})) == [("result_missing", "t")]


def test_a_result_that_waits_for_a_task_that_is_over() -> None:
    assert kinds(state({}, kept("result", "t", NOW))) == [("result_without_task", "t")]


def test_a_result_of_the_last_version_that_waits_for_a_task_that_is_over() -> None:
    ((key, _),) = kept("result", "t", NOW).items()
    assert kinds(state({}, {key: orjson.dumps([5, NOW, True, [], None]) + b"\n{}"})) == [("result_without_task", "t")]
    assert kinds(state({}, {key: orjson.dumps([5, NOW, True, [], ["text"]]) + b"\n{}"})) == []


def test_a_stopped_task_s_result_is_withheld_at_the_next_barrier() -> None:
    assert kinds(state({}, kept("result", "t", NOW, ["text"]))) == []
    assert kinds(state({}, kept("result", "t", NOW - MARGIN - 1, ["text"]))) == [("result_without_task", "t")]


def test_a_result_may_wait_for_its_dispatch_for_the_grace_period() -> None:
    assert kinds(state({}, kept("unknown", "t", NOW - GRACE - MARGIN))) == []
    assert kinds(state({}, kept("unknown", "t", NOW - GRACE - MARGIN - 1))) == [("dispatch_grace_over", "t")]


def test_an_effect_is_answered_at_the_next_barrier() -> None:
    assert kinds(state({}, kept("effect", "t", NOW - 3_600_000))) == []


def test_later_records_replace_earlier_ones() -> None:
    found = state({"c": task(parent="p")}, kept("result", "x", NOW))
    for key in list(found.waiting):
        found.take(b"r" + key, None)
    found.take(b"s" + SESSION.encode(), row_to_bytes(new_row()))
    found.take(b"p", b"{}")  # the progress row
    found.take(b"e" + orjson.dumps([SESSION, "t"]), b"[]")  # an ended task
    assert (found.rows, found.waiting) == ({}, {})


def test_a_session_that_was_dropped_is_not_there() -> None:
    found = state({"c": task(parent="p")})
    found.take(b"s" + SESSION.encode(), None)
    assert kinds(found) == []


def test_facets_that_look_like_a_row_do_not_hide_it() -> None:
    found = OpenState(0, RULES)
    row = new_row()
    row.facets['"tasks":{}'] = Facet('"tasks":{}', None, change_to_bytes(1, NOW, "x", "y"))
    row.tasks["c"] = task(parent="p")
    row.open_tasks = 1
    found.take(b"s" + SESSION.encode(), row_to_bytes(row))
    assert kinds(found) == [("parent_not_open", "c")]


def test_tasks_apart_from_their_row_are_found_too() -> None:
    found = OpenState(0, RULES)
    tasks = {
        "p": task(position=0, children=("d",)),
        "c": task(parent="gone", position=1),
        "d": task(parent="p", position=2),
    }
    for task_id in ("c", "d", "p", "e"):
        found.take(b"t" + orjson.dumps([SESSION, task_id]), task_to_bytes(tasks.get(task_id, task())))
    row = new_row()
    row.open_tasks = 3
    found.take(b"s" + SESSION.encode(), row_to_bytes(msgspec.structs.replace(row, tasks={})))
    found.take(b"t" + orjson.dumps([SESSION, "e"]), None)
    assert kinds(found) == [("parent_not_open", "c")]
    assert found_in([found], LIMITS, "changelog").open_tasks == 3
    found.take(b"t" + orjson.dumps([SESSION, "d"]), None)
    with pytest.raises(TidegateError, match="3 open tasks have records of their own, but 2 do"):
        found_in([found], LIMITS, "changelog")


def test_a_row_of_another_version_is_an_error_one_can_read() -> None:
    found = OpenState(4, RULES)
    found.take(b"r[1]", b"nonsense")
    with pytest.raises(TidegateError, match="changelog/4 has a row that this version cannot read"):
        found_in([found], LIMITS, "changelog")


def test_counts_and_order() -> None:
    found = found_in(
        [state({"b": task(parent="p"), "a": task(parent="p"), "ok": task()}), OpenState(5, RULES)], LIMITS, "x"
    )
    assert (found.partitions, found.sessions, found.open_tasks, found.waiting_results) == (2, 1, 3, 0)
    assert [each.task_id for each in found.orphans] == ["a", "b"]


def printed(found: Found) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=200))
    return out.getvalue()


def test_the_table_says_what_is_wrong_in_words() -> None:
    found = found_in([state({"[c]": task(parent="p")})], LIMITS, "x")
    text = printed(found)
    assert KINDS["parent_not_open"] in text
    assert "[c]" in text
    assert text.endswith("1 open tasks in 1 sessions of 1 partitions, 0 waiting results: 1 orphaned\n")


def test_a_clean_gate_is_one_line() -> None:
    assert printed(found_in([state({"t": task()})], LIMITS, "x")).count("\n") == 1


def test_a_long_list_is_cut_and_says_so() -> None:
    found = found_in([state({f"t-{number}": task(parent="p") for number in range(300)})], LIMITS, "x")
    assert "and 100 more; --json has all of them" in printed(found)


class Written:
    """The changelog of a real gate in memory."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.state = OpenState(0, rules)
        self.partition = Partition(0, rules)
        self.now_ms = NOW - 120_000
        self._ends: dict[Role, int] = {"context": 0, "steps": 0, "results": 0}

    def take(self, role: Role, event_type: str, **fields: Any) -> None:
        offset = self._ends[role]
        self._ends[role] += 1
        self.now_ms += 1
        body = {"type": event_type, "source": "test", "event_id": f"{role}-{offset}", "session_id": SESSION}
        value = orjson.dumps({**body, "occurred_at": "2025-11-24T16:00:00Z", **fields})
        batch = Batch(role, 0, offset, offset + 1, [offset], [self.now_ms], [SESSION.encode()], [value], [()])
        if role == "context":
            self.partition.fold_context(batch, self.now_ms)
        elif role == "steps":
            self.partition.fold_steps(batch, LogPosition(0, self._ends["context"], self._ends["steps"]), self.now_ms)
        else:
            self.partition.judge(batch, LogPosition(0, self._ends["context"], self._ends["steps"]), self.now_ms)
        self.commit()

    def let_pass(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)
        self.partition.act_on_due(LogPosition(0, self._ends["context"], self._ends["steps"]), self.now_ms)
        self.commit()

    def commit(self) -> None:
        position = LogPosition(0, self._ends["context"], self._ends["steps"])
        self.partition.judge_ready(position, self.now_ms)
        changes = self.partition.take(self.now_ms)
        self.partition.committed()
        assert changes.refusals == []
        for key, value in changes.rows.items():
            self.state.take(key, value)

    def dispatch(self, task_id: str, **fields: Any) -> None:
        self.take("steps", "task.dispatched", task_id=task_id, task_type="search", **fields)

    def result(self, task_id: str) -> None:
        parts = [{"part_id": "text", "kind": "show", "payload": "Found."}]
        self.take("results", "task.result", task_id=task_id, outcome="completed", parts=parts)

    def kinds_after(self, seconds: float) -> list[tuple[str, str]]:
        limits = Limits(self.now_ms + round(seconds * 1000), MARGIN, self.state.rules)
        return [(each.kind, each.task_id) for each in orphans(self.state, limits)]


def test_what_a_gate_writes_is_read_as_it_was_meant() -> None:
    gate = Written()
    gate.dispatch("parent", heartbeat_timeout_seconds=5)
    gate.dispatch("child", parent_task_id="parent", deadline_at="2125-01-01T00:00:00Z")
    gate.dispatch("lost", parent_task_id="never")
    gate.result("parent")
    gate.result("unheard-of")
    assert gate.kinds_after(0) == []
    assert sorted(gate.kinds_after(60)) == [
        ("dispatch_grace_over", "unheard-of"),
        ("overdue", "parent"),
        ("parent_grace_over", "lost"),
    ]


def test_a_gate_that_runs_leaves_no_orphan() -> None:
    gate = Written()
    gate.dispatch("parent")
    gate.dispatch("child", parent_task_id="parent")
    gate.dispatch("grandchild", parent_task_id="child", heartbeat_timeout_seconds=5)
    gate.dispatch("lost", parent_task_id="never")
    gate.result("parent")
    gate.result("unheard-of")
    for _ in range(5):
        gate.let_pass(15)
        assert gate.kinds_after(0) == []
    assert gate.kinds_after(3600) == []
    assert (gate.state.rows, gate.state.waiting) == ({}, {})


def test_cancelling_the_parent_leaves_no_orphan() -> None:
    gate = Written()
    gate.dispatch("parent")
    gate.dispatch("child", parent_task_id="parent")
    before = copy.deepcopy(gate.state.rows)
    gate.take("context", "task.cancel_requested", task_id="parent")
    assert before
    assert (gate.state.rows, gate.state.waiting) == ({}, {})


def test_a_parent_whose_result_is_withheld_leaves_no_orphan() -> None:
    gate = Written()
    gate.dispatch("parent", request_id="r-1")
    gate.dispatch("child", parent_task_id="parent")
    gate.take("context", "context.changed", set={"request/r-1": "archived"})
    gate.result("parent")
    assert gate.kinds_after(0) == []


@pytest.mark.parametrize("rules", [Rules(shadow=True), Rules(shadow_task_types=frozenset({"search"}))])
def test_children_that_outlive_a_parent_in_shadow_mode_are_no_orphans(rules: Rules) -> None:
    gate = Written(rules)
    gate.dispatch("parent")
    gate.dispatch("child", parent_task_id="parent")
    gate.result("parent")
    assert len(gate.state.rows) == 1
    assert gate.kinds_after(0) == []
    gate.result("child")
    assert gate.state.rows == {}


def test_shadow_mode_for_other_task_types_excuses_nobody() -> None:
    found = OpenState(0, Rules(shadow_task_types=frozenset({"summary"})))
    for key, value in state({"c": task(parent="p")}).rows.items():
        found.take(b"s" + key, value)

    def ended(task_type: str) -> bytes:
        return EndedTask("p", "delivered", "fresh", NOW, "-", [], echo=f'"task_type":"{task_type}"').line()

    found.take(b"e" + orjson.dumps([SESSION, "p"]), ended("search"))
    assert kinds(found) == [("parent_not_open", "c")]
    found.take(b"e" + orjson.dumps([SESSION, "p"]), ended("summary"))
    assert kinds(found) == []
    found.take(b"e" + orjson.dumps([SESSION, "p"]), None)
    assert kinds(found) == [("parent_not_open", "c")]
