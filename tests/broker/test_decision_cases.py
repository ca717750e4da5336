"""The cases of decisions on a real broker and worker: all at once, each in a session of its own.

Each case goes on by itself: it writes its steps one after the other, waits where it says so, and lets real time pass.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from schemas.topics import topic_name
from tests.broker.harness import Gate
from tests.broker.outputs import Outputs
from tests.broker.waiting import wait_for
from tests.cases.reading import SETTINGS, Case, cases, record_of
from tidegate.settings import Settings

FILES: Final = ("decisions.jsonl",)
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
        elif record.value is None:
            session_id, task_id = json.loads(record.key)
            self._case_of(session_id).outputs.append((role, task_id, None))
        else:
            body = json.loads(record.value)  # a payload may hold numbers that no double does
            self._case_of(body["session_id"]).outputs.append((role, body.get("task_id"), body))

    def _case_of(self, session_id: str) -> Case:
        return self._playing["/".join(session_id.split("/")[:2])]


async def _play(case: Case, gate: Gate) -> None:
    for number, step in enumerate(case.steps):
        if "after_seconds" in step:
            await asyncio.sleep(step["after_seconds"])
        elif "await" in step:
            await _until(case, step["await"])
        else:
            role, session, value = record_of(step, case.session, number, time.time_ns() // 1_000_000)
            await gate.producer.send_and_wait(gate.topic(role), value, key=session.encode())


async def _until(case: Case, pattern: dict[str, Any]) -> None:
    async def is_there() -> bool:
        return case.has(pattern)

    await wait_for(is_there, WAIT_SECONDS, f"{case.id}: {pattern}", lambda: case.outputs[-5:])


async def _play_all(file: str, settings: Settings, tmp_path: Path) -> None:
    chosen = cases(file)
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
            await wait_for(all_as_expected, WAIT_SECONDS, "every case is as expected", mistakes)
        finally:
            reading.cancel()
        assert mistakes() == []
        await _check_headers(gate)
        await gate.audit()


async def _check_headers(gate: Gate) -> None:
    """What a producer writes in headers of the gate's names does not come before the gate's word."""
    theirs = [("tidegate_error", b"fine"), ("tidegate_origin_offset", b"7"), ("trace", b"1")]
    (offset,) = await gate.write_raw("context", 0, (b"k", b"no event", theirs))
    await gate.drained(WAIT_SECONDS)
    (letter,) = [record for record in await gate.read("dlq") if record.value == b"no event"]
    assert len(dict(letter.headers)) == len(letter.headers)
    told = dict(letter.headers)
    assert (told["tidegate_error"], told["tidegate_origin_offset"]) == (b"invalid_event", str(offset).encode())
    assert told["trace"] == b"1"


@pytest.mark.parametrize("file", FILES)
def test_every_case_ends_as_expected(make_settings: Callable[..., Settings], tmp_path: Path, file: str) -> None:
    asyncio.run(_play_all(file, make_settings(partitions=2), tmp_path))
