"""Each rule of the gate by one example: always a search whose answer depends on a calendar."""

from __future__ import annotations

from typing import Any

import pytest

from projections.rules import Rules
from tests.unit.feeding import Feed, reason_of

CALENDAR = "calendar/tuesday"
SHOW = {"part_id": "flights", "kind": "show", "payload": ["LH 1"]}
BOOK = {"part_id": "booking", "kind": "apply", "payload": {"flight": "LH 1"}}


def started(rules: Rules | None = None, **fields: Any) -> Feed:
    """A task is at work: it depends on revision 7 of the calendar."""
    feed = Feed(rules)
    feed.changed({CALENDAR: "7", "view/tab-1": "inbox"})
    feed.dispatched("search", {CALENDAR: "7"}, **fields)
    feed.take()
    return feed


def decisions(verdict: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Decision and reason of every part that the verdict is about."""
    return {part["part_id"]: (part["decision"], part["reason"]) for part in verdict["verdict"]["parts"]}


# Rule 1


def test_1_the_same_event_again_is_counted_and_told_no_second_time() -> None:
    feed = started()
    feed.result("search", SHOW, event_id="r-1")
    feed.result("search", SHOW, event_id="r-1")
    assert len(feed.verdicts()) == 1
    assert feed.changes[-1].duplicates == {"task.result": 1}


def test_1_the_same_payload_from_a_retry_is_a_repeat_whatever_its_event_id() -> None:
    feed = started()
    feed.result("search", SHOW, event_id="r-1")
    feed.result("search", SHOW, event_id="r-2", source="another agent")
    assert len(feed.verdicts()) == 1
    assert feed.changes[-1].duplicates == {"task.result": 1}


def test_1_the_same_identity_with_another_payload_is_an_error() -> None:
    feed = started()
    feed.result("search", SHOW, event_id="r-1")
    feed.result("search", BOOK, event_id="r-1")
    assert len(feed.verdicts()) == 1
    assert [refusal.error for refusal in feed.changes[-1].refusals] == ["identity_conflict"]


# Rule 2


def test_2_a_result_of_an_unknown_task_waits_for_its_dispatch() -> None:
    feed = Feed()
    feed.result("search", SHOW)
    assert feed.verdicts() == []
    feed.wait(29)
    feed.dispatched("search")
    feed.barrier()
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_2_after_the_grace_period_it_is_withheld() -> None:
    feed = Feed()
    feed.result("search", SHOW)
    feed.wait(30)
    verdict = feed.verdict()
    assert reason_of(verdict) == ("withheld", "unknown_task")
    assert verdict["verdict"]["disposition"] is None
    assert verdict["parts"] == [SHOW]
    assert feed.statuses() == {}


def test_2_a_dispatch_that_comes_after_that_ends_at_once() -> None:
    feed = Feed()
    feed.result("search", SHOW)
    feed.wait(30)
    feed.take()
    feed.dispatched("search")
    status = feed.statuses()["search"]
    assert (status["disposition"], status["reason"]) == ("withheld", "unknown_task")


# Rule 3


def test_3_another_result_of_an_ended_task_is_late_and_changes_nothing() -> None:
    feed = started()
    feed.result("search", SHOW)
    feed.take()
    feed.result("search", BOOK)
    outputs = feed.take()
    assert [body["type"] for body in outputs] == ["result.withheld"]
    assert reason_of(outputs[0]) == ("withheld", "late")
    assert outputs[0]["verdict"]["disposition"] == "delivered"
    assert outputs[0]["task_type"] == "search"


def test_3_late_names_how_the_task_had_ended() -> None:
    feed = started()
    feed.send("task.cancel_requested", task_id="search")
    feed.take()
    feed.result("search", SHOW)
    verdict = feed.verdict()
    assert reason_of(verdict) == ("withheld", "late")
    assert verdict["verdict"]["disposition"] == "cancelled"


# Rule 4


def test_4_nothing_is_delivered_into_a_closed_session() -> None:
    feed = started()
    feed.changed({"session": "closed"})
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("withheld", "session_closed")


def test_4_nor_for_an_archived_request() -> None:
    feed = started(request_id="r-1")
    feed.changed({"request/r-2": "archived"})
    feed.changed({"request/r-1": "archived"})
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("withheld", "request_archived")


def test_4_unless_the_task_itself_did_that() -> None:
    feed = started(request_id="r-1")
    feed.changed({"request/r-1": "archived", "session": "closed"}, by="search")
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


@pytest.mark.parametrize("others", [{}, {"by": "another task"}])
def test_4_and_nobody_else_did_it_too(others: dict[str, str]) -> None:
    feed = started(request_id="r-1")
    feed.changed({"request/r-1": "archived"}, by="search")
    feed.changed({"request/r-1": "archived"}, **others)
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("withheld", "request_archived")


def test_4_after_the_deadline() -> None:
    feed = started(deadline_at="2025-11-24T16:00:03Z")
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("delivered", "fresh")
    feed = started(deadline_at="2025-11-24T16:00:02.999Z")
    feed.result("search", SHOW)
    outputs = feed.take()
    assert [reason_of(body) for body in outputs if body["type"] == "result.withheld"] == [("withheld", "late")]
    ended = [body for body in outputs if body.get("status") == "ended"]
    assert [(body["disposition"], body["reason"], body["ended_at"]) for body in ended] == [
        ("expired", "deadline_passed", "2025-11-24T16:00:02.999Z")
    ]


# Rule 5


def test_5_an_older_answer_never_lands_after_a_newer_one_in_its_slot() -> None:
    feed = started(slot="panel")
    feed.dispatched("newer", slot="panel")
    feed.result("newer", SHOW)
    feed.result("search", SHOW)
    assert [reason_of(body) for body in feed.verdicts()] == [("delivered", "fresh"), ("withheld", "superseded")]


def test_5_a_newer_one_that_was_withheld_stands_in_nobodys_way() -> None:
    feed = started(slot="panel")
    feed.dispatched("newer", {"view/tab-1": "calendar"}, slot="panel")
    feed.result("newer", SHOW)
    feed.result("search", SHOW)
    assert [reason_of(body) for body in feed.verdicts()] == [("withheld", "stale"), ("delivered", "fresh")]


# Rule 6


def test_6_a_result_waits_for_the_tasks_children() -> None:
    feed = started()
    feed.dispatched("child", parent_task_id="search")
    feed.result("search", SHOW)
    assert feed.verdicts() == []
    feed.result("child", SHOW)
    assert [(body["task_id"], *reason_of(body)) for body in feed.verdicts()] == [
        ("child", "delivered", "fresh"),
        ("search", "delivered", "fresh"),
    ]


def test_6_what_a_child_read_counts_for_its_parent() -> None:
    feed = started()
    feed.dispatched("child", parent_task_id="search")
    feed.step("child", {"doc/1": "a"})
    feed.result("child", SHOW)
    feed.changed({"doc/1": "b"})
    feed.result("search", SHOW)
    assert [reason_of(body) for body in feed.verdicts()] == [("delivered", "fresh"), ("withheld", "stale")]


def test_6_unless_the_child_is_independent_whose_own_work_is_the_parents_all_the_same() -> None:
    feed = started()
    feed.dispatched("child", parent_task_id="search", independent=True)
    feed.step("child", {"doc/1": "a"})
    feed.changed({"doc/1": "b"})
    feed.changed({CALENDAR: "8"}, by="child")
    feed.result("child", SHOW)
    feed.result("search", SHOW)
    assert [reason_of(body) for body in feed.verdicts()] == [("withheld", "stale"), ("delivered", "fresh")]


# Rule 7


def test_7_an_answer_waits_for_nobody_by_default() -> None:
    feed = started()
    feed.changed({"presence/tab-1": "absent"})
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


@pytest.mark.parametrize(
    ("presence", "is_absent"),
    [
        ({}, False),
        ({"tab-1": "present"}, False),
        ({"tab-1": "absent"}, True),
        ({"tab-1": None}, True),
        ({"tab-1": "absent", "phone": "present"}, False),
        ({"tab-1": "absent", "phone": None}, True),
        ({"tab-1": "away"}, False),
    ],
)
def test_7_the_user_is_absent_when_every_known_client_is(presence: dict[str, str | None], is_absent: bool) -> None:  # noqa: FBT001
    feed = started(when_absent="withhold")
    for client, value in presence.items():
        name = f"presence/{client}"
        feed.changed({name: value} if value else {}, unset=[] if value else [name])
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == (("withheld", "user_absent") if is_absent else ("delivered", "fresh"))


def test_7_a_held_answer_waits_for_the_user_to_come_back() -> None:
    feed = started(when_absent="hold")
    feed.changed({"presence/tab-1": "absent"})
    feed.result("search", SHOW)
    assert feed.verdicts() == []
    feed.changed({"presence/tab-1": "present"})
    feed.barrier()
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


# Rule 8


def test_8_a_stale_part_is_withheld_and_says_what_changed() -> None:
    feed = started()
    feed.changed({CALENDAR: "8"}, source="calendar", event_id="c-8")
    feed.result("search", SHOW)
    verdict = feed.verdict()
    assert reason_of(verdict) == ("withheld", "stale")
    assert verdict["parts"] == [SHOW]
    assert verdict["verdict"]["parts"][0]["differences"] == [
        {
            "facet": CALENDAR,
            "expected": "7",
            "actual": "8",
            "changed_by": {"source": "calendar", "event_id": "c-8", "offset": 1, "at": "2025-11-24T16:00:03.000Z"},
            "since": "running",
        }
    ]


def test_8_it_says_so_if_it_differed_already_when_the_task_was_dispatched() -> None:
    feed = Feed()
    feed.changed({CALENDAR: "8"})
    feed.dispatched("search", {CALENDAR: "7"})
    feed.result("search", SHOW)
    assert feed.verdict()["verdict"]["parts"][0]["differences"][0]["since"] == "dispatch"


def test_8_annotate_delivers_it_marked() -> None:
    feed = started(on_stale="annotate")
    feed.changed({CALENDAR: "8"})
    feed.result("search", SHOW)
    verdict = feed.verdict()
    assert verdict["type"] == "result.delivered"
    assert reason_of(verdict) == ("delivered", "stale")
    assert verdict["verdict"]["parts"][0]["annotated"] is True
    assert verdict["verdict"]["parts"][0]["differences"]


def test_8_a_failure_is_told_marked_unless_asked_otherwise() -> None:
    failed = {"outcome": "failed", "error": {"code": "no_seats"}}
    feed = started()
    feed.changed({CALENDAR: "8"})
    feed.result("search", SHOW, **failed)
    verdict = feed.verdict()
    assert reason_of(verdict) == ("delivered", "stale")
    assert verdict["error"]["code"] == "no_seats"

    feed = started(on_stale_failure="withhold", on_stale="annotate")
    feed.changed({CALENDAR: "8"})
    feed.result("search", SHOW, **failed)
    assert reason_of(feed.verdict()) == ("withheld", "stale")


def test_8_each_part_by_its_own_facets_and_policy() -> None:
    feed = started()
    feed.changed({CALENDAR: "8"})
    feed.result(
        "search",
        SHOW | {"on_stale": "annotate"},
        BOOK,
        {"part_id": "tip", "depends_on": ["view/tab-1"]},
        {"part_id": "bare", "depends_on": []},
    )
    verdicts = feed.verdicts()
    assert [[part["part_id"] for part in body["parts"]] for body in verdicts] == [
        ["flights", "tip", "bare"],
        ["booking"],
    ]
    for body in verdicts:
        assert decisions(body) == {
            "flights": ("delivered", "stale"),
            "booking": ("withheld", "stale"),
            "tip": ("delivered", "fresh"),
            "bare": ("delivered", "fresh"),
        }
        assert reason_of(body) == ("delivered", "stale")


def test_8_hold_delivers_when_it_matches_again() -> None:
    feed = started(on_stale="hold")
    feed.changed({CALENDAR: "8"})
    feed.result("search", SHOW)
    assert feed.verdicts() == []
    feed.changed({CALENDAR: "7"})
    feed.barrier()
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_8_hold_withholds_when_its_time_is_over() -> None:
    feed = started(Rules(hold_ttl_ms=60_000), on_stale="hold")
    feed.changed({CALENDAR: "8"})
    feed.result("search", SHOW)
    feed.wait(59)
    assert feed.verdicts() == []
    feed.wait(1)
    verdict = feed.verdict()
    assert reason_of(verdict) == ("withheld", "hold_expired")
    assert verdict["verdict"]["parts"][0]["differences"]


@pytest.mark.parametrize(
    ("task_id", "attempt", "next_id"),
    [("search", 1, "search~2"), ("search~2", 2, "search~3"), ("user~42", 1, "user~42~2"), ("a~2", 1, "a~2~2")],
)
def test_8_redispatch_withholds_and_commands_another_attempt(task_id: str, attempt: int, next_id: str) -> None:
    feed = Feed()
    feed.changed({CALENDAR: "8", "other": "x"})
    snapshot = {CALENDAR: "7", "gone": None}
    feed.dispatched(task_id, snapshot, on_stale="redispatch", attempt=attempt, max_redispatches=2)
    feed.result(task_id, SHOW)
    outputs = {body["type"]: body for body in feed.take()}
    assert reason_of(outputs["result.withheld"]) == ("withheld", "stale")
    command = outputs["task.redispatch"]
    assert (command["task_id"], command["new_task_id"], command["attempt"]) == (task_id, next_id, attempt + 1)
    assert command["snapshot"] == {CALENDAR: "8", "gone": None}


def test_8_not_more_often_than_allowed() -> None:
    feed = Feed()
    feed.changed({CALENDAR: "8"})
    feed.dispatched("search~2", {CALENDAR: "7"}, on_stale="redispatch", attempt=2)
    feed.result("search~2", SHOW)
    assert [body["type"] for body in feed.take()] == ["result.withheld", "task.status"]


# Rule 9


def test_9_what_is_fresh_is_delivered_with_all_that_the_dispatch_said() -> None:
    feed = started(
        destination="mailbox", metadata={"n": 1}, request_id="r-1", slot="panel", valid_until="2025-11-24T17:00:00Z"
    )
    feed.result("search", SHOW)
    verdict = feed.verdict()
    assert reason_of(verdict) == ("delivered", "fresh")
    said = {name: verdict[name] for name in ("task_type", "destination", "metadata", "request_id", "slot")}
    assert said == {
        "task_type": "search",
        "destination": "mailbox",
        "metadata": {"n": 1},
        "request_id": "r-1",
        "slot": "panel",
    }
    assert verdict["valid_until"] == "2025-11-24T17:00:00+00:00"
    assert verdict["snapshot"] == {CALENDAR: "7"}
    assert verdict["verdict"]["disposition"] == "delivered"


# What differs, and what does not


def test_a_facet_never_seen_contradicts_nothing() -> None:
    feed = started()
    feed.step("search", {"never/seen": "x", "never/seen either": None})
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


@pytest.mark.parametrize(("expected", "is_stale"), [("7", True), (None, False)])
def test_a_facet_that_was_unset_is_absent(expected: str | None, is_stale: bool) -> None:  # noqa: FBT001
    feed = Feed()
    feed.changed({CALENDAR: "7"})
    feed.dispatched("search", {CALENDAR: expected})
    feed.changed(unset=[CALENDAR])
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == (("withheld", "stale") if is_stale else ("delivered", "fresh"))


def test_absence_is_contradicted_by_a_value() -> None:
    feed = started()
    feed.step("search", {"doc/1": None})
    feed.changed({"doc/1": "a"})
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("withheld", "stale")


def test_navigating_away_and_back_is_fresh_again() -> None:
    feed = started()
    feed.step("search", {"view/tab-1": "inbox"})
    for view in ("calendar", "inbox"):
        feed.changed({"view/tab-1": view})
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_what_the_task_does_not_depend_on_changes_nothing() -> None:
    feed = started()
    feed.changed({"view/tab-1": "calendar", "doc/9": "x", "conversation": "c-2"}, unset=["never/seen"])
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_what_it_read_last_counts() -> None:
    feed = started()
    feed.changed({CALENDAR: "8"})
    feed.step("search", {CALENDAR: "8"})
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_what_the_result_says_it_read_counts_over_all() -> None:
    feed = started()
    feed.step("search", {CALENDAR: "6"})
    feed.result("search", SHOW, reads={CALENDAR: "7"})
    verdict = feed.verdict()
    assert reason_of(verdict) == ("delivered", "fresh")
    assert verdict["snapshot"] == {CALENDAR: "7"}


def test_the_gate_takes_the_values_it_knows_for_facets_without_values() -> None:
    feed = Feed()
    feed.changed({CALENDAR: "7"})
    feed.dispatched("search", {}, depends_on=[CALENDAR, "never/seen"])
    assert feed.statuses()["search"]["taken"] == {CALENDAR: "7"}
    feed.changed({"never/seen": "x"})
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


# Own work


def test_a_task_is_never_stale_by_its_own_work() -> None:
    feed = started()
    feed.changed({CALENDAR: "8"}, by="search")
    feed.changed({CALENDAR: "9"}, by="search")
    feed.result("search", SHOW)
    verdict = feed.verdict()
    assert reason_of(verdict) == ("delivered", "fresh")
    assert verdict["snapshot"] == {CALENDAR: "9"}  # what a writer has to compare with


def test_but_by_somebody_elses_work_after_that() -> None:
    feed = started()
    feed.changed({CALENDAR: "8"}, by="search")
    feed.changed({CALENDAR: "9"}, by="another task")
    feed.result("search", SHOW)
    verdict = feed.verdict()
    assert reason_of(verdict) == ("withheld", "stale")
    difference = verdict["verdict"]["parts"][0]["differences"][0]
    assert (difference["expected"], difference["actual"]) == ("8", "9")
    assert difference["changed_by"]["cause_task_id"] == "another task"


def test_nor_does_its_own_work_make_it_fresh_over_somebody_elses() -> None:
    feed = started()
    feed.changed({CALENDAR: "8"})
    feed.changed({CALENDAR: "9"}, by="search")
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("withheld", "stale")


def test_own_work_on_what_nobody_had_seen() -> None:
    feed = started()
    feed.step("search", {"draft/1": None})
    feed.changed({"draft/1": "a"}, by="search")
    feed.result("search", SHOW)
    assert reason_of(feed.verdict()) == ("delivered", "fresh")


def test_shadow_mode_delivers_all_and_says_what_it_would_have_done() -> None:
    feed = started(Rules(shadow_task_types=frozenset({"search"})))
    feed.changed({CALENDAR: "8"})
    feed.result("search", SHOW)
    verdict = feed.verdict()
    assert verdict["type"] == "result.delivered"
    assert verdict["shadow"] == {"decision": "withheld", "reason": "stale"}
