"""The HTTP API against its own document, with requests that nobody would think of."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.openapi import document
from tests.broker.harness import Gate
from tests.gateway.process import QUERY_SECRET, GatewayProcess, token
from tidegate.settings import Settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))

pytestmark = pytest.mark.long


def without_waiting(found: dict[str, Any]) -> dict[str, Any]:
    """The document without `wait`, so that no request takes long, and without the stream, which never ends."""
    del found["paths"]["/v1/sessions/{session}/events"]
    for item in found["paths"].values():
        for method in item.keys() - {"parameters"}:
            item[method]["parameters"] = [each for each in item[method]["parameters"] if each["name"] != "wait"]
    return found


async def fuzz(settings: Settings, directory: Path) -> None:
    file = directory / "openapi.json"
    file.write_bytes(orjson.dumps(without_waiting(document())))
    async with Gate(settings, directory) as gate, GatewayProcess("gateway", settings, directory) as gateway:
        await gate.start("w1", query_secret=QUERY_SECRET)
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            *("run", str(file), "--url", gateway.url, "--header", f"Authorization: Bearer {token('*')}"),
            *("--checks", "all", "--max-examples", str(EXAMPLES), "--seed", "1", "--request-timeout", "20"),
            *("--exclude-checks", "positive_data_acceptance"),  # bytes of UTF-8, which a schema cannot count
            *("--warnings", "off", "--no-shrink"),
        ]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=directory, capture_output=True, text=True, check=False, timeout=280
        )
        assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2000:]
        assert "request_failed" not in gateway.log_text()
        assert gateway.exit_status is None
        await gate.drained(30)
        await gate.audit()


def test_fuzz(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(fuzz(settings, tmp_path))
