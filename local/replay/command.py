"""`tidegate replay FILE`: from the command line's arguments to the exit status."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from local.replay.conversations import Conversation, read_conversations
from local.replay.delays import parse
from local.replay.plan import Options, duration_seconds
from local.replay.player import Played, Player, Start
from local.replay.report import figures, is_sound, show
from local.replay.tools import ToolRules, bounded
from tidegate.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line says; its help texts explain each."""

    file: Path
    strict: bool
    agent_delay: str
    think_time: str
    interfere: float
    seed: int
    speed: float
    sessions: int | None
    reads: Sequence[str]
    writes: Sequence[str]
    verdict_timeout: float
    as_json: bool


def run_replay(arguments: Arguments) -> int:
    """Play the file and print the report. Returns the exit status: 0 if every answer got the verdict to be expected.

    Otherwise 1, with the answers named. Raises `TidegateError` where the file, an option or the broker is at fault.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors come back as ours, with what to do
    options = Options(
        agent_delay=parse(arguments.agent_delay, "--agent-delay"),
        think_time=parse(arguments.think_time, "--think-time"),
        strict=arguments.strict,
        interfere=arguments.interfere,
        seed=arguments.seed,
        rules=ToolRules(tuple(arguments.reads), tuple(arguments.writes)),
    )
    conversations = read_conversations(arguments.file)
    run = f"replay-{uuid4().hex[:8]}"
    starts = _starts(conversations, arguments.sessions or len(conversations), run, options)
    played = asyncio.run(_play(load_settings(), options, arguments, starts, run))
    found = figures(
        played, file=arguments.file.name, conversations=min(len(conversations), len(starts)), sessions=len(starts)
    )
    if arguments.as_json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show(found, Console())
    return 0 if is_sound(found) else 1


def _starts(conversations: Sequence[Conversation], sessions: int, run: str, options: Options) -> list[Start]:
    # Spread over the time one conversation takes: a crowd that comes and goes, not one that comes all at once.
    rng = random.Random(options.seed)  # noqa: S311 - not for secrets
    spread = sum(duration_seconds(each, options) for each in conversations) / len(conversations)
    starts = []
    for number in range(sessions):
        conversation = conversations[number % len(conversations)]
        session_id = f"{run}-{number + 1}-{bounded(conversation.conversation_id)}"
        starts.append(Start(number, session_id, conversation, rng.uniform(0, spread) if number else 0.0))
    return starts


async def _play(
    settings: Settings, options: Options, arguments: Arguments, starts: Sequence[Start], run: str
) -> Played:
    answers = sum(start.conversation.answers for start in starts)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        bar = progress.add_task(f"{len(starts):,} conversations, answers judged", total=answers)
        player = Player(
            settings,
            options,
            speed=arguments.speed,
            verdict_timeout_seconds=arguments.verdict_timeout,
            on_verdict=lambda: progress.advance(bar),
        )
        return await player.play(starts, run)
