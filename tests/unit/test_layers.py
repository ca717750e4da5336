"""Who may import whom: data flows one way, and the pure part stays free of Kafka."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = "schemas projections streams gateway audit tidegate local bench testing tests docs grafana"
OURS = set(PACKAGES.split())
MAY_IMPORT = {
    "schemas": set(),
    "projections": {"schemas"},
    "streams": {"schemas", "projections"},
    "gateway": {"schemas"},
    "audit": {"schemas"},
    "tidegate": {"schemas", "projections", "streams", "gateway", "audit", "local"},
    "local": {"schemas", "streams", "gateway", "tidegate"},
}
"""What a package may import of the others, besides itself."""
PURE = ("schemas", "projections")
IMPURE = {"faust", "aiokafka", "mode", "asyncio", "time"}
COMMAND_LINE = ("cli.py", "commands")
"""The only parts of `tidegate` that may import `local`: production images do without it."""


def imported(file: Path) -> set[str]:
    """The top-level packages a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return {
        name.split(".")[0] for name in plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    }


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_module_imports_what_it_may_not(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        found = imported(file)
        assert found & OURS <= MAY_IMPORT[package] | {package}, file
        if package in PURE:
            assert not found & IMPURE, file


def test_only_the_command_line_knows_what_is_for_a_developers_machine() -> None:
    package = ROOT / "tidegate"
    found = {file.relative_to(package).parts[0] for file in package.rglob("*.py") if "local" in imported(file)}
    assert found <= set(COMMAND_LINE)
