"""The tree of an earlier commit, out of git: what benchmarks compare the current one with."""

from __future__ import annotations

import io
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

from tidegate.errors import TidegateError

ROOT: Final = Path(__file__).resolve().parent.parent
BASELINE: Final = "47d38fc3f91310103310a724d840089af86999b8"
"""The last commit before the core was rewritten as decide, publish and evolve. The rewrite has to cost at most 0.55 of
its CPU per event in memory, so it stays the baseline until another aim is set."""
DIGITS: Final = 12
"""How much of a commit's hash is shown and saved, as in the other results."""


class Tree(NamedTuple):
    """All files of one version of this project. `name` is what progress and errors call it."""

    name: str
    root: Path


CURRENT: Final = Tree("the current tree", ROOT)


def resolve(commit: str, repository: Path = ROOT) -> str:
    """The full hash of a commit, which may be given in any way that git understands.

    Raises `TidegateError` where git is missing, this is not a repository, or the commit is not in it.
    """
    found = _git(repository, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if found.returncode == 0:
        return found.stdout.decode().strip()
    shallow = _git(repository, "rev-parse", "--is-shallow-repository")
    if shallow.returncode != 0:
        raise TidegateError(
            f"the baseline {commit} is a commit, and git finds no repository here: {_last_line(shallow)}",
            "Run the benchmark in a clone, or measure the current tree only with --alone.",
        )
    if shallow.stdout.strip() == b"true":
        raise TidegateError(
            f"the baseline {commit} is not in this clone, which is shallow",
            "Fetch the history with `git fetch --unshallow`, or measure the current tree only with --alone.",
        )
    raise TidegateError(
        f"the baseline {commit} is not a commit of this repository",
        "Fetch it with `git fetch`, name another with --baseline, or measure the current tree only with --alone.",
    )


def tree_of(commit: str, repository: Path = ROOT) -> Tree:
    """The files of a commit, given by its full hash, unpacked under `.build`; unpacked once for each commit.

    Raises `TidegateError` where git cannot pack it, or where it is too old to compile and measure itself.
    """
    root = repository / ".build" / "trees" / commit[:DIGITS]
    if not root.exists():
        _unpack(commit, repository, root)
    if not (root / "bench" / "compiled.py").exists():
        raise TidegateError(
            f"commit {commit[:DIGITS]} has no bench/compiled.py and cannot be measured",
            "Name a later commit with --baseline.",
        )
    return Tree(f"commit {commit[:DIGITS]}", root)


def _unpack(commit: str, repository: Path, root: Path) -> None:
    packed = _git(repository, "archive", "--format=zip", commit)
    if packed.returncode != 0:
        raise TidegateError(f"git cannot pack commit {commit[:DIGITS]}: {_last_line(packed)}")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as work, zipfile.ZipFile(io.BytesIO(packed.stdout)) as archive:
        archive.extractall(Path(work) / "tree")
        (Path(work) / "tree").rename(root)


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", *arguments]
    try:
        return subprocess.run(command, cwd=repository, capture_output=True, check=False)
    except FileNotFoundError:
        raise TidegateError(
            "the baseline comes out of git, which is not installed",
            "Install git, or measure the current tree only with --alone.",
        ) from None


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    return (done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}").splitlines()[-1]
