"""The plots in `bench/results`, drawn from the figures beside them: the same bytes for the same figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.report import RESULTS
from bench.svg import DASHED, Panel, Picture, amount, decades, ticks_to

OURS: Final = "tidegate"
ECHO: Final = "echo-3-topics"
SHOWN_PARTITIONS: Final = 4
QUANTILES: Final = (("p50_ms", "p50"), ("p99_ms", "p99"), ("p99_9_ms", "p99.9"))
ROW: Final = 34


def throughput(peers: Sequence[Mapping[str, Any]]) -> Picture:
    """Events a second by engine, fastest first, with what each costs and delivers stale."""
    ordered = sorted(peers, key=lambda each: -each["events_per_second"])
    height = 118 + ROW * len(ordered)
    picture = Picture(
        900,
        height,
        "Throughput by engine",
        "; ".join(f"{each['engine']} {each['events_per_second']:,} events per second" for each in ordered),
    )
    picture.text(24, 34, "Throughput: the same backlog, worked off on one core", "title")
    left, room = 270, 310
    for x, head in ((left, "events per second"), (750, "CPU µs per event"), (876, "stale or unknown")):
        picture.text(x, 62, head, "note" if x == left else "note end")
    for number, each in enumerate(ordered):
        y = 76 + ROW * number
        ours = each["engine"] == OURS
        length = room * each["events_per_second"] / ordered[0]["events_per_second"]
        once = each["guarantee"] == "exactly-once"
        called = each["engine"] if once else f"{each['engine']} ({each['guarantee']})"
        picture.text(left - 12, y + 17, called, "head end" if ours else "end")
        picture.bar(left, y + 2, length, ROW - 12, "bar-a" if ours else "bar-b")
        picture.text(left + length + 8, y + 17, f"{each['events_per_second']:,}", "head" if ours else "")
        picture.text(750, y + 17, f"{each['cpu_us_per_event']:.1f}", "head end" if ours else "end")
        picture.text(876, y + 17, f"{each['stale_delivered'] + each['unknown']:,}", "head end" if ours else "end")
    picture.text(24, height - 18, f"{_caption(ordered[0])}. Exactly-once, unless it says otherwise.", "note")
    return picture


def latency(figures: Sequence[Mapping[str, Any]]) -> Picture:
    """p50 and p99 by rate: the gate's, and those of the echo that writes as much."""
    cells = {
        (each["engine"], each["events_per_second"]): each for each in figures if each["partitions"] == SHOWN_PARTITIONS
    }
    rates = sorted({rate for engine, rate in cells if engine == OURS and (ECHO, rate) in cells})
    picture = Picture(
        900,
        470,
        "Latency by rate",
        "; ".join(
            f"at {rate} events per second p50 {cells[OURS, rate]['p50_ms']} ms, p99 {cells[OURS, rate]['p99_ms']} ms"
            for rate in rates
        ),
    )
    picture.text(24, 34, "Latency: from when a result was to be sent until its verdict is received", "title")
    panel = Panel(picture, 84, 62, 690, 320)
    values = [cells[who, rate][name] for rate in rates for who in (OURS, ECHO) for name, _ in QUANTILES]
    up = panel.up(decades(min(values), max(values)), "milliseconds", logarithmic=True)
    places = panel.along([amount(rate) if rate else "idle" for rate in rates], "events per second")
    ends: list[tuple[float, str, str]] = []
    for who, colour, style, called in ((ECHO, "b", DASHED, "echo"), (OURS, "a", "", "gate")):
        for name, label in QUANTILES:
            points = [(x, up(cells[who, rate][name])) for x, rate in zip(places, rates, strict=True)]
            picture.curve(points, colour, style)
            ends.append((points[-1][1], f"{called} {label}", "head" if who == OURS else "note"))
    for y, words, kind in _apart(ends, 15):
        picture.text(places[-1] + 14, y + 4, words, kind)
    picture.text(
        24, 452, f"{_caption(figures[0])}. {SHOWN_PARTITIONS} partitions. Echo: as many writes, no state.", "note"
    )
    return picture


def scale(figures: Mapping[str, Any]) -> Picture:
    """Throughput by workers and partitions; CPU of an event by sessions, and by open tasks."""
    picture = Picture(1180, 440, "Scale", "Workers and partitions, sessions, open tasks: throughput and CPU per event.")
    picture.text(24, 34, "Scale", "title")
    _workers(picture, figures["workers"], figures["machine"]["cores"])
    _sessions(picture, figures["sessions"])
    _tasks(picture, figures["open_tasks"])
    picture.text(24, 422, _caption(figures), "note")
    return picture


def _workers(picture: Picture, runs: Sequence[Mapping[str, Any]], cores: int) -> None:
    picture.text(84, 66, f"Workers and partitions, all on {cores} cores", "head")
    panel = Panel(picture, 84, 100, 320, 250)
    up = panel.up(ticks_to(max(each["events_per_second"] for each in runs)), "events per second")
    partitions = sorted({each["partitions"] for each in runs})
    places = panel.along([str(count) for count in partitions], "partitions")
    workers = sorted({each["workers"] for each in runs})
    width = 84 / len(workers)
    for each in runs:
        x = places[partitions.index(each["partitions"])] + (workers.index(each["workers"]) - len(workers) / 2) * width
        kind = ("bar-b", "bar-a", "bar-c")[workers.index(each["workers"]) % 3]
        top = up(each["events_per_second"])
        picture.bar(x + 1, top, width - 2, panel.bottom - top, kind)
    x = 84.0
    for number, count in enumerate(workers):
        picture.bar(x, 79, 10, 10, ("bar-b", "bar-a", "bar-c")[number % 3])
        picture.text(x + 15, 88, f"{count} worker{'s' * (count > 1)}", "note")
        x += 84


def _sessions(picture: Picture, runs: Sequence[Mapping[str, Any]]) -> None:
    active = runs[0]["active"]
    line = [each for each in runs if each["active"] == active and not each.get("ended_tasks")]
    picture.text(480, 66, f"Sessions in memory, {amount(active)} of them active", "head")
    panel = Panel(picture, 480, 100, 290, 250)
    up = panel.up(ticks_to(max(each["cpu_us_per_event"] for each in line)), "CPU µs per event")
    places = panel.along([amount(each["sessions"]) for each in line], "sessions")
    picture.curve([(x, up(each["cpu_us_per_event"])) for x, each in zip(places, line, strict=True)], "a")
    weight = line[-1]["bytes_per_idle_session"]
    picture.text(480, 88, f"memory of an idle session: {weight:,} bytes", "note")


def _tasks(picture: Picture, runs: Sequence[Mapping[str, Any]]) -> None:
    picture.text(850, 66, "Open tasks in each session", "head")
    panel = Panel(picture, 850, 100, 290, 250)
    up = panel.up(ticks_to(max(each["cpu_us_per_event"] for each in runs)), "CPU µs per event")
    labels = [f"{each['open_tasks']} ({each['row_bytes'] / 1024:.1f} KiB)" for each in runs]
    places = panel.along(labels, "open tasks (size of the row)")
    picture.curve([(x, up(each["cpu_us_per_event"])) for x, each in zip(places, runs, strict=True)], "a")
    encoding = [
        (x, up(sum(each["stages_us_per_event"][stage] for stage in ("encode", "batch"))))
        for x, each in zip(places, runs, strict=True)
    ]
    picture.curve(encoding, "b", DASHED)
    picture.text(850, 88, "dashed: encoding rows and building record batches", "note")


def _apart(ends: Sequence[tuple[float, str, str]], distance: float) -> list[tuple[float, str, str]]:
    """The same labels from above to below, no two nearer than `distance`."""
    placed: list[tuple[float, str, str]] = []
    for y, words, kind in sorted(ends):
        placed.append((max(y, placed[-1][0] + distance) if placed else y, words, kind))
    return placed


def _caption(figures: Mapping[str, Any]) -> str:
    machine = figures["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
    return f"{where}; {figures['date'][:10]}, commit {figures['commit']}"


PLOTS: Final[Mapping[str, tuple[str, Callable[[Any], Picture]]]] = {
    "throughput.svg": ("peers.json", throughput),
    "latency.svg": ("latency.json", latency),
    "scale.svg": ("scale.json", scale),
}


def drawn(directory: Path = RESULTS) -> dict[Path, str]:
    """What every plot has to be whose figures are there."""
    found: dict[Path, str] = {}
    for name, (source, draw) in PLOTS.items():
        file = directory / source
        if file.exists() and _has_curve(figures := json.loads(file.read_text(encoding="utf-8"))):
            found[directory / name] = str(draw(figures))
    return found


def draw_all(directory: Path = RESULTS) -> list[Path]:
    """Write the plots whose figures are there; returns them."""
    plots = drawn(directory)
    for file, picture in plots.items():
        file.write_text(picture, encoding="utf-8")
    return list(plots)


def _has_curve(figures: Any) -> bool:
    return bool(figures) and (isinstance(figures, list) or "workers" in figures)
