"""A peer as a process of its own, pinned to its core; and what the measurement asks of any engine's process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from testing.process import ROOT, environment, pin
from tidegate.settings import Settings

STOP_SECONDS = 10.0


class EngineProcess(Protocol):
    """What `testing.process.Worker` and `PeerProcess` have in common."""

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""

    def cpu_seconds(self) -> float:
        """CPU time it has used since its start, all threads, user and system."""

    def log_text(self) -> str:
        """Everything it has printed."""

    def kill(self) -> None:
        """End it at once."""


class PeerProcess:
    """A peer that runs. `directory` is its working directory, and empty."""

    def __init__(self, command: Sequence[str], settings: Settings, directory: Path, cores: Iterable[int]) -> None:
        self._log_file = directory.parent / f"{directory.name}.log"
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env={**environment(settings), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if cores:
            pin(self._process.pid, cores)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """CPU time it has used since its start, all threads, user and system."""
        used = psutil.Process(self._process.pid).cpu_times()
        return float(used.user + used.system)

    def log_text(self) -> str:
        """Everything it has printed."""
        return self._log_file.read_text(errors="replace")

    def next_pass(self) -> None:
        """Tell it to begin again: a line on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """Ask it to end; if it has not after some seconds, end it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
