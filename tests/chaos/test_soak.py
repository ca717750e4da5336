"""The long versions of what `make test` does briefly: an even load for three minutes, kills for minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker.test_kill import comings_and_goings, kills, lives_under_kills
from tests.broker.test_steady_load import steady
from tidegate.settings import Settings

MakeSettings = Callable[..., Settings]

pytestmark = pytest.mark.timeout(900)


def test_three_minutes_of_an_even_load(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(steady(make_settings(partitions=4), tmp_path, seconds=180))


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_thirty_kills(make_settings: MakeSettings, tmp_path: Path, seed: int) -> None:
    asyncio.run(kills(make_settings, tmp_path, times=30, seed=seed))


@pytest.mark.parametrize("seed", [31, 32, 33])
def test_every_rule_under_thirty_kills(make_settings: MakeSettings, tmp_path: Path, seed: int) -> None:
    asyncio.run(lives_under_kills(make_settings, tmp_path, sessions=100, times=30, seed=seed))


def test_thirty_workers_come_and_go(make_settings: MakeSettings, tmp_path: Path) -> None:
    asyncio.run(comings_and_goings(make_settings, tmp_path, workers=30, seed=21))
