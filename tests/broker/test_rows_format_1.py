"""A worker takes over rows that the last version wrote, and goes on where that one would have.

The rows are those of `tests/unit/fixtures`. Their times are moved to now, because a worker reads a clock. What a story
waits for is left out, so only what its events lead to is compared.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from streams.changelog import PROGRESS_KEY
from streams.config import FOLDED_ROLES
from testing.process import ROOT
from tests.broker.harness import Gate
from tests.broker.waiting import wait_for
from tidegate.settings import Settings

ROWS: Final = ROOT / "tests" / "unit" / "fixtures" / "rows_format_1.json"
STORIES: Final[dict[str, Any]] = {story["story"]: story for story in orjson.loads(ROWS.read_bytes())}
ALL: Final[frozenset[str]] = frozenset()
CHOSEN: Final = {
    "facets, own changes, cancels, forwarded records": ALL,
    "steps, progress, checkpoints": ALL,
    "tasks that ended": ALL,
    "slots": ALL,
    "effects": ALL,
    "many open tasks": frozenset({"t0", "t5", "t7", "t11", "t12"}),
}
"""Stories, and the tasks of each that end without a wait."""
OUTPUTS: Final = ("delivered", "delivered.cold", "withheld", "commands", "tasks")

pytestmark = pytest.mark.timeout(120)


def essence(outputs: Iterable[tuple[str, Any]], tasks: frozenset[str]) -> list[str]:
    """What was decided, without times and places. Statuses of open tasks are left out: they depend on transactions."""
    found = []
    for role, body in outputs:
        if body is None or (role == "tasks" and body["status"] != "ended"):
            continue
        if tasks and body["task_id"] not in tasks:
            continue
        names = ("type", "task_id", "reason", "disposition", "snapshot", "new_task_id", "checkpoint", "idempotency_key")
        told = {name: body[name] for name in names if name in body}
        verdict = body.get("verdict")
        if verdict is not None:
            told |= {"result": body["result"]["event_id"], "parts": [part["part_id"] for part in body["parts"]]}
            told |= {"decision": verdict["decision"], "disposition": verdict["disposition"], "why": verdict["reason"]}
            told["judged"] = [
                (part["decision"], part["reason"], _facets(part.get("differences", ()))) for part in verdict["parts"]
            ]
        found.append(orjson.dumps([role, told], option=orjson.OPT_SORT_KEYS).decode())
    return sorted(found)


def _facets(differences: Iterable[dict[str, Any]]) -> list[tuple[str, Any, Any]]:
    return [(each["facet"], each["expected"], each["actual"]) for each in differences]


def moved(text: str, by_ms: int) -> bytes:
    """A changelog record with its times in ms moved."""
    return re.sub(r"17640\d{8}", lambda found: str(int(found[0]) + by_ms), text).encode()


async def _continues(settings: Settings, directory: Path, story: dict[str, Any], tasks: frozenset[str]) -> None:
    async with Gate(settings, directory) as gate:
        for role in FOLDED_ROLES:
            # Below the place to go on from nobody looks at what is there.
            filler = [(None, b"{}", ())] * story["ends"].get(role, 0)
            if filler:
                await gate.write_raw(role, 0, *filler)
        by_ms = time.time_ns() // 1_000_000 - story["now_ms"]
        rows = [(key.encode(), None if value is None else moved(value, by_ms), ()) for key, value in story["changelog"]]
        progress = orjson.dumps({role: story["ends"].get(role, 0) for role in FOLDED_ROLES})
        await gate.write_raw("sessions.changelog", 0, *rows, (PROGRESS_KEY, progress, ()))
        await gate.start("next")
        for what, *arguments in story["then"]:
            if what == "send":
                role, body, texts = arguments
                headers = [(name, (text or "").encode("latin-1")) for name, text in texts]
                await gate.write_raw(role, 0, (body["session_id"].encode(), orjson.dumps(body), headers))
                await gate.drained(30)
        before = [(role, body) for each in story["outcome"] for role, _, body, _ in each["outputs"]]
        expected = essence(before, tasks)
        found: list[str] = []

        async def as_before() -> bool:
            now = [(role, orjson.loads(each.value or b"null")) for role in OUTPUTS for each in await gate.read(role)]
            found[:] = essence(now, tasks)
            return len(found) >= len(expected)

        await wait_for(as_before, 30, "what the last version would have written", lambda: (found, expected))
        assert found == expected


@pytest.mark.parametrize("name", CHOSEN)
def test_a_worker_continues_on_rows_of_the_last_version(
    make_settings: Callable[..., Settings], tmp_path: Path, name: str
) -> None:
    settings = make_settings(partitions=1)
    asyncio.run(_continues(settings, tmp_path, STORIES[name], CHOSEN[name]))
