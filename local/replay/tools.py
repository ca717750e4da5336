"""What a tool call reads and writes, told from its name and arguments. Which values: `local.replay.store`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from local.replay.conversations import Call

Effect = Literal["reads", "writes", "neither"]

_READING = re.compile("get|search|list|find|read|fetch|lookup|look|check|query|view|show")
_WRITING = re.compile(
    "book|update|cancel|send|create|delete|modify|add|remove|set|edit|change|write|insert|move|rename|exchange|return"
    "|refund|post|put|upload|submit|assign|close"
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_LONGEST_BYTES = 120


@dataclass(frozen=True, slots=True)
class Touch:
    """What one call touches.

    effect: whether it reads, writes, or neither.
    things: the things it reads or writes, such as `reservation/OI5L9G`.
    view: for a reading call the facet it saw. Two tools see different views of one thing, such as
      `reservation/OI5L9G/details`: their answers differ although the thing is the same.
    """

    effect: Effect
    things: tuple[str, ...] = ()
    view: str | None = None


@dataclass(frozen=True, slots=True)
class ToolRules:
    """Which tools read and which write, by the beginning of their names. What is named here wins over the defaults."""

    reads: Sequence[str] = ()
    writes: Sequence[str] = ()

    def effect(self, tool: str) -> Effect:
        """What a call of this tool does. A tool of unknown name does neither."""
        if tool.startswith(tuple(self.writes)):
            return "writes"
        if tool.startswith(tuple(self.reads)):
            return "reads"
        verb = next(iter(words(tool)), "")
        if _WRITING.fullmatch(verb):
            return "writes"
        return "reads" if _READING.fullmatch(verb) else "neither"

    def touch(self, call: Call) -> Touch:
        """What this call touches. One that failed touches nothing."""
        effect = self.effect(call.tool)
        if effect == "neither" or call.failed:
            return Touch("neither")
        subject, named = _things(call)
        if effect == "reads":
            return Touch("reads", (subject.thing,), subject.view)
        return Touch("writes", (subject.thing, *(thing for thing in named if thing != subject.thing)))


@dataclass(frozen=True, slots=True)
class _Subject:
    thing: str
    view: str


def words(name: str) -> list[str]:
    """The words of a tool's or an argument's name, lower case: of `get_userDetails` they are get, user, details."""
    return [word.lower() for word in _WORDS.findall(name)]


def digest(text: str) -> str:
    """A value for what a tool answered: equal answers, equal digests."""
    return sha256(text.encode()).hexdigest()[:16]


def _things(call: Call) -> tuple[_Subject, list[str]]:
    """The subject of the call, and the things its answer names as made or changed."""
    noun = words(call.tool)[1:]
    ids = _ids(call.arguments)
    # `book_reservation(user_id)` is about the user; `update_reservation_flights(reservation_id, payment_id)` about the
    # reservation: an id whose kind is in the tool's name goes first, then the first one given.
    key = next((key for key, kind in ids.items() if set(kind) <= set(noun)), next(iter(ids), None))
    if key is None:
        arguments = _short(call.arguments)
        name = "_".join(noun) or call.tool
        thing = f"{name}/{arguments}" if arguments else name
        return _Subject(thing, thing), _made(call.answer, noun)
    kind = ids[key] or noun
    thing = f"{'_'.join(kind) or 'thing'}/{bounded(str(call.arguments[key]))}"
    aspect = "_".join(word for word in noun if word not in kind)
    rest = _short({name: value for name, value in call.arguments.items() if name != key})
    return _Subject(thing, "/".join(part for part in (thing, aspect, rest) if part)), _made(call.answer, noun)


def _ids(arguments: dict[str, Any]) -> dict[str, list[str]]:
    """The arguments that are ids, with the words of the kind of thing they name; `id` alone names no kind."""
    found = {}
    for key, value in arguments.items():
        named = words(key)
        if named[-1:] == ["id"] and isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            found[key] = named[:-1]
    return found


def _made(answer: str | None, noun: list[str]) -> list[str]:
    """Things of the tool's kind that the answer names by id: what a booking made."""
    try:
        told = json.loads(answer or "")
    except ValueError:
        return []
    if not isinstance(told, dict):
        return []
    return [
        f"{'_'.join(kind)}/{bounded(str(told[key]))}"
        for key, kind in _ids(told).items()
        if kind and set(kind) <= set(noun)
    ]


def _short(arguments: dict[str, Any]) -> str:
    """Arguments as part of a facet's name: readable where they are few and plain, else a digest."""
    if not arguments:
        return ""
    if all(isinstance(value, str | int | float | bool) for value in arguments.values()):
        readable = ",".join(str(arguments[key]) for key in sorted(arguments))
        if len(readable.encode()) <= _LONGEST_BYTES and "/" not in readable:
            return readable
    return digest(json.dumps(arguments, sort_keys=True))


def bounded(text: str) -> str:
    """The text itself where it can be a part of a facet's name, else its digest."""
    return text if len(text.encode()) <= _LONGEST_BYTES and "/" not in text else digest(text)
