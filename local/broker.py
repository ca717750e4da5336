"""One real Apache Kafka node (KRaft) on this machine, for the demo, the tests and for trying things out.

Responsible for its whole life: configuration, format, start, readiness, stop. Not for topics, and not for production.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from local.java import find_java
from local.kafka_jars import classpath
from tidegate import paths
from tidegate.errors import TidegateError

HOST = "127.0.0.1"
DEFAULT_PORT = 9092
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 20.0
_POLL_SECONDS = 0.05
_LOG_BYTES = 20_000_000
_TAIL_LINES = 15
# Below Linux's range for outgoing connections (32768-60999): there, a client reconnecting to a stopped broker is now
# and then given the broker's own port, connects to itself, and the broker can no longer bind it.
_FREE_PORTS = range(20000, 32000)

_LOGGING = """\
appenders=stdout
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%d{ISO8601} %-5p %m (%c{1})%n
rootLogger.level=WARN
rootLogger.appenderRef.stdout.ref=stdout
logger.kafka.name=kafka
logger.kafka.level=INFO
logger.apache.name=org.apache.kafka
logger.apache.level=INFO
logger.config.name=org.apache.kafka.common.config
logger.config.level=WARN
"""

# Outlives a parent that was killed: its end of the pipe then closes, `read` returns, and the broker goes too. A pipe
# and not PR_SET_PDEATHSIG, which fires when the *thread* that started the child ends.
_WATCHER = """\
read -r _
kill -TERM "$1" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" 2>/dev/null || break; sleep 1; done
kill -KILL "$1" 2>/dev/null
[ -z "$2" ] || rm -rf -- "$2"
"""


class LocalBroker:
    """A Kafka broker in a child process, started by `start()` or `with`.

    port: the one clients connect to; None takes a free one, kept over `stop()` and `start()`.
    ephemeral: data in a temporary directory, deleted by `close()` or at the end of `with`, not by `stop()`.
    data_dir: where data, configuration and log live otherwise (default: per user).
    properties: server properties that override ours.
    heap_mb: the JVM's largest heap, in MiB.
    short_lived: spend less CPU on compiling, for a broker that runs for minutes (a 100,000-event demo: 9.5 s against
    15 to 21 s of its CPU). Not for measuring what it can do.

    The child ignores Ctrl-C (a session of its own) and ends with this process, however that ends.
    """

    def __init__(
        self,
        port: int | None = None,
        *,
        ephemeral: bool = False,
        data_dir: Path | str | None = None,
        properties: Mapping[str, str | int] | None = None,
        heap_mb: int = 768,
        short_lived: bool = False,
    ) -> None:
        if ephemeral and data_dir is not None:
            raise ValueError("a broker with a data_dir is not ephemeral")
        self.port = free_port() if port is None else port
        self._controller_port = free_port()
        self._cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._ephemeral = ephemeral
        self._directory = Path(data_dir) if data_dir is not None else paths.state_dir() / "broker"
        self._temporary: Path | None = None
        self._properties = dict(properties or {})
        self._heap_mb = heap_mb
        self._short_lived = short_lived
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`host:port`, for any Kafka client."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id of the broker; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def directory(self) -> Path:
        """Where its data, its configuration and its log are."""
        return self._temporary or self._directory

    @property
    def log_file(self) -> Path:
        """Everything the broker and its JVM print."""
        return self.directory / "broker.log"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the broker and return when it answers requests: 3 to 6 s, plus the download the first time.

        With the data of its last run, if there was one; 9 s more if that did not stop cleanly, for so long the
        controller takes its former self for alive. Raises `TidegateError` if the port is taken, another broker uses the
        directory, no Java is found, the jars cannot be downloaded, or the broker ends or does not answer within a
        minute; the last two show its log's tail.
        """
        if self.pid is not None:
            return
        jars = classpath()
        java = find_java()
        if self._ephemeral and self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="tidegate-broker-"))
        self._take_directory()
        try:
            self._require_free_port()
            self._launch(java, jars)
        except BaseException:
            self.stop()
            raise

    def _launch(self, java: Path, jars: list[Path]) -> None:
        self._write_configuration()
        self._rotate_log()
        command = [
            str(java),
            f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}",
            "-Dlog4j2.disableJmx=true",
            "-cp",
            os.pathsep.join(map(str, jars)),
        ]
        properties = str(self.directory / "server.properties")
        if not (self.directory / "kafka" / "meta.properties").exists():
            self._format(command, properties)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command[:1], *self._jvm_options(), *command[1:], "kafka.Kafka", properties],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "watcher", str(self._process.pid), str(self._temporary or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Stop the broker cleanly, or kill it if it has not ended after 20 s. Its data stays for the next `start()`."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the broker at once, as a crash would (SIGKILL). Its data stays."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        self._end_watcher()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        """Stop the broker and, if it is ephemeral, delete its data."""
        self.stop()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def wait(self) -> int:
        """Block until the broker ends; its exit status."""
        return self._process.wait() if self._process is not None else 0

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines of its log; empty if there is none."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(0, self.log_file.stat().st_size - 64_000))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _end_watcher(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(watcher.pid, signal.SIGKILL)  # before its pipe closes: it would signal a pid already free
            watcher.wait()
            if watcher.stdin is not None:
                watcher.stdin.close()

    def _take_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise TidegateError(
                f"Another broker uses {self.directory}.",
                "Use that one as it is, stop it, or start this one with another --data-dir or with --ephemeral.",
            ) from None

    def _require_free_port(self) -> None:
        if not _is_free(self.port):
            raise TidegateError(
                f"Port {self.port} on {HOST} is taken{_holder(self.port)}.",
                "If that is a Kafka broker, use it as it is. Otherwise stop what holds it, or choose another: --port.",
            )
        while not _is_free(self._controller_port) or self._controller_port == self.port:
            self._controller_port = free_port()

    def _write_configuration(self) -> None:
        properties = {**self._server_properties(), **self._properties}
        lines = [f"{name}={value}\n" for name, value in properties.items()]
        (self.directory / "server.properties").write_text("".join(lines))
        (self.directory / "log4j2.properties").write_text(_LOGGING)

    def _server_properties(self) -> dict[str, str | int]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.directory / "kafka"),
            "auto.create.topics.enable": "false",
            "num.network.threads": 2,
            "num.io.threads": 4,
            "background.threads": 4,
            "log.segment.bytes": 128 * 1024 * 1024,
            "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
        }

    def _jvm_options(self) -> list[str]:
        return [
            f"-Xmx{self._heap_mb}m",
            f"-Xms{min(256, self._heap_mb)}m",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:+ExitOnOutOfMemoryError",
            *(["-XX:TieredStopAtLevel=1"] if self._short_lived else []),
        ]

    def _format(self, command: list[str], properties: str) -> None:
        quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m"]
        # joined by "=": an id may begin with a dash
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={self._cluster_id}", "--config", properties]
        with self.log_file.open("ab") as log:
            done = subprocess.run(
                [*command[:1], *quick, *command[1:], *tool],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=START_TIMEOUT_SECONDS,
                check=False,
            )
        if done.returncode != 0:
            raise self.failure(f"Kafka could not format {self.directory / 'kafka'}")

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not answers(self.port):
            if process.poll() is not None:
                raise self.failure(f"The Kafka broker ended while starting (exit status {process.returncode})")
            if time.monotonic() > deadline:
                raise self.failure(f"The Kafka broker does not answer after {START_TIMEOUT_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def failure(self, message: str) -> TidegateError:
        """An error that says `message` and shows the end of the log, with what to do where the log tells."""
        tail = self.log_tail()
        if "Failed to acquire lock" in tail:
            hint = "A broker that has not ended yet holds its data: start it again in a moment."
        elif "Address already in use" in tail:
            hint = f"Port {self.port} or {self._controller_port} was taken meanwhile: start it again."
        else:
            hint = f"Its log may say why; if the data is damaged, delete {self.directory} or use --ephemeral."
        return TidegateError(f"{message}. The end of {self.log_file}:\n{tail}", hint)

    def _rotate_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > _LOG_BYTES:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))


def free_port() -> int:
    """A port nothing listens on now, outside the range of outgoing connections."""
    while True:
        port = random.choice(_FREE_PORTS)  # noqa: S311 - not for secrets
        if _is_free(port):
            return port


def answers(port: int, timeout_seconds: float = 2.0) -> bool:
    """Whether a Kafka broker on this machine answers a metadata request, and knows itself as part of the cluster."""
    # Metadata, version 1, of no topics: api key, version, correlation id, client id, empty list (-1 would mean all)
    client = b"tidegate-ready"
    request = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)
    try:
        with socket.create_connection((HOST, port), timeout=timeout_seconds) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.makefile("rb").read(12)  # size, correlation id, number of brokers
    except OSError:
        return False
    return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Kafka does: a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    return " (a Kafka broker answers there)" if answers(port) else ""
