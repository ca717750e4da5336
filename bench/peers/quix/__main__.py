"""Quix Streams, exactly-once: the three topics as one dataframe, which it reads in the order of time; state in RocksDB.

A session's facets are one value of its state and each of its tasks is another, so that an event reads and
writes little.
"""

from __future__ import annotations

from typing import Any

from quixstreams import Application

from bench.peers.arguments import parse_arguments

COMMIT_EVERY = 50_000
COMMIT_SECONDS = 1.0


def handle(event: dict[str, Any], state: Any) -> list[dict[str, Any]]:
    """Fold or judge one event; returns the verdict there is, if any."""
    kind = event["type"]
    if kind == "context.changed":
        facets = state.get("facets", {})
        if "cause" in event:
            own_work(event["set"], facets, event["cause"]["task_id"], state)
        facets.update(event["set"])
        state.set("facets", facets)
    elif kind == "task.dispatched":
        annotate = event.get("on_stale") == "annotate"
        state.set(event["task_id"], {"expected": event["snapshot"], "annotate": annotate})
    elif kind == "task.result":
        return [judge(event, state)]
    elif "reads" in event:
        task = state.get(event["task_id"])
        if task is not None:
            task["expected"].update(event["reads"])
            state.set(event["task_id"], task)
    return []


def own_work(changes: dict[str, str], facets: dict[str, str], task_id: str, state: Any) -> None:
    """What a task changes itself moves along what it expects."""
    task = state.get(task_id)
    if task is None:
        return
    expected = task["expected"]
    for facet, value in changes.items():
        if facet in expected and facets.get(facet, expected[facet]) == expected[facet]:
            expected[facet] = value
    state.set(task_id, task)


def judge(result: dict[str, Any], state: Any) -> dict[str, Any]:
    """The verdict on a result. Its task is over."""
    task_id = result["task_id"]
    task = state.get(task_id)
    decision, annotated, reason = "delivered", False, "fresh"
    if task is None:
        decision, reason = "withheld", "unknown_task"
    else:
        state.delete(task_id)
        facets = state.get("facets", {})
        if any(facets.get(facet, value) != value for facet, value in task["expected"].items()):
            reason = "stale"
            annotated = task["annotate"] or result["outcome"] == "failed"
            decision = "delivered" if annotated else "withheld"
    return {
        "session_id": result["session_id"],
        "task_id": task_id,
        "decision": decision,
        "annotated": annotated,
        "reason": reason,
        "parts": result["parts"],
    }


def main() -> None:
    """Run until SIGTERM."""
    arguments = parse_arguments(__doc__)
    app = Application(
        broker_address=arguments.bootstrap,
        consumer_group=arguments.group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_every=COMMIT_EVERY,
        commit_interval=COMMIT_SECONDS,
        state_dir="state",
        consumer_poll_timeout=0.1,
        max_partition_buffer_size=1_000_000,  # a partition paused for a full buffer is fetched again
        consumer_extra_config={
            "check.crcs": False,
            "fetch.wait.max.ms": 10,
            "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": 16_384,
        },
        producer_extra_config={
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 1_000_000,
            "retry.backoff.ms": 5,
        },
        loglevel="WARNING",
    )
    context, steps, results = (
        app.dataframe(app.topic(f"{arguments.inputs_prefix}.{name}.v1", key_deserializer="bytes"))
        for name in ("context", "steps", "results")
    )
    events = context.concat(steps).concat(results)
    verdicts = events.apply(handle, stateful=True, expand=True)
    verdicts.to_topic(app.topic(f"{arguments.output_prefix}.verdicts"))
    app.run()


if __name__ == "__main__":
    main()
