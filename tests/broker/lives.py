"""Lives on a real broker: what people say is written, and they hear what the gate says while it says it."""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType
from typing import Any, Final, Self

from schemas.topics import Role, topic_name
from testing.watching import COLD, FOLDED, Progress
from tests.broker.harness import Gate
from tests.broker.outputs import Outputs
from tests.broker.waiting import wait_for
from tests.lives.people import Lives
from tests.lives.told import KINDS, Told

LOOK_SECONDS: Final = 0.005
"""Between two looks at what is to be said."""

_log = logging.getLogger(__name__)


class Hearing(Outputs):
    """A reader of everything the gate tells, commands included, who passes it on."""

    def __init__(self, gate: Gate, lives: Lives, told: Told) -> None:
        super().__init__(gate.settings, keep=False)
        for role in ("commands", "delivered.cold"):
            self._roles[topic_name(role, gate.settings.topic_prefix)] = role
        self._lives = lives
        self._told = told

    def _take(self, role: Role, partition: int, record: Any) -> None:
        del partition
        body = self._told.take(role, record.value, dict(record.headers))
        if body is not None:
            self._lives.hear(body)


class Living:
    """People at work on a gate, from `async with` on until `settle`."""

    def __init__(self, gate: Gate, *, seed: int, sessions: int) -> None:
        self.lives = Lives(seed=seed, sessions=sessions, partitions=gate.settings.partitions, began=time.time())
        self.told = Told()
        self._gate = gate
        self._hearing = Hearing(gate, self.lives, self.told)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._hearing.__aenter__()
        self._tasks = [asyncio.create_task(each) for each in (self._hear(), self._say())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hearing.__aexit__(kind, error, trace)

    async def settle(self) -> None:
        """Let everything come to its end, then demand that the gate has kept every rule, and had to.

        Before that, every kind of end, verdict, command and wait has to come up. Each task has ended once and each part
        was decided once, as counted here; the audit is clean, and nothing is orphaned.
        """
        await wait_for(self._has_come_up, 60, "every kind of end, verdict, command and wait has come up", self._missing)
        self.lives.stop()
        await wait_for(self._is_over, 90, "everything has ended", self._left)
        async with Progress(self._gate.settings, (*FOLDED, *COLD)) as progress:
            await wait_for(lambda: _is_drained(progress), 30, "every input is committed")
        assert self.told.mistakes(self.lives) == []
        answer = await self._gate.audit()
        assert answer["tasks"] == len(self.lives.dispatched)
        await self._gate.orphans()
        _log.info("%d tasks, %d records, %s", answer["tasks"], answer["records"], sorted(self.told.kinds.items()))

    async def _has_come_up(self) -> bool:
        self._look_after()
        return self.told.kinds.keys() >= KINDS

    def _missing(self) -> str:
        return f"missing: {sorted(KINDS - self.told.kinds.keys())}"

    async def _is_over(self) -> bool:
        self._look_after()
        return self.lives.is_over and not self.told.open_tasks(self.lives) and not self.told.undecided(self.lives)

    def _look_after(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    def _left(self) -> str:
        told, lives = self.told, self.lives
        return f"open: {sorted(told.open_tasks(lives))[:10]}, undecided: {sorted(told.undecided(lives))[:10]}"

    async def _hear(self) -> None:
        while True:
            await self._hearing.poll()

    async def _say(self) -> None:
        while True:
            await self._gate.write(self.lives.due(time.time()))
            await asyncio.sleep(LOOK_SECONDS)


async def _is_drained(progress: Progress) -> bool:
    return await progress.behind() == 0
