"""The tests of the JavaScript client, run in Node."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

CLIENT: Final = Path(__file__).parents[2] / "clients" / "javascript"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def run_tests(*names: str, passed: int, **environment: str) -> None:
    """Run test files; as many tests as told must pass."""
    done = subprocess.run(
        ["node", "--test", *[str(CLIENT / "test" / f"{name}.test.js") for name in names]],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"# pass {passed}\n" in done.stdout, done.stdout
