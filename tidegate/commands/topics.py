"""`tidegate topics create` and `tidegate topics check`."""

from __future__ import annotations

import asyncio
import logging

import typer

from tidegate.settings import load_settings
from tidegate.topics import check_topics, create_topics


def create() -> None:
    """Create what is missing and say, per topic, what was done."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors come back as ours, with what to do
    for name, created in asyncio.run(create_topics(load_settings())).items():
        typer.echo(f"{'created' if created else 'exists '}  {name}")


def check() -> bool:
    """Print a line per mismatch; whether there was none."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings = load_settings()
    lines = asyncio.run(check_topics(settings))
    for line in lines:
        typer.echo(line)
    if not lines:
        typer.echo(f"all topics of {settings.topic_prefix} at {settings.bootstrap_servers} are as they should be")
    return not lines
