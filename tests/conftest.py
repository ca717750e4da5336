"""What the tests of several folders share: one broker, and topics of their own for each test that asks."""

from tests.broker.conftest import broker, make_settings, settings

__all__ = ["broker", "make_settings", "settings"]
