import json
import os
import ssl
import zipfile
from pathlib import Path

import pytest

from local import kafka_jars


def cached(cache: Path, jars: dict[str, bytes]) -> None:
    root = cache / f"kafka-{kafka_jars.KAFKA_VERSION}"
    root.mkdir()
    for name, content in jars.items():
        (root / name).write_bytes(content)
    (root / "classpath.json").write_text(json.dumps({name: len(content) for name, content in jars.items()}))


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    started: list[Path] = []

    def download(root: Path) -> list[Path]:
        started.append(root)
        return []

    monkeypatch.setattr(kafka_jars, "_download", download)
    return started


def test_a_whole_cache_is_used_without_a_download(tmp_path: Path, downloads: list[Path]) -> None:
    cached(tmp_path, {"a.jar": b"aaaa", "b.jar": b"bb"})
    assert [jar.name for jar in kafka_jars.classpath(tmp_path)] == ["a.jar", "b.jar"]
    assert downloads == []


def test_a_jar_that_is_missing_or_cut_short_is_downloaded_again(tmp_path: Path, downloads: list[Path]) -> None:
    cached(tmp_path, {"a.jar": b"aaaa", "b.jar": b"bb"})
    jar = tmp_path / f"kafka-{kafka_jars.KAFKA_VERSION}" / "b.jar"
    jar.write_bytes(b"b")
    kafka_jars.classpath(tmp_path)
    jar.unlink()
    kafka_jars.classpath(tmp_path)
    assert len(downloads) == 2


def test_an_extra_jar_that_is_there_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_jars, "_context", lambda *_: pytest.fail("asked for a download"))
    jar = tmp_path / f"kafka-{kafka_jars.KAFKA_VERSION}" / "repository/org/example/thing/1.2/thing-1.2.jar"
    jar.parent.mkdir(parents=True)
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("content", "whole")
    assert kafka_jars.extra_jar("org.example:thing:1.2", tmp_path) == jar


def test_files_of_an_interrupted_download_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "cut.jar").write_bytes(b"PK\x03\x04 and then nothing")
    (tmp_path / "cut.pom").write_bytes(b"<project><modelVersion>4.0")
    (tmp_path / "whole.pom").write_bytes(b"<project/>")
    kafka_jars._drop_damaged(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["whole.pom"]


def test_downloads_trust_what_the_system_trusts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert ssl.get_default_verify_paths().cafile == str(authorities)
    with kafka_jars._system_trust():
        assert os.environ["REQUESTS_CA_BUNDLE"] == str(authorities)
    assert "REQUESTS_CA_BUNDLE" not in os.environ


def test_a_bundle_that_was_named_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "mine.pem")
    with kafka_jars._system_trust():
        assert os.environ["REQUESTS_CA_BUNDLE"] == "mine.pem"
    assert os.environ["REQUESTS_CA_BUNDLE"] == "mine.pem"
