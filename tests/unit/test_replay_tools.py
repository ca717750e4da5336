from __future__ import annotations

from typing import Any

import pytest

from local.replay.conversations import Call
from local.replay.tools import ToolRules, Touch, digest, words

RULES = ToolRules()


def touch(tool: str, answer: str | None = "{}", rules: ToolRules = RULES, /, **arguments: Any) -> Touch:
    return rules.touch(Call(tool, arguments, answer))


@pytest.mark.parametrize(
    ("tool", "effect"),
    [
        ("get_user_details", "reads"),
        ("search_direct_flight", "reads"),
        ("list_all_airports", "reads"),
        ("getUser", "reads"),
        ("book_reservation", "writes"),
        ("update_reservation_flights", "writes"),
        ("cancel_reservation", "writes"),
        ("send_certificate", "writes"),
        ("create_x", "writes"),
        ("delete_x", "writes"),
        ("modify_pending_order_items", "writes"),
        ("calculate", "neither"),
        ("think", "neither"),
        ("transfer_to_human_agents", "neither"),
        ("getaway", "neither"),
        ("", "neither"),
    ],
)
def test_the_verb_decides(tool: str, effect: str) -> None:
    assert RULES.effect(tool) == effect


def test_given_prefixes_win_over_the_verb() -> None:
    rules = ToolRules(reads=("calc", "book_look"), writes=("get_and_",))

    assert rules.effect("calculate") == "reads"
    assert rules.effect("get_and_increment") == "writes"
    assert rules.effect("get_user") == "reads"


def test_the_thing_is_the_id_and_the_view_what_the_tool_shows_of_it() -> None:
    assert touch("get_reservation_details", reservation_id="OI5L9G") == Touch(
        "reads", ("reservation/OI5L9G",), "reservation/OI5L9G/details"
    )
    assert touch("get_user", user_id="ann") == Touch("reads", ("user/ann",), "user/ann")
    assert touch("get_order", id=7).things == ("order/7",)


def test_two_tools_see_two_views_of_one_thing() -> None:
    details, history = touch("get_user_details", user_id="ann"), touch("get_user_history", user_id="ann")

    assert details.things == history.things
    assert details.view != history.view


def test_other_arguments_make_another_view_in_whatever_order() -> None:
    one = touch("get_user_orders", user_id="ann", year=2024, state="open").view
    same = touch("get_user_orders", state="open", year=2024, user_id="ann").view
    other = touch("get_user_orders", user_id="ann", year=2023, state="open").view

    assert one == same == "user/ann/orders/open,2024"
    assert other != one


def test_a_search_is_a_thing_of_its_own() -> None:
    found = touch("search_direct_flight", origin="DEN", destination="IAH", date="2024-05-27")

    assert found == Touch("reads", ("direct_flight/2024-05-27,IAH,DEN",), "direct_flight/2024-05-27,IAH,DEN")
    assert touch("list_all_airports").view == "all_airports"


def test_a_write_is_on_the_id_the_tools_name_speaks_of() -> None:
    written = touch("update_reservation_flights", payment_id="card-1", reservation_id="R1", flights=[{"a": 1}])

    assert written == Touch("writes", ("reservation/R1",))


def test_a_write_also_makes_what_its_answer_names() -> None:
    written = touch("book_reservation", '{"reservation_id": "NEW", "user_id": "ann", "seats": []}', user_id="ann")

    assert written.things == ("user/ann", "reservation/NEW")


@pytest.mark.parametrize("tool", ["get_user", "update_user"])
def test_a_failed_call_touches_nothing(tool: str) -> None:
    assert touch(tool, "Error: user not found", user_id="ann") == Touch("neither")
    assert touch(tool, None, user_id="ann") == Touch("neither")


def test_long_or_nested_arguments_become_a_digest_that_fits_a_facets_name() -> None:
    for arguments in ({"user_id": "x" * 500}, {"query": "y" * 500}, {"filters": {"a": [1, 2]}}, {"path": "a/b"}):
        view = touch("get_user", **arguments).view
        assert view is not None
        assert len(view.encode()) < 256
        assert view == touch("get_user", **arguments).view


def test_equal_answers_have_equal_digests() -> None:
    assert digest("a") == digest("a") != digest("b")
    assert len(digest("a")) == 16


def test_words() -> None:
    assert words("get_userDetailsHTTP2") == ["get", "user", "details", "http", "2"]
