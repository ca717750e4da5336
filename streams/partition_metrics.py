"""What a worker tells of its partitions: their states, what is kept of them, and what waits, in gauges.

A gauge of a partition disappears with the partition, so that its new owner alone reports it.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Enum, Gauge

State = Literal["starting", "restoring", "running", "failed", "stopping"]
"""Where a partition, or the worker, stands. `running` is the only state in which results are judged; only partitions
can be `failed`."""

STATES: Final[tuple[State, ...]] = get_args(State)


class PartitionMetrics:
    """The part of a worker's metrics that is about its partitions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry: Final = registry
        self.partition_state: Final = Enum(
            "tidegate_partition_state",
            "State of each partition this worker owns",
            ["partition"],
            states=STATES,
            registry=registry,
        )

        self.lag_records: Final = Gauge(
            "tidegate_lag_records",
            "Records between the folded position and the topic's end, by topic and partition",
            ["topic", "partition"],
            registry=registry,
        )
        self.sessions: Final = Gauge(
            "tidegate_sessions", "Sessions that have a row, by partition", ["partition"], registry=registry
        )
        self.row_bytes: Final = Gauge(
            "tidegate_row_bytes", "Bytes of all session rows, by partition", ["partition"], registry=registry
        )
        self.ended_task_bytes: Final = Gauge(
            "tidegate_ended_task_bytes",
            "Bytes of what is remembered of ended tasks, by partition",
            ["partition"],
            registry=registry,
        )
        self.waiting_bytes: Final = Gauge(
            "tidegate_waiting_bytes",
            "Bytes of the results and proposed effects that wait, with their headers, by partition",
            ["partition"],
            registry=registry,
        )
        self.parked_results: Final = Gauge(
            "tidegate_parked_results",
            "Results that wait: for a dispatch, for other tasks, for the context or for the user; by partition",
            ["partition"],
            registry=registry,
        )
        self.queued_bytes: Final = Gauge(
            "tidegate_queued_bytes",
            "Fetched bytes that wait for a cycle, by partition",
            ["partition"],
            registry=registry,
        )
        self.oldest_decision_seconds: Final = Gauge(
            "tidegate_oldest_decision_seconds",
            "Age of the oldest decision that waits, by partition and by what it waits for: the broker's answer,"
            " or records of a topic",
            ["partition", "waits_for"],
            registry=registry,
        )
        self._lag: dict[tuple[str, int], Gauge] = {}
        self._waits_for: dict[int, str] = {}
        self._partition_gauges: Final = (
            self.sessions,
            self.row_bytes,
            self.ended_task_bytes,
            self.waiting_bytes,
            self.parked_results,
            self.queued_bytes,
        )
        self._gauges: dict[tuple[Gauge, int], Gauge] = {}

    def lag(self, topic: str, partition: int, records: int) -> None:
        """Set how many records of the topic's partition are not folded yet."""
        child = self._lag.get((topic, partition))
        if child is None:
            child = self._lag[topic, partition] = self.lag_records.labels(topic, str(partition))
        child.set(records)

    def partition(
        self,
        partition: int,
        *,
        sessions: int | None = None,
        row_bytes: int | None = None,
        ended_task_bytes: int | None = None,
        waiting_bytes: int | None = None,
        parked_results: int | None = None,
        queued_bytes: int | None = None,
    ) -> None:
        """Set the gauges of a partition that are given."""
        values = (sessions, row_bytes, ended_task_bytes, waiting_bytes, parked_results, queued_bytes)
        for gauge, value in zip(self._partition_gauges, values, strict=True):
            if value is not None:
                child = self._gauges.get((gauge, partition))
                if child is None:
                    child = self._gauges[gauge, partition] = gauge.labels(str(partition))
                child.set(value)

    def oldest_decision(self, partition: int, waits_for: str | None, seconds: float = 0.0) -> None:
        """Set the age of the oldest decision that waits, and for what; None where none does."""
        before = self._waits_for.pop(partition, None)
        if before is not None and before != waits_for:
            self.oldest_decision_seconds.remove(str(partition), before)
        if waits_for is not None:
            self._waits_for[partition] = waits_for
            self.oldest_decision_seconds.labels(str(partition), waits_for).set(seconds)

    def state(self, partition: int, state: State) -> None:
        """Set the state of a partition."""
        self.partition_state.labels(str(partition)).state(state)

    def forget_partition(self, partition: int) -> None:
        """Drop every gauge of a partition that was given up, so that it is reported by its new owner alone."""
        label = str(partition)
        self.partition_state.remove(label)
        self.oldest_decision(partition, None)
        for gauge in self._partition_gauges:
            if self._gauges.pop((gauge, partition), None) is not None:
                gauge.remove(label)
        for topic, other in list(self._lag):
            if other == partition:
                del self._lag[topic, other]
                self.lag_records.remove(topic, label)
