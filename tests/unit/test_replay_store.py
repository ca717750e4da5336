from __future__ import annotations

from pathlib import Path

from local.replay.store import Access, accesses
from local.replay.tools import ToolRules, digest
from tests.unit.recordings import Message, called, conversation, user

VIEW = "order/7/status"
THING = "order/7"


def walk(directory: Path, *messages: list[Message]) -> list[Access]:
    return accesses(conversation(directory, user("x"), *messages), ToolRules())


def read(answer: str) -> list[Message]:
    return called("get_order_status", answer, order_id="7")


def write(answer: str = "done") -> list[Message]:
    return called("update_order", answer, order_id="7")


def test_a_read_shows_the_digest_of_its_answer(tmp_path: Path) -> None:
    (access,) = walk(tmp_path, read("paid"))

    assert access == Access((THING,), reads={VIEW: digest("paid")})


def test_a_write_sets_the_known_views_to_what_the_next_read_shows(tmp_path: Path) -> None:
    _, written, again = walk(tmp_path, read("paid"), write(), read("sent"))

    assert written.writes == {VIEW: digest("sent"), THING: digest("done")}
    assert again == Access((THING,), reads={VIEW: digest("sent")})


def test_without_a_later_read_the_writes_own_answer_stands_for_it(tmp_path: Path) -> None:
    _, written = walk(tmp_path, read("paid"), write("changed"))

    assert written.writes == {VIEW: digest("changed"), THING: digest("changed")}


def test_of_two_writes_only_the_last_one_made_what_is_read(tmp_path: Path) -> None:
    _, first, second, _ = walk(tmp_path, read("paid"), write("one"), write("two"), read("sent"))

    assert first.writes[VIEW] == digest("one")
    assert second.writes[VIEW] == digest("sent")


def test_a_view_nobody_has_read_yet_is_not_set(tmp_path: Path) -> None:
    written, first = walk(tmp_path, write(), read("sent"))

    assert written.writes == {THING: digest("done")}
    assert first.others == {}


def test_other_things_are_left_alone(tmp_path: Path) -> None:
    _, written, again = walk(
        tmp_path, called("get_user", "ann", user_id="1"), write(), called("get_user", "ann", user_id="1")
    )

    assert set(written.writes) == {THING}
    assert again.others == {}


def test_a_thing_that_a_write_does_not_name_may_be_its_side_effect(tmp_path: Path) -> None:
    _, written, again = walk(
        tmp_path, called("get_user", "balance 5", user_id="1"), write(), called("get_user", "balance 3", user_id="1")
    )

    assert written.writes["user/1"] == digest("balance 3")
    assert again.others == {}


def test_what_changed_although_nobody_wrote_was_somebody_elses_work(tmp_path: Path) -> None:
    _, again = walk(tmp_path, read("paid"), read("sent"))

    assert again == Access((THING,), reads={VIEW: digest("sent")}, others={VIEW: digest("sent")})


def test_failed_calls_and_thoughts_do_nothing(tmp_path: Path) -> None:
    assert walk(tmp_path, read("Error: down"), write("Error: no"), called("think", "", thought="hm")) == [Access()] * 3
