"""Ends the worker when aiokafka's own tasks have ended: the process would live on and consume nothing."""

import asyncio
from typing import Any

from streams.errors import FatalError

INTERVAL_SECONDS = 0.5


async def watch(app: Any) -> None:
    """Return never; raise `FatalError` once the coordination or fetching task of the app's consumer has ended."""
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        consumer = app.consumer._thread._consumer
        if consumer is None or consumer._closed or app.should_stop:
            continue
        for name, task in (
            ("group coordination", getattr(consumer._coordinator, "_coordination_task", None)),
            ("fetching", getattr(consumer._fetcher, "_fetch_task", None)),
        ):
            if task is not None and task.done():
                error = None if task.cancelled() else task.exception()
                raise FatalError(f"the consumer's {name} task has ended: {error!r}; restart the worker") from error
