"""Kafka Streams, with the gate's work as a Java program in `java/`: the command that runs it.

The jars come like the broker's, and in its release. The program is compiled once for each state of its sources, by the
JDK's own compiler where there is one, else by the Eclipse compiler, which any Java runtime runs.
"""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from pathlib import Path

from local.java import MINIMUM_JAVA, find_java
from local.kafka_jars import KAFKA_VERSION, classpath, extra_jar

STREAMS = f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}"
ECLIPSE_COMPILER = "org.eclipse.jdt:ecj:3.45.0"

_DIRECTORY = Path(__file__).resolve().parent
SOURCES = _DIRECTORY / "java"
CLASSES = _DIRECTORY / ".classes"

HEAP_MB = 2048
COMMIT_INTERVAL_MS = 250
"""For a drain. Kafka's default of 100 commits more often than there is need; 1000 takes a little less CPU, but at the
end a drain waits up to a second for its last commit."""


def command(*, commit_interval_ms: int = COMMIT_INTERVAL_MS) -> list[str]:
    """The words that start it, before the arguments that all peers have in common.

    Downloads jars and compiles first, where that was not done before. It says `running <group>` on its output when it
    has all partitions. A line on its input ends that pass and starts the next, with `-warm` behind the group and the
    outputs. It keeps files in its working directory.
    """
    java = find_java()
    jars = [*classpath(), extra_jar(STREAMS)]
    return [
        str(java),
        # One core: a collector without threads of its own. Much of the heap for the young, that is, for what a record
        # leaves behind; sessions are few beside it.
        "-XX:+UseSerialGC",
        f"-Xms{HEAP_MB}m",
        f"-Xmx{HEAP_MB}m",
        f"-Xmn{HEAP_MB // 2}m",
        f"-Dlog4j2.configurationFile={SOURCES / 'log4j2.properties'}",
        "-cp",
        os.pathsep.join(map(str, [compiled(java, jars), *jars])),
        "StreamsPeer",
        *("--commit-interval-ms", str(commit_interval_ms)),
    ]


def compiled(java: Path, jars: list[Path]) -> Path:
    """The directory of the classes made from the sources as they are now; compiles them if that was not done before.

    Raises `subprocess.CalledProcessError` where they do not compile; what is wrong has been printed then.
    """
    sources = sorted(SOURCES.glob("*.java"))
    content = b"".join(source.read_bytes() for source in sources)
    classes = CLASSES / sha256(KAFKA_VERSION.encode() + content).hexdigest()[:16]
    if not classes.exists():
        unfinished = CLASSES / f"unfinished-{os.getpid()}"
        unfinished.mkdir(parents=True)
        arguments = ["-d", str(unfinished), "-cp", os.pathsep.join(map(str, jars)), *map(str, sources)]
        subprocess.run([*compiler(java), *arguments], check=True)
        unfinished.rename(classes)
    return classes


def compiler(java: Path) -> list[str]:
    """The words that start a Java compiler: the one beside this `java`, else Eclipse's run by it."""
    javac = java.parent / "javac"
    if javac.exists():
        return [str(javac), "--release", str(MINIMUM_JAVA)]
    return [str(java), "-jar", str(extra_jar(ECLIPSE_COMPILER)), f"-{MINIMUM_JAVA}"]
