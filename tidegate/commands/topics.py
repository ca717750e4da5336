"""`tidegate topics create` and `tidegate topics check`."""

from __future__ import annotations

import asyncio

import typer

from tidegate.refusals import tell_once
from tidegate.settings import load_settings
from tidegate.topics import check_topics, create_topics


def create() -> None:
    """Create what is missing and say, per topic, what was done."""
    tell_once()
    for name, created in asyncio.run(create_topics(load_settings())).items():
        typer.echo(f"{'created' if created else 'exists '}  {name}")


def check() -> bool:
    """Print a line per mismatch, and one per partition whose inputs are led apart; whether there was no mismatch."""
    tell_once()
    settings = load_settings()
    lines, apart = asyncio.run(check_topics(settings))
    for line in lines:
        typer.echo(line)
    for line in apart:
        typer.echo(f"warning: {line}")
    if apart:
        typer.echo(
            "Each verdict waits for the slowest of them, and steps and results are merged by two clocks. If no broker"
            " is away, have the preferred leaders elected (kafka-leader-election.sh --election-type preferred), or"
            " put these partitions on the same brokers (kafka-reassign-partitions.sh)."
        )
    if not lines:
        typer.echo(f"all topics of {settings.topic_prefix} at {settings.bootstrap_servers} are as they should be")
    return not lines
