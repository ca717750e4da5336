"""Which values the things of one conversation had, and when: told from what its tools answered.

A read shows what its view of a thing held at that moment. So where a view is read again after a write, the second
answer is what the write made of it; where nobody wrote in between, somebody outside the recording did. Values are
digests of answers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from local.replay.conversations import Call, Conversation
from local.replay.tools import ToolRules, Touch, digest


@dataclass(frozen=True, slots=True)
class Access:
    """What one call did to the facets.

    things: which it read or wrote.
    reads: the facet it saw, with its value.
    writes: the facets it set, with what the store held afterwards.
    others: the facets that somebody outside the recording must have set before this call, for it saw another value than
      the last one known.
    """

    things: tuple[str, ...] = ()
    reads: dict[str, str] = field(default_factory=dict)
    writes: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def accesses(conversation: Conversation, rules: ToolRules) -> list[Access]:
    """What every call of the conversation did, in order."""
    calls = [call for turn in conversation.turns for call in turn.calls]
    touches = [rules.touch(call) for call in calls]
    return list(_walk(calls, touches))


def _walk(calls: Sequence[Call], touches: Sequence[Touch]) -> Iterator[Access]:
    observed = _Observations(calls, touches)
    known: dict[str, str] = {}
    things: dict[str, str] = {}  # the thing each known facet is a view of
    for place, (call, touch) in enumerate(zip(calls, touches, strict=True)):
        if touch.effect == "reads" and touch.view is not None:
            value = digest(call.answer or "")
            others = {touch.view: value} if known.get(touch.view, value) != value else {}
            known[touch.view] = value
            things[touch.view] = touch.things[0]
            yield Access(touch.things, reads={touch.view: value}, others=others)
        elif touch.effect == "writes":
            for thing in touch.things:
                things.setdefault(thing, thing)
            writes = {}
            for facet, thing in things.items():
                value = (
                    observed.after_write(facet, place) or digest(call.answer or "")
                    if thing in touch.things
                    else observed.after_side_effect(facet, place) or known.get(facet, "")
                )
                if thing in touch.things or value != known.get(facet, ""):
                    writes[facet] = value
            known.update(writes)
            yield Access(touch.things, writes=writes)
        else:
            yield Access()


class _Observations:
    """Looks ahead: what is a view's next recorded answer, and does a write stand in between?"""

    def __init__(self, calls: Sequence[Call], touches: Sequence[Touch]) -> None:
        self._reads: dict[str, list[tuple[int, str]]] = {}
        self._writes: list[tuple[int, tuple[str, ...]]] = []
        self._things: dict[str, str] = {}
        for place, (call, touch) in enumerate(zip(calls, touches, strict=True)):
            if touch.view is not None:
                self._reads.setdefault(touch.view, []).append((place, digest(call.answer or "")))
                self._things[touch.view] = touch.things[0]
            elif touch.effect == "writes":
                self._writes.append((place, touch.things))

    def after_write(self, facet: str, place: int) -> str | None:
        """The value the next read shows, if no later write to the same thing comes before it."""
        seen, value = self._next(facet, place)
        thing = self._things.get(facet, facet)
        return value if not any(thing in things for _, things in self._between(place, seen)) else None

    def after_side_effect(self, facet: str, place: int) -> str | None:
        """The same for a write that does not name the thing: the last one before the read is said to have done it."""
        seen, value = self._next(facet, place)
        return value if not self._between(place, seen) else None

    def _next(self, facet: str, place: int) -> tuple[int, str | None]:
        reads = self._reads.get(facet, [])
        index = bisect_right(reads, place, key=lambda read: read[0])
        return reads[index] if index < len(reads) else (place, None)

    def _between(self, start: int, end: int) -> list[tuple[int, tuple[str, ...]]]:
        return [write for write in self._writes if start < write[0] < end]
