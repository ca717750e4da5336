"""The JavaScript client in Node, against a server that misbehaves, and in several tabs."""

from tests.gateway.node import needs_node, run_tests


@needs_node
def test_client() -> None:
    run_tests("units", "stream", "tabs", passed=16)
