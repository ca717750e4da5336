"""Made-up figures in the shape of those in `bench/results`, for tests of what is drawn and computed from them."""

from typing import Any

from bench.baseline import BASELINE, DIGITS

ABOUT: dict[str, Any] = {
    "machine": {"processor": "Abacus", "cores": 2, "memory_gib": 8.0, "python": "3.11.0"},
    "date": "2025-06-02T08:30:00Z",
    "commit": "0123456789ab",
}


def _peer(engine: str, rate: int, cpu: float, stale: int, guarantee: str = "exactly-once") -> dict[str, Any]:
    return {
        "engine": engine,
        "guarantee": guarantee,
        "events_per_second": rate,
        "cpu_us_per_event": cpu,
        "judged_at": "delivery" if engine == "tidegate" else "log order",
        "wrong": 0,
        "unknown": 0,
        "wrong_log_order": 0,
        "stale_delivered": stale,
        **ABOUT,
    }


PEERS = [
    _peer("faust", 5_900, 168.2, 30_910, "at-least-once"),
    _peer("tidegate", 100_000, 9.0, 0),
    _peer("confluent-loop-aligned", 110_000, 7.6, 30_910),
    _peer("kafka-streams-warm", 60_000, 15.0, 30_910),
]


def _latency(engine: str, rate: int, p50: float, p99: float, partitions: int = 4) -> dict[str, Any]:
    return {
        "engine": engine,
        "partitions": partitions,
        "events_per_second": rate,
        "p50_ms": p50,
        "p99_ms": p99,
        "p99_9_ms": p99 * 2,
        "cpu_us_per_event": 30.0,
        "kept_up": True,
        **ABOUT,
    }


LATENCY: list[dict[str, Any]] = [
    _latency(engine, rate, *quantiles)
    for rate, of_rate in {
        0: ((5.2, 12.0), (4.2, 7.5), (6.0, 20.0)),
        1_000: ((6.1, 14.0), (4.4, 8.0), (7.0, 30.0)),
        5_000: ((7.1, 18.0), (5.0, 9.0), (9.0, 50.0)),
        20_000: ((9.3, 41.0), (6.0, 15.0), (30.0, 90.0)),
    }.items()
    for engine, quantiles in zip(("tidegate", "echo-3-topics", "kafka-streams-10ms"), of_rate, strict=True)
] + [_latency("tidegate", 5_000, 8.0, 20.0, 12), _latency("tidegate", 5_000, 5.0, 15.0, 1)]

LANES: dict[str, Any] = {"p99_ms": 20.0, "p99_flood_ms": 28.0, "ratio_p99": 1.4, "cold_events": 500_000, **ABOUT}

SCALE: dict[str, Any] = {
    "events": 100_000,
    "sessions": [
        {"sessions": 10_000, "active": 10_000, "cpu_us_per_event": 9.1, "rows_written_per_event": 0.5},
        *(
            {
                "sessions": sessions,
                "active": active,
                "cpu_us_per_event": cpu,
                "rows_written_per_event": 0.5,
                "bytes_per_idle_session": 800 + 500 * ended,
                "row_bytes": 660,
                "ended_tasks": ended,
                "restore_us_per_session": 3.0,
            }
            for sessions, active, cpu, ended in (
                (100_000, 10_000, 9.2, 0),
                (2_000_000, 10_000, 9.3, 0),
                (500_000, 10_000, 9.3, 1),
                (500_000, 100_000, 11.0, 0),
            )
        ),
    ],
    "idle": {
        "sessions": 500_000,
        "bytes_per_idle_session": 810,
        "bytes_per_idle_session_with_ended_task": 1_240,
        "row_bytes": 660,
        "ended_task_bytes": 280,
    },
    "open_tasks": [
        {
            "open_tasks": tasks,
            "sessions": 10_000 // tasks,
            "cpu_us_per_event": cpu,
            "stages_us_per_event": {"decode": 2.0, "fold": 4.0, "judge": 5.0, "encode": cpu - 13.0, "batch": 2.0},
            "row_bytes": 1_000 * tasks,
            "records_written_per_event": 0.95,
            "row_bytes_written_per_event": 950 * tasks,
            "row_bytes_sent_per_event": 190 * tasks,
        }
        for tasks, cpu in ((1, 15.0), (10, 20.0), (50, 31.0))
    ],
    "workers": [
        {
            "workers": workers,
            "partitions": partitions,
            "events_per_second": 60_000 + 20_000 * (workers > 1) - 200 * partitions,
            "cpu_us_per_event": 12.0 + workers,
        }
        for partitions in (4, 12, 48)
        for workers in (1, 2, 4)
    ],
    "restored": [
        {
            "sessions": 1_000_000,
            "restart_seconds": 20.0,
            "worker_rss_mib_after_restore": 1_100,
            "cpu_us_per_event": 12.5,
            "events_per_second": 60_000,
        }
    ],
    **ABOUT,
}

GATEWAY: dict[str, Any] = {
    "streams": 5_000,
    "verdicts_per_second": 500,
    "p50_ms": 40.1,
    "p99_ms": 96.0,
    "broker_p50_ms": 18.0,
    "broker_p99_ms": 36.0,
    "bytes_per_stream": 21_000,
    "cpu_share": 0.61,
    "restart_seconds": 4.5,
    "lost": 0,
    "repeated": 0,
    "submissions": {
        "submissions_per_second": 1_000,
        "submit_p50_ms": 6.0,
        "submit_p99_ms": 31.0,
        "produce_p50_ms": 3.0,
        "produce_p99_ms": 14.0,
    },
    "floor": {
        "streams": 5_000,
        "verdicts_per_second": 500,
        "p50_ms": 30.0,
        "p99_ms": 70.0,
        "broker_p50_ms": 17.0,
        "broker_p99_ms": 34.0,
        "bytes_per_stream": 9_000,
        "cpu_share": 0.25,
        "lost": 0,
        "repeated": 0,
    },
    **ABOUT,
}

DRAIN: dict[str, Any] = {
    "events_per_second": 60_000,
    "runs_events_per_second": [59_000, 60_000, 61_000],
    "cpu_us_per_event": 14.0,
    "event_bytes": 246,
    "rounds": 3,
    "baseline_commit": BASELINE[:DIGITS],
    "baseline_cpu_us_per_event": 20.0,
    "ratio": 0.7,
    "ratio_of_rounds": [0.69, 0.72, 0.7],
    **ABOUT,
}

PIPELINE: dict[str, Any] = {
    "events_per_second": 110_000,
    "cpu_us_per_event": 9.1,
    "stages_us_per_event": {"decode": 1.4, "fold": 2.7, "judge": 2.6, "encode": 1.6, "batch": 0.8},
    "events": 500_000,
    "rows_written": 150_000,
    "row_bytes_written": 120_000_000,
    "row_bytes_sent": 24_000_000,
    "output_bytes": 100_000_000,
    "rounds": 5,
    "baseline_commit": BASELINE[:DIGITS],
    "baseline_cpu_us_per_event": 18.2,
    "ratio": 0.5,
    "ratio_of_rounds": [0.51, 0.49, 0.5, 0.5, 0.5],
    **ABOUT,
}
