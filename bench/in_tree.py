"""Run as a file, in a fresh process: one benchmark of another tree, with that tree's own code.

`PYTHONPATH` names the root of the tree, whose `bench` and packages are imported, not those next to this file. It needs
`bench.compiled` and the benchmark from that tree, and imports nothing from this one, so the APIs of the two may differ.
`bench.alternating` starts it.

It writes lines to stdout. `ready` asks for the next turn, which a line on stdin grants; the last line is the result, as
JSON. What the benchmark itself prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.compiled import PACKAGES, compiled, is_compiled


def main() -> None:
    """Take the tree's root, module, function, its keyword arguments as JSON, and the method that is a turn, if any."""
    root, module, function, parameters, turn = sys.argv[1:]
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints, compilers among them

    def wait_for_turn() -> None:
        print("ready", file=lines, flush=True)
        if not sys.stdin.readline():
            raise EOFError("the process that grants turns has ended")

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # as `bench.commands` does
    code = compiled()
    sys.path.insert(0, str(code))
    own = [name for name in ("bench", "testing") if (Path(root) / name).is_dir()]  # older trees have no `testing`
    _check_origin({**dict.fromkeys(own, Path(root)), **dict.fromkeys(PACKAGES, code)})
    benchmark = importlib.import_module(module)
    if turn:
        _wait_before(benchmark, turn, wait_for_turn)
    figures: Any = getattr(benchmark, function)(**json.loads(parameters))
    if inspect.isawaitable(figures):
        figures = asyncio.run(_awaited(figures))
    core = "compiled" if is_compiled(code) else "interpreted"
    print(json.dumps({"figures": figures, "core": core, "code": str(code)}), file=lines, flush=True)


def _wait_before(module: ModuleType, turn: str, wait: Callable[[], None]) -> None:
    """Replace a method, given as `Class.method`, by one that waits first."""
    name, _, method = turn.partition(".")
    owner = getattr(module, name)
    original = getattr(owner, method)

    def waiting(*arguments: Any, **named: Any) -> Any:
        wait()
        return original(*arguments, **named)

    setattr(owner, method, waiting)


async def _awaited(figures: Any) -> Any:
    return await figures


def _check_origin(expected: dict[str, Path]) -> None:
    """Measuring an installed copy by mistake would compare a tree with itself."""
    for package, directory in expected.items():
        found = importlib.util.find_spec(package)
        origin = Path(found.origin) if found and found.origin else None
        if origin is None or not origin.resolve().is_relative_to(directory.resolve()):
            raise ImportError(f"{package} should come from {directory}, not from {origin}")


if __name__ == "__main__":
    main()
