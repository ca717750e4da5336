"""An even load on a gate, and the count of what came of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import Self

from testing.workload import Record, Workload
from tests.broker.harness import Gate
from tests.broker.outputs import Outputs


class Load:
    """Events at an even pace, in the order in which they happen: a result is sent only once its dispatch is there."""

    def __init__(self, gate: Gate, workload: Workload, per_second: float) -> None:
        self.workload = workload
        self.dispatched: list[str] = []
        self.sent = 0
        self._gate = gate
        self._per_second = per_second
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def start(self) -> Self:
        """Begin."""
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> None:
        """Send no further events but the results of every task that runs; returns when all is acknowledged."""
        self._stopping.set()
        assert self._task is not None
        await self._task

    @property
    def task(self) -> asyncio.Task[None]:
        """The work, to be looked at for errors."""
        assert self._task is not None
        return self._task

    async def _run(self) -> None:
        began = time.monotonic()
        while not self._stopping.is_set():
            due = int((time.monotonic() - began) * self._per_second) - self.sent
            if due > 0:
                await self._send(self.workload.records(min(due, 5000), finish=False))
            await asyncio.sleep(0.02)
        await self._send(self.workload.records(self.workload.running))

    async def _send(self, records: Iterable[Record]) -> None:
        chosen = list(records)
        before = [record for record in chosen if record.role != "results"]
        await self._gate.write(before)
        await self._gate.write(record for record in chosen if record.role == "results")
        self.sent += len(chosen)


async def each_once(outputs: Outputs, workload: Workload, timeout_seconds: float = 60) -> None:
    """Every result has one verdict and every task one end: counted here, without the audit's help.

    Both are waited for: a transaction's records become visible topic by topic, an end before its verdict now and then.
    The workload's results have one part, so no verdict is split over two outputs.
    """
    expected = (workload.results, workload.dispatches)
    await outputs.until(
        lambda: len(outputs.verdicts) >= workload.results and len(outputs.endings) >= workload.dispatches,
        timeout_seconds,
        "a verdict for every result, an end for every task",
        lambda: f"{len(outputs.verdicts)} verdicts and {len(outputs.endings)} ends, expected {expected}",
    )
    assert _other_than_once(outputs.verdicts) == []
    assert _other_than_once(outputs.endings) == []
    assert (len(outputs.verdicts), len(outputs.endings)) == expected


def _other_than_once(counts: Counter[str]) -> list[tuple[str, int]]:
    return [(name, count) for name, count in counts.items() if count != 1][:20]
