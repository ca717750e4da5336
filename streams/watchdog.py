"""Looks after aiokafka's own tasks: where they have ended, the process would live on and consume nothing."""

import asyncio
from contextlib import suppress
from typing import Any

import structlog
from aiokafka.errors import InconsistentGroupProtocolError

from streams.errors import NOT_ALLOWED, FatalError, not_allowed

_log = structlog.get_logger(__name__)

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
        if isinstance(pending, InconsistentGroupProtocolError):
            _log.warning("waiting_for_old_workers", group_id=consumer._coordinator.group_id)
            thread.thread_loop.call_soon_threadsafe(_try_to_join_again, consumer._coordinator)
            continue
        for name, task in (
            ("group coordination", getattr(consumer._coordinator, "_coordination_task", None)),
            ("fetching", getattr(consumer._fetcher, "_fetch_task", None)),
        ):
            if task is not None and task.done():
                error = None if task.cancelled() else task.exception()
                if isinstance(error, NOT_ALLOWED):
                    raise not_allowed(error) from error
                raise FatalError(f"the consumer's {name} task has ended: {error!r}; restart the worker") from error


def _try_to_join_again(coordinator: Any) -> None:
    """Members of an older version have to leave the group first; aiokafka stops until it is asked for its error."""
    with suppress(InconsistentGroupProtocolError):
        coordinator.check_errors()
