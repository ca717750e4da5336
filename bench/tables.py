"""The tables of docs/performance.md, from the figures in `bench/results`: no figure there is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from bench.aims import ECHO, GATE, RATIOS, aims
from bench.estimate import Assumptions, Load, estimate
from bench.report import RESULTS

NOT_YET: Final = "Not measured yet.\n"
SHOWN_RATES: Final = (0, 20_000)
SHOWN_PARTITIONS: Final = 4
"""What the README shows of the latencies."""
CPU_RATE: Final = 5000


def headlines() -> str:
    """What the README shows."""
    drain, latency, lanes, pipeline = (figures(name) for name in ("drain", "latency", "lanes", "pipeline"))
    peers = {each["engine"]: each["events_per_second"] for each in figures("peers") or ()}
    rows = []
    if drain:
        runs = ", ".join(f"{each:,}" for each in drain["runs_events_per_second"])
        rows += [
            ("a backlog, one worker on one core", f"**{drain['events_per_second']:,} events/s**, median of {runs}"),
            ("CPU per event, everything included", f"{drain['cpu_us_per_event']:.1f} µs"),
        ]
        if pipeline:
            rows.append(("the same work in memory, without Kafka", f"{pipeline['cpu_us_per_event']:.1f} µs"))
    found = {(each["engine"], each["partitions"], each["events_per_second"]): each for each in latency}
    for rate in SHOWN_RATES:
        gate, floor = (found.get((engine, SHOWN_PARTITIONS, rate)) for engine in (GATE, ECHO))
        if gate and floor:
            named = f"at {rate:,} events/s" if rate else "idle"
            echo = f"an echo without state: {floor['p50_ms']:.1f} and {floor['p99_ms']:.1f} ms"
            rows.append(
                (
                    f"result to verdict, {named}",
                    f"**p50 {gate['p50_ms']:.1f} ms, p99 {gate['p99_ms']:.1f} ms** ({echo})",
                )
            )
    if lanes:
        flooded = f"p99 {lanes['p99_flood_ms']:.1f} ms, without {lanes['p99_ms']:.1f} ms"
        rows.append((f"hot results with a backlog of {lanes['cold_events']:,} cold events", flooded))
    if "tidegate" in peers:
        others = [
            f"{peers['tidegate'] / peers[engine]:.2f} times {name}" for engine, name, _ in RATIOS if engine in peers
        ]
        rows.append(("throughput compared with other engines, in one run", ", ".join(others)))
    if not rows:
        return NOT_YET
    return table(("", ""), rows).replace("---:", "---") + _about(
        {"backlog": drain, "latency": latency[0] if latency else {}}
    )


def aimed() -> str:
    """The aims, and whether they are met."""
    found = {name: figures(name) for name in ("peers", "drain", "pipeline", "latency", "lanes", "scale", "gateway")}
    rows = [(each.what, each.aim, each.measured, "yes" if each.is_met else "**no**") for each in aims(found)]
    return table(("", "aim", "measured", "met"), rows) if rows else NOT_YET


def limit() -> str:
    """The in-memory pipeline by stage, and the share of it that the worker reaches."""
    pipeline, drain = figures("pipeline"), figures("drain")
    if not pipeline:
        return NOT_YET
    stages = [(stage, f"{cost:.2f} µs") for stage, cost in pipeline["stages_us_per_event"].items()]
    rows = [*stages, ("in memory, in all", f"**{pipeline['cpu_us_per_event']:.2f} µs**")]
    if drain:
        share = pipeline["cpu_us_per_event"] / drain["cpu_us_per_event"]
        rest = drain["cpu_us_per_event"] - pipeline["cpu_us_per_event"]
        rows += [
            ("fetching, barriers, transactions, Faust and the event loop", f"{rest:.2f} µs"),
            ("the worker, in all", f"**{drain['cpu_us_per_event']:.2f} µs**"),
            ("share of the limit that the worker reaches", f"**{share:.0%}**"),
        ]
    return table(("stage", "CPU of one core, per event"), rows) + _about({"in memory": pipeline, "worker": drain})


def compared() -> str:
    """The pipeline and the worker next to those of an earlier commit, measured in turns."""
    found = {"in memory": figures("pipeline"), "worker": figures("drain")}
    found = {name: each for name, each in found.items() if "baseline_commit" in each}
    if not found:
        return NOT_YET
    rows = [
        (
            name,
            f"`{each['baseline_commit'][:7]}`",
            f"{each['baseline_cpu_us_per_event']:.2f} µs",
            f"{each['cpu_us_per_event']:.2f} µs",
            f"**{each['ratio']:.2f}**",
            f"{min(each['ratio_of_rounds']):.2f} to {max(each['ratio_of_rounds']):.2f}",
            str(each["rounds"]),
        )
        for name, each in found.items()
    ]
    heads = ("CPU per event", "compared with", "then", "now", "ratio", "ratios of the rounds", "rounds")
    return table(heads, rows) + _about(found)


def peers() -> str:
    """Every engine, the fastest first."""
    found = figures("peers")
    if not found:
        return NOT_YET
    rows = [
        (
            f"**{each['engine']}**" if each["engine"] == "tidegate" else each["engine"],
            each["guarantee"],
            f"{each['events_per_second']:,}",
            f"{each['cpu_us_per_event']:.1f}",
            each["judged_at"],
            *(f"{each[name]:,}" for name in ("wrong", "unknown", "wrong_log_order", "stale_delivered")),
        )
        for each in sorted(found, key=lambda each: -each["events_per_second"])
    ]
    speed = ("engine", "guarantee", "events/s", "CPU µs per event")
    heads = (*speed, "judges at", "wrong", "unknown", "not as in log order", "stale at delivery")
    return table(heads, rows) + _about({"": found[0]})


def latency() -> str:
    """Every engine's p50 and p99 by rate, and what an event costs it, for each number of partitions."""
    found = figures("latency")
    if not found:
        return NOT_YET
    rates = sorted({each["events_per_second"] for each in found})
    heads = ("engine", *(f"{rate:,} events/s" if rate else "idle" for rate in rates), f"CPU µs at {CPU_RATE:,}")
    blocks = []
    for partitions in sorted({each["partitions"] for each in found}):
        cells = {
            (each["engine"], each["events_per_second"]): each for each in found if each["partitions"] == partitions
        }
        rows = [
            (
                f"**{engine}**" if engine == GATE else engine,
                *(_p50_and_p99(cells.get((engine, rate))) for rate in rates),
                f"{cells[engine, CPU_RATE]['cpu_us_per_event']:.0f}" if (engine, CPU_RATE) in cells else "",
            )
            for engine in dict.fromkeys(name for name, _ in cells)
        ]
        blocks.append(f"With {partitions} partition{'s' * (partitions > 1)}:\n\n{table(heads, rows)}")
    return "\n".join(blocks) + _about({"": found[0]})


def _p50_and_p99(each: Mapping[str, Any] | None) -> str:
    if each is None:
        return ""
    shown = f"{each['p50_ms']:.1f} / {each['p99_ms']:.1f}"
    return shown if each["kept_up"] else f"{shown} (fell behind)"


def gateway() -> str:
    """The gateway's streams and the floor's, and submissions."""
    found = figures("gateway")
    if not found:
        return NOT_YET
    rows = [
        (
            name,
            *(f"{each[figure]:,}" for figure in ("streams", "verdicts_per_second")),
            *(f"{each[figure]:.1f}" for figure in ("p50_ms", "p99_ms", "broker_p50_ms", "broker_p99_ms")),
            f"{each['bytes_per_stream']:,}",
            f"{each['cpu_share']:.2f}",
            *(f"{each[figure]:,}" for figure in ("lost", "repeated")),
        )
        for name, each in (("gateway", found), ("floor", found["floor"]))
    ]
    heads = ("", "streams", "verdicts/s", "p50 ms", "p99 ms", "consumer p50", "consumer p99")
    each = found["submissions"]
    submitted = (
        f"Submissions at {each['submissions_per_second']:,}/s: p50 {each['submit_p50_ms']:.1f} ms, p99"
        f" {each['submit_p99_ms']:.1f} ms; the producer's acknowledgement alone {each['produce_p50_ms']:.1f} and"
        f" {each['produce_p99_ms']:.1f} ms. After a kill under load every stream was back within"
        f" {found['restart_seconds']:.1f} s.\n"
    )
    shown = table((*heads, "bytes per stream", "CPU cores", "lost", "repeated"), rows)
    return f"{shown}\n{submitted}" + _about({"": found})


def scale_workers() -> str:
    """Throughput and CPU by workers and partitions."""
    found = figures("scale")
    if not found:
        return NOT_YET
    rows = [
        (
            str(each["workers"]),
            str(each["partitions"]),
            f"{each['events_per_second']:,}",
            f"{each['cpu_us_per_event']:.1f}",
        )
        for each in sorted(found["workers"], key=lambda each: (each["workers"], each["partitions"]))
    ]
    return table(("workers", "partitions", "events/s", "CPU µs per event"), rows) + _about({"": found})


def scale_sessions() -> str:
    """CPU and memory by sessions, in memory and with a real worker."""
    found = figures("scale")
    if not found:
        return NOT_YET
    rows = [
        (
            f"{each['sessions']:,}",
            f"{each['active']:,}",
            f"{each['cpu_us_per_event']:.1f}",
            f"{each['rows_written_per_event']:.2f}",
            f"{each['bytes_per_idle_session']:,}" if "bytes_per_idle_session" in each else "",
            str(each.get("ended_tasks", "")),
        )
        for each in found["sessions"]
    ]
    heads = (
        "sessions",
        "active",
        "CPU µs per event",
        "rows written per event",
        "bytes per idle session",
        "ended tasks",
    )
    restored = [
        (
            f"{each['sessions']:,}",
            f"{each['restart_seconds']:.1f} s",
            f"{each['worker_rss_mib_after_restore']:,} MiB",
            f"{each['cpu_us_per_event']:.1f}",
        )
        for each in found["restored"]
    ]
    idle = ""
    if "idle" in found:
        each = found["idle"]
        sizes = (each["bytes_per_idle_session"], each["bytes_per_idle_session_with_ended_task"])
        heads_of_idle = ("idle sessions, nothing else", "bytes per session", "with one remembered ended task")
        idle = f"Idle:\n\n{table(heads_of_idle, [tuple(f'{size:,}' for size in (each['sessions'], *sizes))])}\n"
    real = table(("sessions", "start to at work again", "memory of the worker", "CPU µs per event"), restored)
    return (
        f"In memory:\n\n{table(heads, rows)}\n{idle}A real worker, stopped and started again:\n\n{real}"
        f"{_about({'': found})}"
    )


def scale_tasks() -> str:
    """CPU by open tasks."""
    found = figures("scale")
    if not found:
        return NOT_YET
    rows = [
        (
            str(each["open_tasks"]),
            f"{each['sessions']:,}",
            f"{each['row_bytes']:,}",
            f"{each['cpu_us_per_event']:.1f}",
            f"{each['stages_us_per_event']['fold'] + each['stages_us_per_event']['judge']:.1f}",
            f"{each['stages_us_per_event']['encode'] + each['stages_us_per_event']['batch']:.1f}",
            f"{each['records_written_per_event']:.2f}",
            f"{each['row_bytes_written_per_event']:,}",
            f"{each['row_bytes_sent_per_event']:,}",
        )
        for each in found["open_tasks"]
    ]
    heads = (
        "open tasks",
        "sessions",
        "row and tasks, bytes",
        "CPU µs per event",
        "fold and judge",
        "encode and batch",
        "records written per event",
        "their bytes",
        "compressed",
    )
    return table(heads, rows) + _about({"": found})


def on_paper() -> str:
    """What ten million sessions and a million events a second take."""
    drain, pipeline, scale = figures("drain"), figures("pipeline"), figures("scale")
    if not (drain and pipeline and scale and scale["restored"]):
        return NOT_YET
    load, assumed = Load(), Assumptions()
    found = estimate(drain, pipeline, scale, load, assumed)
    written = sum(found.bytes.values())
    biggest = max(found.bytes, key=lambda name: found.bytes[name])
    parts = ", ".join(f"{name} {megabytes:,.0f}" for name, megabytes in found.bytes.items())
    costs = ", ".join(f"{name} {dollars:,.0f}" for name, dollars in found.month.items())
    rows = [
        ("workers, one core each", f"{found.workers}"),
        ("partitions", f"{found.partitions}"),
        ("memory of a worker", f"{found.worker_memory_gib:.1f} GiB"),
        ("a worker's restart, sessions restored", f"{found.restore_seconds:.0f} s"),
        ("written to the brokers, before replication", f"{written:,.0f} MB/s ({parts})"),
        ("brokers", f"{found.brokers}"),
        ("stored, replicas included", f"{found.stored_tb:,.0f} TB"),
        ("dollars a month", f"{found.month_in_all:,.0f} ({costs})"),
        ("the most that one partition can take", f"{found.most_of_one_partition:,} events/s"),
        ("what breaks first", f"the brokers' writes: {found.bytes[biggest] / written:.0%} of them are {biggest}"),
    ]
    assumptions = [(_words(field.name), f"{getattr(assumed, field.name):g}") for field in fields(assumed)]
    asked = f"{load.sessions:,} sessions, {load.events_per_second:,} events/s"
    return f"{table((asked, ''), rows)}\nAssumed:\n\n{table(('assumption', ''), assumptions)}"


SECTIONS: Final[Mapping[str, Callable[[], str]]] = {
    "figures-headlines": headlines,
    "figures-aims": aimed,
    "figures-limit": limit,
    "figures-compared": compared,
    "figures-peers": peers,
    "figures-latency": latency,
    "figures-gateway": gateway,
    "figures-workers": scale_workers,
    "figures-sessions": scale_sessions,
    "figures-tasks": scale_tasks,
    "figures-estimate": on_paper,
}


def figures(name: str) -> Any:
    """The saved figures; empty where there are none."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right."""
    rule = ["---", *("---:" for _ in heads[1:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rule, *rows))


def _about(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Machine, date and commit of the figures."""
    said = []
    for name, each in found.items():
        if each:
            machine = each["machine"]
            where = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
            said.append(f"{name + ': ' if name else ''}{where}; {each['date'][:10]}, commit {each['commit']}")
    return "\n" + "  \n".join(said) + "\n"


def _words(name: str) -> str:
    return name.replace("_", " ")
