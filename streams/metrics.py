"""The worker's metrics: names, units, labels and buckets, in a registry of their own.

Responsible for what is counted and under which bounded labels; `streams.exposition` serves it. Every method takes the
aggregate of a whole cycle, and label children are looked up once and kept, because the hot path judges tens of
thousands of events a second.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Enum, Histogram, Info, ProcessCollector

from projections.changes import Verdicted
from schemas.fields import Lane
from streams.distribution import Distribution
from streams.partition_metrics import STATES, PartitionMetrics, State

Stage = Literal["fold", "judge", "commit"]
"""What a cycle spends CPU on. Folding and judging decode each record when its turn comes."""

STAGES: Final[tuple[Stage, ...]] = ("fold", "judge", "commit")
LANES: Final[tuple[Lane, ...]] = ("hot", "cold")

MAX_LABEL_VALUES: Final = 64
OTHER: Final = "other"
UNKNOWN: Final = "unknown"

HOT_PATH_SECONDS: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
"""0.5 ms to 60 s, closest between 2 and 75 ms, where p50 and p99 of an idle gate are."""

AGE_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0, 120.0, 300.0, 900.0, 3600.0)
"""An agent works for seconds to minutes, now and then for an hour."""

RESTORE_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
RECORDS: Final = (1, 4, 16, 64, 256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536)


class BoundedLabel:
    """At most `limit` distinct values of a label; later ones become `other`, so that no input can grow the registry."""

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the value itself, or `other` where it is one too many."""
        if value in self._known:
            return value
        if len(self._known) < self._limit:
            self._known.add(value)
            return value
        return OTHER


class Metrics(PartitionMetrics):
    """Everything a worker counts. One per worker, written by one thread, scraped by any.

    `version` is the project's, for `tidegate_build_info`; `libraries` maps names (`aiokafka`) to versions.
    """

    def __init__(self, version: str = UNKNOWN, libraries: Mapping[str, str] | None = None) -> None:
        registry = CollectorRegistry(auto_describe=False)
        super().__init__(registry)
        self.process: Final = ProcessCollector(registry=registry)

        self.build: Final = Info("tidegate_build", "Versions of this worker", registry=registry)
        named = {name.replace("-", "_"): text for name, text in (libraries or {}).items()}  # a label takes no dash
        self.build.info({"version": version, **named})
        self.worker_state: Final = Enum(
            "tidegate_worker_state", "State of the worker as a whole", states=STATES, registry=registry
        )
        self.events_total: Final = Counter(
            "tidegate_events", "Input events decoded, by topic and type", ["topic", "type"], registry=registry
        )
        self.duplicates_total: Final = Counter(
            "tidegate_duplicates", "Repeats of an event that were ignored, by type", ["type"], registry=registry
        )
        self.ignored_events_total: Final = Counter(
            "tidegate_ignored_events",
            "Events that changed nothing, because their task was not open or their session was erased, by type",
            ["type"],
            registry=registry,
        )
        self.verdicts_total: Final = Counter(
            "tidegate_verdicts",
            "Verdicts committed, by decision, reason and task type (beyond 64 types: other)",
            ["decision", "reason", "task_type"],
            registry=registry,
        )
        self.tasks_ended_total: Final = Counter(
            "tidegate_tasks_ended",
            "Tasks that ended, by disposition and reason",
            ["disposition", "reason"],
            registry=registry,
        )
        self.acknowledged_total: Final = Counter(
            "tidegate_acknowledged",
            "What consumers said became of delivered results: shown, applied, refused",
            ["outcome"],
            registry=registry,
        )
        self.dlq_records_total: Final = Counter(
            "tidegate_dlq_records",
            "Input records sent to the dead letter topic, by error",
            ["error"],
            registry=registry,
        )
        self.quarantined_records_total: Final = Counter(
            "tidegate_quarantined_records",
            "Input records that the gate itself failed to process, and refused, by topic",
            ["topic"],
            registry=registry,
        )
        self.misrouted_records_total: Final = Counter(
            "tidegate_misrouted_records",
            "Input records found on the wrong partition and sent on to the right one, by topic",
            ["topic"],
            registry=registry,
        )

        self.result_age_seconds: Final = Distribution(
            "tidegate_result_age_seconds", "Age of a result's task at its verdict: dispatch to verdict", AGE_SECONDS
        )
        self.produce_to_verdict_seconds: Final = Distribution(
            "tidegate_produce_to_verdict_seconds",
            "From the broker's timestamp of a result to the commit of its verdict, by lane and task type",
            HOT_PATH_SECONDS,
            "lane",
            "task_type",
        )
        registry.register(self.result_age_seconds)
        registry.register(self.produce_to_verdict_seconds)
        self.barrier_wait_seconds: Final = Histogram(
            "tidegate_barrier_wait_seconds",
            "From asking for the end offsets of a cut to deciding below it, by lane",
            ["lane"],
            buckets=HOT_PATH_SECONDS,
            registry=registry,
        )
        self.transaction_seconds: Final = Histogram(
            "tidegate_transaction_seconds",
            "Duration of a committed transaction, from its beginning to the commit",
            buckets=HOT_PATH_SECONDS,
            registry=registry,
        )
        self.cycle_records: Final = Histogram(
            "tidegate_cycle_records", "Input records in one committed transaction", buckets=RECORDS, registry=registry
        )
        self.cycle_cpu_seconds_total: Final = Counter(
            "tidegate_cycle_cpu_seconds",
            "CPU time of committed cycles, by stage (fold, judge, commit; the first two include decoding)",
            ["stage"],
            registry=registry,
        )
        self.transaction_failures_total: Final = Counter(
            "tidegate_transaction_failures",
            "Transactions that failed, by class of the error",
            ["error"],
            registry=registry,
        )

        self.restore_seconds: Final = Histogram(
            "tidegate_restore_seconds",
            "Duration of restoring one partition's rows from the changelog",
            buckets=RESTORE_SECONDS,
            registry=registry,
        )
        self.restored_rows_total: Final = Counter(
            "tidegate_restored_rows", "Session rows restored from the changelog", registry=registry
        )
        self.handovers_total: Final = Counter(
            "tidegate_handovers", "Partitions taken over: restored, and running again", registry=registry
        )
        self.rebalances_total: Final = Counter(
            "tidegate_rebalances", "Rebalances of the consumer group this worker took part in", registry=registry
        )

        self._task_types = BoundedLabel()
        self._dlq_errors = BoundedLabel()
        self._failures = BoundedLabel()
        self._events: dict[tuple[str, str], Counter] = {}
        self._duplicates: dict[str, Counter] = {}
        self._ignored: dict[str, Counter] = {}
        self._verdicts: dict[tuple[str, str, str], Counter] = {}
        self._cpu: dict[Stage, Counter] = {stage: self.cycle_cpu_seconds_total.labels(stage) for stage in STAGES}
        self._barrier: dict[Lane, Histogram] = {lane: self.barrier_wait_seconds.labels(lane) for lane in LANES}

    # What came in, and what became of it

    def events(self, topic: str, counts: Mapping[str, int]) -> None:
        """Count one cycle's events of `topic`, by type."""
        for event_type, count in counts.items():
            child = self._events.get((topic, event_type))
            if child is None:
                child = self._events[topic, event_type] = self.events_total.labels(topic, event_type)
            child.inc(count)

    def duplicates(self, counts: Mapping[str, int]) -> None:
        """Count one cycle's ignored repeats, by type."""
        for event_type, count in counts.items():
            child = self._duplicates.get(event_type)
            if child is None:
                child = self._duplicates[event_type] = self.duplicates_total.labels(event_type)
            child.inc(count)

    def ignored(self, counts: Mapping[str, int]) -> None:
        """Count one cycle's events that changed nothing, by type."""
        for event_type, count in counts.items():
            child = self._ignored.get(event_type)
            if child is None:
                child = self._ignored[event_type] = self.ignored_events_total.labels(event_type)
            child.inc(count)

    def judged(self, verdicts: Iterable[Verdicted], now_ms: int) -> None:
        """Count the verdicts a transaction has committed, and how long they took, at `now_ms`."""
        counts: Counts[tuple[str, str, str]] = Counts()
        waits: dict[tuple[str, str], list[float]] = {}
        ages: list[float] = []
        for verdict in verdicts:
            task_type = UNKNOWN if verdict.task_type is None else self._task_types(verdict.task_type)
            counts[verdict.decision, verdict.reason, task_type] += 1
            waits.setdefault((verdict.lane, task_type), []).append((now_ms - verdict.timestamp) / 1000)
            if verdict.age_ms is not None:
                ages.append(verdict.age_ms / 1000)
        for labels, count in counts.items():
            child = self._verdicts.get(labels)
            if child is None:
                child = self._verdicts[labels] = self.verdicts_total.labels(*labels)
            child.inc(count)
        for lane_and_type, seconds in waits.items():
            self.produce_to_verdict_seconds.observe(seconds, *lane_and_type)
        self.result_age_seconds.observe(ages)

    def acknowledged(self, counts: Mapping[str, int]) -> None:
        """Count what consumers said became of deliveries."""
        for outcome, count in counts.items():
            self.acknowledged_total.labels(outcome).inc(count)

    def endings(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Count tasks that ended, by disposition and reason."""
        for (disposition, reason), count in counts.items():
            self.tasks_ended_total.labels(disposition, reason).inc(count)

    def dlq(self, error: str, count: int = 1) -> None:
        """Count records sent to the dead letter topic. `error` is a code, not a message."""
        self.dlq_records_total.labels(self._dlq_errors(error)).inc(count)

    def quarantined(self, topic: str, count: int = 1) -> None:
        """Count records of `topic` that were refused because processing them failed."""
        self.quarantined_records_total.labels(topic).inc(count)

    def misrouted(self, topic: str, count: int = 1) -> None:
        """Count records of `topic` that were sent on to their right partition."""
        self.misrouted_records_total.labels(topic).inc(count)

    # Cycles

    def barrier_wait(self, lane: Lane, seconds: float) -> None:
        """How long a batch of results waited for its barrier."""
        self._barrier[lane].observe(seconds)

    def transaction(self, seconds: float, records: int) -> None:
        """Count a committed transaction: its duration, and how many input records it settled."""
        self.transaction_seconds.observe(seconds)
        self.cycle_records.observe(records)

    def cpu(self, stage: Stage, seconds: float) -> None:
        """CPU time spent on a stage, as `time.thread_time` measures it."""
        self._cpu[stage].inc(seconds)

    def transaction_failed(self, error: BaseException) -> None:
        """Count a transaction that failed with this error."""
        self.transaction_failures_total.labels(self._failures(type(error).__name__)).inc()

    # The worker

    def worker(self, state: State) -> None:
        """Set the state of the worker as a whole."""
        self.worker_state.state(state)

    def restored(self, seconds: float, rows: int) -> None:
        """Count a restore of a partition's rows: how long it took, and how many rows there were."""
        self.restore_seconds.observe(seconds)
        self.restored_rows_total.inc(rows)

    def handover(self) -> None:
        """Count a partition that was taken over and is running."""
        self.handovers_total.inc()

    def rebalance(self) -> None:
        """Count a rebalance of the group."""
        self.rebalances_total.inc()
