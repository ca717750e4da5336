"""The examples of docs/contract.md, run as they stand there, and the worker's endpoints on the way."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tidegate.settings import Settings
from tidegate.topics import create_topics

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SECONDS = 60.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {SECONDS} s"
        time.sleep(0.1)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """The examples write to the default prefix."""
    made = make_settings(topic_prefix="tidegate", group_id="tidegate", log_format="json")
    asyncio.run(create_topics(made))
    return made


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TIDEGATE_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "TIDEGATE_STATE_DIR": str(settings.state_dir),
        "TIDEGATE_METRICS_PORT": "0",
        "TIDEGATE_LOG_FORMAT": "json",
    }


@pytest.fixture
def address(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """Where a running worker answers."""
    log = tmp_path / "worker.log"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [sys.executable, "-m", "tidegate", "worker"], cwd=tmp_path, env=environment, stderr=stream, stdout=stream
        ) as worker,
    ):
        try:
            wait_for(lambda: worker.poll() is not None or "metrics_port" in log.read_text(), "the worker's start")
            found = re.search(r'"metrics_port": ?(\d+)', log.read_text())
            assert found, log.read_text()
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            worker.terminate()
            assert worker.wait(SECONDS) == 0, log.read_text()


def status(url: str) -> int:
    try:
        with urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except URLError as error:
        return int(getattr(error, "code", 0))


def test_what_the_contract_tells_to_type_leads_to_a_delivery(
    address: str, environment: dict[str, str], tmp_path: Path
) -> None:
    wait_for(lambda: status(f"{address}/readyz") == 200, "readiness")
    assert status(f"{address}/healthz") == 200
    (block,) = re.findall(r"```sh\n(python produce\.py .*?)```", (ROOT / "docs/contract.md").read_text(), re.DOTALL)
    for line in block.splitlines():
        _, script, *arguments = shlex.split(line)
        subprocess.run([sys.executable, EXAMPLES / script, *arguments], env=environment, check=True, timeout=SECONDS)
    output = tmp_path / "delivered"
    with (
        output.open("wb") as stream,
        subprocess.Popen([sys.executable, EXAMPLES / "consume.py"], env=environment, stdout=stream) as consumer,
    ):
        try:
            wait_for(lambda: output.read_text().endswith("\n"), "the delivery")
        finally:
            consumer.terminate()
    assert output.read_text() == "t-1 show Found. fresh\n"
    with urlopen(f"{address}/metrics", timeout=5) as answer:
        shown = answer.read().decode()
    counted = 'tidegate_verdicts_total{decision="delivered",reason="fresh",task_type="search"} 1.0'
    assert counted in shown
    assert "tidegate_misrouted_records_total{" not in shown
    assert json.loads(urlopen(f"{address}/readyz", timeout=5).read())["partitions"] == {"0": "running", "1": "running"}
