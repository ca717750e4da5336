"""Decisions are a function of the logs and of the cuts they were made below: not of batching, restarts or aborts.

And if the user said nothing in between, they do not depend on the cuts either: a gate that is down for an hour decides
what one decides that is always up. (A receipt lists the steps below its cut, so a cancel is something that the user
said in between, whenever that was.)
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Final

import orjson
from hypothesis import given
from hypothesis import strategies as st

from projections.changes import Changes
from projections.decode import Batch
from projections.log_position import LogPosition
from projections.merge import LogQueue, next_run
from projections.partition import Partition
from tests.unit.event_logs import RULES, Kinds, Op, logs, restored
from tests.unit.feeding import START_MS, make_batch

LATER_MS: Final = 3_600_000
KINDS: Final = Kinds(additions=True)
MERELY_TIMES: Final = ("at", "occurred_at", "event_id", "judged", "dispatched_at")


class Driver:
    """A gate that is given cuts, and fetches, writes, restarts and rolls back as it likes in between."""

    def __init__(self, ops: list[Op], seed: int | None) -> None:
        self.records = [op for op in ops if op.body is not None]
        self.outputs: list[dict[str, Any]] = []
        self.refused: Counter[str] = Counter()
        self._random = None if seed is None else Random(seed)
        self._changelog: list[tuple[bytes, bytes | None]] = []
        self._partition = Partition(0, RULES)
        self._context = 0
        self._logs = {"steps": LogQueue(), "results": LogQueue()}
        self._committed = (0, 0, 0)

    def reach(self, count: int, time_ms: int) -> None:
        """Reach the cut that was asked for when so many records were there, at this time."""
        below = Counter(op.role for op in self.records[:count])
        while not self._reach(below, time_ms):
            if self._random is not None and self._random.random() < 0.15:
                self._disturb()

    def write(self) -> None:
        """Write a transaction."""
        changes: Changes = self._partition.take(START_MS)
        self._changelog += changes.rows.items()
        self.outputs += [orjson.loads(output.value) for output in changes.outputs if output.value is not None]
        self.refused.update(refusal.error for refusal in changes.refusals)
        self._partition.committed()
        self._committed = (self._context, self._logs["steps"].position, self._logs["results"].position)

    def _disturb(self) -> None:
        assert self._random is not None
        how = self._random.choice(("write", "write", "restart", "roll back"))
        if how == "write":
            self.write()
            return
        if how == "restart":
            self._partition = restored(self._changelog, RULES, compacted=False)
        else:
            self._partition.roll_back()
        self._context, steps, results = self._committed
        self._logs = {"steps": LogQueue(steps), "results": LogQueue(results)}

    def _reach(self, below: Counter[Any], time_ms: int) -> bool:
        """Go on towards the cut; False if there is more to do."""
        if self._context < below["context"]:
            batch = self._fetch("context", self._context, below["context"])
            self._partition.fold_context(batch, START_MS)
            self._context = batch.end
            return False
        steps, results = self._logs["steps"], self._logs["results"]
        for role, log in self._logs.items():
            if log.end < below[role]:
                log.append(self._fetch(role, log.end, below[role]))
        limit = 100 if self._random is None else self._random.choice((1, 2, 100))
        run = next_run(steps, results, below["steps"], below["results"], limit)
        position = LogPosition(0, self._context, steps.position, results.position)
        if run is None:
            if steps.position < below["steps"] or results.position < below["results"]:
                return False
            self._partition.act_on_due(position, time_ms)
            self._partition.has_folded(time_ms)
            return True
        if run.batch.role == "steps":
            self._partition.fold_steps(run.batch, position, START_MS, run.start, run.stop)
            steps.take(run.stop)
        else:
            self._partition.judge(run.batch, position, START_MS, run.start, run.stop)
            results.take(run.stop)
        return False

    def _fetch(self, role: str, start: int, end: int) -> Batch:
        if self._random is not None:
            end = self._random.randint(start + 1, end)
        ops = [op for op in self.records if op.role == role][start:end]
        return make_batch(
            ops[0].role,  # type: ignore[arg-type]
            start,
            [orjson.dumps(op.body) for op in ops],
            [op.at_ms for op in ops],
        )


def decided(ops: list[Op], cuts: list[int], seed: int | None = None) -> tuple[list[Any], Counter[str]]:
    """What is decided with these cuts: everything that is written but the statuses of open tasks, and times of writing.

    `cuts`: how many of the records were there when each was asked for.
    """
    driver = Driver(ops, seed)
    total = len(driver.records)
    for count in sorted({min(cut, total) for cut in cuts} - {0, total}):
        driver.reach(count, driver.records[count].at_ms - 1)
        driver.write()
    driver.reach(total, START_MS + LATER_MS)
    driver.write()
    bodies = [_without_times(body) for body in driver.outputs if body.get("status") not in ("running", "waiting")]
    return sorted(bodies, key=orjson.dumps), driver.refused


def _without_times(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: _without_times(each) for name, each in sorted(body.items()) if name not in MERELY_TIMES}
    return [_without_times(each) for each in body] if isinstance(body, list) else body


@given(ops=logs(KINDS), cuts=st.lists(st.integers(0, 60), max_size=6), seed=st.integers(0, 1000))
def test_with_the_same_cuts_the_same_is_decided_however_it_is_fetched_and_written(
    ops: list[Op], cuts: list[int], seed: int
) -> None:
    assert decided(ops, cuts, seed) == decided(ops, cuts)


@given(ops=logs(Kinds(cancels=False, additions=True)), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_if_the_user_says_nothing_in_between_the_cuts_do_not_matter(ops: list[Op], cuts: list[int]) -> None:
    said = [op for op in ops if op.role == "context"]
    rest = [op for op in ops if op.role != "context"]
    ordered = [op._replace(at_ms=START_MS + 1000 * number) for number, op in enumerate([*said, *rest])]
    cuts = [len(said) + cut for cut in cuts]
    assert decided(ordered, [len(said), *cuts]) == decided(ordered, [len(said)])
