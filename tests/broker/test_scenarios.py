"""Every scenario again, on a real broker and worker: all of them at once, each in a session of its own.

They go forward together, a step at a time: the next one begins when every input is committed and every case has told as
much as in memory by then. Timers run by the worker's own clock; what needs an hour is left to the memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from schemas.topics import topic_name
from tests.broker.harness import Gate
from tests.broker.outputs import Outputs
from tests.scenarios import cases
from tests.scenarios.case import SETTINGS, Away, Case, Later, Moment, each_of, moments
from tests.scenarios.events import session_of, value_of
from tests.scenarios.pipeline import run
from tests.scenarios.told import Told, lines_of
from tests.scenarios.verdict import wrong_lines, wrong_outputs
from tidegate.settings import Settings

STEP_SECONDS: Final = 60.0


@dataclass(slots=True)
class Playing:
    """A case on its way. `told_after`: how many lines are told after each step, as in memory."""

    case: Case
    told_after: list[int]
    ahead: list[Moment]
    told: list[Told] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    waits: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many lines were told."""
        return sum(map(len, self.lines.values()))


class Commands(Outputs):
    """A reader of everything that is told, commands included."""

    def __init__(self, settings: Settings, playing: dict[str, Playing]) -> None:
        super().__init__(settings)
        self._roles[topic_name("commands", settings.topic_prefix)] = "commands"
        self._playing = playing

    def _take(self, role: Any, partition: int, record: Any) -> None:
        del partition
        if role == "dlq":
            playing = self._playing[record.key.decode()]
            playing.refused.append(dict(record.headers)["tidegate_error"].decode())
            return
        body = orjson.loads(record.value) if record.value is not None else None
        session_id, task_id = (body["session_id"], body["task_id"]) if body else orjson.loads(record.key)
        playing = self._playing[session_id]
        told = Told(0, 0.0, role, task_id, body)
        playing.told.append(told)
        playing.lines.setdefault(task_id, []).extend(lines_of(told, playing.waits))


async def _play(settings: Settings, tmp_path: Path) -> None:
    chosen = [case for case in cases() if case.clock_only is None]
    playing = {session_of(case.name): Playing(case, run(case).told_after, list(moments(case))) for case in chosen}
    async with Gate(settings, tmp_path, **SETTINGS) as gate, Commands(settings, playing) as outputs:
        await gate.start("one")
        for number in range(max(len(case.steps) for case in chosen)):
            going = [each for each in playing.values() if number < len(each.case.steps)]
            await _say(gate, going, number)
            await gate.drained(STEP_SECONDS)
            await outputs.until(
                lambda going=going, number=number: _behind(going, number) == [],  # type: ignore[misc]
                STEP_SECONDS,
                f"everything that step {number} makes the gate tell",
                lambda going=going, number=number: _behind(going, number)[:5],  # type: ignore[misc]
            )
        await outputs.poll()
    wrong = [
        line
        for each in playing.values()
        for line in (
            *wrong_lines(each.case, each.lines, in_any_order=True),
            *wrong_outputs(each.case, each.told),
            *([] if each.refused == [*each.case.refused] else [f"{each.case.name}: refused {each.refused}"]),
        )
    ]
    assert wrong == []


async def _say(gate: Gate, going: list[Playing], number: int) -> None:
    """Write this step of every case. What is said together is acknowledged topic by topic, so a result comes last."""
    said: dict[str, list[tuple[str, Moment]]] = {"context": [], "steps": [], "results": []}
    for playing in going:
        step = playing.case.steps[number]
        assert not isinstance(step, Away), playing.case.name
        for each in each_of(step):
            if not isinstance(each, Later):
                moment = playing.ahead.pop(0)
                said[moment.said.role].append((session_of(playing.case.name), moment))
    for moments_of_role in said.values():
        now = datetime.now(UTC)
        for session_id, moment in moments_of_role:
            # a deadline counts from now: no time has passed here that a case only speaks of
            value = value_of(replace(moment, at=0.0), session_id, now)
            await gate.producer.send(gate.topic(moment.said.role), value, key=session_id.encode())
        await gate.producer.flush()


def _behind(going: list[Playing], number: int) -> list[str]:
    return [
        f"{each.case.name}: {each.lines}"
        for each in going
        if each.count < each.told_after[number] or _lacks(each, number)
    ]


def _lacks(playing: Playing, number: int) -> bool:
    return number == len(playing.case.steps) - 1 and len(playing.refused) < len(playing.case.refused)


def test_every_scenario_ends_as_written(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    asyncio.run(_play(make_settings(partitions=2), tmp_path))
