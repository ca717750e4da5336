"""Who sends what when: one conversation as events in the order of life. Pure; times are seconds of the conversation.

The user sends each message a think time after the last one, answered or not. Every message that was answered is a task,
dispatched with the message. The agent takes the messages up one after another, and an agent delay later it answers.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import orjson

from local.replay.conversations import Call, Conversation, Turn
from local.replay.delays import Delay
from local.replay.store import Access, accesses
from local.replay.tools import ToolRules, bounded
from schemas.fields import MAX_FACETS, MAX_INLINE_PART_BYTES, MAX_SNAPSHOT_BYTES

Role = Literal["context", "steps", "results"]
Body = dict[str, Any]
AnswerId = tuple[str, str]
"""Session and task."""

_MESSAGE_CHARACTERS = 500
_SPARE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """How to play.

    strict: the user's own next message makes the answer to the last one stale.
    interfere: probability that somebody else changes a thing the agent has read, before it answers.
    """

    agent_delay: Delay
    think_time: Delay
    strict: bool = False
    interfere: float = 0.0
    seed: int = 0
    rules: ToolRules = field(default_factory=ToolRules)


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """One event: when, on which topic, and its body without `occurred_at`, which is when it is really sent."""

    at_seconds: float
    role: Role
    body: Body


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known beforehand of one answer.

    stale: facets that will differ when it returns; empty: it must be delivered.
    interfered_with: the thing somebody else changes meanwhile.
    superseded: the user's next message comes before it.
    follows_write: the task wrote something itself.
    fixed_snapshot_differs: a facet of its dispatch's snapshot has another value when it returns, whoever changed it. A
      gate that compares just that would withhold it.
    tool_answer: the recording ends with a tool's answer instead of the assistant's text.
    """

    session_id: str
    task_id: str
    stale: frozenset[str]
    interfered_with: str | None
    superseded: bool
    follows_write: bool
    fixed_snapshot_differs: bool
    tool_answer: bool

    @property
    def name(self) -> AnswerId:
        """What tells it from all others."""
        return self.session_id, self.task_id


@dataclass(frozen=True, slots=True)
class Plan:
    """One session: its events in the order they happen, and its answers in the order of the messages."""

    session_id: str
    events: list[PlannedEvent]
    answers: list[Answer]


@dataclass(slots=True)
class _Work:
    """One turn as a task, while it is being planned."""

    number: int
    turn: Turn
    message_at: float
    snapshot: dict[str, str]
    expected: dict[str, str]
    read_things: list[str] = field(default_factory=list)
    own_changes: list[tuple[str, str | None, str]] = field(default_factory=list)
    """(facet, announced value before, value after), in order; None: not announced before."""
    steps: int = 0
    interfered_with: str | None = None
    superseded: bool = False

    @property
    def task_id(self) -> str:
        return f"turn-{self.number}"


@dataclass(frozen=True, slots=True)
class _Moment:
    at_seconds: float
    happen: Callable[[float], None]


def plan(conversation: Conversation, session_id: str, options: Options, number: int = 0) -> Plan:
    """The whole session. `number` tells sessions of one conversation apart: the same one draws the same plan again."""
    return _Planner(conversation, session_id, options, number).plan()


class _Planner:
    def __init__(self, conversation: Conversation, session_id: str, options: Options, number: int) -> None:
        self._session_id = session_id
        self._options = options
        # Two, so that interference leaves the delays as they are.
        self._times = random.Random(f"times/{options.seed}/{number}")  # noqa: S311 - not for secrets
        self._others = random.Random(f"others/{options.seed}/{number}")  # noqa: S311
        self._conversation_id = bounded(conversation.conversation_id)
        self._request = f"request/{self._conversation_id}"
        self._turns = conversation.turns
        self._accesses = iter(accesses(conversation, options.rules))
        self._world = _World()
        self._announced: dict[str, str] = {}
        """What the context events so far say: all that the gate can know of the things."""
        self._queue: deque[_Work] = deque()
        self._unanswered: dict[int, _Work] = {}
        self._events: list[PlannedEvent] = []
        self._answers: list[Answer] = []

    def plan(self) -> Plan:
        opening = {"session": "open", "presence/web": "present", "conversation": self._conversation_id}
        self._send(0.0, "context", "context.changed", "web", set=opening)
        messages = self._messages()
        agent: deque[_Moment] = deque()
        free_at = 0.0
        while messages or agent or self._queue:
            if not agent and self._queue:
                work = self._queue.popleft()
                agent = self._moments(work, max(work.message_at, free_at))
                free_at = agent[-1].at_seconds
            # An answer that comes at the same moment as the next message comes before it.
            agent_is_next = bool(agent) and (not messages or agent[0].at_seconds <= messages[0].at_seconds)
            moment = agent.popleft() if agent_is_next else messages.popleft()
            moment.happen(moment.at_seconds)
        return Plan(self._session_id, self._events, self._answers)

    def _messages(self) -> deque[_Moment]:
        at = 0.0
        moments: deque[_Moment] = deque()
        for number, turn in enumerate(self._turns, 1):
            if number > 1:
                at += self._options.think_time.draw(self._times)
            moments.append(_Moment(at, partial(self._message, number, turn)))
        return moments

    def _moments(self, work: _Work, start_at: float) -> deque[_Moment]:
        happenings: list[Callable[[float], None]] = []
        for move in work.turn.moves:
            happenings += [partial(self._model_starts, work), partial(self._model_ends, work, move.text)]
            for call in move.calls:
                happenings += [partial(self._tool_starts, work, call), partial(self._tool_ends, work, call)]
        end_at = start_at + self._options.agent_delay.draw(self._times)
        pause = (end_at - start_at) / len(happenings)
        moments = deque(_Moment(start_at + place * pause, happening) for place, happening in enumerate(happenings))
        interfere, moment = self._others.random() < self._options.interfere, self._others.random()
        if interfere:
            moments.append(_Moment(end_at - pause * moment, partial(self._interfere, work)))
        moments.append(_Moment(end_at, partial(self._answer, work)))
        return moments

    def _message(self, number: int, turn: Turn, at: float) -> None:
        for unanswered in self._unanswered.values():
            unanswered.superseded = True
        self._send(at, "context", "context.changed", "web", set={self._request: str(number)})
        if not turn.moves:
            return
        snapshot = {"conversation": self._conversation_id}
        if self._options.strict:
            snapshot[self._request] = str(number)
        snapshot |= self._world.newest()
        work = _Work(number, turn, at, snapshot, dict(snapshot))
        self._unanswered[number] = work
        self._queue.append(work)
        self._send(
            at,
            "steps",
            "task.dispatched",
            "orchestrator",
            task_id=work.task_id,
            task_type="chat-answer",
            snapshot=snapshot,
            destination=self._conversation_id,
            request_id=self._conversation_id,
            metadata={"turn": number},
        )

    def _model_starts(self, work: _Work, at: float) -> None:
        reads: dict[str, str] = {}
        if work.steps == 0:
            # Taken up after the answer before, it starts from what is true now, not from the dispatch's snapshot.
            now = {name: value for name, value in self._world.values().items() if name in work.expected}
            now |= self._world.newest()
            reads = {name: value for name, value in now.items() if work.expected.get(name) != value}
            reads = dict(list(reads.items())[:MAX_FACETS])
        work.steps += 1
        self._step(at, work, kind="model_call", status="started", reads=reads)

    def _model_ends(self, work: _Work, text: str, at: float) -> None:
        said = {"message": text[:_MESSAGE_CHARACTERS]} if text else {}
        self._step(at, work, kind="model_call", status="completed", **said)

    def _tool_starts(self, work: _Work, call: Call, at: float) -> None:
        work.steps += 1
        self._step(at, work, kind="tool_call", name=bounded(call.tool), status="started")

    def _tool_ends(self, work: _Work, call: Call, at: float) -> None:
        access = next(self._accesses)
        if access.others:
            self._send(at, "context", "context.changed", "somebody-else", set=self._world.set(access.others))
        if access.writes:
            changed = self._world.set(access.writes)
            work.own_changes += [(name, self._announced.get(name), value) for name, value in changed.items()]
            cause = {"task_id": work.task_id}
            self._send(at, "context", "context.changed", "store", set=changed, cause=cause)
        reads = self._world.read(access)
        if reads:
            work.read_things += access.things
        status = "failed" if call.failed else "completed"
        self._step(at, work, kind="tool_call", name=bounded(call.tool), status=status, reads=reads)

    def _interfere(self, work: _Work, at: float) -> None:
        things = work.read_things or sorted({thing for name in work.expected if (thing := self._world.thing(name))})
        if things:  # a talk that has read nothing yet has nothing to interfere with
            work.interfered_with = self._others.choice(things)
            changed = self._world.change_by_others(work.interfered_with)
            self._send(at, "context", "context.changed", "somebody-else", set=changed)

    def _answer(self, work: _Work, at: float) -> None:
        del self._unanswered[work.number]
        announced = self._announced
        stale = {name for name in work.expected if name in announced and _differs(work, name, announced[name])}
        text = inline(work.turn.answer or "")
        part = {"part_id": "text", "kind": "show", "content_type": "text/plain", "payload": text}
        self._send(at, "results", "task.result", "agent", task_id=work.task_id, outcome="completed", parts=[part])
        self._answers.append(
            Answer(
                self._session_id,
                work.task_id,
                frozenset(stale),
                work.interfered_with,
                work.superseded,
                bool(work.own_changes),
                any(announced.get(name, value) != value for name, value in work.snapshot.items()),
                not work.turn.ends_with_text,
            )
        )

    def _step(self, at: float, work: _Work, **fields: Any) -> None:
        fields = {name: value for name, value in fields.items() if value != {}}
        work.expected |= fields.get("reads", {})
        self._send(at, "steps", "task.step", "agent", task_id=work.task_id, step_id=f"step-{work.steps}", **fields)

    def _send(self, at: float, role: Role, event_type: str, sender: str, **fields: Any) -> None:
        body = {
            "type": event_type,
            "source": f"tidegate.replay/{sender}",
            "event_id": f"{self._session_id}/{len(self._events)}",
            "session_id": self._session_id,
            **fields,
        }
        self._events.append(PlannedEvent(at, role, body))
        self._announced |= fields.get("set", {})


def _differs(work: _Work, facet: str, actual: str) -> bool:
    """Whether the facet is not what the task expects of it after its own changes.

    If the first of them was the facet's first announcement, the task may have read what it is now after that change.
    """
    stated = work.expected[facet]
    changes = [(before, after) for name, before, after in work.own_changes if name == facet]
    if changes and changes[0][0] is None and _moved(stated, changes[1:]) == actual:
        return False
    return _moved(stated, changes) != actual


def _moved(value: str, changes: list[tuple[str | None, str]]) -> str:
    """The value moved along by own changes: each moves along an expectation it found confirmed."""
    for before, after in changes:
        if before in (None, value):
            value = after
    return value


class _World:
    """The things of one session with their values now. A change by others adds `~1`, `~2` to what was recorded."""

    def __init__(self) -> None:
        self._recorded: dict[str, str] = {}  # in the order of the last read or change
        self._things: dict[str, str] = {}
        self._changes: dict[str, int] = {}

    def thing(self, facet: str) -> str | None:
        """The thing this facet is a view of; None where the facet is not one of the agent's things."""
        return self._things.get(facet)

    def values(self) -> dict[str, str]:
        """Every known facet with its value."""
        return {facet: self._value(facet) for facet in self._recorded}

    def newest(self) -> dict[str, str]:
        """The same, as many of the newest as fit into a snapshot with some to spare."""
        fitting: dict[str, str] = {}
        room = MAX_SNAPSHOT_BYTES - _SPARE_BYTES
        for facet in reversed(self._recorded):
            value = self._value(facet)
            room -= len(orjson.dumps({facet: value}))
            if room < 0 or len(fitting) >= MAX_FACETS - 8:
                break
            fitting[facet] = value
        return fitting

    def read(self, access: Access) -> dict[str, str]:
        """What a reading call sees."""
        return self._note(access.reads, access.things)

    def set(self, recorded: dict[str, str]) -> dict[str, str]:
        """A change the recording shows, with the values to announce."""
        return self._note(recorded, ())

    def change_by_others(self, thing: str) -> dict[str, str]:
        """A change the recording does not know: new values for every known facet of the thing."""
        self._changes[thing] = self._changes.get(thing, 0) + 1
        return {facet: self._value(facet) for facet in self._recorded if self._things[facet] == thing}

    def _note(self, recorded: dict[str, str], things: tuple[str, ...]) -> dict[str, str]:
        for facet, value in recorded.items():
            self._things.setdefault(facet, things[0] if things else facet)
            self._recorded.pop(facet, None)
            self._recorded[facet] = value
        return {facet: self._value(facet) for facet in recorded}

    def _value(self, facet: str) -> str:
        changes = self._changes.get(self._things[facet], 0)
        return f"{self._recorded[facet]}~{changes}" if changes else self._recorded[facet]


def inline(text: str) -> str:
    """The text, cut where it would not fit into a part."""
    while len(orjson.dumps(text)) > MAX_INLINE_PART_BYTES:
        text = text[: len(text) // 2]
    return text


def duration_seconds(conversation: Conversation, options: Options) -> float:
    """About how long the conversation takes: the mean, without drawing."""
    return (len(conversation.turns) - 1) * options.think_time.mean_seconds + options.agent_delay.mean_seconds
