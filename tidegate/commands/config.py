"""`tidegate config`: the effective settings, for people or as JSON."""

from __future__ import annotations

import orjson
import typer
from rich.console import Console
from rich.table import Table

from tidegate.settings import Settings, load_settings


def show_config(*, as_json: bool) -> None:
    """Print every setting with its value and origin; secrets as asterisks."""
    settings = load_settings()
    values = settings.model_dump(mode="json")  # a secret dumps as asterisks
    origins = settings.origins()
    if as_json:
        shown = {name: {"value": values[name], "from": origins[name]} for name in values}
        typer.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table("setting", "value", "from", "what it does", box=None, pad_edge=False)
    for name, field in Settings.model_fields.items():
        value = "" if values[name] is None else str(values[name])
        table.add_row(name, value, origins[name], field.description)
    Console().print(table)
