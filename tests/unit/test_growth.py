"""Work grows with the size of the input, not with its square: operations are counted at two sizes.

Each scenario is a log in steps. The lines and calls that `projections` and `schemas` execute are counted for every step
separately, at one size and at four times that size; each iteration of a comprehension counts as a line. A step may not
grow faster than n log n, with some margin. Counting stops at the limit, so a scenario that would run for minutes fails
within seconds. Only plain Python can be counted.
"""

from __future__ import annotations

import gc
import math
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, Self

import pytest

import projections.partition
from projections.rules import Rules
from tests.unit.feeding import Feed
from tests.unit.session_checks import nothing_checked

ROOT: Final = Path(projections.partition.__file__).parents[1]
COUNTED: Final = tuple(f"{ROOT / package}/" for package in ("projections", "schemas"))
FACTOR: Final = 4
MARGIN: Final = 1.4
"""How much more than n log n is allowed: what is rare in a small log, such as a longer name, counts in a large one."""
MOST_PER_ITEM: Final = 6_000
"""Lines of a step for each item, at most, at the smaller size. An event takes about 150."""

Steps = Iterator[str]
"""A scenario: runs up to a step's end, and yields the step's name there."""
Scenario = Callable[[int], Steps]

pytestmark = pytest.mark.skipif(
    not projections.partition.__file__.endswith(".py"), reason="compiled code has no lines to count"
)


@pytest.fixture(autouse=True)
def _as_in_a_worker() -> Iterator[None]:
    with nothing_checked():
        yield


class TooManyError(Exception):
    """A step took more lines than it may."""


class Counting:
    """Counts, while entered, the lines and calls of the core in this thread. Raises `TooManyError` at `limit`."""

    def __init__(self, limit: float) -> None:
        self.lines = 0
        self.limit = limit
        self._is_counted: dict[CodeType, bool] = {}

    def __enter__(self) -> Self:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        if code not in self._is_counted:
            self._is_counted[code] = code.co_filename.startswith(COUNTED)
        return self._line(frame, "line", None) if self._is_counted[code] else None

    def _line(self, _frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.is_over:
                raise TooManyError
        return self._line

    @property
    def is_over(self) -> bool:
        """Whether the limit was reached. Also true where something in between caught the error."""
        return self.lines > self.limit


def lines_of(scenario: Scenario, size: int, limit: Callable[[int], float]) -> dict[str, int]:
    """The lines of each step at this size. Fails where step number n takes more than `limit(n)`."""
    counts: dict[str, int] = {}
    steps = scenario(size)
    while True:
        counting = Counting(limit(len(counts)))
        try:
            with counting:
                name = next(steps, None)
        except TooManyError:
            name = None
        if counting.is_over:
            pytest.fail(f"step {len(counts) + 1} takes over {counting.limit:,.0f} lines at {size}; before: {counts}")
        if name is None:
            return counts
        counts[name] = counting.lines


def assert_linear(scenario: Scenario, size: int, *, constant: tuple[str, ...] = ()) -> None:
    """No step grows faster than n log n; those named in `constant` do not grow with the size at all."""
    small = lines_of(scenario, size, lambda _: MOST_PER_ITEM * size)
    growth = FACTOR * math.log(FACTOR * size) / math.log(size)
    limits = [count * MARGIN * (1 if name in constant else growth) for name, count in small.items()]
    lines_of(scenario, FACTOR * size, lambda step: limits[step] if step < len(limits) else 0)


# Families


def nested(size: int) -> Steps:
    """Each task is the child of the one before; the results come from the top, and wait; then the top is cancelled."""
    feed, opened = family(size, scope_grace_seconds=80_000)
    yield "dispatches"
    for task_id in opened[:-1]:
        feed.result(task_id)
    yield "results"
    feed.take()
    assert feed.partition.next_due_ms() is not None
    yield "timers"
    feed.send("task.cancel_requested", task_id="t0")
    feed.barrier()
    assert sum(body["type"] == "task.cancel" for body in feed.take()) == len(opened)
    yield "stop"


def nested_until_due(size: int) -> Steps:
    """The same, but then the grace of the top ends, and its timer stops its children."""
    feed, opened = family(size, scope_grace_seconds=80_000)
    for task_id in opened[:-1]:
        feed.result(task_id)
    feed.take()
    yield "until they wait"
    feed.wait(80_001)
    ended = [body for body in feed.take() if body["type"] == "task.status" and body["status"] == "ended"]
    assert len(ended) == len(opened)
    yield "due"


def family(size: int, **policy: Any) -> tuple[Feed, list[str]]:
    """Tasks of which each is the child of the one before, and which of them are open: a session may be full of them."""
    feed = Feed()
    for number in range(size):
        above: dict[str, Any] = {"parent_task_id": f"t{number - 1}"} if number else {}
        feed.dispatched(f"t{number}", **policy, **above)
    opened = [task_id for task_id, status in feed.statuses().items() if status["status"] == "running"]
    assert len(opened) >= min(size, 600)
    return feed, opened


def nested_from_below(size: int) -> Steps:
    """The dispatches come in the wrong order: each parent after its child."""
    feed = Feed(Rules(unknown_task_grace_ms=100_000_000))
    for number in reversed(range(1, size)):
        feed.dispatched(f"t{number}", parent_task_id=f"t{number - 1}")
    feed.dispatched("t0")
    feed.take()
    yield "dispatches"
    for number in range(size):
        feed.result(f"t{number}")
    feed.take()
    yield "results"


def wide(size: int) -> Steps:
    """A parent, whose result waits, and children that end one by one."""
    feed = Feed(Rules(scope_grace_ms=100_000_000))
    feed.dispatched("parent")
    for number in range(size):
        feed.dispatched(f"t{number}", parent_task_id="parent")
    feed.result("parent")
    feed.take()
    yield "dispatches"
    for number in range(size):
        feed.result(f"t{number}")
    assert sum(body["type"] == "result.delivered" for body in feed.take()) == size + 1
    yield "results"


def wide_stopped(size: int) -> Steps:
    """A parent with many children is cancelled."""
    feed = Feed()
    feed.dispatched("parent")
    for number in range(size):
        feed.dispatched(f"t{number}", parent_task_id="parent")
    feed.take()
    yield "dispatches"
    feed.send("task.cancel_requested", task_id="parent")
    assert sum(body["type"] == "task.cancel" for body in feed.take()) == size + 1
    yield "stop"


def parentless(size: int) -> Steps:
    """Children whose parent is dispatched last."""
    feed = Feed(Rules(unknown_task_grace_ms=100_000_000))
    for number in range(size):
        feed.dispatched(f"t{number}", parent_task_id="parent")
    feed.take()
    yield "children"
    feed.dispatched("parent")
    feed.take()
    yield "parent"
    for number in range(size):
        feed.result(f"t{number}")
    feed.take()
    yield "results"


def parentless_until_due(size: int) -> Steps:
    """Children whose parent never comes: each is rejected when its own grace ends."""
    feed = Feed(Rules(unknown_task_grace_ms=2_000 * size))
    for number in range(size):
        feed.dispatched(f"t{number}", parent_task_id="parent")
    feed.take()
    feed.now_ms += 2_000 * size - 1_000 * size
    yield "children"
    for _ in range(size):
        feed.wait(1)
        feed.take()
    assert feed.partition.next_due_ms() is None
    yield "due one by one"


# Results that wait


def queued(size: int) -> Steps:
    """Results queue for one slot behind the oldest task's; 50 more queue for a slot each."""
    feed = Feed()
    for number in range(50):
        feed.dispatched(f"first{number}", slot=f"slot{number}")
        feed.dispatched(f"second{number}", slot=f"slot{number}", on_newer="enqueue")
        feed.result(f"second{number}")
    yield "others"
    for number in range(size):
        feed.dispatched(f"t{number}", slot="panel", on_newer="enqueue")
    feed.take()
    yield "dispatches"
    for number in reversed(range(1, size)):
        feed.result(f"t{number}")
    feed.take()
    yield "results"
    feed.result("t0")
    delivered = [body["task_id"] for body in feed.take() if body["type"] == "result.delivered"]
    assert delivered == [f"t{number}" for number in range(size)]
    yield "release"


def held(size: int) -> Steps:
    """Results wait for the context to come back, each for its own facet; unrelated things happen."""
    feed = Feed()
    for number in range(size):
        feed.changed({f"doc/{number}": "2"})
        feed.dispatched(f"t{number}", {f"doc/{number}": "1"}, on_stale="hold", hold_ttl_seconds=100_000)
    feed.take()
    yield "dispatches"
    for number in range(size):
        feed.result(f"t{number}")
    feed.take()
    yield "results"
    for number in range(20):
        feed.changed({"view": str(number)})
        feed.barrier()
    yield "unrelated changes"
    for number in range(20):
        feed.dispatched(f"other{number}", {"view": "19"})
        feed.result(f"other{number}")
        feed.barrier()
    yield "unrelated tasks"
    feed.take()
    for number in range(size):
        feed.changed({f"doc/{number}": "1"})
        feed.barrier()
    assert sum(body["type"] == "result.delivered" for body in feed.take()) == size
    yield "release"


def lapsing(size: int) -> Steps:
    """Results wait for the context, and are withheld one by one when their time is over."""
    feed = Feed()
    feed.changed({"view": "2"})
    for number in range(size):
        feed.dispatched(f"t{number}", {"view": "1"}, on_stale="hold", hold_ttl_seconds=2 * size)
    for number in range(size):
        feed.result(f"t{number}")
    feed.take()
    yield "until they wait"
    feed.now_ms += 1_000 * size
    for _ in range(size):
        feed.wait(1)
        feed.take()
    assert feed.partition.next_due_ms() is None
    yield "due one by one"


def absent(size: int) -> Steps:
    """Results wait for the user; unrelated things happen; the user comes back."""
    feed = Feed()
    feed.changed({"presence/a": "absent"})
    for number in range(size):
        feed.dispatched(f"t{number}", when_absent="hold")
        feed.result(f"t{number}")
    feed.take()
    yield "results"
    for number in range(20):
        feed.changed({"view": str(number)})
        feed.barrier()
    yield "unrelated changes"
    feed.changed({"presence/a": "present"})
    feed.barrier()
    assert sum(body["type"] == "result.delivered" for body in feed.take()) == size
    yield "release"


def unknown(size: int) -> Steps:
    """Results of one unknown task, until they are given up."""
    feed = Feed(Rules(unknown_task_grace_ms=100_000_000))
    for number in range(size):
        feed.result("t", {"part_id": str(number)})
    feed.take()
    yield "results"
    feed.wait(200_000)
    assert sum(body["type"] == "result.withheld" for body in feed.take()) == size
    yield "given up"


def unknown_until_dispatched(size: int) -> Steps:
    """The same, but then the dispatch comes."""
    feed = Feed(Rules(unknown_task_grace_ms=100_000_000))
    for number in range(size):
        feed.result("t", {"part_id": str(number)})
    feed.take()
    yield "results"
    feed.dispatched("t")
    feed.barrier()
    assert sum(body["type"].startswith("result.") for body in feed.take()) == size
    yield "dispatch"


def unknown_of_many(size: int) -> Steps:
    """Results of many unknown tasks, given up one by one."""
    feed = Feed(Rules(unknown_task_grace_ms=1_000 * size))
    for number in range(size):
        feed.result(f"t{number}")
    feed.take()
    yield "results"
    for _ in range(size):
        feed.wait(1)
        feed.take()
    assert feed.partition.next_due_ms() is None
    yield "due one by one"


# Open tasks


def open_tasks(size: int) -> Steps:
    """Many open tasks of one session, each with its own facet, that end one by one."""
    feed = Feed()
    for number in range(size):
        feed.dispatched(f"t{number}", {f"doc/{number}": "1"})
    feed.take()
    yield "dispatches"
    for number in range(20):
        feed.changed({"view": str(number)})
        feed.step("t0")
    yield "unrelated changes"
    for number in range(size):
        feed.result(f"t{number}")
    feed.take()
    yield "results"


def deadlines(size: int) -> Steps:
    """Many open tasks of one session whose heartbeat timeouts pass one by one."""
    feed = Feed()
    for number in range(size):
        feed.dispatched(f"t{number}", heartbeat_timeout_seconds=2 * size)
    feed.take()
    yield "dispatches"
    feed.now_ms += 1_000 * size
    for _ in range(size):
        feed.wait(1)
        feed.take()
    assert feed.partition.next_due_ms() is None
    yield "due one by one"


def slots(size: int) -> Steps:
    """Many tasks of one slot, of which each interrupts the one before."""
    feed = Feed()
    for number in range(size):
        feed.dispatched(f"other{number}")
    feed.take()
    yield "other tasks"
    for number in range(size):
        feed.dispatched(f"t{number}", slot="panel", on_newer="interrupt")
    feed.take()
    yield "interrupts"
    for number in range(size):
        feed.dispatched(f"r{number}", slot="panel", on_newer="reject")
    feed.take()
    yield "rejects"


# Erasure


def erased(size: int) -> Steps:
    """A session with many waiting results, unknown results and proposed effects is erased."""
    feed = Feed()
    feed.changed({"view": "2"})
    for number in range(size):
        feed.dispatched(f"t{number}", {"view": "1"}, on_stale="hold")
        feed.result(f"t{number}")
        feed.result(f"unknown{number}")
        feed.send("task.effect_proposed", task_id=f"t{number}", idempotency_key=str(number), effect="pay")
    feed.take()
    yield "before"
    feed.send("session.erased")
    feed.take()
    yield "erasure"


def erased_one_by_one(size: int) -> Steps:
    """Many sessions, each with a waiting result and a waiting effect, are erased one at a time."""
    feed = Feed()
    for number in range(size):
        feed.session = f"s{number}"
        feed.result("unknown")
        feed.send("task.effect_proposed", task_id="t", idempotency_key="k", effect="pay")
    feed.take()
    yield "before"
    for number in range(size):
        feed.session = f"s{number}"
        feed.send("session.erased")
    feed.take()
    yield "erasures"


LINEAR: Final[list[tuple[Scenario, int, tuple[str, ...]]]] = [
    (nested, 60, ()),
    (nested_until_due, 60, ()),
    (nested_from_below, 60, ()),
    (wide, 100, ()),
    (wide_stopped, 100, ()),
    (parentless, 200, ()),
    (parentless_until_due, 60, ()),
    (queued, 30, ()),
    (held, 50, ("unrelated changes", "unrelated tasks")),
    (lapsing, 50, ()),
    (absent, 60, ("unrelated changes",)),
    (unknown, 60, ()),
    (unknown_until_dispatched, 60, ()),
    (unknown_of_many, 300, ()),
    (open_tasks, 100, ("unrelated changes",)),
    (deadlines, 60, ()),
    (slots, 100, ()),
    (erased, 60, ()),
    (erased_one_by_one, 100, ()),
]


@pytest.mark.parametrize(("scenario", "size", "constant"), LINEAR, ids=[scenario.__name__ for scenario, _, _ in LINEAR])
def test_the_work_grows_with_the_size(scenario: Scenario, size: int, constant: tuple[str, ...]) -> None:
    assert_linear(scenario, size, constant=constant)


# Inputs that took hours


@pytest.mark.parametrize(
    ("scenario", "size"),
    [(queued, 1000), (unknown, 4000), (unknown_until_dispatched, 4000)],
    ids=["queued", "unknown", "unknown until dispatched"],
)
def test_a_small_input_is_a_small_amount_of_work(scenario: Scenario, size: int) -> None:
    lines_of(scenario, size, lambda _: 1400 * size)


# Depth


@pytest.mark.parametrize("size", [600, 2000])
@pytest.mark.parametrize(
    "scenario", [nested, nested_until_due, nested_from_below], ids=["cancelled", "until due", "from below"]
)
def test_a_family_may_be_as_deep_as_it_likes(scenario: Scenario, size: int) -> None:
    for _ in scenario(size):
        pass


# One large result


@pytest.mark.parametrize("stale", [1, 256])
def test_an_unrelated_event_costs_the_same_however_large_the_result_is_that_waits(stale: int) -> None:
    counts = [unrelated_events(*shape) for shape in ((1, 1, 1), (64, 256, stale))]
    assert counts[1] <= 1.2 * counts[0]


def unrelated_events(parts: int, depends_on: int, stale: int) -> int:
    feed = Feed()
    names = [f"doc/{number}" for number in range(depends_on)]
    feed.dispatched("t", dict.fromkeys(names, "1"), on_stale="hold", hold_ttl_seconds=100_000)
    feed.changed(dict.fromkeys(names[:stale], "2"))
    feed.result("t", *({"part_id": str(number), "depends_on": names} for number in range(parts)))
    feed.take()
    with Counting(2_000_000) as counting:
        for number in range(20):
            feed.changed({"view": str(number)})
            feed.barrier()
    return counting.lines


# Timers


def test_heartbeats_leave_no_garbage_behind() -> None:
    feed = Feed()
    feed.dispatched("pins the heap", heartbeat_timeout_seconds=80_000)  # due before all others, and not yet
    for number in range(100):
        feed.session = f"s{number}"
        feed.dispatched("t", heartbeat_timeout_seconds=86_000)
    beat(feed, rounds=20)  # until caches are full
    assert allocated_bytes(lambda: beat(feed, rounds=10)) < 80_000  # 17,000 of them are identities of heartbeats


def beat(feed: Feed, *, rounds: int) -> None:
    for _ in range(rounds):
        for number in range(100):
            feed.session = f"s{number}"
            feed.send("task.heartbeat", task_id="t")
        feed.take()
        assert feed.partition.next_due_ms() is not None
        feed.changelog.clear()
        feed.outputs.clear()
        feed.changes.clear()


def allocated_bytes(act: Callable[[], None]) -> int:
    """What is still allocated of what was allocated meanwhile, less what was freed."""
    gc.collect()
    tracemalloc.start()
    try:
        act()
        gc.collect()
        statistics = tracemalloc.take_snapshot().statistics("filename")
        return sum(each.size for each in statistics if each.traceback[0].filename.startswith(COUNTED))
    finally:
        tracemalloc.stop()
