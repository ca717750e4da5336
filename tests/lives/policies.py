"""What a task asks for, and how its agent behaves: drawn by chance, so that every kind of end comes up often."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from tests.scenarios.case import SHADOWED

SETTINGS: Final[dict[str, object]] = {
    "unknown_task_grace_seconds": 2.0,
    "scope_grace_seconds": 1.0,
    "hold_ttl_seconds": 1.5,
    "shadow_task_types": f'["{SHADOWED}"]',
}
"""Settings of a worker under which everything that waits is over in seconds."""

FACETS: Final = ("conversation", "doc/1", "doc/2", "view/tab-1")
VALUES: Final = ("a", "b", "c")
"""Few, so that what has changed is often as it was again."""
REQUEST: Final = "r1"
SLOTS: Final = ("panel", "panel", "panel", "summary")
PLAN: Final = ("look", "think", "write")
BEAT_SECONDS: Final = 0.25
HEARTBEAT_TIMEOUT_SECONDS: Final = 1.0


@dataclass(slots=True)
class Asked:
    """A task as its dispatcher asks for it. `deadline_in` is in seconds from its dispatch, `takes` until its result.

    The agent begins at once; the dispatch comes after `dispatched_after` seconds, perhaps behind the result. The user
    wants it no more after `cancelled_after` seconds. What never returns has a deadline or a heartbeat timeout, so that
    every task ends.
    """

    fields: dict[str, Any]
    takes: float
    lane: str = "hot"
    deadline_in: float | None = None
    returns: bool = True
    beats_for: float = 0.0
    dispatched_after: float = 0.0
    children: int = 0
    proposals: int = 0
    cancelled_after: float | None = None
    own_changes: bool = False
    interim: bool = False
    """Whether an interim answer comes before the result."""
    is_silent: bool = False
    """Whether the agent's first sign of life is its result, too late."""
    asks: bool = False
    """Whether the agent asks a person something, and waits."""
    parts: list[dict[str, Any]] = field(default_factory=list)


def ask(random: Random, facets: dict[str, str | None]) -> Asked:
    """A task for a user who sees these facets."""
    asked = Asked({}, takes=random.uniform(0.1, 1.2), lane="cold" if random.random() < 0.2 else "hot")
    fields = asked.fields
    names = random.sample(FACETS, k=random.choice((1, 1, 2)))
    if random.random() < 0.15:
        fields["depends_on"] = names
    else:
        fields["snapshot"] = {name: facets.get(name) for name in names}
    if random.random() < 0.05:
        fields["snapshot"] = {names[0]: random.choice(VALUES)}
    fields["on_stale"] = random.choice(("withhold", "annotate", "hold", "hold", "redispatch"))
    fields["on_stale_failure"] = random.choice(("annotate", "annotate", "withhold", "hold"))
    fields["hold_ttl_seconds"] = random.choice((0.5, 3.0, 3.0))
    if random.random() < 0.5:
        fields["plan"] = list(PLAN)
    if random.random() < 0.25:
        fields["request_id"] = REQUEST
    if random.random() < 0.4:
        fields["when_absent"] = random.choice(("withhold", "hold"))
    if random.random() < 0.45:
        fields["slot"] = random.choice(SLOTS)
        fields["on_newer"] = random.choice(
            ("allow", "allow", "enqueue", "enqueue", "enqueue_latest", "reject", "interrupt")
        )
        fields["protected"] = random.random() < 0.15
        asked.takes *= random.choice((1, 1, 3))
    if random.random() < 0.15:
        fields["while_stale"] = "cancel"
        fields["while_stale_grace_seconds"] = random.choice((0.0, 0.3))
    if random.random() < 0.06:
        fields["task_type"] = SHADOWED
    if random.random() < 0.1:
        fields["max_redispatches"] = random.choice((0, 2))
    if random.random() < 0.2:
        fields["watch_seconds"] = random.choice((0.3, 2.0))
    if random.random() < 0.3:
        fields["on_late"] = "deliver"
    asked.interim = random.random() < 0.15
    _behave(random, asked)
    _draw_parts(random, asked)
    return asked


def ask_child(random: Random, facets: dict[str, str | None], parent_id: str, lane: str) -> Asked:
    """A part of the work, handed on. A few name a parent that nobody has dispatched, or travel on the other lane."""
    asked = ask(random, facets)
    asked.lane = lane if random.random() < 0.9 else asked.lane
    asked.takes = random.uniform(0.1, 1.5)
    asked.children = random.choice((0, 0, 0, 1))
    asked.dispatched_after = 0.0
    asked.fields["parent_task_id"] = parent_id
    asked.fields["independent"] = random.random() < 0.3
    asked.fields["detached"] = random.random() < 0.2
    return asked


def _behave(random: Random, asked: Asked) -> None:
    how = random.random()
    if how < 0.06:
        asked.returns, asked.beats_for = False, random.uniform(0.0, 0.6)
    elif how < 0.12:
        asked.returns, asked.deadline_in = False, random.uniform(0.2, 1.0)
    elif how < 0.18:
        asked.deadline_in = asked.takes + random.choice((-0.002, 1.0))
    elif how < 0.24:
        asked.beats_for = asked.takes
    elif how < 0.28:
        asked.dispatched_after = asked.takes + random.choice((0.2, 0.2, 4.0))
    elif how < 0.42:
        asked.children = random.choice((1, 1, 2, 3))
        asked.dispatched_after = random.choice((0.0, 0.0, asked.takes + 0.5))
        if random.random() < 0.5:
            asked.fields["scope_grace_seconds"] = random.choice((0.2, 3.0))
    elif how < 0.56:
        asked.proposals = random.choice((1, 2))
    elif how < 0.64:
        asked.cancelled_after = random.choice((0.0, 0.3, 0.3, 2.0))
        asked.dispatched_after = 0.0 if asked.cancelled_after else 0.2
    elif how < 0.7:
        asked.is_silent = random.random() < 0.5
        asked.fields["start_timeout_seconds"] = 0.1 if asked.is_silent else 5.0
        asked.fields["heartbeat_timeout_seconds"] = HEARTBEAT_TIMEOUT_SECONDS
        asked.beats_for = 0.0 if asked.is_silent else asked.takes
        asked.takes = asked.takes + 0.2 if asked.is_silent else asked.takes
        asked.interim = asked.interim and not asked.is_silent
        if asked.is_silent:
            asked.fields["on_late"] = "deliver"
    elif how < 0.76:
        asked.fields["deadline_seconds"] = asked.takes * random.choice((0.5, 2.0))
        asked.asks = random.random() < 0.6
    asked.own_changes = random.random() < 0.15
    if asked.beats_for or (not asked.returns and asked.deadline_in is None):
        asked.fields["heartbeat_timeout_seconds"] = HEARTBEAT_TIMEOUT_SECONDS


def _draw_parts(random: Random, asked: Asked) -> None:
    asked.parts = [{"part_id": "text", "kind": "show"}]
    if random.random() < 0.5:
        asked.parts.append({"part_id": "edit", "kind": "apply"})
        asked.parts[0]["depends_on"] = random.choice(([], [random.choice(FACETS)]))
    if random.random() < 0.5:
        asked.parts[-1]["on_stale"] = random.choice(("withhold", "annotate", "hold", "hold", "hold", "redispatch"))
