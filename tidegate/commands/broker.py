"""`tidegate broker`: run a local Kafka broker until a signal comes."""

from __future__ import annotations

import signal
from pathlib import Path

from rich.console import Console

from local.broker import LocalBroker
from tidegate.errors import TidegateError
from tidegate.settings import load_settings


def run_broker(*, port: int | None, ephemeral: bool, data_dir: Path | None) -> None:
    """Run it until Ctrl-C or SIGTERM, then stop it cleanly.

    Raises `TidegateError` if it cannot start, or ends by itself.
    """
    if ephemeral and data_dir is not None:
        raise TidegateError("--ephemeral deletes its data, --data-dir keeps it.", "Give one of them.")
    if data_dir is None and not ephemeral:
        data_dir = load_settings().state_dir / "broker"
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    broker = LocalBroker(port, ephemeral=ephemeral, data_dir=data_dir)
    try:
        broker.start()
        console.print(f"Kafka answers at [bold]{broker.bootstrap_servers}[/bold]")
        console.print(f"data and log: {broker.directory}{' (deleted at the end)' if ephemeral else ''}")
        console.print("Ctrl-C stops it.")
        status = broker.wait()
        raise broker.failure(f"The Kafka broker ended by itself (exit status {status})")
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        broker.close()
