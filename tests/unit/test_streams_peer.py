from pathlib import Path

import pytest

from bench.peers import streams


def test_the_compiler_beside_the_runtime_is_used(tmp_path: Path) -> None:
    (tmp_path / "javac").touch()
    assert streams.compiler(tmp_path / "java")[0] == str(tmp_path / "javac")


def test_without_a_jdk_the_eclipse_compiler_is_run_by_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "extra_jar", lambda coordinate: Path(f"{coordinate}.jar"))
    java, *arguments = streams.compiler(tmp_path / "java")
    assert java == str(tmp_path / "java")
    assert arguments[:2] == ["-jar", f"{streams.ECLIPSE_COMPILER}.jar"]


def test_sources_that_changed_are_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda words, **_: compiled.append(words))
    monkeypatch.setattr(streams, "SOURCES", tmp_path)
    monkeypatch.setattr(streams, "CLASSES", tmp_path / ".classes")
    monkeypatch.setattr(streams, "compiler", lambda _java: ["javac"])
    source = tmp_path / "Peer.java"
    source.write_text("class Peer {}")
    first = streams.compiled(Path("java"), [])
    assert streams.compiled(Path("java"), []) == first
    source.write_text("final class Peer {}")
    assert streams.compiled(Path("java"), []) != first
    assert len(compiled) == 2
