"""The tree of an earlier commit: found, unpacked once, and missed in words that help."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.baseline import BASELINE, resolve, tree_of
from tidegate.errors import TidegateError

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    alone = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}  # no developer's signing key
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=directory, env=alone, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: in the first `bench/compiled.py` says 1, in the second 2."""
    directory = tmp_path / "repository"
    (directory / "bench").mkdir(parents=True)
    git(directory, "init", "--quiet")
    for number in (1, 2):
        (directory / "bench" / "compiled.py").write_text(f"NUMBER = {number}\n")
        git(directory, "add", ".")
        git(directory, "commit", "--quiet", "--message", str(number))
    return directory


def test_tree_is_that_of_the_commit_not_of_the_working_directory(repository: Path) -> None:
    commit = resolve("HEAD~1", repository)
    tree = tree_of(commit, repository)
    assert len(commit) == 40
    assert tree.name == f"commit {commit[:12]}"
    assert (tree.root / "bench" / "compiled.py").read_text() == "NUMBER = 1\n"
    assert (repository / "bench" / "compiled.py").read_text() == "NUMBER = 2\n"


def test_tree_is_unpacked_once_and_another_does_not_replace_it(repository: Path) -> None:
    first = tree_of(resolve("HEAD~1", repository), repository)
    (first.root / "built").touch()
    second = tree_of(resolve("HEAD", repository), repository)
    assert tree_of(resolve("HEAD~1", repository), repository) == first
    assert (first.root / "built").exists()
    assert (second.root / "bench" / "compiled.py").read_text() == "NUMBER = 2\n"


def test_commit_that_does_not_exist(repository: Path) -> None:
    with pytest.raises(TidegateError, match=r"no-such-commit is not a commit of this repository") as raised:
        resolve("no-such-commit", repository)
    assert "--alone" in raised.value.hint


def test_commit_beyond_a_shallow_clone(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth", "1", repository.as_uri(), "shallow")
    with pytest.raises(TidegateError, match="shallow") as raised:
        resolve(git(repository, "rev-parse", "HEAD~1"), tmp_path / "shallow")
    assert "git fetch --unshallow" in raised.value.hint


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(TidegateError, match="git finds no repository here"):
        resolve(BASELINE, tmp_path)


def test_without_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TidegateError, match="git, which is not installed"):
        resolve("HEAD", repository)


def test_commit_that_cannot_measure_itself(repository: Path) -> None:
    git(repository, "rm", "--quiet", "bench/compiled.py")
    (repository / "README.md").touch()
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "3")
    with pytest.raises(TidegateError, match=r"has no bench/compiled\.py"):
        tree_of(resolve("HEAD", repository), repository)
