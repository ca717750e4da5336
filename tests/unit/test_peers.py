"""The comparison's own logic: the oracle, the hand-written loops' rules and merge, the count of what is wrong."""

from typing import Any

import orjson
import pytest

from bench.peers.merging import Merge
from bench.peers.oracle import Expected, at_delivery, in_log_order
from bench.peers.rules import CONTEXT, RESULTS, STEPS, TOPICS, Sessions
from bench.peers.verdicts import Oracle, Verdict, held_against, of_gate
from schemas.topics import Role
from testing.workload import Record, Workload

SESSION = "user-1"
KEY = (SESSION, "t")

FRESH = Expected("delivered", annotated=False, reason="fresh")
MARKED = Expected("delivered", annotated=True, reason="stale")
WITHHELD = Expected("withheld", annotated=False, reason="stale")


def record(role: Role, kind: str, **fields: Any) -> Record:
    return Record(role, 0, b"", orjson.dumps({"type": kind, "session_id": SESSION, **fields}), None)


def context(facet: str, value: str, cause: str | None = None) -> Record:
    caused = {} if cause is None else {"cause": {"task_id": cause}}
    return record("context", "context.changed", set={facet: value}, **caused)


def dispatched(**snapshot: str) -> Record:
    return record("steps", "task.dispatched", task_id="t", snapshot=snapshot)


def read(**reads: str) -> Record:
    return record("steps", "task.step", task_id="t", reads=reads)


def result(outcome: str = "completed") -> Record:
    return record("results", "task.result", task_id="t", outcome=outcome, parts=[{"part_id": "answer"}])


ANNOTATING = record("steps", "task.dispatched", task_id="t", snapshot={"day": "1"}, on_stale="annotate")

CASES = {
    "nothing contradicts": ([dispatched(day="1"), result()], FRESH),
    "changed": ([context("day", "1"), dispatched(day="1"), context("day", "2"), result()], WITHHELD),
    "changed back": ([dispatched(day="1"), context("day", "2"), context("day", "1"), result()], FRESH),
    "another facet": ([dispatched(day="1"), context("view", "x"), result()], FRESH),
    "stale from the start": ([context("day", "2"), dispatched(day="1"), result()], WITHHELD),
    "read again": ([dispatched(day="1"), context("day", "2"), read(day="2"), result()], FRESH),
    "read another": ([dispatched(day="1"), read(mail="1"), context("mail", "2"), result()], WITHHELD),
    "own work": ([context("day", "1"), dispatched(day="1"), context("day", "2", "t"), result()], FRESH),
    "own work on the unknown": ([dispatched(day="1"), context("day", "2", "t"), result()], FRESH),
    "own work, then another's": (
        [context("day", "1"), dispatched(day="1"), context("day", "2", "t"), context("day", "3"), result()],
        WITHHELD,
    ),
    "own work after another's": (
        [context("day", "1"), dispatched(day="1"), context("day", "2"), context("day", "3", "t"), result()],
        WITHHELD,
    ),
    "own work on the unknown, then another's, which it read": (
        [dispatched(day="1"), context("day", "2", "t"), context("day", "3"), read(day="3"), result()],
        FRESH,
    ),
    "a failure is told": ([dispatched(day="1"), context("day", "2"), result("failed")], MARKED),
    "annotated": ([ANNOTATING, context("day", "2"), result()], MARKED),
}


def by_hand(records: list[Record]) -> Expected:
    sessions = Sessions()
    for each in records:
        event = orjson.loads(each.value)
        if each.role == "context":
            sessions.fold_context(event, 0)
        elif each.role == "steps":
            sessions.fold_step(event, 0)
        else:
            verdict = sessions.judge(event, 0)
    return Expected(verdict["decision"], verdict["annotated"], verdict["reason"])


@pytest.mark.parametrize("case", CASES)
def test_oracle_and_hand_written_rules_say_what_is_right(case: str) -> None:
    records, expected = CASES[case]
    assert in_log_order(records) == {KEY: expected}
    assert at_delivery(records) == {KEY: expected}
    assert by_hand(records) == expected


def test_context_after_a_result_counts_at_delivery_only() -> None:
    records = [dispatched(day="1"), result(), context("day", "2")]
    assert in_log_order(records) == {KEY: FRESH}
    assert at_delivery(records) == {KEY: WITHHELD}


def test_a_result_of_an_unknown_task_is_said_to_be_one() -> None:
    verdict = Sessions().judge(orjson.loads(result().value), 0)
    assert (verdict["decision"], verdict["reason"]) == ("withheld", "unknown_task")


def test_a_changed_session_is_written_once_and_restored_as_it_was() -> None:
    sessions = Sessions()
    sessions.fold_step(orjson.loads(dispatched(day="1").value), 3)
    sessions.fold_context(orjson.loads(context("day", "1").value), 3)
    [(partition, session_id, row)] = sessions.take_changed()
    assert (partition, session_id) == (3, SESSION)
    assert sessions.take_changed() == []
    restored = Sessions()
    restored.restore(session_id, row)
    assert restored.rows == sessions.rows


def test_a_merge_waits_until_every_topic_is_known_up_to_there() -> None:
    merge = Merge(3)
    merge.add(CONTEXT, 1, 0, b"a")
    merge.add(CONTEXT, 4, 1, b"d")
    merge.add(STEPS, 2, 0, b"b")
    assert merge.take() == []
    merge.add(RESULTS, 3, 0, b"c")
    assert [value for *_, value in merge.take()] == [b"a", b"b"]
    merge.add(STEPS, 5, 1, b"e")
    assert [value for *_, value in merge.take()] == [b"c"]
    merge.reached_end(RESULTS)
    assert [value for *_, value in merge.take()] == [b"d"]
    merge.reached_end(CONTEXT)
    assert [value for *_, value in merge.take()] == [b"e"]


def test_a_topic_that_goes_on_is_waited_for_again() -> None:
    merge = Merge(2)
    merge.reached_end(0)
    merge.add(0, 7, 0, b"later")
    merge.add(1, 8, 0, b"last")
    assert [value for *_, value in merge.take()] == [b"later"]


def test_merged_in_any_batches_the_workload_comes_out_as_it_was_produced() -> None:
    records = list(Workload(sessions=20, partitions=1, open_tasks=5).records(2000))
    sizes = {"context": 7, "steps": 31, "results": 2}
    queues = {role: [(at, record.value) for at, record in enumerate(records) if record.role == role] for role in TOPICS}
    merge, merged = Merge(len(TOPICS)), []
    while any(queues.values()):
        for number, role in enumerate(TOPICS):
            batch, queues[role] = queues[role][: sizes[role]], queues[role][sizes[role] :]
            for at, value in batch:
                merge.add(number, at, at, value)
            if not queues[role]:
                merge.reached_end(number)
        merged += [value for *_, value in merge.take()]
    assert merged == [record.value for record in records]


def verdict(expected: Expected, reason: str | None = None) -> Verdict:
    return Verdict(KEY, expected.decision, expected.annotated, reason or expected.reason)


@pytest.mark.parametrize(
    ("verdicts", "counts"),
    [
        ([verdict(WITHHELD)], {"wrong_log_order": 1}),
        ([verdict(FRESH)], {"wrong": 1, "stale_delivered": 1}),
        ([verdict(MARKED)], {"wrong": 1, "wrong_log_order": 1}),
        ([verdict(WITHHELD, "unknown_task")], {"unknown": 1}),
        ([], {"missing": 1}),
        ([verdict(WITHHELD), verdict(WITHHELD)], {"wrong_log_order": 2, "duplicated": 1}),
    ],
)
def test_verdicts_are_counted_by_what_is_wrong_with_them(verdicts: list[Verdict], counts: dict[str, int]) -> None:
    oracle = Oracle(log_order={KEY: FRESH}, delivery={KEY: WITHHELD})
    none = dict.fromkeys(("wrong", "wrong_log_order", "unknown", "missing", "duplicated", "stale_delivered"), 0)
    assert held_against(oracle, verdicts, "delivery") == none | counts


def test_an_output_of_the_gate_is_read_as_a_verdict() -> None:
    value = {
        "type": "result.delivered",
        "session_id": SESSION,
        "task_id": "t",
        "verdict": {"reason": "stale", "parts": [{"part_id": "answer", "annotated": True}]},
    }
    assert of_gate(value) == Verdict(KEY, "delivered", annotated=True, reason="stale")
