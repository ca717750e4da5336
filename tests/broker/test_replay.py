"""Recorded conversations and made-up traffic, through a real worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from local.replay.delays import parse
from local.replay.plan import Options
from local.replay.player import Played, Player, Start
from local.replay.report import figures, is_sound
from local.traffic import Load, Traffic
from tests.broker.harness import Gate
from tests.unit.recordings import called, conversation, said, user
from tidegate.errors import TidegateError
from tidegate.settings import Settings, load_settings

SESSIONS = 30
ANSWERS = 2


def starts(directory: Path, run: str) -> list[Start]:
    """Talks of two answers: the first reads an order, the second changes it."""
    talk = conversation(
        directory,
        user("where is my order?"),
        called("get_order_status", "paid", order_id="7"),
        said("It is paid."),
        user("send it"),
        called("update_order", "sent", order_id="7"),
        called("get_order_status", "sent", order_id="7"),
        said("It is sent."),
    )
    return [Start(number, f"{run}-{number}", talk, 0.0) for number in range(SESSIONS)]


async def played(settings: Settings, directory: Path, run: str, *, strict: bool, interfere: float) -> Played:
    options = Options(parse("fixed:2", ""), parse("exp:2", ""), strict=strict, interfere=interfere)
    player = Player(settings, options, speed=0, verdict_timeout_seconds=30)
    return await player.play(starts(directory, run), run)


def test_answers_come_back_fresh_but_for_those_that_were_made_stale(settings: Settings, tmp_path: Path) -> None:
    async def run() -> None:
        async with Gate(settings, tmp_path) as gate:
            await gate.start("worker")
            calm = await played(settings, tmp_path, "calm", strict=False, interfere=0.0)
            rough = await played(settings, tmp_path, "rough", strict=True, interfere=0.5)
            await gate.drained(60)
            await gate.audit(tasks=2 * SESSIONS * ANSWERS)

        found = figures(calm, file="", conversations=1, sessions=SESSIONS)
        assert is_sound(found), found
        assert (found["answers"], found["fresh"]) == (SESSIONS * ANSWERS, SESSIONS * ANSWERS)
        assert found["after_own_write"]["fixed_snapshot_would_withhold"] > 0
        found = figures(rough, file="", conversations=1, sessions=SESSIONS)
        assert is_sound(found), found
        assert 0 < found["withheld"] < SESSIONS * ANSWERS
        assert set(found["stale_by_facet_kind"]) == {"order", "request"}

    asyncio.run(run())


def test_without_a_gate_it_names_the_answers_that_wait(settings: Settings, tmp_path: Path) -> None:
    options = Options(parse("0", ""), parse("0", ""))
    player = Player(settings, options, speed=0, verdict_timeout_seconds=0.5)

    abandoned = asyncio.run(player.play(starts(tmp_path, "alone"), "alone"))

    found = figures(abandoned, file="", conversations=1, sessions=SESSIONS)
    assert not is_sound(found)
    assert sorted(found["missing"]) == sorted(f"alone-{number} turn-1" for number in range(SESSIONS))


def test_without_topics_it_says_how_to_make_them(settings: Settings, tmp_path: Path) -> None:
    elsewhere = load_settings(bootstrap_servers=settings.bootstrap_servers, topic_prefix="nowhere")
    options = Options(parse("0", ""), parse("0", ""))

    with pytest.raises(TidegateError, match=r"no topic nowhere\.context\.v1"):
        asyncio.run(Player(elsewhere, options, speed=0, verdict_timeout_seconds=1).play(starts(tmp_path, "x"), "x"))
    with pytest.raises(TidegateError, match=r"no topic nowhere\.context\.v1"):
        asyncio.run(Traffic(elsewhere, Load(rate=0, sessions=1, tasks=1)).run())


def test_traffic_is_understood_and_every_task_ends(settings: Settings, tmp_path: Path) -> None:
    async def run() -> None:
        async with Gate(settings, tmp_path) as gate:
            await gate.start("worker")
            sent = await Traffic(settings, Load(rate=0, sessions=100, tasks=500)).run()
            assert (sent.tasks, sent.events) == (500, 5000)
            await gate.drained(60)
            audited = await gate.audit(tasks=500)
            assert audited["dlq"] == 0

    asyncio.run(run())
