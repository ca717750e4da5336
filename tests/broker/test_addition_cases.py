"""The cases of the contract's additions on a real broker and worker: all at once, each in sessions of its own.

Each case goes on by itself: it writes its steps one after the other, waits where it says so, and lets real time pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from schemas.topics import topic_name
from tests.broker.harness import Gate
from tests.broker.outputs import Outputs
from tests.broker.waiting import wait_for
from tests.cases.reading import SETTINGS, Case, cases, record_of
from tidegate.settings import Settings

WAIT_SECONDS: Final = 30.0


class CaseOutputs(Outputs):
    """A reader that hands every record to the case whose session it is about."""

    def __init__(self, settings: Settings, playing: dict[str, Case]) -> None:
        super().__init__(settings)
        self._roles[topic_name("commands", settings.topic_prefix)] = "commands"
        self._playing = playing

    def _take(self, role: Any, partition: int, record: Any) -> None:
        del partition
        if role == "dlq":
            headers = {name: value.decode() for name, value in record.headers}
            body = {"error": headers["tidegate_error"], "detail": headers["tidegate_error_detail"]}
            self._case_of(record.key.decode()).outputs.append((role, None, body))
            return
        if record.value is None:
            session_id, task_id = orjson.loads(record.key)
            self._case_of(session_id).outputs.append((role, task_id, None))
            return
        body = orjson.loads(record.value)
        self._case_of(body["session_id"]).outputs.append((role, body.get("task_id"), body))

    def _case_of(self, session_id: str) -> Case:
        return self._playing["/".join(session_id.split("/")[:2])]


async def _play(case: Case, gate: Gate) -> None:
    for number, step in enumerate(case.steps):
        if "after_seconds" in step:
            await asyncio.sleep(step["after_seconds"])
        elif "await" in step:
            await _until(lambda pattern=step["await"]: case.has(pattern), f"{case.id}: {step}", case)  # type: ignore[misc]
        else:
            role, session, value = record_of(step, case.session, number, time.time_ns() // 1_000_000)
            await gate.producer.send_and_wait(gate.topic(role), value, key=session.encode())


async def _until(condition: Callable[[], bool], describe: str, case: Case) -> None:
    async def check() -> bool:
        return condition()

    await wait_for(check, WAIT_SECONDS, describe, lambda: case.outputs[-5:])


async def _play_all(settings: Settings, tmp_path: Path) -> None:
    chosen = cases("additions.jsonl")
    playing = {case.session: case for case in chosen}

    def mistakes() -> list[str]:
        return [line for case in chosen for line in case.mistakes()]

    async def all_as_expected() -> bool:
        return not mistakes()

    async with Gate(settings, tmp_path, **SETTINGS) as gate, CaseOutputs(settings, playing) as outputs:
        await gate.start("one")

        async def read() -> None:
            while True:
                await outputs.poll()

        reading = asyncio.create_task(read())
        try:
            async with asyncio.TaskGroup() as group:
                for case in chosen:
                    group.create_task(_play(case, gate))
            await gate.drained(WAIT_SECONDS)
            # What is still to come are requests to cancel whose grace is not over.
            await wait_for(all_as_expected, WAIT_SECONDS, "every case is as expected", mistakes)
        finally:
            reading.cancel()
        assert mistakes() == []
        await gate.audit()


def test_every_case_ends_as_expected(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    asyncio.run(_play_all(make_settings(partitions=2), tmp_path))
