"""What `python -m bench` takes: a command for each benchmark; without one, those whose figures are saved."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Annotated, Any

import typer

from bench.alternating import Benchmark, alternate
from bench.baseline import BASELINE, DIGITS
from bench.check import check as run_check
from bench.check import write_baseline
from bench.drain import drain as run_drain
from bench.gateway import gateway as run_gateway
from bench.growth import idle_sessions
from bench.lanes import lanes as run_lanes
from bench.latency import ENGINES
from bench.latency import latency as run_latency
from bench.latency import show as show_latency
from bench.pipeline import pipeline as run_pipeline
from bench.plots import draw_all
from bench.report import median, save, show
from bench.scale import scale as run_scale

app = typer.Typer(help="Throughput and latency of the gate.", add_completion=False, pretty_exceptions_enable=False)

Events = Annotated[int, typer.Option(help="Events to drain.", min=1000)]
Sessions = Annotated[int, typer.Option(help="Sessions they belong to.", min=1)]
Partitions = Annotated[int, typer.Option(help="Partitions of every topic.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of the made-up events.")]
Runs = Annotated[int, typer.Option(help="How often to measure; the median is saved.", min=1)]
Rounds = Annotated[
    int, typer.Option(help="Rounds, each of which measures both; the one in the middle is saved.", min=1)
]
Baseline = Annotated[
    str, typer.Option(metavar="COMMIT", help="The commit to compare with.", show_default=BASELINE[:DIGITS])
]
Alone = Annotated[bool, typer.Option("--alone", help="Measure the current tree only, as often; save nothing.")]
Keep = Annotated[bool, typer.Option("--save/--no-save", help="Write the figures to bench/results.")]


@app.callback(invoke_without_command=True)
def everything(context: typer.Context) -> None:
    """Measure throughput, latency, what a cold flood does to it, and the limit, and save all."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a new topic's first leader, again and again
    if context.invoked_subcommand is None:
        drain()
        latency()
        lanes()
        pipeline()


@app.command()
def drain(
    events: Events = 500_000,
    sessions: Sessions = 10_000,
    partitions: Partitions = 4,
    seed: Seed = 1,
    rounds: Rounds = 5,
    baseline: Baseline = BASELINE,
    *,
    alone: Alone = False,
    keep: Keep = True,
    audit: Annotated[bool, typer.Option("--audit/--no-audit", help="Audit every run.")] = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Record one run of the current tree with py-spy, save nothing.")
    ] = False,
) -> None:
    """One worker on one core drains a backlog, exactly-once, in alternation with the worker of an earlier commit.

    Every run has a broker, topics and a worker of its own, as its own tree starts them.
    """
    sizes = {"events": events, "sessions": sessions, "partitions": partitions}
    title = "Drain: one worker, one core, exactly-once"
    if alone or profile:
        runs = []
        for number in range(1 if profile else rounds):
            runs.append(asyncio.run(run_drain(**sizes, seed=seed + number, audit=audit, profile=profile)))
            print(f"{runs[-1]['events_per_second']:,} events/s, {runs[-1]['cpu_us_per_event']} µs CPU per event")
        show(title, median(runs, "events_per_second"))
        return
    each = [{**sizes, "seed": seed + number, "audit": audit} for number in range(rounds)]
    figures = alternate(Benchmark("bench.drain", "drain"), baseline, each)
    show(title, figures)
    if keep:
        print(f"saved: {save('drain', figures).name}")


@app.command()
def latency(
    rates: Annotated[str, typer.Option(help="Events per second; 0 is idle.")] = "0,1000,5000,20000",
    partitions: Annotated[str, typer.Option(help="Partitions of every topic, each in turn.")] = "1,4,12,48",
    seconds: Annotated[float, typer.Option(help="How long to measure each.", min=1.0)] = 4.0,
    engine: Annotated[
        list[str] | None, typer.Option(help="Only these engines; nothing is saved then. All by default.")
    ] = None,
    seed: Seed = 1,
    *,
    keep: Keep = True,
) -> None:
    """From a result's intended sending to its verdict's receipt: the gate, two echoes and its peers, 20 minutes."""
    known = [each.name for each in ENGINES]
    if unknown := set(engine or ()) - set(known):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: engines are {', '.join(known)}")
    figures = asyncio.run(
        run_latency(
            rates=[int(each) for each in rates.split(",")],
            partitions=[int(each) for each in partitions.split(",")],
            engines=engine or known,
            seconds=seconds,
            seed=seed,
        )
    )
    show_latency(figures)
    if keep and engine is None:
        print(f"saved: {save('latency', figures).name}")


@app.command()
def lanes(
    cold_events: Annotated[int, typer.Option(help="Cold events in the flood.", min=1000)] = 500_000,
    sessions: Sessions = 10_000,
    partitions: Partitions = 4,
    per_second: Annotated[float, typer.Option(help="Hot results sent per second.", min=0.1)] = 40.0,
    idle_seconds: Annotated[float, typer.Option(help="How long to measure without the flood.", min=1.0)] = 12.0,
    flood_seconds: Annotated[float, typer.Option(help="How long to measure with it at most.", min=1.0)] = 20.0,
    seed: Seed = 1,
    runs: Runs = 3,
    *,
    keep: Keep = True,
    audit: Annotated[
        bool, typer.Option("--audit/--no-audit", help="Audit the last run, if the flood was over in time.")
    ] = True,
) -> None:
    """Hot latency without and with a flood of cold events, in one run."""
    measured: list[dict[str, Any]] = []
    for number in range(runs):
        figures = asyncio.run(
            run_lanes(
                cold_events=cold_events,
                sessions=sessions,
                partitions=partitions,
                per_second=per_second,
                idle_seconds=idle_seconds,
                flood_seconds=flood_seconds,
                seed=seed + number,
                audit=audit and number == runs - 1,
            )
        )
        measured.append(figures)
        if runs > 1:
            print(
                f"run {number + 1} of {runs}: p99 {figures['p99_ms']} ms, with the flood {figures['p99_flood_ms']} ms,"
                f" {figures['cold_events_per_second']:,} cold events/s"
            )
    figures = median(measured, "ratio_p99", "p99_ms", "p99_flood_ms")
    figures["audit"] = measured[-1]["audit"]
    show("Lanes: hot result sent to verdict received, without and with a cold flood", figures)
    if keep:
        print(f"saved: {save('lanes', figures).name}")


@app.command()
def pipeline(
    events: Events = 500_000,
    sessions: Sessions = 10_000,
    partitions: Partitions = 4,
    seed: Seed = 1,
    cycle_records: Annotated[int, typer.Option(help="Records in one cycle.", min=1)] = 8192,
    rounds: Rounds = 7,
    baseline: Baseline = BASELINE,
    *,
    alone: Alone = False,
    keep: Keep = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print where the current tree's time goes (cProfile), save nothing.")
    ] = False,
) -> None:
    """The limit: the same work in memory, without Kafka. CPU per event, in alternation with an earlier commit."""
    sizes = {"events": events, "sessions": sessions, "partitions": partitions, "cycle_records": cycle_records}
    title = "Pipeline in memory"
    if alone or profile:
        runs = [
            run_pipeline(**sizes, seed=seed + number, profile=profile) for number in range(1 if profile else rounds)
        ]
        show(title, median(runs, "events_per_second", "cpu_us_per_event"))
        return
    each = [{**sizes, "seed": seed + number, "profile": False} for number in range(rounds)]
    figures = alternate(Benchmark("bench.pipeline", "pipeline", turn="Run.cycle"), baseline, each)
    show(title, figures)
    if keep:
        print(f"saved: {save('pipeline', figures).name}")


@app.command()
def gateway(
    streams: Annotated[int, typer.Option(help="Open event streams, each of its own session.", min=1)] = 5_000,
    rate: Annotated[int, typer.Option(help="Verdicts per second, over all sessions.", min=1)] = 500,
    seconds: Annotated[float, typer.Option(help="How long to measure each.", min=1.0)] = 30.0,
    partitions: Partitions = 12,
    *,
    keep: Keep = True,
) -> None:
    """Event streams of the gateway under load and over its restart, and submissions, beside a minimal SSE loop."""
    figures = asyncio.run(run_gateway(streams=streams, rate=rate, seconds=seconds, partitions=partitions))
    show("Gateway: verdict committed to event received", {k: v for k, v in figures.items() if not isinstance(v, dict)})
    show("Submissions: request to answer, and produced directly", figures["submissions"])
    show("Floor: the same streams from a minimal loop", figures["floor"])
    if keep:
        print(f"saved: {save('gateway', figures).name}")


@app.command()
def scale(
    events: Annotated[int, typer.Option(help="Events of each measurement.", min=1000)] = 100_000,
    real_sessions: Annotated[int, typer.Option(help="Sessions that a real worker restores; 0: none.", min=0)] = 500_000,
    *,
    keep: Keep = True,
) -> None:
    """Workers and partitions, sessions up to two million, open tasks: what they do to throughput and cost."""
    figures = asyncio.run(run_scale(events=events, real_sessions=real_sessions))
    if keep:
        print(f"saved: {save('scale', figures).name}")


@app.command()
def idle(
    sessions: Annotated[int, typer.Option(help="Idle sessions in memory.", min=1000)] = 500_000,
) -> None:
    """Memory of an idle session, without and with one remembered ended task. Part of `scale`, which saves it."""
    show("Idle sessions", idle_sessions(sessions))


@app.command()
def plots() -> None:
    """Draw the plots in bench/results again, from the figures beside them."""
    for file in draw_all():
        print(f"drawn: {file.name}")


@app.command()
def check(
    *, write: Annotated[bool, typer.Option("--write", help="Write the figures to compare with, instead.")] = False
) -> None:
    """Whether an event costs more in memory than what was committed; exit status 1 above the limits."""
    if write:
        print(f"saved: {write_baseline().name}")
        return
    problems = run_check()
    if problems:
        print("\n".join(problems), file=sys.stderr)
        raise typer.Exit(1)
