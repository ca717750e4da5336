"""Hypothesis profiles: on CI the same examples every time; timing never decides a test.

And in every unit test the second open task of a session already stands apart, and what is known of it is held against
its row.

`pytest tests/unit/test_laws.py --hypothesis-profile=thorough` tries many more.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.unit.kept_tasks import held_against_rows, tasks_inside

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=3000)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session", autouse=True)
def _kept_tasks_are_current() -> Iterator[None]:
    with tasks_inside(1), held_against_rows():
        yield
