"""`python -m bench.peers`: the gate and its peers, in turn on the same topics, for several rounds."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Annotated, Any

import typer

from bench.peers.comparing import cores_to_use, fill_inputs, run
from bench.peers.engines import ENGINES, Engine, Start
from bench.peers.summary import save, show, summarize
from local.broker import LocalBroker
from testing.process import pin
from tidegate.settings import load_settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def peers(
    events: Annotated[int, typer.Option(help="Events to drain.", min=1000)] = 500_000,
    few_events: Annotated[int, typer.Option(help="Events for slow engines.", min=1000)] = 50_000,
    sessions: Annotated[int, typer.Option(help="Sessions they belong to.", min=1)] = 10_000,
    partitions: Annotated[int, typer.Option(help="Partitions of every topic.", min=1)] = 4,
    rounds: Annotated[int, typer.Option(help="How often each engine runs; the median is kept.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the made-up events.")] = 1,
    limit_seconds: Annotated[float, typer.Option(help="The longest that one drain may take.", min=1)] = 120.0,
    engine: Annotated[
        list[str] | None, typer.Option(help="Only engines whose name begins like this; nothing is saved.")
    ] = None,
) -> None:
    """Compare the gate with what one would otherwise write or run, on one machine in one run."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a new topic's first leader, again and again
    chosen = [each for each in ENGINES if engine is None or each.name.startswith(tuple(engine))]
    starts = {each.name: each.prepare() for each in chosen}
    runs = asyncio.run(
        _rounds(
            chosen,
            starts,
            events=(events, few_events),
            sessions=sessions,
            partitions=partitions,
            rounds=rounds,
            seed=seed,
            limit_seconds=limit_seconds,
        )
    )
    figures = summarize(chosen, starts, runs)
    show(figures)
    failed = {each.engine for one in chosen for each in one.all_passes} - {each["engine"] for each in figures}
    if failed:
        print(f"no figures of {', '.join(sorted(failed))}: nothing is saved")
        raise typer.Exit(1)
    if engine is None:
        print(f"saved: {save(figures).name}")


async def _rounds(
    engines: list[Engine],
    starts: dict[str, Start],
    *,
    events: tuple[int, int],
    sessions: int,
    partitions: int,
    rounds: int,
    seed: int,
    limit_seconds: float,
) -> dict[str, list[dict[str, Any]]]:
    """The figures of every run by the name of the engine's pass. An engine that fails is told, and has one run less."""
    runs: dict[str, list[dict[str, Any]]] = {}
    engine_cores, other_cores = cores_to_use()
    with LocalBroker(ephemeral=True, heap_mb=1024) as broker:
        if other_cores and broker.pid is not None:
            pin(broker.pid, other_cores)
            pin(os.getpid(), other_cores)
        settings = load_settings(bootstrap_servers=broker.bootstrap_servers, partitions=partitions)
        inputs = {
            few: await fill_inputs(
                settings.model_copy(update={"topic_prefix": "few" if few else "all"}),
                events=events[few],
                sessions=sessions,
                seed=seed,
            )
            for few in {engine.few for engine in engines}
        }
        for number in range(rounds):
            first = number % len(engines)  # nobody is always the first, or always after the same one
            for place, engine in enumerate(engines[first:] + engines[:first]):
                try:
                    found = await run(
                        engine,
                        starts[engine.name],
                        inputs[engine.few],
                        number=number * len(engines) + place,
                        cores=engine_cores,
                        limit_seconds=limit_seconds,
                    )
                except RuntimeError as error:
                    print(f"round {number + 1}, {engine.name}: {error}")
                    continue
                for name, figures in found.items():
                    runs.setdefault(name, []).append(figures)
                    print(
                        f"round {number + 1}, {name}: {figures['events_per_second']:,} events/s,"
                        f" {figures['cpu_us_per_event']} µs CPU per event, {figures['wrong']:,} wrong",
                        flush=True,
                    )
    return runs


if __name__ == "__main__":
    app()
