"""What is wrong with a record that is no event: which field, its value, the limit, and what to do.

Slow and thorough: only records that the decoder has refused come here. Texts are for people.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from schemas.fields import MAX_NESTING
from schemas.topics import INPUT_ROLES, Role, topic_name, topics

MAX_PROBLEMS: Final = 5
MAX_SHOWN: Final = 64
"""Characters of a value that are shown."""

_MOST_DIGITS: Final = 4000
"""Python makes no integers of more than 4,300."""
_KINDS: Final = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
_EXPECTED: Final = {
    "string_type": "a text",
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "list_type": "a list",
    "datetime_type": "a time as in RFC 3339",
    "int_from_float": "a whole number",
}
_COMPARED: Final = {
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
}


class _NotJson(float):
    """NaN or an infinity, which JSON does not have."""

    name = "NaN"


def explained(value: bytes, error: Exception, adapter: TypeAdapter[Any], role: Role, prefix: str) -> str:
    """What is wrong with the record, in words. `error` is what the decoder said."""
    try:
        return "; ".join(_problems(value, error, adapter, role, prefix))
    except RecursionError:
        return f"event: arrays and objects inside each other, at most {MAX_NESTING} deep; flatten it"


def _problems(value: bytes, error: Exception, adapter: TypeAdapter[Any], role: Role, prefix: str) -> list[str]:
    try:
        text = value.decode()
    except UnicodeDecodeError as found:
        byte = value[found.start]
        return [f"event: not UTF-8: byte {byte:#04x} at {found.start}; write JSON in UTF-8"]
    try:
        body = json.loads(text, parse_constant=_constant, parse_int=_integer)
    except json.JSONDecodeError as found:
        near = text[max(0, found.pos - 16) : found.pos + 16]
        at = len(text[: found.pos].encode())
        return [f"event: not JSON: {found.msg} at byte {at}, near {near!r}; write one JSON object"]
    if not isinstance(body, dict):
        return [f"event: {_kind(body)}, not a JSON object; write one JSON object for each record"]
    odd = list(_not_json(body, ()))[:MAX_PROBLEMS]
    if odd:
        return odd
    wrong = _wrong_type(body, role, prefix)
    if wrong is not None:
        return [wrong]
    try:
        adapter.validate_json(value)
    except ValidationError as found:
        problems = found.errors(include_url=False)
        more = len(problems) - MAX_PROBLEMS
        told = [_told(each) for each in problems[:MAX_PROBLEMS]]
        return [*told, f"and {more} more"] if more > 0 else told
    return [f"event: {error}; write numbers that a double holds, or a text"]


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _constant(name: str) -> _NotJson:
    found = _NotJson("nan")
    found.name = name
    return found


def _not_json(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Numbers that JSON does not have, or that no double holds, and texts that are none, by the field they are in."""
    field = ".".join(path)[:MAX_SHOWN] or "event"
    if isinstance(value, _NotJson):
        yield f"{field}: {value.name} is not JSON; write null, or a text"
    elif isinstance(value, float) and math.isinf(value) and path[0] != "parts":
        yield f"{field}: a number that no double holds; write it as a text"
    elif isinstance(value, str):
        half = _half_a_pair(value)
        if half is not None:
            yield f"{field}: half a surrogate pair (\\u{ord(half):04x}) is not text; write the whole character"
    elif isinstance(value, dict):
        for name, each in value.items():
            half = _half_a_pair(name)
            if half is not None:
                shown = name.encode("ascii", "backslashreplace").decode()
                told = "half a surrogate pair in a name is not text; write the whole character"
                yield f"{field}.{shown[:MAX_SHOWN]}: {told}"
            else:
                yield from _not_json(each, (*path, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _not_json(each, (*path, str(index)))


def _half_a_pair(text: str) -> str | None:
    return next((character for character in text if "\ud800" <= character <= "\udfff"), None)


def _wrong_type(body: dict[str, Any], role: Role, prefix: str) -> str | None:
    """Whether the record is on another topic than its type belongs on, or has none."""
    by_type = {name: topic.role for topic in topics() for name in topic.event_types if topic.role in _FIRST_ROLES}
    here = sorted(name for name, home in by_type.items() if home == role.split(".", maxsplit=1)[0])
    if "type" not in body:
        return f"type: missing; one of {', '.join(here)}"
    found = body["type"]
    home = by_type.get(found) if isinstance(found, str) else None
    if home is None:
        return f"type: {_shown(found)} is no event of {topic_name(role, prefix)}; one of {', '.join(here)}"
    if found in here:
        return None
    right = _on_lane(home, role)
    return f"type: {found} belongs on {topic_name(right, prefix)}, not on {topic_name(role, prefix)}; write it there"


_FIRST_ROLES: Final = ("context", "steps", "results")


def _on_lane(home: Role, met_on: Role) -> Role:
    """The topic of the same lane."""
    cold: str = f"{home}.cold"
    return next((role for role in INPUT_ROLES if role == cold and met_on.endswith(".cold")), home)


def _told(problem: Any) -> str:
    """One problem that pydantic found."""
    kind, context = problem["type"], problem.get("ctx", {})
    loc = problem["loc"][1:] if problem["loc"] and "." in str(problem["loc"][0]) else problem["loc"]
    field = ".".join(map(str, loc))[: 2 * MAX_SHOWN] or "event"
    found = problem["input"]
    if kind == "missing":
        return f"{field}: missing; it is required"
    if kind in _EXPECTED:
        return f"{field}: {_shown(found)} is {_kind(found)}; write {_EXPECTED[kind]}"
    if kind in _COMPARED:
        words, name = _COMPARED[kind]
        return f"{field}: {_shown(found)}, {words} {context[name]:g}; write a number in its bounds"
    if kind == "string_too_long":
        return too_long(field, str(found), context["max_length"])
    if kind == "string_too_short":
        return f"{field}: {len(found)} characters, at least {context['min_length']}; write one"
    if kind == "too_long":
        return f"{field}: {len(found)} entries, at most {context['max_length']}; write fewer"
    if kind == "too_short":
        return f"{field}: {len(found)} entries, at least {context['min_length']}; write one"
    if kind == "literal_error":
        return f"{field}: {_shown(found)} is not one of {context['expected']}; write one of these"
    if kind == "value_error":
        return f"{field}: {_shown(found)} is {context['error']}; write one such as 2026-03-02T10:00:00Z"
    if kind == "string_pattern_mismatch":
        return f"{field}: {_shown(found)} does not match {context['pattern']}; write one that does"
    return f"{field}: {problem['msg']}, not {_shown(found)}"


def too_long(field: str, text: str, limit: int) -> str:
    """A text that is longer than its limit, which counts bytes."""
    size, characters = len(text.encode()), len(text)
    counted = f" ({characters} characters; the limit counts bytes of UTF-8)" if size != characters else ""
    return f"{field}: {size} bytes{counted}, at most {limit}; use a shorter one, such as an id or a digest"


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text)} characters)"
