"""A broker that is not there yet, or not there for a while: the worker waits, says so, and goes on with nothing lost.

A worker that gives up at start-up needs somebody to start it again; one that takes a failed transaction for committed
loses it, one that takes it for not committed and keeps its rows counts it twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from local.broker import LocalBroker
from testing.process import until_ready
from testing.workload import Workload
from tests.broker.harness import Gate
from tests.broker.load import Load, each_once
from tests.broker.waiting import wait_for
from tidegate.settings import Settings

AWAY_SECONDS: Final = 30.0

pytestmark = pytest.mark.timeout(240)


async def _away(broker: LocalBroker, settings: Settings, tmp_path: Path) -> None:
    async with Gate(settings, tmp_path) as gate, gate.outputs(keep=False) as outputs:
        # at start-up
        await asyncio.to_thread(broker.stop)
        early = gate.worker("early").start()

        async def waiting() -> bool:
            assert early.is_alive, early.log_text()
            return len(early.told("waiting_for_broker")) >= 2

        await wait_for(waiting, 30, "the worker says that it waits", early.log_text)
        told = early.told("waiting_for_broker")[-1]
        assert settings.bootstrap_servers in str(told)
        assert not early.is_ready()
        await asyncio.to_thread(broker.start)
        await until_ready([early])

        # and in between, under load, with a second worker
        (second,) = await gate.start("second")
        workload = Workload(sessions=400, partitions=settings.partitions)
        await gate.write(workload.opening())
        load = Load(gate, workload, 1500).start()
        await outputs.until(lambda: len(outputs.verdicts) > 200, 30, "verdicts under load")
        await asyncio.to_thread(broker.stop)
        left = time.monotonic()

        async def long_enough() -> bool:
            assert early.is_alive, early.log_text()[-3000:]
            assert second.is_alive, second.log_text()[-3000:]
            return time.monotonic() - left >= AWAY_SECONDS

        await wait_for(long_enough, 2 * AWAY_SECONDS, "the broker has been away for long enough")
        before = len(outputs.verdicts)
        await asyncio.to_thread(broker.start)
        await outputs.until(
            lambda: len(outputs.verdicts) > before + 200, 60, "verdicts again", lambda: len(outputs.verdicts) - before
        )
        for worker in (early, second):
            warned = [line for line in worker.log() if line.get("level") in {"warning", "error"} and "event" in line]
            assert warned, f"{worker.name} said nothing of it"
        await load.stop()
        await gate.drained(90)
        await each_once(outputs, workload)
        assert early.is_alive
        assert second.is_alive
        await gate.audit(tasks=workload.dispatches)


@pytest.mark.long  # a minute of waiting
def test_a_broker_away_at_start_up_and_for_30_seconds(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    with LocalBroker(ephemeral=True, short_lived=True) as own:
        settings = make_settings(bootstrap_servers=own.bootstrap_servers, partitions=4)
        asyncio.run(_away(own, settings, tmp_path))
