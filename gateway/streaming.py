"""The response of an event stream: from a subscriber to a connection.

Source: HTML Living Standard, section 9.2. `EventSource` gives up for good on any status but 200, so later errors
are events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import orjson
import structlog
from aiokafka.errors import KafkaError
from starlette.types import Receive, Send

from gateway.agui import Translator
from gateway.cursor import Cursor, parse_cursor
from gateway.feed import Feed, TooFarBehindError
from gateway.frames import frame
from gateway.metrics import Metrics
from gateway.subscriber import Subscriber

_log = structlog.get_logger(__name__)

RETRY_MS: Final = 1000
HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
    (b"connection", b"close"),  # an instance that drains must not be asked again on this connection
]


async def stream(
    feed: Feed,
    metrics: Metrics,
    subscriber: Subscriber,
    cursor_text: str | None,
    extra_headers: list[tuple[bytes, bytes]],
    receive: Receive,
    send: Send,
    translator: Translator | None = None,
) -> None:
    """Send the session's events until the client leaves or the subscriber is closed; with a translator, in its form.

    Cancelled, it unsubscribes; nothing is written anywhere for a client that leaves.
    """
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *extra_headers]})
    first = f"retry: {RETRY_MS}\n\n".encode()
    await send({"type": "http.response.body", "body": first, "more_body": True})
    loop = asyncio.get_running_loop()
    subscriber.on_slow = _abort_of(send)
    watching = loop.create_task(_watch(receive, subscriber))
    joining = loop.create_task(_join(feed, metrics, subscriber, cursor_text))
    metrics.streams.inc()
    try:
        while True:
            await subscriber.wait()
            body = subscriber.take()
            if body and translator is not None:
                body = translator.translate(body)
                if translator.is_ended:
                    subscriber.close("ended")
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if subscriber.closed is not None and not subscriber.has_blocks:
                break
        if subscriber.closed in {"drain", "unauthorized", "failed", "ended"}:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        watching.cancel()
        joining.cancel()
        feed.unsubscribe(subscriber)
        metrics.streams.dec()
        metrics.closed.labels(subscriber.closed or "gone").inc()


def _abort_of(send: Send) -> Callable[[], None] | None:
    """What cuts the connection at once, with uvicorn: ASGI has no way to, and `send` waits until the client reads."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    return transport.abort if transport is not None else None


async def _join(feed: Feed, metrics: Metrics, subscriber: Subscriber, cursor_text: str | None) -> None:
    cursor: Cursor | None = None
    try:
        if cursor_text:
            cursor = parse_cursor(cursor_text)
            if cursor is None:
                raise TooFarBehindError("the cursor is not one of this gateway's")
        await feed.subscribe(subscriber, cursor)
    except TooFarBehindError as reason:
        metrics.resets.inc()
        data: dict[str, Any] = {"reason": str(reason)}
        try:
            await feed.subscribe(subscriber, None, frame("reset", orjson.dumps(data), None))
        except KafkaError as error:
            _failed(subscriber, error)
    except KafkaError as error:
        _failed(subscriber, error)


def _failed(subscriber: Subscriber, error: KafkaError) -> None:
    _log.warning("stream_not_joined", error=type(error).__name__)
    subscriber.put(frame("reconnect", b'{"reason":"Kafka does not answer"}', None))
    subscriber.close("failed")


async def _watch(receive: Receive, subscriber: Subscriber) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            subscriber.close("gone")
            return
