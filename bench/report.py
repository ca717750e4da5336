"""What a benchmark says of itself: figures, machine, date and commit, as a table and as JSON in `bench/results`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.compiled import compiled, is_compiled

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def machine() -> dict[str, Any]:
    """The processor, its cores, memory and the versions that decide the figures. No names of hosts or paths."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "core": "compiled" if is_compiled(compiled()) else "interpreted",
        "aiokafka": version("aiokafka"),
        "faust-streaming": version("faust-streaming"),
    }


def commit() -> str:
    """The commit measured, with `+` where files differ from it; `unknown` outside a repository."""
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found + ("+" if changed else "")


def about() -> dict[str, Any]:
    """What every file of figures says of the run: machine, date and commit."""
    return {"machine": machine(), "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "commit": commit()}


def save(name: str, figures: dict[str, Any] | list[dict[str, Any]]) -> Path:
    """Write `bench/results/<name>.json`; returns the file. The objects of a list say of themselves what they are."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{name}.json"
    whole = figures if isinstance(figures, list) else {**figures, **about()}
    file.write_text(json.dumps(whole, indent=2) + "\n")
    return file


def milliseconds(ordered: Sequence[float], share: float) -> float:
    """The quantile of ordered seconds, in milliseconds."""
    index = min(len(ordered) - 1, int(len(ordered) * share))
    return round(ordered[index] * 1000, 2)


def median(runs: Sequence[dict[str, Any]], by: str, *also: str) -> dict[str, Any]:
    """The run in the middle by one figure, with that figure, and others, of every run beside it, in the same order."""
    ordered = sorted(runs, key=lambda figures: figures[by])
    every = {f"runs_{name}": [figures[name] for figures in ordered] for name in (by, *also)}
    return {**ordered[len(ordered) // 2], **every}


def show(title: str, figures: dict[str, Any]) -> None:
    """Print figures as a table."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in figures.items():
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        table.add_row(name.replace("_", " "), text)
    Console().print(table)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
