from __future__ import annotations

from pathlib import Path
from typing import Any

from local.replay.conversations import Conversation
from local.replay.delays import parse
from local.replay.plan import Options, Plan, duration_seconds, inline, plan
from local.replay.tools import digest
from tests.unit.recordings import called, conversation, said, user


def options(agent: str = "fixed:1", think: str = "fixed:10", **others: Any) -> Options:
    return Options(parse(agent, "--agent-delay"), parse(think, "--think-time"), **others)


def talk(directory: Path) -> Conversation:
    return conversation(
        directory,
        user("where is my order?"),
        called("get_order_status", "paid", order_id="7"),
        said("It is paid."),
        user("send it"),
        called("update_order", "sent", order_id="7"),
        said("It is sent."),
        user("thanks"),
    )


def kinds(planned: Plan) -> list[str]:
    return [event.body["type"].partition(".")[2] for event in planned.events if event.body["type"] != "task.step"]


def the(planned: Plan, event_type: str) -> list[dict[str, Any]]:
    return [event.body for event in planned.events if event.body["type"] == event_type]


def test_a_message_dispatches_a_task_and_its_answer_comes_an_agent_delay_later(tmp_path: Path) -> None:
    planned = plan(talk(tmp_path), "s", options())

    assert [(event.at_seconds, event.role) for event in planned.events if event.role == "results"] == [
        (1.0, "results"),
        (11.0, "results"),
    ]
    assert kinds(planned) == [
        "changed",  # the session opens
        "changed",  # the message
        "dispatched",
        "result",
        "changed",
        "dispatched",
        "changed",  # the order is sent
        "result",
        "changed",  # thanks
    ]
    assert [result["parts"][0]["payload"] for result in the(planned, "task.result")] == ["It is paid.", "It is sent."]


def test_events_are_in_the_order_of_time_and_have_ids_of_their_own(tmp_path: Path) -> None:
    planned = plan(talk(tmp_path), "s", options("uniform:0:20", "uniform:0:20"))
    times = [event.at_seconds for event in planned.events]

    assert times == sorted(times)
    assert len({event.body["event_id"] for event in planned.events}) == len(times)
    assert {event.body["session_id"] for event in planned.events} == {"s"}


def test_what_a_tool_read_joins_the_snapshot_and_is_in_the_next_dispatchs(tmp_path: Path) -> None:
    planned = plan(talk(tmp_path), "s", options())
    value = digest("paid")

    assert [step["reads"] for step in the(planned, "task.step") if "reads" in step] == [{"order/7/status": value}]
    first, second = the(planned, "task.dispatched")
    assert first["snapshot"] == {"conversation": "talk"}
    assert second["snapshot"] == {"conversation": "talk", "order/7/status": value}


def test_a_write_is_a_context_event_caused_by_the_task_before_its_step_completes(tmp_path: Path) -> None:
    planned = plan(talk(tmp_path), "s", options())
    (written,) = [body for body in the(planned, "context.changed") if "cause" in body]
    bodies = [event.body for event in planned.events]
    completed = next(body for body in bodies if body.get("name") == "update_order" and body["status"] == "completed")

    assert written["cause"] == {"task_id": "turn-2"}
    assert written["set"] == {"order/7/status": digest("sent"), "order/7": digest("sent")}
    assert bodies.index(written) == bodies.index(completed) - 1


def test_nothing_is_expected_to_be_stale_without_interference_and_strictness(tmp_path: Path) -> None:
    for think in ("fixed:10", "fixed:0", "fixed:0.3"):
        planned = plan(talk(tmp_path), "s", options(think=think))
        assert [answer.stale for answer in planned.answers] == [frozenset(), frozenset()]


def test_an_answer_after_a_write_differs_from_the_snapshot_of_its_dispatch(tmp_path: Path) -> None:
    first, second = plan(talk(tmp_path), "s", options()).answers

    assert (first.follows_write, first.fixed_snapshot_differs) == (False, False)
    assert (second.follows_write, second.fixed_snapshot_differs) == (True, True)


def test_strict_makes_an_answer_stale_only_if_the_next_message_was_sent_before_it(tmp_path: Path) -> None:
    slow = plan(talk(tmp_path), "s", options("fixed:7", "fixed:5", strict=True))
    quick = plan(talk(tmp_path), "s", options("fixed:5", "fixed:5", strict=True))

    assert [answer.stale for answer in slow.answers] == [{"request/talk"}, {"request/talk"}]
    assert [answer.superseded for answer in quick.answers] == [False, False]
    assert [answer.stale for answer in quick.answers] == [frozenset(), frozenset()]
    assert the(slow, "task.dispatched")[1]["snapshot"]["request/talk"] == "2"


def test_messages_wait_for_the_agent_which_then_starts_from_what_is_true(tmp_path: Path) -> None:
    impatient = plan(talk(tmp_path), "s", options("fixed:5", "fixed:1"))
    second = the(impatient, "task.dispatched")[1]
    start = next(step for step in the(impatient, "task.step") if step["task_id"] == "turn-2")

    assert second["snapshot"] == {"conversation": "talk"}  # dispatched while the first task has read nothing yet
    assert start["reads"] == {"order/7/status": digest("paid")}
    assert [event.at_seconds for event in impatient.events if event.role == "results"] == [5.0, 10.0]


def test_interference_changes_a_thing_the_agent_has_read_just_before_it_answers(tmp_path: Path) -> None:
    planned = plan(talk(tmp_path), "s", options(interfere=1.0))
    changes = [body for body in the(planned, "context.changed") if body["source"].endswith("somebody-else")]
    first, second = planned.answers

    assert [change["set"] for change in changes] == [
        {"order/7/status": f"{digest('paid')}~1"},
        {"order/7/status": f"{digest('sent')}~2", "order/7": f"{digest('sent')}~2"},
    ]
    assert all("cause" not in change for change in changes)
    assert first.stale == {"order/7/status"}
    assert first.interfered_with == second.interfered_with == "order/7"
    # The next task reads the new value.
    assert the(planned, "task.dispatched")[1]["snapshot"]["order/7/status"] == f"{digest('paid')}~1"


def test_a_talk_that_has_read_nothing_cannot_be_interfered_with(tmp_path: Path) -> None:
    (answer,) = plan(conversation(tmp_path, user("hello"), said("hi")), "s", options(interfere=1.0)).answers

    assert answer.interfered_with is None
    assert not answer.stale


def test_the_same_seed_and_number_give_the_same_plan_and_interference_leaves_the_delays(tmp_path: Path) -> None:
    drawn = {"agent": "exp:2", "think": "exp:5"}
    one = plan(talk(tmp_path), "s", options(**drawn, interfere=0.5, seed=3), 4)
    same = plan(talk(tmp_path), "s", options(**drawn, interfere=0.5, seed=3), 4)
    other = plan(talk(tmp_path), "s", options(**drawn, interfere=0.5, seed=3), 5)
    calm = plan(talk(tmp_path), "s", options(**drawn, seed=3), 4)

    def moments(planned: Plan) -> list[float]:
        return [event.at_seconds for event in planned.events if event.role == "results"]

    assert one == same
    assert moments(one) == moments(calm)
    assert moments(one) != moments(other)


def test_a_snapshot_never_outgrows_its_bound(tmp_path: Path) -> None:
    reads = [called("get_file", "x", file_id="n" * 100 + str(number)) for number in range(400)]
    planned = plan(conversation(tmp_path, user("a"), *reads, said("b"), user("c"), said("d")), "s", options())

    snapshot = the(planned, "task.dispatched")[1]["snapshot"]
    assert 50 < len(snapshot) <= 256
    assert len(str(snapshot)) < 16 * 1024
    assert any("399" in name for name in snapshot)


def test_a_text_too_long_for_a_part_is_cut() -> None:
    assert inline("short") == "short"
    assert 0 < len(inline("x" * 1_000_000)) <= 256 * 1024


def test_about_how_long_it_takes(tmp_path: Path) -> None:
    assert duration_seconds(talk(tmp_path), options()) == 21.0
