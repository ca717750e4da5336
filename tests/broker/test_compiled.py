"""The core as the image has it, compiled: it writes the bytes that its sources write, and lives through kills, too."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.compiled import compiled, is_compiled
from testing.process import ROOT
from tests.broker.test_kill import lives_under_kills
from tidegate.settings import Settings

# Whole lives in memory with crashes, by chance but by a seed: every record that goes in, and every one that comes out.
LIVE = """\
from hashlib import sha256
from projections import partition
from tests.unit.test_lives import live

_, memory = live(3, sessions=40, seconds=10, crashes_per_second=1.0)
assert len(memory.topics["tasks"]) > 1000
print(partition.__file__)
print(sha256(repr(sorted(memory.topics.items())).encode()).hexdigest())
"""

# What its sources decide of each case. Compiled, two parts with one id were once delivered.
CASES = """\
from projections import partition
from tests.cases.memory import MemoryRun
from tests.cases.reading import cases

wrong = []
for case in cases("decisions.jsonl"):
    run = MemoryRun(case)
    run.run()
    wrong += [*case.mistakes(), *run.audit().examples.items()]
print(partition.__file__, wrong or "as-expected")
"""

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def build() -> Path:
    directory = compiled()
    if directory == ROOT:
        pytest.skip("there is no C compiler")
    assert is_compiled(directory)
    return directory


def lived(*paths: Path, life: str = LIVE) -> tuple[Path, str]:
    """Where the core that lived was, and what it told of that: the digest of what it read and wrote, for example."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", life], env=environment, capture_output=True, text=True, check=True
    )
    core, told = done.stdout.split(maxsplit=1)
    return Path(core), told.strip()


def test_the_compiled_core_writes_what_its_sources_write(build: Path) -> None:
    core, digest = lived(build, ROOT)
    assert core.parent.parent == build
    assert core.suffix != ".py"
    assert lived(ROOT) == (ROOT / "projections" / "partition.py", digest)


def test_the_compiled_core_decides_every_case_as_expected(build: Path) -> None:
    core, told = lived(build, ROOT, life=CASES)
    assert core.parent.parent == build
    assert told == "as-expected"


def test_every_rule_holds_under_kills_with_the_compiled_core(
    make_settings: Callable[..., Settings], tmp_path: Path, build: Path
) -> None:
    asyncio.run(lives_under_kills(make_settings, tmp_path, sessions=80, times=2, seed=5, code=build))
