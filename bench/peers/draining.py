"""How fast an engine commits what waits for it: its group's committed offsets and its CPU time, side by side."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from bench.peers.process import EngineProcess
from testing.watching import Progress

POLL_SECONDS = 0.02


class _Reading(NamedTuple):
    at: float
    cpu_seconds: float
    committed: int


class Drain(NamedTuple):
    """What was committed from the first reading that showed progress to the one that showed everything done."""

    events: int
    seconds: float
    cpu_seconds: float
    whole_cpu_seconds: float
    """From the start of the pass on: with the start-up, and with what was read ahead before the first commit."""


async def drain(progress: Progress, process: EngineProcess, *, limit_seconds: float, later_pass: bool = False) -> Drain:
    """Watch `process` until it has committed everything; in a `later_pass` it has used CPU before.

    Raises `RuntimeError` where it ends or takes too long.
    """
    ends = await progress.ends()
    total = sum(ends.values())
    first: _Reading | None = None
    began, cpu_before = time.perf_counter(), process.cpu_seconds() if later_pass else 0.0
    while True:
        committed = await progress.committed()
        at = time.perf_counter()
        if not process.is_alive:
            raise RuntimeError(f"it has ended:\n{process.log_text()[-4000:]}")
        done = sum(min(committed[partition], end) for partition, end in ends.items())
        reading = _Reading(at, process.cpu_seconds(), done)
        if first is None and done:
            first = reading
        if done == total:
            break
        if at - began > limit_seconds:
            raise RuntimeError(f"{done} of {total} after {limit_seconds:.0f} s:\n{process.log_text()[-4000:]}")
        await asyncio.sleep(POLL_SECONDS)
    assert first is not None
    if first.committed == total:
        raise RuntimeError(f"it committed all {total} events at once: more are needed to measure it")
    return Drain(
        total - first.committed,
        reading.at - first.at,
        reading.cpu_seconds - first.cpu_seconds,
        reading.cpu_seconds - cpu_before,
    )
