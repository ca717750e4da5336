"""`tidegate partitions list` and `tidegate partitions retry`."""

from __future__ import annotations

import asyncio

import typer

from tidegate.partitions import failures
from tidegate.partitions import retry as ask_to_retry
from tidegate.refusals import tell_once
from tidegate.settings import load_settings


def show() -> bool:
    """Print a line per partition; whether none is marked as failed."""
    tell_once()
    found = asyncio.run(failures(load_settings()))
    for number, failure in found.items():
        typer.echo(f"{number}  {'not marked' if failure is None else f'failed: {failure}'}")
    return not any(found.values())


def retry(number: int) -> None:
    """Ask for a failed partition to be tried again, and say so."""
    tell_once()
    failure = asyncio.run(ask_to_retry(load_settings(), number))
    typer.echo(f"partition {number} had failed: {failure}")
    typer.echo("Its owner tries it again within a few seconds. If it fails again, it is marked again.")
