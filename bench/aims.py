"""What the figures were meant to be, beside what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.baseline import BASELINE, DIGITS

GATE = "tidegate"
ECHO = "echo-3-topics"
RATIOS = (
    ("confluent-loop-aligned", "the aligned hand-written loop over librdkafka", 1.0),
    ("kafka-streams-warm", "Kafka Streams, warm", 1.5),
    ("quix-streams", "Quix Streams", 3.0),
    ("faust", "stock Faust", 18.0),
)
"""Engine, what to call it, and how many times its throughput the gate was meant to reach."""
MOST_OF_BASELINE = 0.55
"""CPU of an event in memory, of the baseline's. Prototypes of the core reached 0.42 to 0.54."""
MOST_BYTES_OF_SESSION = 1024
MOST_BYTES_OF_STREAM = 20 * 1024


class Aim(NamedTuple):
    """One aim: what for, as it was set, as it was measured, and whether that is enough."""

    what: str
    aim: str
    measured: str
    is_met: bool


def aims(found: dict[str, Any]) -> Iterator[Aim]:
    """Every aim for which there are figures; `found` holds the saved ones by name, empty where there are none."""
    yield from _beside_peers({each["engine"]: each for each in found["peers"] or ()})
    drain, pipeline, scale = found["drain"], found["pipeline"], found["scale"]
    if drain and pipeline:
        share = pipeline["cpu_us_per_event"] / drain["cpu_us_per_event"]
        yield Aim("throughput, of the limit in memory", "at least 60 %", f"{share:.0%}", share >= 0.6)
    if pipeline and pipeline.get("baseline_commit") == BASELINE[:DIGITS]:
        ratio = pipeline["ratio"]
        yield Aim(
            f"CPU per event in memory, compared with commit {BASELINE[:7]}",
            f"at most {MOST_OF_BASELINE:g}",
            f"{ratio:.2f}",
            ratio <= MOST_OF_BASELINE,
        )
    yield from _latencies(found["latency"] or ())
    if found["lanes"]:
        ratio = found["lanes"]["ratio_p99"]
        yield Aim("hot p99 under a flood of cold events, of that without", "at most 1.5", f"{ratio:.2f}", ratio <= 1.5)
    if scale:
        yield from _memory(scale)
    if found["gateway"]:
        yield from _streams(found["gateway"])


def _memory(scale: dict[str, Any]) -> Iterator[Aim]:
    for each in scale["sessions"]:
        if each["sessions"] == max(other["sessions"] for other in scale["sessions"]):
            yield _weight("memory of an idle session", each["bytes_per_idle_session"])
    if "idle" in scale:
        size = scale["idle"]["bytes_per_idle_session_with_ended_task"]
        yield _weight("memory of an idle session with one remembered ended task", size)


def _weight(what: str, size: int) -> Aim:
    return Aim(what, f"at most {MOST_BYTES_OF_SESSION:,} bytes", f"{size:,} bytes", size <= MOST_BYTES_OF_SESSION)


def _beside_peers(peers: dict[str, Any]) -> Iterator[Aim]:
    if GATE not in peers:
        return
    gate = peers[GATE]
    for engine, name, least in RATIOS:
        if engine in peers:
            ratio = gate["events_per_second"] / peers[engine]["events_per_second"]
            yield Aim(f"throughput, of {name}", f"at least {least:g}", f"{ratio:.2f}", ratio >= least)
    stale = gate["stale_delivered"]
    yield Aim("stale at delivery, of all results", "0", f"{stale:,}", stale == 0)


def _streams(gateway: dict[str, Any]) -> Iterator[Aim]:
    load = f"{gateway['streams']:,} streams, {gateway['verdicts_per_second']:,} verdicts/s"
    late = gateway["p99_ms"] - gateway["broker_p99_ms"]
    yield Aim(f"p99 at the client beyond the broker's ({load})", "at most 100 ms", f"{late:.0f} ms", late <= 100)
    size = gateway["bytes_per_stream"]
    aim = f"at most {MOST_BYTES_OF_STREAM:,} bytes"
    yield Aim("memory of an idle stream", aim, f"{size:,} bytes", size <= MOST_BYTES_OF_STREAM)
    wrong = gateway["lost"] + gateway["repeated"]
    yield Aim("lost and repeated over a restart of the gateway", "0", f"{wrong:,}", wrong == 0)
    submitted = gateway["submissions"]
    late = submitted["submit_p99_ms"] - submitted["produce_p99_ms"]
    what = f"p99 of a submission beyond the producer's ({submitted['submissions_per_second']:,} tasks/s)"
    yield Aim(what, "at most 20 ms", f"{late:.0f} ms", late <= 20)


def _latencies(latency: Sequence[Mapping[str, Any]]) -> Iterator[Aim]:
    """Of the echo with as many writes as the gate, of one partition, and of Kafka Streams: the worst that was found."""
    found = {(each["engine"], each["partitions"], each["events_per_second"]): each for each in latency}
    for name, most in (("p50", 2.0), ("p99", 2.5)):
        ratios = _ratios(found, ECHO, f"{name}_ms")
        if ratios:
            yield Aim(
                f"{name} of the echo's, at every rate and number of partitions",
                f"at most {most:g}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                max(ratios) <= most,
            )
    spread = [
        each["p50_ms"] / found[GATE, 1, rate]["p50_ms"]
        for (engine, partitions, rate), each in found.items()
        if engine == GATE and partitions == 12 and (GATE, 1, rate) in found
    ]
    if spread:
        worst = max(spread)
        yield Aim("p50 with 12 partitions, of that with one", "at most 1.3", f"{worst:.2f}", worst <= 1.3)
    for streams in ("kafka-streams-10ms", "kafka-streams-100ms"):
        ratios = _ratios(found, streams, "p99_ms")
        if ratios:
            shown = f"{min(ratios):.2f} to {max(ratios):.2f}"
            yield Aim(f"p99 of that of {streams}", "below 1", shown, max(ratios) < 1)


def _ratios(found: Mapping[tuple[str, int, int], Mapping[str, Any]], other: str, name: str) -> list[float]:
    """The gate's figure of the other engine's, wherever both kept up."""
    return [
        found[GATE, partitions, rate][name] / each[name]
        for (engine, partitions, rate), each in found.items()
        if engine == other and each["kept_up"] and found.get((GATE, partitions, rate), {}).get("kept_up")
    ]
