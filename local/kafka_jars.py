"""The jars of one Kafka release: downloaded once through `jgo`, then found in the cache without a network."""

from __future__ import annotations

import fcntl
import json
import os
import ssl
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tidegate import paths
from tidegate.errors import TidegateError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.3.1"
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Not resolved together with Kafka: jgo lets the managed versions in any requested POM overrule those of the others, and
# log4j's parent manages kafka-clients 3.9.1. The version is that of the log4j-core Kafka 4.3.1 brings, and it is the
# binding of slf4j 1.7 because Kafka brings slf4j-api 1.7.36.
LOG_BINDING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
_DOWNLOADS_AT_ONCE = 8
_TIMEOUT_SECONDS = 60


def classpath(cache: Path | None = None) -> list[Path]:
    """The jars that run and format a Kafka broker, downloading those that are missing (46 jars, 45 MB).

    Cached under `cache` (default: the user's cache directory), with a list of what belongs to it, so that a later call
    needs no network. Safe to call from several processes at once. Raises `TidegateError` if a download fails.
    """
    root = (cache or paths.cache_dir()) / f"kafka-{KAFKA_VERSION}"
    if (jars := _listed(root)) is not None:
        return jars
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / "lock"):
        if (jars := _listed(root)) is None:  # else another process has just downloaded them
            jars = _download(root)
    return jars


def extra_jar(coordinate: str, cache: Path | None = None) -> Path:
    """One more jar ("group:artifact:version"), without what it depends on, downloaded if it is missing.

    Kept beside Kafka's. Raises `TidegateError` if the download fails.
    """
    root = (cache or paths.cache_dir()) / f"kafka-{KAFKA_VERSION}"
    group, artifact, version = coordinate.split(":")
    jar = root / "repository" / group.replace(".", "/") / artifact / version / f"{artifact}-{version}.jar"
    if jar.exists() and zipfile.is_zipfile(jar):
        return jar
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / "lock"), _Display() as display, _system_trust(), _no_failed_download(root):
        _drop_damaged(jar.parent)
        _fetch(display)(_context(root, display).create_dependency(coordinate).artifact)
    return jar


def _listed(root: Path) -> list[Path] | None:
    """The jars in the list of a finished download, or None if there is no list or a file is missing or cut short."""
    try:
        listed: dict[str, int] = json.loads((root / "classpath.json").read_bytes())
        if all((root / name).stat().st_size == size for name, size in listed.items()):
            return [root / name for name in listed]
    except (FileNotFoundError, json.JSONDecodeError):
        pass
    return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(root: Path) -> list[Path]:
    repository = root / "repository"
    _drop_damaged(repository)
    with _Display() as display, _system_trust(), _no_failed_download(root):
        artifacts = _resolve(_context(root, display))
        display.count(len(artifacts))
        with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
            jars = list(pool.map(_fetch(display), artifacts))
        _drop_damaged(repository)
        listed = {str(jar.relative_to(root)): jar.stat().st_size for jar in jars}  # a damaged one is missing now
    unfinished = root / "classpath.json.new"
    unfinished.write_text(json.dumps(listed, indent=1))
    unfinished.replace(root / "classpath.json")
    return jars


def _context(root: Path, display: _Display) -> MavenContext:
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext, PythonResolver

    return MavenContext(
        repo_cache=root / "repository",
        # a mirror named in jgo's own configuration file comes first
        remote_repos={**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL},
        timeout=_TIMEOUT_SECONDS,
        resolver=PythonResolver(progress_callback=display.file),
    )


@contextmanager
def _no_failed_download(root: Path) -> Iterator[None]:
    """Say what to do where a download fails."""
    import requests

    try:
        yield
    except (requests.RequestException, RuntimeError, OSError) as error:
        raise TidegateError(
            f"Could not download Apache Kafka {KAFKA_VERSION} into {root}: {error}",
            "Check the network and run this again: files that are complete are kept. Behind a mirror, name it under"
            " [repositories] in jgo's configuration file (~/.config/jgo.conf).",
        ) from error


@contextmanager
def _system_trust() -> Iterator[None]:
    """Let `requests` trust what this system trusts, unless it is told otherwise.

    Its own list, certifi's, knows no authority that was installed here, such as that of a proxy that inspects TLS:
    `pip` gets through and the jars do not.
    """
    known = ssl.get_default_verify_paths()
    trusted = next((place for place in (known.cafile, known.capath) if place), None)
    if trusted is None or any(os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")):
        yield
        return
    os.environ["REQUESTS_CA_BUNDLE"] = trusted
    try:
        yield
    finally:
        del os.environ["REQUESTS_CA_BUNDLE"]


def _resolve(context: MavenContext) -> list[Any]:
    """Kafka's artifact and those it needs at run time, then the log binding. Downloads POMs only."""
    kafka = context.create_dependency(KAFKA)
    kafka.scope = "compile"
    inputs, transitive = context.resolver.resolve([kafka])
    needed = [*inputs, *(found for found in transitive if found.scope in {"compile", "runtime"})]
    return [*(found.artifact for found in needed), context.create_dependency(LOG_BINDING).artifact]


def _fetch(display: _Display) -> Callable[[Any], Path]:
    def fetch(artifact: Any) -> Path:
        path: Path = artifact.resolve()
        display.done()
        return path

    return fetch


def _drop_damaged(repository: Path) -> None:
    """Delete files an interrupted download left: jgo writes them in place and would take them for whole ones."""
    for jar in repository.rglob("*.jar"):
        if not zipfile.is_zipfile(jar):
            jar.unlink()
    for pom in repository.rglob("*.pom"):
        try:
            ET.parse(pom)  # noqa: S314 - whether it parses is the question
        except ET.ParseError:
            pom.unlink()


@dataclass
class _Display:
    """One line that shows the download: POMs while resolving, then jars."""

    _bytes: int = 0

    def __enter__(self) -> Self:
        self._progress = Progress(
            TextColumn("Apache Kafka {task.description}"),
            BarColumn(),
            TextColumn("{task.completed} of {task.fields[jars]} jars, {task.fields[megabytes]:.0f} MB"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(f"{KAFKA_VERSION}: what it needs", total=None, jars="?", megabytes=0.0)
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def count(self, jars: int) -> None:
        self._progress.update(self._task, description=f"{KAFKA_VERSION}: download", total=jars, jars=str(jars))

    def done(self) -> None:
        self._progress.advance(self._task)

    @contextmanager
    def file(self, name: str, size: int) -> Iterator[Callable[[int], None]]:
        """What jgo calls per file; yields the function it calls with the bytes of each chunk."""
        del name, size

        def received(chunk_bytes: int) -> None:
            self._bytes += chunk_bytes
            self._progress.update(self._task, megabytes=self._bytes / 1e6)

        yield received
