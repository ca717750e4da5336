"""A worker as a process of its own: started, watched and ended from outside, as an operator would."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import psutil
from pydantic import SecretStr

from local.broker import free_port
from tidegate.settings import Settings

ROOT = Path(__file__).resolve().parent.parent

# What a container or another machine changes: the name Faust builds its own address of.
_ELSEWHERE = """\
import runpy, socket, sys
name = sys.argv.pop(1)
socket.gethostname = lambda: name
sys.argv[0] = "tidegate"
runpy.run_module("tidegate", run_name="__main__", alter_sys=True)
"""


def environment(settings: Settings, **changes: object) -> dict[str, str]:
    """The variables that make a `tidegate` command use `settings`; `changes` replace single settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    told = {name: value for name, value in settings.model_dump().items() if value is not None}
    told = {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in told.items()}
    told |= changes
    return {
        **own,
        **{f"TIDEGATE_{name.upper()}": str(value) for name, value in told.items()},
        "PYTHONPATH": str(ROOT),
    }


class Worker:
    """One `tidegate worker`. Its log goes to `log_file`, as JSON lines, over all its starts.

    `code` is where its packages are: beside this file, or a build of them.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        directory: Path,
        *,
        host_name: str | None = None,
        code: Path = ROOT,
        **changes: object,
    ) -> None:
        self.name = name
        self.metrics_port = free_port()
        self.log_file = directory / f"{name}.log"
        state_dir = directory / name
        state_dir.mkdir(parents=True, exist_ok=True)
        self._directory = state_dir
        self._host_name = host_name
        self._environment = environment(
            settings,
            **{
                "metrics_port": self.metrics_port,
                "metrics_host": "127.0.0.1",
                "state_dir": state_dir,
                "log_format": "json",
                **changes,
            },
        ) | {"PYTHONPATH": str(code)}
        self._process: subprocess.Popen[bytes] | None = None
        self.expected_to_end = False
        """Whoever watches it for an unexpected end may look here whether this one was asked for."""

    def start(self) -> Self:
        """Start the process; returns at once."""
        self.expected_to_end = False
        arguments = ["-m", "tidegate", "worker"]
        if self._host_name is not None:
            arguments = ["-c", _ELSEWHERE, self._host_name, "worker"]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    @property
    def started(self) -> bool:
        """Whether it was ever started."""
        return self._process is not None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of the last start."""
        if self._process is None:
            raise RuntimeError(f"worker {self.name} was never started")
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """As `subprocess` tells it: negative for a signal, None while it runs."""
        return self.process.poll()

    def kill(self) -> None:
        """End it as a crash would, and wait until it is gone."""
        self.expected_to_end = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop its clock: no instruction is carried out until `thaw`."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """Send SIGTERM; returns at once."""
        self.expected_to_end = True
        self.process.terminate()

    def rss_bytes(self) -> int:
        """Memory it holds now."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def cpu_seconds(self) -> float:
        """CPU time it has used since its start, all threads, user and system."""
        used = psutil.Process(self.pid).cpu_times()
        return float(used.user + used.system)

    def pin(self, cores: Iterable[int]) -> bool:
        """Keep it on `cores`; False where the system has no such thing."""
        return pin(self.pid, cores)

    def told(self, event: str) -> list[dict[str, Any]]:
        """The log lines with this event name, over all starts."""
        return [line for line in self.log() if line.get("event") == event]

    def log(self) -> list[dict[str, Any]]:
        """Every log line that is a JSON object."""
        lines = []
        for line in self.log_text().splitlines():
            if line.startswith("{"):
                try:
                    lines.append(json.loads(line))
                except ValueError:  # being written, or cut short by a kill
                    continue
        return lines

    def log_text(self) -> str:
        """Everything it has printed."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def is_ready(self) -> bool:
        """Whether `/readyz` says that it has partitions assigned (perhaps none) and all of them are running."""
        return self.partitions() is not None and self._get("readyz")[0] == 200

    def partitions(self) -> dict[int, str] | None:
        """Its partitions and their states; None where it does not answer or has been assigned nothing yet."""
        status, body = self._get("readyz")
        if status == 0:
            return None
        answer = json.loads(body)
        return {int(number): state for number, state in answer["partitions"].items()} if answer["assigned"] else None

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 where there is none."""
        total = 0.0
        for line in self._get("metrics")[1].splitlines():
            found = re.match(rf"{re.escape(name)}(\{{[^}}]*\}})? (\S+)", line)
            if found and all(f'{label}="{value}"' in (found[1] or "") for label, value in labels.items()):
                total += float(found[2])
        return total

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""


async def until_ready(workers: Iterable[Worker], timeout_seconds: float = 60.0) -> None:
    """Wait until every worker is ready. Raises `RuntimeError` with the log's end where one ends or is too slow."""
    deadline = time.monotonic() + timeout_seconds
    waiting = list(workers)
    while waiting:
        worker = waiting[0]
        if await asyncio.to_thread(worker.is_ready):
            waiting.pop(0)
            continue
        if not worker.is_alive or time.monotonic() > deadline:
            state = f"ended ({worker.exit_status})" if not worker.is_alive else "is not ready"
            raise RuntimeError(f"worker {worker.name} {state}:\n{worker.log_text()[-4000:]}")
        await asyncio.sleep(0.05)


def pin(pid: int, cores: Iterable[int]) -> bool:
    """Keep every thread of a process, and those it will start, on `cores`; False where the system has no such thing."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    wanted = set(cores)
    for thread in psutil.Process(pid).threads():
        try:
            os.sched_setaffinity(thread.id, wanted)
        except ProcessLookupError:  # it has ended meanwhile
            continue
    return True
