import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tidegate import logs


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_our_events_and_a_librarys_records_are_json_lines_alike() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger("streams").info("partition.restored", partition=3, rows=17)
    logging.getLogger("aiokafka").warning("lost %s", "node 1")
    logging.getLogger("aiokafka").debug("not this one")
    ours, theirs = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert ours.items() >= {"event": "partition.restored", "partition": 3, "rows": 17, "level": "info"}.items()
    assert theirs.items() >= {"event": "lost node 1", "level": "warning", "logger": "aiokafka"}.items()


def test_a_traceback_stays_inside_its_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("streams").exception("cycle.failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_people_get_plain_lines_when_it_is_no_terminal() -> None:
    stream = io.StringIO()
    logs.configure("info", "console", stream)
    structlog.get_logger("streams").info("partition.restored", partition=3)
    assert "partition.restored" in stream.getvalue()
    assert "partition=3" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
