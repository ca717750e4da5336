"""A partition: what is kept, lost, forgotten and sent on, and that a restart at any moment changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest

from projections import store
from projections.ended import Ended
from projections.gate import Place
from projections.partition import Partition
from projections.row import MAX_ROW_BYTES, row_to_bytes
from projections.rules import Rules
from schemas.envelope import FORWARDED_FROM, Headers
from schemas.topics import CHANGELOG_MAX_MESSAGE_BYTES
from tests.unit.feeding import START_MS, Feed, make_batch, reason_of

DAY_SECONDS = 86_400
CLOUD_EVENT: Headers = [
    ("ce_type", b"task.result"),
    ("ce_source", b"agent"),
    ("ce_id", b"r-1"),
    ("ce_subject", b"s"),
    ("ce_time", b"2025-11-24T16:00:00Z"),
    ("x-odd", b"\xff\x00"),
    ("x-null", None),
]
FORWARDED: Headers = [(FORWARDED_FROM, b"tidegate.context.v1/3/17")]


def result_value(**fields: Any) -> bytes:
    part = {"part_id": "p", "kind": "show", "payload": 1}
    return orjson.dumps({"task_id": "t", "outcome": "completed", "parts": [part], **fields})


def decided(feed: Feed) -> list[tuple[str, str, str]]:
    return [(body["task_id"], *reason_of(body)) for body in feed.verdicts()]


def ready(feed: Feed) -> list[bool]:
    """In a list: mypy believes that what was true once stays true."""
    return [feed.partition.has_ready]


def to_write(feed: Feed) -> list[bool]:
    return [feed.partition.store.has_changes]


# Status and disposition


def test_running_is_told_once_in_a_transaction_and_the_end_once_for_all() -> None:
    feed = Feed()
    feed.dispatched("t", {"doc/1": "a"})
    for value in "bcd":
        feed.changed({"doc/1": value})
        feed.step("t", message=value)
    assert [(body["status"], body["message"]) for body in feed.take()] == [("running", "d")]
    feed.step("t", message="e")
    feed.result("t")
    told = [body for body in feed.take() if body["type"] == "task.status"]
    assert [(body["status"], body["disposition"], body["message"]) for body in told] == [("ended", "withheld", "e")]
    feed.step("t", message="f")
    feed.changed({"doc/1": "a"})
    feed.result("t")
    assert feed.take() == []


def test_a_dispatch_sent_twice_is_one_task() -> None:
    feed = Feed()
    for _ in range(2):
        feed.dispatched("t", {"doc/1": "a"})
    feed.result("t")
    feed.dispatched("t", {"doc/1": "a"})
    feed.take()
    assert feed.changes[-1].duplicates == {"task.dispatched": 2}


def test_a_dispatch_of_the_same_id_with_other_content_is_an_error() -> None:
    feed = Feed()
    feed.dispatched("t", {"doc/1": "a"})
    feed.dispatched("t", {"doc/1": "b"})
    feed.result("t")
    feed.dispatched("t", {"doc/1": "b"})
    feed.take()
    details = [(refusal.error, refusal.detail) for refusal in feed.changes[-1].refusals]
    assert [error for error, _ in details] == ["dispatch_conflict"] * 2
    digest = feed.partition.store.ended.get("s", "t")
    assert digest is not None
    assert all(str(digest.dispatch_digest) in detail for _, detail in details)


# Waiting for a dispatch


@pytest.mark.parametrize("compacted", [False, True])
def test_a_result_that_can_be_judged_is_not_lost_with_the_worker(*, compacted: bool) -> None:
    feed = Feed()
    feed.result("t")
    feed.take()
    feed.dispatched("t")
    feed.take()  # the dispatch is written, the verdict is not
    feed.restart(compacted=compacted)
    assert ready(feed) == [True]
    feed.barrier()
    assert decided(feed) == [("t", "delivered", "fresh")]
    feed.restart(compacted=compacted)
    assert ready(feed) == [False]
    assert feed.partition.store.waiting_count == 0


@pytest.mark.parametrize("compacted", [False, True])
def test_a_parked_result_is_the_same_after_a_restart_headers_and_all(*, compacted: bool) -> None:
    feed = Feed()
    value = result_value()
    feed.send_value("results", value, CLOUD_EVENT)
    feed.take()
    feed.restart(compacted=compacted)
    ((waiting,),) = feed.partition.store.unknown.values()
    assert (waiting.value, waiting.headers, waiting.key) == (value, CLOUD_EVENT, None)
    feed.wait(30)
    assert decided(feed) == [("t", "withheld", "unknown_task")]


def test_what_is_refused_after_a_wait_goes_out_as_it_came() -> None:
    feed = Feed()
    feed.send_value("results", result_value(), CLOUD_EVENT)
    feed.take()
    feed.restart()
    feed.send_value("results", result_value(outcome="failed"), CLOUD_EVENT)
    feed.take()
    (refusal,) = feed.changes[-1].refusals
    assert refusal.error == "identity_conflict"
    assert refusal.batch.headers[refusal.index] == CLOUD_EVENT
    feed.dispatched("t")
    feed.barrier()
    assert decided(feed) == [("t", "delivered", "fresh")]


def test_of_several_results_that_wait_the_first_one_counts() -> None:
    feed = Feed()
    for number in range(3):
        feed.result("t", {"part_id": str(number)})
    feed.result("t", {"part_id": "0"})
    feed.dispatched("t")
    feed.result("t", {"part_id": "later"})
    verdicts = feed.verdicts()
    assert [(body["parts"][0]["part_id"], *reason_of(body)) for body in verdicts] == [
        ("0", "delivered", "fresh"),
        ("1", "withheld", "late"),
        ("2", "withheld", "late"),
        ("later", "withheld", "late"),
    ]
    assert feed.changes[-1].duplicates == {"task.result": 1}


def test_each_unknown_task_has_its_own_grace_period() -> None:
    feed = Feed(Rules(unknown_task_grace_ms=10_000))
    feed.result("a")
    due = feed.partition.next_due_ms()
    assert due == START_MS + 11_000
    feed.wait(5)
    feed.result("b")
    feed.wait(4)
    assert decided(feed) == [("a", "withheld", "unknown_task")]
    assert feed.partition.next_due_ms() == START_MS + 17_000
    feed.wait(100)
    assert decided(feed) == [("b", "withheld", "unknown_task")]
    assert feed.partition.next_due_ms() is None


# Results that wait for something else


@pytest.mark.parametrize("change_first", [False, True])
def test_a_change_by_a_rejected_child_is_its_parents_own_whichever_was_folded_first(*, change_first: bool) -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.dispatched("parent", {"doc/1": "a"})
    feed.dispatched("other", slot="panel")
    for is_change in (change_first, not change_first):
        if is_change:
            feed.changed({"doc/1": "b"}, by="child")
        else:
            feed.dispatched("child", parent_task_id="parent", slot="panel", on_newer="reject")
    assert feed.statuses()["child"]["reason"] == "slot_taken"
    feed.result("parent")
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_child_that_opens_while_the_result_of_its_parent_waits_is_awaited(*, restarted: bool) -> None:
    feed = Feed()
    feed.changed({"doc/1": "b"})
    feed.dispatched("parent", {"doc/1": "a"})
    feed.result("parent", {"part_id": "text", "on_stale": "hold"})
    assert feed.row["tasks"]["parent"]["wait"]["why"] == "context"
    feed.dispatched("child", parent_task_id="parent")
    if restarted:
        feed.take()
        feed.restart()
    feed.barrier()
    assert feed.row["tasks"]["parent"]["wait"]["why"] == "children"


def waiting_feed() -> Feed:
    """A task with a result that is held."""
    feed = Feed(Rules(hold_ttl_ms=600_000))
    feed.changed({"doc/1": "b"})
    feed.dispatched("t", {"doc/1": "a"}, on_stale="hold")
    feed.result("t", event_id="first")
    assert feed.verdicts() == []
    return feed


def test_a_second_result_while_the_first_is_held_is_late_and_told_once() -> None:
    feed = waiting_feed()
    for number in range(3):
        feed.result("t", {"part_id": "other"}, event_id=f"second-{number % 2}")
    assert decided(feed) == [("t", "withheld", "late")]
    assert feed.changes[-1].duplicates == {"task.result": 2}
    feed.restart()
    feed.result("t", {"part_id": "other"}, event_id="second-0")
    feed.changed({"doc/1": "a"})
    feed.barrier()
    assert decided(feed) == [("t", "delivered", "fresh")]
    feed.result("t", {"part_id": "other"}, event_id="second-0")
    assert decided(feed) == []


def test_a_repeat_of_a_held_result_that_comes_with_the_cancellation_gets_no_verdict_of_its_own() -> None:
    feed = waiting_feed()
    feed.send("task.cancel_requested", task_id="t")
    feed.result("t", event_id="first")
    assert decided(feed) == [("t", "withheld", "late")]
    assert feed.changes[-1].duplicates == {"task.result": 1}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_held_result_of_a_task_that_is_cancelled_is_withheld_whole(*, restarted: bool) -> None:
    feed = waiting_feed()
    feed.send("task.cancel_requested", task_id="t")
    feed.take()
    if restarted:
        feed.restart()
    feed.barrier()
    assert decided(feed) == [("t", "withheld", "late")]
    assert feed.partition.store.waiting_count == 0


def test_a_result_that_waited_when_a_result_stopped_its_task_comes_before_its_repeat_in_the_same_batch() -> None:
    feed = Feed()
    feed.dispatched("parent", request_id="r")
    feed.dispatched("child", parent_task_id="parent")
    feed.dispatched("grandchild", parent_task_id="child")
    feed.result("child")  # waits
    feed.changed({"request/r": "archived"})
    feed.take()
    fields = {"source": "test", "session_id": feed.session, "occurred_at": "2025-11-24T16:00:00Z"}
    parts = [{"part_id": "text", "kind": "show", "payload": "done"}]
    results = [
        {
            **fields,
            "type": "task.result",
            "event_id": f"of {task}",
            "task_id": task,
            "outcome": "completed",
            "parts": parts,
        }
        for task in ("parent", "child")
    ]
    feed.feed(make_batch("results", 1, [orjson.dumps(result) for result in results], [feed.now_ms] * 2))
    assert [(body["task_id"], *reason_of(body)) for body in feed.verdicts()] == [
        ("parent", "withheld", "request_archived"),
        ("child", "withheld", "late"),
    ]
    assert feed.changes[-1].duplicates == {"task.result": 1}


def test_what_a_result_frees_comes_before_the_next_result_in_one_batch_or_two() -> None:
    def run(*, together: bool) -> list[tuple[str, str, str]]:
        feed = Feed()
        feed.dispatched("parent", slot="panel")
        feed.dispatched("child", parent_task_id="parent")
        feed.dispatched("newer", slot="panel")
        feed.result("parent")
        values = [
            orjson.dumps(
                {
                    "type": "task.result",
                    "source": "agent",
                    "event_id": task_id,
                    "session_id": "s",
                    "occurred_at": "2025-11-24T16:00:00Z",
                    **orjson.loads(result_value(task_id=task_id)),
                }
            )
            for task_id in ("child", "newer")
        ]
        if together:
            feed.feed(make_batch("results", 1, values, [feed.now_ms] * 2))
        else:
            for offset, value in enumerate(values, start=1):
                feed.feed(make_batch("results", offset, [value], [feed.now_ms]))
        return decided(feed)

    assert run(together=True) == run(together=False)
    assert run(together=True) == [
        ("child", "delivered", "fresh"),
        ("parent", "delivered", "fresh"),
        ("newer", "delivered", "fresh"),
    ]


# Sessions


def test_erasing_leaves_nothing_and_says_so() -> None:
    feed = Feed()
    feed.changed({"doc/1": "a"})
    feed.dispatched("open")
    feed.dispatched("over")
    feed.result("over")
    feed.result("unknown")
    feed.dispatched("holding", {"doc/1": "b"}, on_stale="hold")
    feed.result("holding")
    feed.take()
    feed.send("session.erased")
    feed.take()
    changes = feed.changes[-1]
    tombstones = [orjson.loads(output.key)[1] for output in changes.outputs if output.value is None]
    assert sorted(tombstones) == ["holding", "open", "over"]
    assert all(value is None for value in changes.rows.values())
    for compacted in (False, True):
        feed.restart(compacted=compacted)
        kept = feed.partition.store
        assert (kept.session_count, kept.waiting_count, kept.row_bytes) == (0, 0, 0)
        assert kept.ended.remove_all("s") == []
        assert feed.partition.next_due_ms() is None


@pytest.mark.parametrize("taken_before", [True, False])
@pytest.mark.parametrize("evicted", [True, False])
def test_what_comes_after_erasing_finds_an_empty_session(
    monkeypatch: pytest.MonkeyPatch, *, taken_before: bool, evicted: bool
) -> None:
    if evicted:
        monkeypatch.setattr(store, "MAX_DECODED_ROWS", 0)
    feed = Feed()
    feed.changed({"doc/1": "secret"})
    feed.dispatched("t")
    if taken_before:
        feed.take()
    feed.send("session.erased")
    feed.changed({"doc/2": "x"})
    feed.dispatched("t", {"doc/1": "a"})
    assert list(feed.row["facets"]) == ["doc/2"]
    outputs = feed.take()
    assert [body["status"] for body in outputs] == ["running"]
    assert b"secret" not in row_to_bytes(feed.partition.store.row("s"))
    feed.restart(compacted=True)
    assert b"secret" not in row_to_bytes(feed.partition.store.row("s"))
    feed.result("t")
    assert decided(feed) == [("t", "delivered", "fresh")]


def test_a_result_whose_dispatch_came_is_not_judged_when_the_session_was_erased_since() -> None:
    feed = Feed()
    feed.result("t")
    feed.dispatched("t")
    feed.send("session.erased")
    feed.barrier()
    feed.wait(3600)
    assert decided(feed) == []
    assert feed.partition.store.waiting_count == 0


@pytest.mark.parametrize("metadata", [{}, {"tasks": {}}, {"x": '"tasks":{}'}])
def test_idle_sessions_are_forgotten_but_not_those_with_open_tasks(metadata: dict[str, Any]) -> None:
    feed = Feed(Rules(session_ttl_ms=3_600_000))
    feed.dispatched("t", {"doc/1": "a"}, metadata=metadata, deadline_at="2025-11-26T00:00:00Z")
    feed.take()
    feed.restart()
    assert feed.partition.next_due_ms() is not None
    for session in ("idle", "rejected", "unknown"):
        feed.session = session
        if session == "idle":
            feed.changed({"doc/1": "a"})
        elif session == "rejected":
            feed.dispatched("t", parent_task_id="t")
        else:
            feed.result("t")
            feed.wait(60)
    feed.take()
    assert feed.partition.store.session_count == 4
    feed.now_ms += 4_000_000
    for _ in range(3):
        feed.partition.find_idle(feed.now_ms, 100)
        feed.partition.drop_idle()
    feed.take()
    assert feed.partition.store.session_ids() == ["s"]
    feed.restart(compacted=True)
    assert feed.partition.store.session_ids() == ["s"]
    assert not any(feed.partition.store.ended.get(session, "t") for session in ("idle", "rejected", "unknown"))


# Rows that would grow too large


def grown_feed() -> Feed:
    feed = Feed()
    number = 0
    while not feed.partition.store.changes.refusals:
        feed.changed({f"doc/{number}/{each}": "v" * 1000 for each in range(16)})
        number += 1
    assert number > 20
    feed.take()
    (refusal,) = feed.changes[-1].refusals
    assert refusal.error == "session_full"
    return feed


def test_a_full_session_takes_no_new_facets_and_still_follows_the_known_ones() -> None:
    feed = grown_feed()
    size = len(row_to_bytes(feed.partition.store.row("s")))
    assert MAX_ROW_BYTES * 0.8 < size <= MAX_ROW_BYTES
    feed.changed({"doc/0/0": "new value"})
    feed.changed(unset=["doc/0/1"])
    for number in range(300):
        feed.changed(unset=[f"never/seen/{number}/{each}" for each in range(200)])
    feed.take()
    assert len(feed.changes[-1].refusals) >= 290
    assert feed.row["facets"]["doc/0/0"][0] == "new value"
    assert feed.row["facets"]["doc/0/1"][0] is None
    assert len(row_to_bytes(feed.partition.store.row("s"))) < 2 * MAX_ROW_BYTES
    feed.dispatched("t", {f"doc/1/{each}": "v" * 1000 for each in range(12)})
    assert feed.statuses()["t"]["reason"] == "session_full"


def test_many_small_facets_count_with_all_that_is_kept_of_them() -> None:
    feed = Feed()
    source, number = "s" * 250, 0
    while not feed.partition.store.changes.refusals:
        feed.changed({f"{number}.{each}": "" for each in range(200)}, source=source)
        number += 1
        assert number < 100
    assert len(row_to_bytes(feed.partition.store.row("s"))) <= MAX_ROW_BYTES


def test_a_row_of_many_short_values_fits_into_one_record_when_all_of_them_become_long() -> None:
    feed = Feed()
    number = 0
    while not feed.partition.store.changes.refusals:
        feed.changed({f"{number}.{each}": "" for each in range(250)}, source="s")
        number += 1
        assert number < 100
    names = [*feed.row["facets"]]
    assert len(names) > 3000
    for name in names:
        feed.changed({name: "v" * 1024}, source="s" * 256, event_id=name.ljust(256, "e"))
    assert len(feed.partition.store.changes.refusals) == 1
    assert len(row_to_bytes(feed.partition.store.row("s"))) < CHANGELOG_MAX_MESSAGE_BYTES - MAX_ROW_BYTES


def test_what_the_gate_takes_for_a_dispatch_counts() -> None:
    feed = Feed()
    feed.changed({f"doc/{each}": "v" * 1000 for each in range(200)})
    number = 0
    while not any(body.get("reason") == "session_full" for body in feed.take()):
        feed.dispatched(f"t{number}", depends_on=[f"doc/{each}" for each in range(200)])
        number += 1
        assert number < 100
    assert len(row_to_bytes(feed.partition.store.row("s"))) <= MAX_ROW_BYTES


def test_what_results_read_for_the_task_above_counts() -> None:
    feed = Feed()
    feed.dispatched("above")
    dead: list[str] = []
    for number in range(120):
        feed.dispatched(f"t{number}", parent_task_id="above")
        feed.result(f"t{number}", reads={f"doc/{number}/{each}": "v" * 60 for each in range(120)})
        feed.take()
        dead += [refusal.error for refusal in feed.changes[-1].refusals]
    assert MAX_ROW_BYTES * 0.4 < len(row_to_bytes(feed.partition.store.row("s"))) <= MAX_ROW_BYTES
    assert set(dead) == {"session_full"}
    assert len(dead) == len(feed.row["tasks"]) - 1
    last = next(reversed(feed.row["tasks"]))
    assert list(feed.row["tasks"]["above"]["children"])[-1] == last
    feed.result(last)  # without reads that are new to the row, it may end
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_what_children_that_came_before_their_parent_bring_with_them_counts() -> None:
    feed = Feed()
    rejected = 0
    for number in range(60):
        snapshot: dict[str, str | None] = {f"doc/{number}/{each}": "v" * 900 for each in range(12)}
        feed.dispatched(f"t{number}", snapshot, parent_task_id=f"t{number + 1}")
        rejected += sum(body.get("reason") == "session_full" for body in feed.take())
        assert len(row_to_bytes(feed.partition.store.row("s"))) <= MAX_ROW_BYTES
    assert rejected > 10


def test_a_result_that_is_refused_for_its_reads_leaves_no_trace() -> None:
    feed = grown_feed()
    feed.dispatched("above", {"doc/0/0": "a"})
    feed.dispatched("t", {"doc/0/0": "b"}, parent_task_id="above")
    feed.take()
    before = feed.row
    feed.result("t", reads={"doc/0/0": "c", **{f"never/seen/{each}": "v" * 1000 for each in range(14)}})
    assert feed.take() == []
    (refusal,) = feed.changes[-1].refusals
    assert (refusal.error, refusal.batch.role) == ("session_full", "results")
    assert feed.row == before


def test_what_a_result_reads_takes_no_room_where_it_is_decided_at_once() -> None:
    feed = grown_feed()
    feed.dispatched("t")
    feed.dispatched("held")
    reads = {"doc/0/0": "another", **{f"never/seen/{each}": "v" * 1000 for each in range(14)}}
    feed.result("t", reads=reads)
    assert reason_of(feed.verdict()) == ("withheld", "stale")
    feed.result("held", {"part_id": "text", "on_stale": "hold"}, reads=reads)
    feed.take()
    assert [refusal.error for refusal in feed.changes[-1].refusals] == ["session_full"]
    assert "wait" not in feed.row["tasks"]["held"]


def test_what_a_proposed_effect_read_counts_and_its_agent_is_told() -> None:
    feed = Feed()
    feed.dispatched("t")
    answers = []
    for number in range(60):
        reads = {f"doc/{number}/{each}": "v" * 60 for each in range(120)}
        feed.send("task.effect_proposed", task_id="t", idempotency_key=f"k{number}", effect="book", reads=reads)
        feed.barrier()
        answers += [body for body in feed.take() if body["type"].startswith("effect.")]
    assert len(row_to_bytes(feed.partition.store.row("s"))) <= MAX_ROW_BYTES
    assert len(answers) == 60
    assert answers[0]["type"] == "effect.cleared"
    assert (answers[-1]["type"], answers[-1]["reason"]) == ("effect.refused", "session_full")
    feed.send("task.effect_proposed", task_id="t", idempotency_key="k", effect="book", reads={"doc/0/0": "v"})
    feed.barrier()
    assert feed.take()[0]["type"] == "effect.cleared"


def test_whether_a_session_is_full_does_not_depend_on_when_it_is_written() -> None:
    rows, refusals = [], []
    for every in (1, 7, 1000):
        feed = Feed()
        for number in range(60):
            feed.changed({f"doc/{number}/{each}": "v" * 1000 for each in range(10)}, by="t")
            if number % every == 0:
                feed.take()
                feed.restart()
        feed.take()
        rows.append(row_to_bytes(feed.partition.store.row("s")))
        refusals.append(sum(len(changes.refusals) for changes in feed.changes))
    assert len(set(rows)) == 1
    assert len(set(refusals)) == 1
    assert refusals[0] > 0


# Scopes without end


def test_a_task_is_not_above_itself() -> None:
    feed = Feed()
    feed.dispatched("a", parent_task_id="c")
    feed.dispatched("b", parent_task_id="a")
    feed.dispatched("c", parent_task_id="b")
    assert feed.statuses()["c"]["reason"] == "unknown_parent"
    feed.send("task.cancel_requested", task_id="a")
    assert {task_id: status["disposition"] for task_id, status in feed.statuses().items()} == {
        "a": "cancelled",
        "b": "cancelled",
    }


def test_tasks_below_each_other_are_stopped_however_many_they_are() -> None:
    feed = Feed()
    depth = 600
    for number in reversed(range(depth)):
        feed.dispatched(f"t{number}", parent_task_id=f"t{number - 1}" if number else None)
    feed.take()
    open_tasks = len(feed.row["tasks"])
    feed.send("task.cancel_requested", task_id="t0")
    ended = [body for body in feed.take() if body["type"] == "task.status"]
    assert len(ended) == open_tasks
    assert ended[-1]["task_id"] == "t0"
    assert feed.row["tasks"] == {}


# Records that went astray


def test_records_of_other_partitions_are_sent_on_and_not_folded() -> None:
    partition = Partition(0, Rules(), lambda session_id: session_id == "home")
    for role, value in (
        ("context", {"type": "context.changed", "set": {"a": "1"}}),
        ("steps", {"type": "task.dispatched", "task_id": "t", "task_type": "q"}),
        ("results", {"type": "task.result", **orjson.loads(result_value())}),
        ("context", {"type": "session.erased"}),
    ):
        envelope = {"source": "a", "event_id": "e", "session_id": "away", "occurred_at": "2025-01-01T00:00:00Z"}
        values = [orjson.dumps({**envelope, **value}), orjson.dumps({**envelope, **value, "session_id": "home"})]
        batch = make_batch(role, 0, values, [0, 0])  # type: ignore[arg-type]
        if role == "context":
            partition.fold_context(batch, 0)
        elif role == "steps":
            partition.fold_steps(batch, 0)
        else:
            partition.judge(batch, Place(0, 1, 1), 0)
    changes = partition.take(0)
    assert [(batch.role, index) for batch, index in changes.misrouted] == [
        ("context", 0),
        ("steps", 0),
        ("results", 0),
        ("context", 0),
    ]
    assert not any(b"away" in key for key in changes.rows)
    assert not any(b"away" in (output.value or b"") for output in changes.outputs)


def test_a_record_that_was_sent_on_twice_is_folded_once() -> None:
    feed = Feed()
    for value in "ab":
        feed.changed({"doc/1": value}, event_id=value, headers=FORWARDED)
    for _ in range(2):
        feed.restart()
        feed.changed({"doc/1": "a"}, event_id="a", headers=FORWARDED)
        feed.changed({"doc/1": "b"}, event_id="b", headers=FORWARDED)
        feed.changed({"doc/1": "a"}, event_id="a", headers=FORWARDED)
        feed.take()
        assert feed.row["facets"]["doc/1"][0] == "b"
    duplicates = sum((changes.duplicates for changes in feed.changes), Counter[str]())
    assert duplicates["context.changed"] >= 3


# The order of what is written


def test_ended_tasks_are_forgotten_in_the_same_order_after_a_restart() -> None:
    def forgotten(*, restarted: bool) -> set[str]:
        feed = Feed(Rules(ended_tasks_per_session=3))
        for task_id in "abc":
            feed.dispatched(task_id)
            feed.result(task_id)
        feed.result("a", {"part_id": "late"})
        feed.take()
        if restarted:
            feed.restart()
        feed.dispatched("d")
        feed.result("d")
        feed.take()
        return {task_id for task_id in "abcd" if feed.partition.store.ended.get("s", task_id) is None}

    assert forgotten(restarted=True) == forgotten(restarted=False) == {"b"}


def test_what_was_forgotten_is_unknown_and_its_status_is_not_touched() -> None:
    feed = Feed(Rules(ended_tasks_per_session=1))
    for task_id in "ab":
        feed.dispatched(task_id)
        feed.result(task_id)
    feed.take()
    feed.result("a", {"part_id": "late"})
    feed.wait(30)
    assert [(body["type"], body["verdict"]["reason"]) for body in feed.take()] == [("result.withheld", "unknown_task")]


def test_a_restored_entry_is_the_one_that_was_remembered() -> None:
    feed = Feed()
    feed.dispatched('odd "id"\n')
    feed.result('odd "id"\n')
    feed.take()
    before = feed.partition.store.ended.get("s", 'odd "id"\n')
    feed.restart()
    assert isinstance(before, Ended)
    assert feed.partition.store.ended.get("s", 'odd "id"\n') == before


def test_nothing_to_write_is_known() -> None:
    feed = Feed()
    feed.take()
    feed.step("ghost")
    feed.send("task.heartbeat", task_id="ghost")
    assert to_write(feed) == [False]
    feed.changed({"doc/1": "a"})
    assert to_write(feed) == [True]
    feed.take()
    assert to_write(feed) == [False]
    feed.wait(DAY_SECONDS)
    feed.barrier()
    assert to_write(feed) == [False]
