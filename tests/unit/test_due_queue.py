"""A queue of due times is a dictionary that knows its smallest value, and keeps little besides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from projections.due_queue import DueQueue

KEYS = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(st.sampled_from(["set", "remove", "take"]), KEYS, st.integers(0, 9)), max_size=40))
def test_it_is_a_dictionary_that_knows_its_earliest_time(actions: list[tuple[str, str, int]]) -> None:
    queue, model = DueQueue(), dict[str, int]()
    for action, key, at in actions:
        if action == "set":
            queue.set(key, at)
            model[key] = at
        elif action == "remove":
            queue.set(key, None)
            model.pop(key, None)
        else:
            found = queue.take_due(at)
            assert sorted(found) == sorted(each for each, due in model.items() if due <= at)
            assert [model[each] for each in found] == sorted(model[each] for each in found)
            for each in found:
                del model[each]
        assert len(queue) == len(model)
        assert [queue.get(each) for each in "abc"] == [model.get(each) for each in "abc"]
        assert [each in queue for each in "abc"] == [each in model for each in "abc"]
        assert queue.next_due_ms() == min(model.values(), default=None)
        first = queue.first()
        assert (first is None) == (not model)
        assert first is None or model[first[1]] == first[0] == queue.next_due_ms()


def test_a_time_that_is_put_off_leaves_no_entry_behind() -> None:
    queue = DueQueue()
    for second in range(3600):
        for session in range(100):
            queue.set(session, second * 1000)
    assert queue.entry_count == 100
    assert queue.next_due_ms() == 3599 * 1000
    assert queue.entry_count == 100


def test_outdated_entries_are_bounded_when_times_come_nearer_and_when_keys_go() -> None:
    queue = DueQueue()
    for earlier in range(10_000):
        queue.set("a", 10_000 - earlier)
        assert queue.entry_count <= 70
    assert queue.first() == (1, "a")
    for number in range(10_000):
        queue.set(f"b{number}", number)
        queue.set(f"b{number}", None)
        assert queue.entry_count <= 140
    assert queue.take_due(20_000) == ["a"]
    assert queue.first() is None
    assert len(queue) == 0
