"""One engine's run on the filled topics: outputs made, process started, drains timed, verdicts checked."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compiled import compiled
from bench.peers.draining import Drain, drain
from bench.peers.engines import GATE, Engine, Start
from bench.peers.oracle import at_delivery, in_log_order
from bench.peers.process import PeerProcess
from bench.peers.topics import COMPACTED, create, delete, fill, remake_gate_outputs
from bench.peers.verdicts import Oracle, held_against, of_gate, of_peer, read_committed
from schemas.topics import topic_name
from testing.process import Worker
from testing.watching import Progress
from testing.workload import Workload
from tidegate.settings import Settings


@dataclass(frozen=True)
class Inputs:
    """Filled topics under `settings.topic_prefix`, and what should come of them."""

    settings: Settings
    events: int
    oracle: Oracle


async def fill_inputs(settings: Settings, *, events: int, sessions: int, seed: int) -> Inputs:
    """Make up `events`, write them, and judge every result."""
    workload = Workload(sessions=sessions, partitions=settings.partitions, seed=seed)
    records = list(workload.records(events))
    await fill(settings, records)
    return Inputs(settings, events, Oracle(in_log_order(records), at_delivery(records)))


async def run(
    engine: Engine, start: Start, inputs: Inputs, *, number: int, cores: Iterable[int], limit_seconds: float
) -> dict[str, dict[str, Any]]:
    """One run of an engine, alone; returns the figures of each of its passes, by name.

    `number` makes its group and outputs its own. Raises `RuntimeError` where it ends or takes too long.
    """
    with tempfile.TemporaryDirectory() as directory:
        if engine.name == GATE:
            return {GATE: await _run_gate(inputs, f"gate-{number:03}", Path(directory), cores, limit_seconds)}
        return await _run_peer(engine, start, inputs, f"peer-{number:03}", Path(directory), cores, limit_seconds)


async def _run_gate(
    inputs: Inputs, group: str, directory: Path, cores: Iterable[int], limit_seconds: float
) -> dict[str, Any]:
    settings = inputs.settings.model_copy(update={"group_id": group})
    await remake_gate_outputs(settings)
    worker = Worker("worker", settings, directory, code=compiled()).start()
    try:
        worker.pin(cores)
        async with Progress(settings) as progress:
            measured = await drain(progress, worker, limit_seconds=limit_seconds)
    finally:
        worker.kill()
    topics = [topic_name(role, settings.topic_prefix) for role in ("delivered", "withheld")]
    verdicts = [of_gate(value) for value in await read_committed(settings, topics)]
    return {**_figures(measured, inputs.events), **held_against(inputs.oracle, verdicts, "delivery")}


async def _run_peer(
    engine: Engine,
    start: Start,
    inputs: Inputs,
    group: str,
    directory: Path,
    cores: Iterable[int],
    limit_seconds: float,
) -> dict[str, dict[str, Any]]:
    settings = inputs.settings
    outputs = {each.engine: f"{group}-out{each.suffix}" for each in engine.all_passes}
    await create(settings, [f"{output}.verdicts" for output in outputs.values()])
    await create(settings, [f"{output}.changelog" for output in outputs.values()], COMPACTED)
    arguments = ["--bootstrap", settings.bootstrap_servers, "--inputs-prefix", settings.topic_prefix]
    arguments += ["--output-prefix", f"{group}-out", "--group", group, "--partitions", str(settings.partitions)]
    own_directory = directory / "work"
    own_directory.mkdir()
    measured: dict[str, Drain] = {}
    process = PeerProcess([*start.command, *arguments], settings, own_directory, cores)
    try:
        for each in engine.all_passes:
            if measured:
                process.next_pass()
            async with Progress(settings.model_copy(update={"group_id": group + each.suffix})) as progress:
                measured[each.engine] = await drain(
                    progress, process, limit_seconds=limit_seconds, later_pass=bool(measured)
                )
    finally:
        await asyncio.to_thread(process.kill)
    figures = {}
    for name, output in outputs.items():
        verdicts = [of_peer(value) for value in await read_committed(settings, [f"{output}.verdicts"])]
        figures[name] = {
            **_figures(measured[name], inputs.events),
            **held_against(inputs.oracle, verdicts, engine.judged_at),
        }
    await delete(settings, containing=group)
    return figures


def _figures(measured: Drain, events: int) -> dict[str, Any]:
    return {
        "events_per_second": round(measured.events / measured.seconds),
        "cpu_us_per_event": round(measured.cpu_seconds / measured.events * 1e6, 2),
        "whole_cpu_us_per_event": round(measured.whole_cpu_seconds / events * 1e6, 2),
        "events": events,
        "events_timed": measured.events,
        "seconds": round(measured.seconds, 3),
    }


def cores_to_use() -> tuple[list[int], list[int]]:
    """The engine's core, and those of broker and harness; both empty where processes cannot be pinned."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (cores[:1], cores[1:]) if len(cores) > 1 else ([], [])
