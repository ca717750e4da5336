"""What the rounds come to: the median of each engine, how it compares with the gate, a table and a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.peers.engines import GATE, Engine, Start
from bench.report import RESULTS, commit, machine, median

COUNTS = ("wrong", "wrong_log_order", "unknown", "missing", "duplicated", "stale_delivered")


def summarize(
    engines: Iterable[Engine], starts: Mapping[str, Start], runs: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """One object for each engine that has run. Counts are those of its worst run, rates of the one in the middle."""
    summed_up = []
    for engine in engines:
        for each in engine.all_passes:
            of_engine = runs.get(each.engine)
            if not of_engine:
                continue
            figures = median(of_engine, "events_per_second", "cpu_us_per_event", "whole_cpu_us_per_event")
            figures |= {name: max(run[name] for run in of_engine) for name in COUNTS}
            about = {
                "engine": each.engine,
                "guarantee": engine.guarantee,
                "version": starts[engine.name].version,
                "judged_at": engine.judged_at,
                "validates": engine.validates,
            }
            summed_up.append({**about, **figures, "runs": len(of_engine)})
    rates = {figures["engine"]: figures["events_per_second"] for figures in summed_up}
    for figures in summed_up:
        if GATE in rates:
            figures["tidegate_ratio"] = round(rates[GATE] / figures["events_per_second"], 2)
    return summed_up


def save(figures: list[dict[str, Any]]) -> Path:
    """Write `bench/results/peers.json`; returns the file."""
    about = {"machine": machine(), "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "commit": commit()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "peers.json"
    file.write_text(json.dumps([{**each, **about} for each in figures], indent=2) + "\n")
    return file


def show(figures: list[dict[str, Any]]) -> None:
    """Print two tables: how fast, and how right."""
    speed = Table(title="Speed: one engine at a time, one core, the same topics", title_justify="left")
    right = Table(
        title="Verdicts: how many of them are not what they should be, in the worst round", title_justify="left"
    )
    for table, columns in (
        (speed, ("events/s", "least", "most", "CPU µs/event", "with start", "tidegate is")),
        (right, ("judges at", "wrong", "log order", "unknown", "missing", "twice", "stale")),
    ):
        table.add_column("engine", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
    for each in figures:
        rates = each["runs_events_per_second"]
        speeds = [f"{rate:,}" for rate in (each["events_per_second"], min(rates), max(rates))]
        ratio = f"{each['tidegate_ratio']} times" if "tidegate_ratio" in each else ""
        speed.add_row(
            each["engine"], *speeds, str(each["cpu_us_per_event"]), str(each["whole_cpu_us_per_event"]), ratio
        )
        right.add_row(each["engine"], each["judged_at"], *(f"{each[name]:,}" for name in COUNTS))
    console = Console(width=max(100, Console().width))
    console.print(speed)
    console.print(right)
