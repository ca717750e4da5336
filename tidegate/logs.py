"""Logging set-up: structlog for our events, and the standard library's records of Faust and aiokafka through it."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

_TALKATIVE = ("aiokafka", "faust", "mode", "streams.app", "streams.transport")
"""Loggers that tell of every service's start and stop; the last two are those of our subclasses of Faust's services."""


def configure(
    level: str = "info", log_format: Literal["console", "json"] = "console", stream: TextIO | None = None
) -> None:
    """Send every log record to `stream` (default: standard error), for people (`console`) or as one JSON object a line.

    Replaces the root logger's handlers, so calling it again is harmless. Python warnings are logged, too.
    """
    target = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=target.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # the other one prints locals, passwords among them
            )
        ]
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level.upper())
    logging.captureWarnings(True)
    # It warns at every commit that Kafka 4 has not yet written the markers of the one before; the retry takes 5 ms.
    logging.getLogger("aiokafka.producer.sender").setLevel(level.upper() if level == "debug" else "ERROR")
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(level.upper() if level == "debug" else "WARNING")
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _json(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()
