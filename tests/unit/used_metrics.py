"""A `Metrics` in which everything was counted at least once: what a scrape can show at most."""

from typing import Final

from gateway.metrics import Metrics as GatewayMetrics
from projections.changes import Verdicted
from schemas.topics import topic_name
from streams.metrics import Metrics

PARTITIONS: Final = 3
NOW_MS: Final = 1_764_000_000_000


class BoomError(Exception):
    pass


def used_metrics() -> Metrics:
    metrics = Metrics("1.2.3", {"faust-streaming": "0.15.3"})
    context, steps = topic_name("context"), topic_name("steps")
    metrics.worker("running")
    metrics.events(context, {"context.changed": 7})
    metrics.events(steps, {"task.dispatched": 2, "task.step": 5})
    metrics.duplicates({"task.result": 1})
    metrics.ignored({"task.heartbeat": 3})
    metrics.judged(
        [
            Verdicted("delivered", "fresh", "search", "hot", 500, NOW_MS - 4),
            Verdicted("delivered", "fresh", "search", "hot", 90_000, NOW_MS - 8),
            Verdicted("delivered", "fresh", "search", "cold", None, NOW_MS - 8),
            Verdicted("withheld", "unknown_task", None, "hot", None, NOW_MS - 8),
        ],
        NOW_MS,
    )
    metrics.acknowledged({"shown": 2})
    metrics.endings({("delivered", "fresh"): 3, ("cancelled", "superseded"): 1})
    metrics.dlq("undecodable")
    metrics.misrouted(context, 2)
    metrics.quarantined(context)
    metrics.barrier_wait("hot", 0.001)
    metrics.transaction(0.004, 14)
    metrics.cpu("fold", 0.25)
    metrics.transaction_failed(BoomError())
    for partition in range(PARTITIONS):
        metrics.state(partition, "running")
        metrics.lag(context, partition, 12)
        metrics.oldest_decision(partition, "steps", 0.25)
        metrics.partition(
            partition,
            sessions=2,
            row_bytes=900,
            ended_task_bytes=400,
            waiting_bytes=1200,
            parked_results=1,
            queued_bytes=4096,
        )
    metrics.restored(0.75, 2)
    metrics.handover()
    metrics.rebalance()
    return metrics


def used_gateway_metrics() -> GatewayMetrics:
    """The same of a gateway."""
    metrics = GatewayMetrics()
    metrics.streams.set(40)
    metrics.partitions.set(3)
    metrics.events_out.inc(900)
    metrics.resumes.inc(5)
    metrics.resets.inc()
    metrics.closed.labels("slow").inc()
    metrics.catch_up_seconds.observe(0.02)
    metrics.requests.labels("/v1/sessions/{session}/tasks", "POST", "202").observe(0.004)
    metrics.refused.labels("forbidden").inc()
    return metrics
