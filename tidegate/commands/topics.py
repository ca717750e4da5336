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
    """Print a line per mismatch; whether there was none."""
    tell_once()
    settings = load_settings()
    lines = asyncio.run(check_topics(settings))
    for line in lines:
        typer.echo(line)
    if not lines:
        typer.echo(f"all topics of {settings.topic_prefix} at {settings.bootstrap_servers} are as they should be")
    return not lines
