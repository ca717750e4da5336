"""SIGTERM ends a worker properly: the running transaction is finished, the group is left, others go on at once.

A worker that simply exits leaves its partitions to nobody until its session expires, and its open transaction holds
readers up until its timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from testing.workload import Workload
from tests.broker.harness import Gate
from tests.broker.load import Load, each_once
from tests.broker.waiting import wait_for
from tidegate.settings import Settings

PARTITIONS: Final = 4

pytestmark = pytest.mark.timeout(120)


async def _leaves(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    # neither session nor transaction can expire within this test: only a worker that leaves makes room
    settings = make_settings(
        partitions=PARTITIONS,
        session_timeout_seconds=120,
        heartbeat_interval_seconds=1,
        transaction_timeout_seconds=120,
    )
    async with Gate(settings, tmp_path) as gate, gate.outputs(keep=False) as outputs:
        leaver, stayer = await gate.start("leaver", "stayer")
        workload = Workload(sessions=400, partitions=PARTITIONS)
        await gate.write(workload.opening())
        load = Load(gate, workload, 2000).start()

        async def shared() -> bool:
            return bool(leaver.partitions()) and len(stayer.partitions() or {}) < PARTITIONS

        await wait_for(shared, 30, "both have partitions")
        await outputs.until(lambda: len(outputs.verdicts) > 300, 30, "verdicts under load")
        leaver.ask_to_stop()
        assert await asyncio.to_thread(leaver.process.wait, 15) == 0

        async def taken_over() -> bool:
            return list((stayer.partitions() or {}).values()) == ["running"] * PARTITIONS

        await wait_for(taken_over, 15, "the other one has taken over", stayer.partitions)
        before = len(outputs.verdicts)
        await outputs.until(lambda: len(outputs.verdicts) > before + 300, 15, "verdicts go on")
        await load.stop()
        await gate.drained(30)
        await each_once(outputs, workload)
        await gate.audit(tasks=workload.dispatches)


def test_a_worker_told_to_stop_leaves_at_once(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    asyncio.run(_leaves(make_settings, tmp_path))
