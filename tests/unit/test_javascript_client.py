"""The JavaScript client in Node, against a server that misbehaves."""

from tests.gateway.node import needs_node, run_tests


@needs_node
def test_client() -> None:
    run_tests("units", "stream", passed=9)
