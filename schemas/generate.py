"""`python -m schemas.generate`: the contract for other languages, generated from the models.

Writes one JSON Schema per event type and one AsyncAPI document; `--check` only says which files differ. The same models
always give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import orjson

from schemas.asyncapi import document, type_of
from schemas.events import INPUT_EVENTS, Event
from schemas.fields import MAX_EVENT_BYTES
from schemas.outputs import OUTPUT_EVENTS

DIRECTORY: Final = Path(__file__).parent
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
COMMENT: Final = (
    "Generated from the models by `python -m schemas.generate`. Lengths here count characters; the gate also counts"
    f" UTF-8 bytes, up to the same numbers, and takes records of up to {MAX_EVENT_BYTES} bytes."
    " Unknown fields are ignored: version 1 grows by adding."
)


def json_schema(model: type[Event]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one event type, complete in itself."""
    name = type_of(model)
    schema = model.model_json_schema()
    return {
        "$schema": DIALECT,
        "$id": f"urn:tidegate:schema:{name}:v1",
        "$comment": COMMENT,
        **schema,
        "title": name,
    }


def files() -> dict[Path, bytes]:
    """Every generated file with its content, by path."""
    contents = {
        DIRECTORY / "json" / f"{type_of(model)}.v1.json": json_schema(model)
        for model in (*INPUT_EVENTS, *OUTPUT_EVENTS)
    }
    contents[DIRECTORY / "asyncapi.v1.json"] = document(examples())
    return {
        path: orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        for path, content in contents.items()
    }


def examples() -> dict[str, Any]:
    """The hand-written example of each event type, by type."""
    return {path.name.removesuffix(".json"): orjson.loads(path.read_bytes()) for path in _json_files("examples")}


def drifted() -> list[Path]:
    """The files that are missing, differ from what the models give, or belong to no event type any more."""
    expected = files()
    left_over = set(_json_files("json")) - expected.keys()
    differing = {path for path, content in expected.items() if not path.is_file() or path.read_bytes() != content}
    return sorted(left_over | differing)


def main(arguments: list[str] | None = None) -> int:
    """Write what differs, or with `--check` only name it. Exit status 1 if anything differed with `--check`."""
    parser = argparse.ArgumentParser(prog="python -m schemas.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file differs")
    check = parser.parse_args(arguments).check
    expected = files()
    paths = drifted()
    for path in paths:
        name = path.relative_to(DIRECTORY.parent)
        if check:
            sys.stderr.write(f"{name} differs from the models; run `make schemas`\n")
        elif path in expected:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(expected[path])
            sys.stdout.write(f"wrote {name}\n")
        else:
            path.unlink()
            sys.stdout.write(f"removed {name}\n")
    return 1 if check and paths else 0


def _json_files(directory: str) -> list[Path]:
    return sorted((DIRECTORY / directory).glob("*.json"))


if __name__ == "__main__":
    sys.exit(main())
