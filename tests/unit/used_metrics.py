"""A `Metrics` in which everything was counted at least once: what a scrape can show at most."""

from typing import Final

from schemas.topics import topic_name
from streams.metrics import Metrics

PARTITIONS: Final = 3


class BoomError(Exception):
    pass


def used_metrics() -> Metrics:
    metrics = Metrics("1.2.3", {"faust-streaming": "0.15.3"})
    context, steps = topic_name("context"), topic_name("steps")
    metrics.worker("running")
    metrics.events(context, {"context.changed": 7})
    metrics.events(steps, {"task.dispatched": 2, "task.step": 5})
    metrics.duplicates({"task.result": 1})
    metrics.verdicts({("delivered", "fresh", "search"): 3, ("withheld", "unknown_task", None): 1})
    metrics.result_ages([0.5, 90.0])
    metrics.produce_to_verdict("hot", [0.004, 0.008])
    metrics.dlq("undecodable")
    metrics.misrouted(context, 2)
    metrics.barrier_wait("hot", 0.001)
    metrics.transaction(0.004, 14)
    metrics.cpu("fold", 0.25)
    metrics.transaction_failed(BoomError())
    for partition in range(PARTITIONS):
        metrics.state(partition, "running")
        metrics.lag(context, partition, 12)
        metrics.partition(partition, sessions=2, row_bytes=900, parked_results=1, queued_bytes=4096)
    metrics.restored(0.75, 2)
    metrics.handover()
    metrics.rebalance()
    return metrics
