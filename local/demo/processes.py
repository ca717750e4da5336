"""The demo's child processes: each in a session of its own, ended by its pid, and gone when the demo is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

import tidegate
from tidegate.errors import TidegateError

_STOP_SECONDS = 10.0
_STOP_AFTER_ERROR_SECONDS = 3.0
_TAIL_LINES = 15

# A demo that is killed takes its children along: its end of the pipe closes, and `read` returns.
_WATCHER = 'read -r _; kill -TERM "$1" 2>/dev/null'


class Child:
    """One Python process, started by `async with`. What it prints goes to `log_file`, but for JSON lines that are read.

    name: what errors call it. arguments: of `python`. settings: its environment in place of every TIDEGATE_ variable.
    talks: its standard output is read with `lines`, and its standard input ends with `hang_up`.
    """

    def __init__(
        self, name: str, arguments: list[str], settings: Mapping[str, str], directory: Path, *, talks: bool = False
    ) -> None:
        self.name = name
        self.log_file = directory / f"{name}.log"
        self._arguments = arguments
        self._settings = settings
        self._directory = directory
        self._talks = talks
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("TIDEGATE_")}
        # The working directory is another one, so that no ./tidegate.toml is read. The package must still be found.
        here = str(Path(tidegate.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (here, environment.get("PYTHONPATH"))))
        with self.log_file.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                stdin=asyncio.subprocess.PIPE if self._talks else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if self._talks else log,
                stderr=log,
                cwd=self._directory,
                env={**environment, **self._settings},
                start_new_session=True,  # Ctrl-C reaches the demo alone, which ends its children in order
            )
        self._watcher = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            _WATCHER,
            "watcher",
            str(self._process.pid),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watcher, process = self._watcher, self._process
        if watcher is not None:  # first: later the pid may be another's
            with contextlib.suppress(ProcessLookupError):
                watcher.kill()
            await watcher.wait()
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            # After an error the broker may be gone, and a worker would wait for it.
            await asyncio.wait_for(process.wait(), _STOP_SECONDS if error is None else _STOP_AFTER_ERROR_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise

    @property
    def pid(self) -> int:
        """Its process id; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects it prints, until it ends. Raises `TidegateError` if it ends with an error."""
        process = self._started()
        if process.stdout is not None:
            async for line in process.stdout:
                yield orjson.loads(line)
        if await process.wait() != 0:
            raise self.failure()

    def hang_up(self) -> None:
        """End its standard input: it is to sum up and end."""
        process = self._started()
        if process.stdin is not None:
            process.stdin.close()

    async def ended(self) -> None:
        """Wait until it ends by itself, which it should not; raises `TidegateError` then."""
        await self._started().wait()
        raise self.failure()

    def failure(self) -> TidegateError:
        """An error that shows the end of its log."""
        tail = "\n".join(self.log_file.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        status = self._process.returncode if self._process is not None else None
        return TidegateError(
            f"The {self.name} process ended (exit status {status}). The end of its log:\n{tail}",
            f"The whole log: {self.log_file}",
        )

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"the {self.name} process has not been started")
        return self._process
