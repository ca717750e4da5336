"""What the dashboard shows: rows, panels and queries, as plain values. `grafana.dashboard` gives them their looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["stat", "graph", "stacked", "heatmap", "states"]

WORKERS: Final = 'instance=~"$worker"'
RATE: Final = "[$__rate_interval]"
STATE_NUMBERS: Final = {"starting": 1, "restoring": 2, "running": 3, "failed": 5, "stopping": 4}


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the name of its series."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `unit` is Grafana's name of it, `warn_above` the value from which it is no longer green."""

    title: str
    description: str
    kind: Kind
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    warn_above: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


def rate(metric: str, *matchers: str, by: str = "") -> str:
    """Increase per second of a counter, summed over everything but the labels in `by`."""
    selector = ", ".join((WORKERS, *matchers))
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{selector}}}{RATE}))"


def quantile(quantile: float, histogram: str, *matchers: str, by: str = "") -> str:
    """A quantile of a histogram over all workers, for each value of the labels in `by`."""
    grouping = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, {rate(f'{histogram}_bucket', *matchers, by=grouping)})"


def quantiles(histogram: str, *matchers: str, by: str = "") -> tuple[Query, ...]:
    """Median and 99th percentile of a histogram, for each value of the label in `by`."""
    suffix = f" {{{{{by}}}}}" if by else ""
    return (
        Query(quantile(0.5, histogram, *matchers, by=by), f"p50{suffix}"),
        Query(quantile(0.99, histogram, *matchers, by=by), f"p99{suffix}"),
    )


def in_range(counter: str) -> str:
    """Increase of a counter over the dashboard's time range; 0 where it was never counted."""
    return f"sum(increase({counter}{{{WORKERS}}}[$__range])) or vector(0)"


def in_interval(counter: str, *, by: str) -> str:
    """Increase of a counter over one step of a graph."""
    return f"sum by ({by}) (increase({counter}{{{WORKERS}}}{RATE}))"


def gauge(metric: str, by: str, *, aggregation: str = "sum") -> str:
    """A gauge, aggregated over everything but the labels in `by`."""
    grouping = f" by ({by})" if by else ""
    return f"{aggregation}{grouping} ({metric}{{{WORKERS}}})"


def state_numbers() -> str:
    """The state of each partition as a number, for the timeline."""
    metric = "tidegate_partition_state"
    return " or ".join(
        f'({metric}{{{WORKERS}, {metric}="{state}"}} == 1) * {number}' for state, number in STATE_NUMBERS.items()
    )


def stale_rate(*, by: str = "") -> str:
    """Share of verdicts whose reason is stale."""
    stale = rate("tidegate_verdicts_total", 'reason="stale"', by=by)
    return f"{stale} / {rate('tidegate_verdicts_total', by=by)}"


_RUNNING = f'tidegate_partition_state{{{WORKERS}, tidegate_partition_state="running"}}'
_FAILED = f'tidegate_partition_state{{{WORKERS}, tidegate_partition_state="failed"}}'
_CPU_PER_EVENT = f"{rate('process_cpu_seconds_total')} / {rate('tidegate_events_total')}"

OVERVIEW = Row(
    "At a glance",
    (
        Panel(
            "Verdicts",
            "Results judged per second, all workers.",
            "stat",
            "ops",
            (Query(rate("tidegate_verdicts_total")),),
            width=4,
        ),
        Panel(
            "Stale",
            "Share of verdicts whose reason is stale: withheld, or delivered marked.",
            "stat",
            "percentunit",
            (Query(stale_rate()),),
            width=4,
        ),
        Panel(
            "Produce to verdict, p99 (hot)",
            "From the broker's timestamp of a result to the commit of its verdict.",
            "stat",
            "s",
            (Query(quantile(0.99, "tidegate_produce_to_verdict_seconds", 'lane="hot"')),),
            width=4,
            warn_above=0.25,
        ),
        Panel(
            "Lag",
            "Input records not folded or judged yet.",
            "stat",
            "short",
            (Query(gauge("tidegate_lag_records", "")),),
            width=4,
            warn_above=10_000,
        ),
        Panel(
            "Dead letters and misrouted",
            "Records in this time range that the gate could not use, or that were on the wrong partition. Should be 0.",
            "stat",
            "short",
            (
                Query(in_range("tidegate_dlq_records_total"), "dead letters"),
                Query(in_range("tidegate_misrouted_records_total"), "misrouted"),
            ),
            width=4,
            warn_above=1,
        ),
        Panel(
            "Running partitions",
            "Partitions in which results are judged. Should be the topics' partition count.",
            "stat",
            "short",
            (Query(f"sum({_RUNNING})"),),
            width=4,
        ),
    ),
)

DECISIONS = Row(
    "Decisions",
    (
        Panel(
            "Verdicts by reason",
            "Where parts of a result differ, its reason is that of the first withheld part.",
            "stacked",
            "ops",
            (Query(rate("tidegate_verdicts_total", by="decision, reason"), "{{decision}}: {{reason}}"),),
            width=12,
        ),
        Panel(
            "Stale rate by task type",
            "Which kind of work comes back too late. Task types beyond 64 are counted as other.",
            "graph",
            "percentunit",
            (Query(stale_rate(by="task_type"), "{{task_type}}"),),
            width=12,
        ),
        Panel(
            "Result age at verdict",
            "From a task's dispatch to the verdict on its result: how old the answered question is.",
            "graph",
            "s",
            quantiles("tidegate_result_age_seconds"),
        ),
        Panel(
            "Events in",
            "Input events, by type.",
            "stacked",
            "eps",
            (Query(rate("tidegate_events_total", by="type"), "{{type}}"),),
        ),
        Panel(
            "Repeats and ignored events",
            "Events that came again with the same identity and content, such as producers' retries; and events that"
            " changed nothing, because their task was not open or their session was erased.",
            "graph",
            "eps",
            (
                Query(rate("tidegate_duplicates_total", by="type"), "repeated {{type}}"),
                Query(rate("tidegate_ignored_events_total", by="type"), "ignored {{type}}"),
            ),
        ),
        Panel(
            "Tasks ended",
            "Every task ends once, in one disposition; the reason tells a cancelled one from an interrupted one.",
            "stacked",
            "ops",
            (Query(rate("tidegate_tasks_ended_total", by="disposition, reason"), "{{disposition}}: {{reason}}"),),
            width=12,
        ),
        Panel(
            "What consumers did with deliveries",
            "As they acknowledge it. Refused: delivered by the gate, then outdated by the consumer's own last check.",
            "stacked",
            "ops",
            (Query(rate("tidegate_acknowledged_total", by="outcome"), "{{outcome}}"),),
            width=12,
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        Panel(
            "Produce to verdict",
            "From the broker's timestamp of a result to the commit of its verdict, by lane.",
            "graph",
            "s",
            quantiles("tidegate_produce_to_verdict_seconds", by="lane"),
            width=12,
        ),
        Panel(
            "Produce to verdict, spread",
            "Verdicts per second in each latency bucket.",
            "heatmap",
            "s",
            (Query(rate("tidegate_produce_to_verdict_seconds_bucket", by="le"), "{{le}}"),),
            width=12,
        ),
        Panel(
            "Produce to verdict by task type, hot",
            "Median and 99th percentile for each kind of work a user waits for. Task types beyond 64 are other.",
            "graph",
            "s",
            quantiles("tidegate_produce_to_verdict_seconds", 'lane="hot"', by="task_type"),
            width=12,
        ),
        Panel(
            "Produce to verdict by task type, cold",
            "The same for work that nobody waits for: it is judged when no hot results are there.",
            "graph",
            "s",
            quantiles("tidegate_produce_to_verdict_seconds", 'lane="cold"', by="task_type"),
            width=12,
        ),
        Panel(
            "Barrier wait",
            "From asking for the end offsets to having folded up to them. A producer's open transaction shows here.",
            "graph",
            "s",
            quantiles("tidegate_barrier_wait_seconds", by="lane"),
        ),
        Panel(
            "Transaction time",
            "Rows, outputs and offsets of one cycle, from begin to commit.",
            "graph",
            "s",
            quantiles("tidegate_transaction_seconds"),
        ),
        Panel(
            "Records per transaction",
            "Grows with load: one transaction settles everything that waits.",
            "graph",
            "short",
            (Query(f"{rate('tidegate_cycle_records_sum')} / {rate('tidegate_cycle_records_count')}", "mean"),),
        ),
    ),
)

BACKLOG = Row(
    "Backlog",
    (
        Panel(
            "Lag by topic",
            "Records between the folded position and the topic's end.",
            "graph",
            "short",
            (Query(gauge("tidegate_lag_records", "topic"), "{{topic}}"),),
            width=6,
        ),
        Panel(
            "Oldest decision that waits",
            "By what it waits for: the broker's answer, or records of a topic.",
            "graph",
            "s",
            (Query(gauge("tidegate_oldest_decision_seconds", "waits_for", aggregation="max"), "{{waits_for}}"),),
            width=6,
        ),
        Panel(
            "Waiting results",
            "Results that wait: for their dispatch, for children or a slot, for the context or for the user's return.",
            "graph",
            "short",
            (Query(gauge("tidegate_parked_results", "instance"), "{{instance}}"),),
            width=6,
        ),
        Panel(
            "Queued bytes",
            "Fetched, not yet folded. Bounded by queue_budget_bytes per partition.",
            "graph",
            "bytes",
            (Query(gauge("tidegate_queued_bytes", "instance"), "{{instance}}"),),
            width=6,
        ),
    ),
)

TROUBLE = Row(
    "Trouble",
    (
        Panel(
            "Dead letters",
            "Input records sent to the dead letter topic, by error.",
            "graph",
            "recps",
            (Query(rate("tidegate_dlq_records_total", by="error"), "{{error}}"),),
            width=6,
        ),
        Panel(
            "Failed partitions, records in quarantine",
            "Partitions that nobody works on until they are retried, and records that the gate failed to process.",
            "graph",
            "short",
            (
                Query(f"sum({_FAILED}) or vector(0)", "failed partitions"),
                Query(in_interval("tidegate_quarantined_records_total", by="topic"), "{{topic}}"),
            ),
            width=6,
        ),
        Panel(
            "Misrouted records",
            "Records on the wrong partition: a producer uses another partitioner than murmur2.",
            "graph",
            "recps",
            (Query(rate("tidegate_misrouted_records_total", by="topic"), "{{topic}}"),),
            width=6,
        ),
        Panel(
            "Failed transactions",
            "By class of the error. After each the worker goes back to what was committed.",
            "graph",
            "ops",
            (Query(rate("tidegate_transaction_failures_total", by="error"), "{{error}}"),),
            width=6,
        ),
    ),
)

STATE = Row(
    "State",
    (
        Panel(
            "Partitions",
            "State of each partition at its owner. Results are judged only where it is running.",
            "states",
            "none",
            (Query(f"max by (partition) ({state_numbers()})", "partition {{partition}}"),),
            width=16,
        ),
        Panel(
            "Rebalances and hand-overs",
            "Rebalances of the group, and partitions taken over.",
            "graph",
            "short",
            (
                Query(
                    f"sum by (instance) (increase(tidegate_rebalances_total{{{WORKERS}}}{RATE}))",
                    "rebalances {{instance}}",
                ),
                Query(
                    f"sum by (instance) (increase(tidegate_handovers_total{{{WORKERS}}}{RATE}))",
                    "hand-overs {{instance}}",
                ),
            ),
        ),
        Panel(
            "Sessions",
            "Sessions that have a row.",
            "stacked",
            "short",
            (Query(gauge("tidegate_sessions", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Bytes kept",
            "Bytes of session rows, remembered ended tasks, and events that wait: what has to be restored when a"
            " partition moves.",
            "stacked",
            "bytes",
            (
                Query(gauge("tidegate_row_bytes", "instance"), "rows {{instance}}"),
                Query(gauge("tidegate_ended_task_bytes", "instance"), "ended tasks {{instance}}"),
                Query(gauge("tidegate_waiting_bytes", "instance"), "waiting events {{instance}}"),
            ),
        ),
        Panel(
            "Restore",
            "Duration of restoring one partition from the changelog, and rows per second.",
            "graph",
            "s",
            quantiles("tidegate_restore_seconds"),
        ),
    ),
)

GATEWAY = Row(
    "Gateway",
    (
        Panel(
            "Open streams",
            "Event streams that are open, and the partitions that are read for them.",
            "graph",
            "short",
            (
                Query(gauge("tidegate_gateway_streams", "instance"), "streams {{instance}}"),
                Query(gauge("tidegate_gateway_partitions", "instance"), "partitions {{instance}}"),
            ),
        ),
        Panel(
            "Events and resumes",
            "Events put into streams per second; streams that came back with a cursor, and those that had to begin"
            " with a snapshot.",
            "graph",
            "ops",
            (
                Query(rate("tidegate_gateway_events_out_total"), "events"),
                Query(rate("tidegate_gateway_resumes_total"), "resumes"),
                Query(rate("tidegate_gateway_resets_total"), "resets"),
            ),
        ),
        Panel(
            "Closed streams",
            "By reason. `slow`: the client did not take its events in time; it resumes.",
            "stacked",
            "ops",
            (Query(rate("tidegate_gateway_streams_closed_total", by="reason"), "{{reason}}"),),
        ),
        Panel(
            "Catching up",
            "From a resuming client's connection to the end of what it had missed.",
            "graph",
            "s",
            quantiles("tidegate_gateway_catch_up_seconds"),
        ),
        Panel(
            "Request latency",
            "By route. A write is answered when Kafka has acknowledged it.",
            "graph",
            "s",
            (Query(quantile(0.99, "tidegate_gateway_request_seconds", by="route"), "p99 {{route}}"),),
        ),
        Panel(
            "Refused requests",
            "By problem.",
            "stacked",
            "reqps",
            (Query(rate("tidegate_gateway_refused_total", by="problem"), "{{problem}}"),),
        ),
    ),
)

COST = Row(
    "Cost",
    (
        Panel(
            "CPU per event",
            "CPU of the whole process for each input event. Flat over time, or something leaks.",
            "graph",
            "s",
            (Query(_CPU_PER_EVENT, "all workers"),),
        ),
        Panel(
            "CPU by stage",
            "CPU seconds per second that cycles spend folding, judging and committing; the first two include decoding.",
            "stacked",
            "percentunit",
            (Query(rate("tidegate_cycle_cpu_seconds_total", by="stage"), "{{stage}}"),),
        ),
        Panel(
            "Memory",
            "Resident memory of each worker.",
            "graph",
            "bytes",
            (Query(gauge("process_resident_memory_bytes", "instance"), "{{instance}}"),),
        ),
    ),
)

ROWS: Final = (OVERVIEW, DECISIONS, LATENCY, BACKLOG, TROUBLE, STATE, GATEWAY, COST)
