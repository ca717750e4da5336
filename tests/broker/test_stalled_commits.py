"""Commits that hang for 20 s, a million events waiting: memory keeps to its budget, and all is judged once afterwards.

Without a byte budget the worker goes on fetching while it cannot commit: 15 s queued 1.25 million records, 952 MB. And
the stall outlasts the transaction's timeout, so the broker has aborted what the worker believes to be committing: one
that does not throw away rows and producer judges twice, or never again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from bench.process import Worker
from bench.workload import Workload
from tests.broker.harness import Gate, assert_each_once, wait_for
from tests.broker.proxy import END_TXN, Proxy, proxied_broker
from tidegate.settings import Settings

EVENTS: Final = 1_000_000
STALL_SECONDS: Final = 20.0
PARTITIONS: Final = 4
MIB: Final = 1024 * 1024
BUDGET: Final = 4 * MIB

# Each of 12 logs may queue its budget and one fetch more of up to 1 MiB; a record in memory takes about twice its bytes
# (keys, numbers, Python's own). What else a worker at work needs, such as rows and the transaction, fits into the rest.
ALLOWED_BYTES: Final = 12 * (BUDGET + MIB) * 2 + 80 * MIB

pytestmark = pytest.mark.timeout(290)


async def _stalled(settings: Settings, tmp_path: Path, proxy: Proxy) -> None:
    gate = Gate(settings, tmp_path, queue_budget_bytes=BUDGET)
    async with gate, gate.outputs(keep=False) as outputs:
        workload = Workload(sessions=10_000, partitions=PARTITIONS)
        worker = (await gate.start("worker"))[0]
        idle_bytes = worker.rss_bytes()
        proxy.hold({END_TXN}, settings.group_id)
        size = 0
        for _ in range(10):
            records = list(workload.records(EVENTS // 10, finish=False))
            size += sum(len(record.value) for record in records)
            await gate.write(records)
        assert size > ALLOWED_BYTES, "all of it would fit into the budget: nothing would be shown"
        peak = asyncio.create_task(_peak_bytes(worker))
        await _has_stalled(worker, proxy)
        assert not any((await gate.progress.committed()).values()), "commits were not stalled"
        proxy.release()
        await gate.write(workload.records(workload.running))
        await gate.drained(150)
        peak.cancel()
        grown = await peak - idle_bytes
        await outputs.until(lambda: len(outputs.endings) >= workload.dispatches, 60, "every task has ended")
        assert_each_once(outputs, workload)
        assert grown < ALLOWED_BYTES, f"{grown / MIB:.0f} MiB more than idle, allowed {ALLOWED_BYTES / MIB:.0f}"
        await gate.audit(tasks=workload.dispatches)


async def _has_stalled(worker: Worker, proxy: Proxy) -> None:
    """The stall itself: 20 s from the first held commit on."""

    async def held() -> bool:
        return proxy.held > 0

    await wait_for(held, 30, "a commit is held back")
    began = time.monotonic()

    async def over() -> bool:
        assert worker.is_alive
        return time.monotonic() - began >= STALL_SECONDS

    await wait_for(over, 2 * STALL_SECONDS, "the stall is over")


async def _peak_bytes(worker: Worker) -> int:
    """The most memory the worker takes until this is cancelled."""
    peak = 0
    try:
        while True:
            peak = max(peak, worker.rss_bytes())
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return peak


def test_commits_stalled_for_20_seconds_with_a_million_events_waiting(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with proxied_broker() as (broker, proxy):
        settings = make_settings(bootstrap_servers=broker.bootstrap_servers, partitions=PARTITIONS)
        asyncio.run(_stalled(settings, tmp_path, proxy))
