"""A real broker for the gateway's tests, and topics of their own for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.broker.conftest import broker, make_settings, settings

__all__ = ["broker", "make_settings", "settings"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.broker)
