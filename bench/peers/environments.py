"""The peers' Python environments: one for each, made from its lock file when it is first asked for.

Apart from the project's own, so that no peer's dependencies decide which versions the gate runs with, and the other way
round.
"""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

PEERS = Path(__file__).resolve().parent


def python_of(name: str) -> Path:
    """The interpreter of the environment that `bench/peers/<name>/requirements.lock` describes; makes it if need be.

    Raises `subprocess.CalledProcessError` where a package cannot be installed.
    """
    lock, directory = PEERS / name / "requirements.lock", PEERS / ".venvs" / name
    python, ready = directory / "bin" / "python", directory / "ready"
    wanted = sha256(lock.read_bytes()).hexdigest()
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([str(python), *install, "--requirement", str(lock)], check=True)
        ready.write_text(wanted)
    return python
