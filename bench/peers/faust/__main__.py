"""Stock Faust: an agent for each topic, tables with changelogs, `topic.send`.

A session's facets are one value of a table and each task is one of another, so that an event writes little.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import faust
import mode.loop
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.peers.arguments import parse_arguments

arguments = parse_arguments(__doc__)

app = faust.App(
    arguments.group,
    broker=f"kafka://{arguments.bootstrap}",
    # exactly_once runs, but its transactions leave out what `topic.send` writes to topics that the app does not consume
    processing_guarantee="at_least_once",
    store="memory://",
    datadir="data",
    web_enabled=False,
    topic_disable_leader=True,
    topic_partitions=arguments.partitions,
    topic_replication_factor=1,
    key_serializer="raw",
    value_serializer="json",
    broker_commit_interval=1.0,
    broker_max_poll_records=10_000,
    stream_buffer_maxsize=16_384,
    stream_wait_empty=False,
    producer_linger=0.005,
    producer_max_batch_size=1_000_000,
    consumer_auto_offset_reset="earliest",
)


def topic(name: str) -> Any:
    """A topic that exists."""
    return app.topic(name, partitions=arguments.partitions, key_type=bytes, value_serializer="json", internal=False)


context = topic(f"{arguments.inputs_prefix}.context.v1")
steps = topic(f"{arguments.inputs_prefix}.steps.v1")
results = topic(f"{arguments.inputs_prefix}.results.v1")
verdicts = topic(f"{arguments.output_prefix}.verdicts")
all_facets = app.Table("facets", partitions=arguments.partitions, key_type=str)
tasks = app.Table("tasks", partitions=arguments.partitions, key_type=str)


def task_key(event: dict[str, Any], task_id: str) -> str:
    """Task ids are unique within a session."""
    return f"{event['session_id']}/{task_id}"


@app.agent(context)
async def fold_context(events: Any) -> None:
    """Take the new values; a task's own change moves along what it expects."""
    async for event in events:
        facets = dict(all_facets.get(event["session_id"], {}))
        if "cause" in event:
            own_work(event, facets)
        facets.update(event["set"])
        all_facets[event["session_id"]] = facets


def own_work(event: dict[str, Any], facets: dict[str, str]) -> None:
    """What a task changes itself moves along what it expects."""
    key = task_key(event, event["cause"]["task_id"])
    task = tasks.get(key)
    if task is None:
        return
    expected = dict(task["expected"])
    for facet, value in event["set"].items():
        if facet in expected and facets.get(facet, expected[facet]) == expected[facet]:
            expected[facet] = value
    tasks[key] = {**task, "expected": expected}


@app.agent(steps)
async def fold_steps(events: Any) -> None:
    """Open a task, or take what it read."""
    async for event in events:
        key = task_key(event, event["task_id"])
        if event["type"] == "task.dispatched":
            tasks[key] = {"expected": event["snapshot"], "annotate": event.get("on_stale") == "annotate"}
        elif "reads" in event:
            task = tasks.get(key)
            if task is not None:
                tasks[key] = {**task, "expected": {**task["expected"], **event["reads"]}}


@app.agent(results)
async def judge(events: Any) -> None:
    """One verdict for each result. Its task is over."""
    async for event in events:
        key = task_key(event, event["task_id"])
        task = tasks.get(key)
        decision, annotated, reason = "delivered", False, "fresh"
        if task is None:
            decision, reason = "withheld", "unknown_task"
        else:
            del tasks[key]
            facets = all_facets.get(event["session_id"], {})
            if any(facets.get(facet, value) != value for facet, value in task["expected"].items()):
                reason = "stale"
                annotated = task["annotate"] or event["outcome"] == "failed"
                decision = "delivered" if annotated else "withheld"
        verdict = {
            "session_id": event["session_id"],
            "task_id": event["task_id"],
            "decision": decision,
            "annotated": annotated,
            "reason": reason,
            "parts": event["parts"],
        }
        await verdicts.send(key=event["session_id"].encode(), value=verdict)


async def create_changelogs() -> None:
    """Faust makes them too, but after it has asked how many partitions they have: its agents crash at first."""
    admin = AIOKafkaAdminClient(bootstrap_servers=arguments.bootstrap)
    await admin.start()
    names = [f"{arguments.group}-{table.name}-changelog" for table in (all_facets, tasks)]
    await admin.create_topics(
        [NewTopic(name, arguments.partitions, 1, topic_configs={"cleanup.policy": "compact"}) for name in names]
    )
    await admin.close()


if __name__ == "__main__":
    mode.loop.use("uvloop")
    asyncio.run(create_changelogs())
    sys.argv[1:] = []
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()
