"""On paper: what a load takes in workers, partitions, memory, brokers and money, from the measured figures.

What is measured comes from `bench/results`; what is not is an assumption, stated here and in the document, for the
reader to replace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SECONDS_OF_A_DAY = 86_400


@dataclass(frozen=True)
class Load:
    """What is asked for."""

    sessions: int = 10_000_000
    events_per_second: int = 1_000_000


@dataclass(frozen=True)
class Assumptions:
    """What was not measured. Prices are round numbers of the kind that large clouds ask on demand, in US dollars."""

    core_used: float = 0.6
    """Share of a worker's core in use at the load: the rest catches up after a restart, and takes bursts."""
    partitions_of_a_worker: int = 4
    worker_base_mib: int = 200
    """A worker without sessions, with its buffers."""
    replication: int = 3
    broker_mb_per_second: float = 150.0
    """Bytes that a broker takes in all the time, those of replication among them."""
    retention_days: float = 1.0
    """Of inputs and outputs. The changelog is compacted: its rows are stored once, or a few times."""
    changelog_copies: float = 2.0
    core_month: float = 30.0
    memory_gib_month: float = 4.0
    broker_month: float = 500.0
    """A machine of 8 cores and 32 GiB, without its disks."""
    disk_gb_month: float = 0.08


@dataclass(frozen=True)
class Estimate:
    """What the load takes. `bytes` are megabytes a second into the brokers before replication, by what they are."""

    workers: int
    partitions: int
    worker_memory_gib: float
    restore_seconds: float
    bytes: Mapping[str, float]
    brokers: int
    stored_tb: float
    month: Mapping[str, float]
    most_of_one_partition: int
    """Events a second that one partition can take, on a core of its own."""

    @property
    def month_in_all(self) -> float:
        """US dollars a month."""
        return sum(self.month.values())


def estimate(
    drain: Mapping[str, Any],
    pipeline: Mapping[str, Any],
    scale: Mapping[str, Any],
    load: Load | None = None,
    assumed: Assumptions | None = None,
) -> Estimate:
    """What `load` takes.

    CPU is that of the real worker working off a backlog: at this load every worker's cycles are full. Bytes of rows are
    those of a gate that keeps up, where nearly every event has its row written: the dearer case. Rows are written
    compressed, as they were when measured; stored, they count as they are, for what compaction leaves of a batch
    compresses less well. Events and outputs are not compressed unless somebody asks for it.
    """
    load, assumed = load or Load(), assumed or Assumptions()
    cpu_seconds = drain["cpu_us_per_event"] / 1e6
    workers = math.ceil(round(load.events_per_second * cpu_seconds / assumed.core_used, 6))
    partitions = workers * assumed.partitions_of_a_worker
    heaviest = max((each for each in scale["sessions"] if "bytes_per_idle_session" in each), key=_weight)
    sessions_of_a_worker = load.sessions / workers
    memory_gib = assumed.worker_base_mib / 1024 + sessions_of_a_worker * heaviest["bytes_per_idle_session"] / 2**30
    restored = scale["restored"][-1]
    keeping_up = scale["open_tasks"][0]
    megabytes = {
        "events": load.events_per_second * drain["event_bytes"] / 1e6,
        "outputs": load.events_per_second * pipeline["output_bytes"] / pipeline["events"] / 1e6,
        "rows": load.events_per_second * keeping_up["row_bytes_sent_per_event"] / 1e6,
    }
    brokers = max(3, math.ceil(sum(megabytes.values()) * assumed.replication / assumed.broker_mb_per_second))
    kept_mb = (megabytes["events"] + megabytes["outputs"]) * assumed.retention_days * SECONDS_OF_A_DAY
    rows_mb = load.sessions * heaviest["row_bytes"] * assumed.changelog_copies / 1e6
    stored_tb = (kept_mb + rows_mb) * assumed.replication / 1e6
    return Estimate(
        workers=workers,
        partitions=partitions,
        worker_memory_gib=memory_gib,
        restore_seconds=sessions_of_a_worker * restored["restart_seconds"] / restored["sessions"],
        bytes=megabytes,
        brokers=brokers,
        stored_tb=stored_tb,
        month={
            "workers": workers * (assumed.core_month + math.ceil(memory_gib) * assumed.memory_gib_month),
            "brokers": brokers * assumed.broker_month,
            "disks": stored_tb * 1_000 * assumed.disk_gb_month,
        },
        most_of_one_partition=round(1 / cpu_seconds),
    )


def _weight(measured: Mapping[str, Any]) -> int:
    return int(measured["bytes_per_idle_session"])
