"""Which engines are compared, what each promises, and how it is started."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.peers import streams
from bench.peers.environments import python_of
from bench.peers.verdicts import JudgedAt
from local.kafka_jars import KAFKA_VERSION
from tidegate import __version__

GATE = "tidegate"


class Start(NamedTuple):
    """How a peer is started, before the arguments that all have in common; and which version of its library that is."""

    command: list[str]
    version: str


def _gate() -> Start:
    return Start([], f"tidegate {__version__}")


@dataclass(frozen=True)
class Pass:
    """One drain of a process. `suffix` is added to its group and to its outputs."""

    engine: str
    suffix: str = ""


@dataclass(frozen=True)
class Engine:
    """One engine. `few`: it is slow, and drains the smaller set of events.

    `prepare` makes its environment, if need be, and raises `subprocess.CalledProcessError` where that fails.
    """

    name: str
    guarantee: str
    prepare: Callable[[], Start]
    judged_at: JudgedAt = "log order"
    validates: bool = False
    few: bool = False
    passes: tuple[Pass, ...] = ()

    @property
    def all_passes(self) -> tuple[Pass, ...]:
        """Its passes, in order: one by default."""
        return self.passes or (Pass(self.name),)


def python_peer(environment: str) -> list[str]:
    """The words that start a peer of `bench.peers` in its environment, which is made first if need be."""
    return [str(python_of(environment)), "-m", f"bench.peers.{environment}"]


def _python(environment: str, distribution: str, *arguments: str) -> Callable[[], Start]:
    """A package of `bench.peers`, run in the environment of its name."""

    def prepare() -> Start:
        words = python_peer(environment)
        return Start([*words, *arguments], f"{distribution} {_version(words[0], distribution)}")

    return prepare


def _streams() -> Start:
    return Start(streams.command(), f"kafka-streams {KAFKA_VERSION}")


def _version(python: str | Path, distribution: str) -> str:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


ENGINES = (
    Engine(GATE, "exactly-once", _gate, judged_at="delivery", validates=True),
    Engine("confluent-loop-aligned", "exactly-once", _python("confluent", "confluent-kafka", "--aligned")),
    Engine("confluent-loop-unaligned", "exactly-once", _python("confluent", "confluent-kafka")),
    Engine("aiokafka-loop-aligned", "exactly-once", _python("aiokafka", "aiokafka", "--aligned")),
    Engine("aiokafka-loop-unaligned", "exactly-once", _python("aiokafka", "aiokafka")),
    Engine("quix-streams", "exactly-once", _python("quix", "quixstreams")),
    Engine(
        "kafka-streams",
        "exactly-once",
        _streams,
        passes=(Pass("kafka-streams-cold"), Pass("kafka-streams-warm", "-warm")),
    ),
    Engine("faust", "at-least-once", _python("faust", "faust-streaming"), few=True),
)
