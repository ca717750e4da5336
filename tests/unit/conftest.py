"""Hypothesis profiles: on CI the same examples every time; timing never decides a test.

In every unit test two open tasks of a session have records of their own already, and at every `take` what is kept of
the session is compared with a plain look at it.

`pytest tests/unit/test_laws.py --hypothesis-profile=thorough` tries many more.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.unit.session_checks import checked_at_every_take, tasks_inside

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=3000)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session", autouse=True)
def _sessions_are_checked() -> Iterator[None]:
    with tasks_inside(1), checked_at_every_take():
        yield
