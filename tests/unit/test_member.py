"""A member keeps its partitions over a rebalance only where nobody else can have owned them in between."""

from __future__ import annotations

import pytest

from streams.member import GroupMember

THEN = GroupMember("group", 7, "member-a", "instance")


@pytest.mark.parametrize(
    ("now", "continues"),
    [
        (THEN, True),
        (THEN._replace(generation=8), True),
        (THEN._replace(generation=9), False),  # a generation was missed
        (THEN._replace(generation=6), False),
        (THEN._replace(generation=8, member_id="member-b"), False),  # it was removed, and joined again
    ],
)
def test_it_continues_only_without_a_gap(now: GroupMember, *, continues: bool) -> None:
    assert now.continues(THEN) is continues


def test_the_first_assignment_continues_nothing() -> None:
    assert not THEN.continues(None)


@pytest.mark.parametrize("changes", [{"generation": -1}, {"member_id": ""}, {"generation": -1, "member_id": ""}])
def test_what_a_reset_leaves_is_not_a_member(changes: dict[str, object]) -> None:
    assert THEN.is_known
    assert not THEN._replace(**changes).is_known  # type: ignore[arg-type]
