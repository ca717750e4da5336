from typing import Any

import pytest

from bench import tables
from bench.estimate import Assumptions, Load, estimate
from tests.unit.bench_figures import DRAIN, GATEWAY, LANES, LATENCY, PEERS, PIPELINE, SCALE

FIGURES: dict[str, Any] = {
    "drain": DRAIN,
    "pipeline": PIPELINE,
    "scale": SCALE,
    "latency": LATENCY,
    "lanes": LANES,
    "peers": PEERS,
    "gateway": GATEWAY,
}


def test_workers_follow_from_cpu_and_the_share_of_a_core_in_use() -> None:
    found = estimate(DRAIN, PIPELINE, SCALE, Load(events_per_second=600_000), Assumptions(core_used=0.6))
    assert found.workers == 14  # 600,000 times 14 µs are 8.4 cores
    assert found.partitions == 14 * 4
    half = estimate({**DRAIN, "cpu_us_per_event": 7.0}, PIPELINE, SCALE, Load(events_per_second=600_000))
    assert half.workers == 7
    assert half.most_of_one_partition == 142_857


def test_memory_and_restore_follow_from_sessions() -> None:
    few, many = (estimate(DRAIN, PIPELINE, SCALE, Load(sessions=count)) for count in (10_000_000, 20_000_000))
    assert few.workers == many.workers == 24
    base = Assumptions().worker_base_mib / 1024
    assert many.worker_memory_gib - base == pytest.approx(2 * (few.worker_memory_gib - base))
    assert few.worker_memory_gib - base == pytest.approx(10_000_000 / 24 * 1_300 / 2**30)
    assert few.restore_seconds == pytest.approx(10_000_000 / 24 * 20 / 1_000_000)


def test_brokers_follow_from_bytes_and_replicas() -> None:
    found = estimate(DRAIN, PIPELINE, SCALE, Load(events_per_second=1_000_000))
    assert found.bytes == {"events": 246.0, "outputs": 200.0, "rows": 190.0}
    assert found.brokers == 13  # 636 MB/s, three times, at 150
    assert estimate(DRAIN, PIPELINE, SCALE, Load(events_per_second=1)).brokers == 3
    assert found.month_in_all == sum(found.month.values()) > 0


def test_every_table_shows_the_figures_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "figures", lambda name: FIGURES[name])
    shown = {name: render() for name, render in tables.SECTIONS.items()}
    for text in shown.values():
        assert tables.NOT_YET not in text
        widths = {line.count("|") for block in text.split("\n\n") for line in block.splitlines() if line[:1] == "|"}
        assert widths
    assert "**65%**" in shown["figures-limit"]  # 9.1 of 14.0 µs
    assert "| **tidegate** | exactly-once | 100,000 | 9.0 | delivery | 0 | 0 | 0 | 0 |" in shown["figures-peers"]
    assert "**p50 5.2 ms, p99 12.0 ms** (an echo without state: 4.2 and 7.5 ms)" in shown["figures-headlines"]
    assert "0.91 times the aligned hand-written loop over librdkafka" in shown["figures-headlines"]
    assert "| throughput, of Kafka Streams, warm | at least 1.5 | 1.67 | yes |" in shown["figures-aims"]
    assert (
        "| throughput, of the aligned hand-written loop over librdkafka | at least 1 | 0.91 | **no** |"
        in (shown["figures-aims"])
    )
    assert "| **tidegate** | 5.2 / 12.0 | 6.1 / 14.0 | 7.1 / 18.0 | 9.3 / 41.0 | 30 |" in shown["figures-latency"]
    assert (
        "| p50 of the echo's, at every rate and number of partitions | at most 2 | 1.24 to 1.55 | yes |"
        in (shown["figures-aims"])
    )
    assert "| at most 2.5 | 1.60 to 2.73 | **no** |" in shown["figures-aims"]
    assert "| p50 with 12 partitions, of that with one | at most 1.3 | 1.60 | **no** |" in shown["figures-aims"]
    assert "| p99 of that of kafka-streams-10ms | below 1 | 0.36 to 0.60 | yes |" in shown["figures-aims"]
    assert "| gateway | 5,000 | 500 | 40.1 | 96.0 | 18.0 | 36.0 | 21,000 | 0.61 | 0 | 0 |" in shown["figures-gateway"]
    assert "p99 31.0 ms; the producer's acknowledgement alone 3.0 and 14.0 ms" in shown["figures-gateway"]
    assert "(5,000 streams, 500 verdicts/s) | at most 100 ms | 60 ms | yes |" in shown["figures-aims"]
    assert "| memory of an idle stream | at most 20,480 bytes | 21,000 bytes | **no** |" in shown["figures-aims"]
    assert "(1,000 tasks/s) | at most 20 ms | 17 ms | yes |" in shown["figures-aims"]
    assert "2,000,000" in shown["figures-sessions"]
    assert "| 4 | 48 |" in shown["figures-workers"]
    assert "what breaks first | the brokers' writes: 39% of them are events |" in shown["figures-estimate"]
    compared = shown["figures-compared"]
    assert "| in memory | `47d38fc` | 18.20 µs | 9.10 µs | **0.50** | 0.49 to 0.51 | 5 |" in compared
    assert "| worker | `47d38fc` | 20.00 µs | 14.00 µs | **0.70** | 0.69 to 0.72 | 3 |" in compared
    assert (
        "| CPU per event in memory, compared with commit 47d38fc | at most 0.55 | 0.50 | yes |" in shown["figures-aims"]
    )
    assert "| memory of an idle session | at most 1,024 bytes | 800 bytes | yes |" in shown["figures-aims"]
    assert (
        "| memory of an idle session with one remembered ended task | at most 1,024 bytes | 1,240 bytes | **no** |"
        in shown["figures-aims"]
    )
    assert "| 500,000 | 810 | 1,240 |" in shown["figures-sessions"]
    for name in ("figures-limit", "figures-sessions", "figures-peers", "figures-compared"):
        assert "Abacus, 2 cores, Python 3.11.0; 2025-06-02" in shown[name]


def test_what_was_not_measured_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "figures", lambda _name: {})
    assert {render() for render in tables.SECTIONS.values()} == {tables.NOT_YET}


def test_figures_without_a_baseline_are_shown_without_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    of_baseline = ("baseline_commit", "baseline_cpu_us_per_event", "ratio", "ratio_of_rounds", "rounds")
    alone = {name: each for name, each in PIPELINE.items() if name not in of_baseline}
    sizes = {name: each for name, each in SCALE.items() if name != "idle"}
    found = {**FIGURES, "pipeline": alone, "drain": {}, "scale": sizes}
    monkeypatch.setattr(tables, "figures", lambda name: found[name])
    assert tables.compared() == tables.NOT_YET
    assert "47d38fc" not in tables.aimed()
    assert "remembered" not in tables.aimed() + tables.scale_sessions()
    assert "in memory" in tables.limit()


def test_another_baseline_has_no_aim(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**PIPELINE, "baseline_commit": "0123456789ab"}
    monkeypatch.setattr(tables, "figures", lambda name: {**FIGURES, "pipeline": other}[name])
    assert "compared with commit" not in tables.aimed()
    assert "`0123456`" in tables.compared()
