"""The JavaScript client in Node: by itself, against a server that misbehaves, and against a real gateway."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.broker.harness import Gate
from tests.gateway.process import QUERY_SECRET, GatewayProcess, token
from tidegate.settings import Settings

CLIENT = Path(__file__).parents[2] / "clients" / "javascript"
SESSION = "acme/node 1"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def run_tests(**environment: str) -> None:
    done = subprocess.run(
        ["node", "--test", *map(str, sorted((CLIENT / "test").glob("*.test.js")))],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# pass 10\n" in done.stdout, done.stdout


async def against_a_gateway(settings: Settings, directory: Path) -> None:
    async with Gate(settings, directory) as gate, GatewayProcess("gateway", settings, directory) as gateway:
        await gate.start("w1", query_secret=QUERY_SECRET)
        variables = {"TIDEGATE_URL": gateway.url, "TIDEGATE_TOKEN": token("acme/*"), "TIDEGATE_SESSION": SESSION}
        await asyncio.to_thread(run_tests, **variables)


def test_client(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(against_a_gateway(settings, tmp_path))
