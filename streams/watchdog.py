"""Ends the worker when aiokafka's own tasks have ended: the process would live on and consume nothing."""

import asyncio
from typing import Any

from streams.errors import NOT_ALLOWED, FatalError, not_allowed

INTERVAL_SECONDS = 0.5


async def watch(app: Any) -> None:
    """Return never; raise `FatalError` once the coordination or fetching task of the app's consumer has ended.

    To be begun before the app: a group that may not be joined ends them while the app still starts.
    """
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        thread = app.consumer._thread
        consumer = thread._consumer if thread is not None else None
        if consumer is None or consumer._closed or app.should_stop:
            continue
        pending = getattr(consumer._coordinator, "_pending_exception", None)
        if isinstance(pending, NOT_ALLOWED):  # it waits until somebody asks for records, and that is nobody
            raise not_allowed(pending) from pending
        for name, task in (
            ("group coordination", getattr(consumer._coordinator, "_coordination_task", None)),
            ("fetching", getattr(consumer._fetcher, "_fetch_task", None)),
        ):
            if task is not None and task.done():
                error = None if task.cancelled() else task.exception()
                if isinstance(error, NOT_ALLOWED):
                    raise not_allowed(error) from error
                raise FatalError(f"the consumer's {name} task has ended: {error!r}; restart the worker") from error
