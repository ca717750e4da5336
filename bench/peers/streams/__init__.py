"""Kafka Streams, with the gate's work as a Java program in `java/`: the command that runs it.

The jars come like the broker's, and in its release. The program is compiled once for each state of its sources, by the
JDK's own compiler where there is one, else by the Eclipse compiler, which any Java runtime runs.
"""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from pathlib import Path

from tidegate.java import MINIMUM_JAVA, find_java
from tidegate.kafka_jars import KAFKA_VERSION, classpath, extra_jar

STREAMS = f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}"
ECLIPSE_COMPILER = "org.eclipse.jdt:ecj:3.45.0"

_DIRECTORY = Path(__file__).resolve().parent
SOURCES = _DIRECTORY / "java"
CLASSES = _DIRECTORY / ".classes"

HEAP_MB = 2048


def command(
    *,
    bootstrap_servers: str,
    inputs_prefix: str,
    output_prefix: str,
    group: str,
    partitions: int,
    commit_interval_ms: int = 1000,
    max_task_idle_ms: int = 0,
) -> list[str]:
    """The words that start the peer; downloads jars and compiles first, where that was not done before.

    It says `running <application id>` on its output when all partitions are assigned. A line on its input ends that
    application and starts it once more in the same virtual machine, from the topics' beginning: group `<group>-warm`,
    outputs under `<output_prefix>-warm`. It keeps files in its working directory.

    Of `commit_interval_ms` and `max_task_idle_ms` see `java/Configuration.java`.
    """
    jars = [*classpath(), extra_jar(STREAMS)]
    classes = compiled(find_java(), jars)
    return [
        str(find_java()),
        # One core: a collector without threads of its own, and a young generation that rows outlive
        "-XX:+UseSerialGC",
        f"-Xms{HEAP_MB}m",
        f"-Xmx{HEAP_MB}m",
        f"-Xmn{HEAP_MB // 2}m",
        f"-Dlog4j2.configurationFile={SOURCES / 'log4j2.properties'}",
        "-cp",
        os.pathsep.join(map(str, [classes, *jars])),
        "StreamsPeer",
        *("--bootstrap", bootstrap_servers),
        *("--inputs-prefix", inputs_prefix),
        *("--output-prefix", output_prefix),
        *("--group", group),
        *("--partitions", str(partitions)),
        *("--commit-interval-ms", str(commit_interval_ms)),
        *("--max-task-idle-ms", str(max_task_idle_ms)),
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
