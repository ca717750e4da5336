"""Workers of the last engine are replaced by those of this one, under load: nothing is lost, and nothing comes twice.

The last engine had a transaction for each partition, and another name for its group protocol.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.baseline import resolve, tree_of
from testing.process import Worker, until_ready
from tests.broker.harness import Gate
from tests.broker.test_kill import PARTITIONS, MakeSettings, begin_load, hold_all_partitions, settle
from tidegate.errors import TidegateError

LAST_ENGINE = "47d38fc"

pytestmark = pytest.mark.timeout(300)


def _last_engine() -> Path:
    try:
        return tree_of(resolve(LAST_ENGINE)).root
    except TidegateError as error:
        pytest.skip(f"{error.message}: the last engine's code is not here")


async def _replaced(make_settings: MakeSettings, directory: Path, *, one_by_one: bool) -> None:
    code = _last_engine()
    async with Gate(make_settings(partitions=PARTITIONS), directory) as gate, gate.outputs(keep=False) as outputs:
        old = [gate.worker(name, code=code).start() for name in ("old-one", "old-two")]
        await hold_all_partitions(old)
        load = await begin_load(gate, 1)
        await asyncio.sleep(3.0)
        new = [gate.worker(name) for name in ("new-one", "new-two")]
        if one_by_one:
            new[0].start()
            old[0].kill()
            await asyncio.sleep(5.0)
            assert _runs_nothing(new[0]), "workers of two engines share a group"
        for worker in old:
            worker.kill()
        for worker in new:
            if not worker.started:
                worker.start()
        await until_ready(new)
        await hold_all_partitions(new)
        await asyncio.sleep(2.0)
        await settle(gate, load, outputs)


def _runs_nothing(worker: Worker) -> bool:
    return "running" not in (worker.partitions() or {}).values()


@pytest.mark.parametrize("one_by_one", [False, True])
def test_workers_of_the_last_engine_are_replaced_under_load(
    make_settings: MakeSettings, tmp_path: Path, *, one_by_one: bool
) -> None:
    asyncio.run(_replaced(make_settings, tmp_path, one_by_one=one_by_one))
