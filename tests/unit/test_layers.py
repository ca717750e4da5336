"""Who may import whom: data flows one way, and the pure part stays free of Kafka."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "schemas": {"projections", "streams", "tidegate", "faust", "aiokafka", "mode", "asyncio", "time"},
    "projections": {"streams", "tidegate", "faust", "aiokafka", "mode", "asyncio", "time"},
    "streams": {"tidegate"},
    "gateway": {"projections", "streams", "tidegate", "faust", "mode"},
    "tidegate/audit": {"projections", "streams"},
}


def imported(file: Path) -> set[str]:
    """The top-level packages a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return {
        name.split(".")[0] for name in plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    }


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_module_imports_what_it_may_not(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not imported(file) & FORBIDDEN[package], file
