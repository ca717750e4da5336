"""Records on the wrong partition are sent on exactly once, whatever happens to the worker meanwhile.

Sent on before their offsets were committed, they came a second time after a kill, and overwrote newer context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.broker.events import body, changed, dispatched, returned, sessions_on
from tests.broker.harness import Gate
from tests.broker.waiting import wait_for
from tidegate.settings import Settings

MakeSettings = Callable[..., Settings]

KILLS: Final = 3
A_TIME: Final = 1000
MISROUTED: Final = KILLS * A_TIME

pytestmark = pytest.mark.timeout(150)


async def _killed(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with Gate(make_settings(partitions=3), tmp_path, cycle_max_records=64) as gate, gate.outputs() as outputs:
        (lost,) = sessions_on(0, 3, 1, "lost")

        async def sent_on() -> int:
            return (await gate.end_offsets("context"))[0]

        for number in range(KILLS):  # a worker may send on all that is there before it is killed
            for first in range(number * A_TIME, (number + 1) * A_TIME, 500):
                events = [body(changed(lost, {"view": str(each)})) for each in range(first, first + 500)]
                await gate.write_raw("context", 2, *((None, event, []) for event in events))
            before = await sent_on()
            worker = gate.worker(f"killed-{number}").start()

            async def goes_on(before: int = before) -> bool:
                return await sent_on() > before

            await wait_for(goes_on, 60, "some are sent on")
            worker.kill()
        await gate.start("last")
        await gate.drained(60)
        copies = [record for record in await gate.read("context") if record.partition == 0]
        origins = [dict(record.headers)["tidegate_forwarded_from"] for record in copies]
        assert len(set(origins)) == len(origins) == MISROUTED
        assert [record.value for record in copies] == [
            record.value for record in await gate.read("context") if record.partition == 2
        ]
        await gate.send(dispatched(lost, "task", {"view": str(MISROUTED - 1)}), returned(lost, "task"))
        await outputs.until(lambda: outputs.verdict("task"), 20, "the last value counts")
        assert outputs.decided(["task"]) == {"task": ("delivered", "fresh")}
        await gate.drained(20)
        await gate.audit(tasks=1)


@pytest.mark.long  # the simulation kills workers at every request
def test_a_worker_that_is_killed_while_it_sends_records_on(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(_killed(make_settings, tmp_path))
