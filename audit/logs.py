"""What the topics of one partition say, kept small: for each session its facets' histories, tasks, results and outputs.

Shapes and look-ups only. `collect` fills them from records, `oracle` and `check` read them. Offsets are those of the
topic a thing was found on; times are the broker's, in milliseconds.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any, Final, NamedTuple

from schemas.topics import Role


class _Never(Enum):
    NEVER = "never seen"


NEVER: Final = _Never.NEVER
"""The value of a facet no event has touched, or none since the session was erased. It contradicts nothing."""

Value = str | None | _Never
"""A facet's value: text, None for absent (it was unset), or `NEVER`."""

Facets = dict[str, str | None]


class ContextEvent(NamedTuple):
    """A context event that changed facets, as their histories and the verdicts' differences refer to it."""

    offset: int
    at_ms: int
    cause: str | None
    source: str
    event_id: str
    size_bytes: int
    """Of the record's value."""


@dataclass(slots=True)
class Facet:
    """The history of one facet in the order of the context topic: three parallel lists."""

    offsets: list[int] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    events: list[ContextEvent] = field(default_factory=list)

    def at(self, offset: int) -> tuple[Value, ContextEvent | None]:
        """The value, and the event that gave it, once every context event below `offset` is folded."""
        index = self.count_before(offset) - 1
        return (self.values[index], self.events[index]) if index >= 0 else (NEVER, None)

    def count_before(self, offset: int) -> int:
        """How many events of it are below `offset`."""
        return bisect_left(self.offsets, offset)

    def last_before(self, offset: int) -> int:
        """The offset of the last event of it below `offset` that gave a value, or -1."""
        value, event = self.at(offset)
        return event.offset if event is not None and value is not NEVER else -1

    def givers(self, offset: int) -> list[ContextEvent]:
        """The events below `offset` that gave the value of that place, newest first: repeats of a value count, too."""
        index = self.count_before(offset) - 1
        value = self.values[index] if index >= 0 else NEVER
        events = []
        while index >= 0 and self.values[index] == value:
            events.append(self.events[index])
            index -= 1
        return events


MAX_RECENT: Final = 16
"""Context events of a session, and steps and heartbeats of an open task, that are known when they come again."""


class Recent:
    """The last events of a session or a task, by source and event id."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: list[tuple[str, str]] = []

    def is_repeat(self, source: str, event_id: str) -> bool:
        """Whether the event is one of the last; if not, it is from now on."""
        if (source, event_id) in self._known:
            return True
        self._known = [*self._known[1 - MAX_RECENT :], (source, event_id)]
        return False


@dataclass(slots=True)
class Task:
    """The first dispatch of a task that is not in the DLQ."""

    role: Role
    offset: int
    at_ms: int
    digest: int
    snapshot: Facets
    depends_on: list[str]
    request_id: str | None
    on_stale: str
    on_stale_failure: str
    when_absent: str
    slot: str | None
    on_newer: str
    protected: bool
    parent: str | None
    independent: bool
    detached_from: str | None
    while_stale_grace_ms: int | None
    """None: it goes on while stale."""
    deadline_ms: int | None
    """As dispatched: the earlier one of two."""
    start_ms: int | None
    delivers_late: bool
    watch_ms: int | None
    heartbeat_ms: int | None
    scope_grace_ms: int | None
    hold_ttl_ms: int | None
    attempt: int
    max_redispatches: int
    plan: list[str]
    size_bytes: int
    """Of the record's value."""
    again: bool = False
    """Whether there are more dispatches of it."""
    recent: dict[str, Recent] = field(default_factory=dict)
    """Its last steps, and its last heartbeats."""
    repeats: Task | None = None
    """Of a commanded attempt: the first task that it repeats, in whose place it stands."""
    first_id: str = ""
    """Its id."""
    number: int = 0
    """Of a commanded attempt."""
    deadlines: tuple[str | None, float | None] = (None, None)
    """`deadline_at` and `deadline_seconds`, as dispatched."""
    commanded_at: int = 0
    """The context offset with which it was commanded."""
    above_it: list[str] = field(default_factory=list)
    """Ids of the tasks that it repeats, the first one first."""

    def is_older(self, other: Task) -> bool:
        """Whether it was dispatched before: in the log of their lane; between lanes, by the broker's time."""
        one, two = self.repeats or self, other.repeats or other
        return one.offset < two.offset if one.role == two.role else one._order < two._order

    @property
    def _order(self) -> tuple[int, int]:
        return self.at_ms, self.offset


@dataclass(slots=True)
class ResultPart:
    """One part of a result: what its judgement needs, and a digest of the whole."""

    part_id: str
    depends_on: list[str] | None
    on_stale: str | None
    digest: int


@dataclass(slots=True)
class Result:
    """One result record."""

    role: Role
    offset: int
    at_ms: int
    broker_time: bool
    source: str
    event_id: str
    outcome: str
    parts: list[ResultPart]
    reads: Facets
    digest: int
    final: bool


@dataclass(slots=True)
class JudgedPart:
    """What a verdict says of one part. `differences` are the event's own dictionaries."""

    part_id: str
    decision: str
    reason: str
    annotated: bool
    differences: list[dict[str, Any]]
    omitted: int


@dataclass(slots=True)
class Output:
    """One delivered or withheld record."""

    role: Role
    offset: int
    source: str
    """`source` of the result it is about."""
    event_id: str
    """`event_id` of the result it is about."""
    result_offset: int
    carried: list[tuple[str, int]]
    """The parts it carries: id and digest."""
    snapshot: Facets
    digest: int
    """Of the verdict."""
    decision: str
    reason: str
    disposition: str | None
    partition: int
    context_offset: int
    steps_offset: int
    at_ms: int
    """When it was judged, by the gate's clock."""
    parts: list[JudgedPart]
    final: bool
    late: bool
    shadow: tuple[str, str] | None
    """Decision and reason that the gate only watched, in shadow mode."""


class Proposal(NamedTuple):
    """One `task.effect_proposed`."""

    task_id: str
    role: Role
    offset: int
    at_ms: int
    broker_time: bool
    effect: str
    reads: Facets
    source: str
    event_id: str
    fingerprint: str | None
    allow_duplicate: bool


class Answer(NamedTuple):
    """One `effect.cleared` or `effect.refused`; `reason` is None where it was cleared."""

    key: str
    task_id: str
    offset: int
    effect: str
    reason: str | None
    differences: list[dict[str, Any]]
    partition: int
    context_offset: int
    steps_offset: int
    proposal: tuple[str, str, int] | None
    """Source, event id and offset of the proposal that is answered; older versions did not say."""
    repeat: bool
    first_cleared: tuple[int, int] | None
    """Context and steps offsets with which it says that it had been cleared before."""
    conflicts_with: dict[str, Any] | None

    @property
    def judged(self) -> tuple[int, int]:
        """Context and steps offsets of its place."""
        return self.context_offset, self.steps_offset

    def is_about(self, proposal: Proposal) -> bool:
        """Whether it answers the proposal."""
        named = (proposal.task_id, proposal.effect) == (self.task_id, self.effect)
        return named and self.proposal in (None, (proposal.source, proposal.event_id, proposal.offset))


class CancelRequest(NamedTuple):
    """One `task.cancel_requested`. Without any of the three it means every task of the session."""

    offset: int
    at_ms: int
    broker_time: bool
    source: str
    event_id: str
    task_id: str | None
    request_id: str | None
    slot: str | None

    def names(self, task_id: str, task: Task) -> bool:
        """Whether it means the task, whenever that was dispatched."""
        if self.task_id is not None:
            return self.task_id == task_id
        return self.request_id in (None, task.request_id) and self.slot in (None, task.slot)


class Unmatched(NamedTuple):
    """One `task.cancel_unmatched`: its offset, and the request that it answers."""

    offset: int
    requested: int
    source: str
    event_id: str


class StepTaken(NamedTuple):
    """A step of a task. `role` is the topic of its lane."""

    role: Role
    offset: int
    step_id: str
    status: str


class JudgedAt(NamedTuple):
    """Where the logs stood when a task was stopped or rejected, as its status says. `role`: of which steps."""

    partition: int
    role: Role
    context_offset: int
    steps_offset: int


class Sign(NamedTuple):
    """A step, a heartbeat or an interim answer of a task, or an extension, which has a `deadline_ms`.

    `role` is the steps topic of its lane. An interim answer is on another topic, and comes after every dispatch here.
    """

    role: Role
    offset: float
    at_ms: int
    asks: bool = False
    """Whether it waits for a person."""
    deadline_ms: int | None = None


class Lease(NamedTuple):
    """A facet set for a time only, by an event of the context topic."""

    until_ms: int
    event: ContextEvent


class Outdated(NamedTuple):
    """One `result.outdated`: the result it is about, the parts, and the differences as they stand."""

    offset: int
    source: str
    event_id: str
    part_ids: list[str]
    differences: list[dict[str, Any]]


class Redispatch(NamedTuple):
    """One `task.redispatch`."""

    offset: int
    new_task_id: str
    attempt: int
    snapshot: Facets
    dispatch: dict[str, Any] | None
    """What it says of the task's dispatch; older versions said nothing."""
    judged: JudgedAt | None = None
    """Where the logs stood; older versions did not say."""
    at_ms: int = 0


@dataclass(slots=True)
class Status:
    """What the tasks topic says of one task, as far as compaction left it."""

    dispositions: list[str] = field(default_factory=list)
    """The different ones, in order."""
    ended_offset: int = -1
    """Of the first record that says ended, as far as visible."""
    tombstone: bool = False
    seen: bool = False
    """Whether there is a record of it, not only a tombstone."""
    queued: bool = False
    """Whether its newest record says that it queues for its slot."""
    waiting_for: str | None = None
    """What its newest record says the result waits for."""
    reopened: bool = False
    """A record said running after one had said ended."""
    taken: Facets = field(default_factory=dict)
    reason: str | None = None
    judged: JudgedAt | None = None
    """Of an end without a verdict. None: written by an earlier version, or over by an acknowledgement."""
    detail: str = ""
    ended_ms: int = 0
    """`ended_at` of the newest record that says ended, 0 where it has none."""
    receipt: dict[str, list[str]] | None = None
    acknowledged: str | None = None
    acknowledged_parts: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Session:
    """Everything of one session."""

    facets: dict[str, Facet] = field(default_factory=dict)
    perhaps: dict[str, Facet] = field(default_factory=dict)
    """Changes of new facets that the gate refused for want of room. If a task depended on the facet already, the gate
    knew it, and took the change."""
    own: dict[str, dict[str, list[tuple[int, Value, Value]]]] = field(default_factory=dict)
    """Changes by tasks: task, facet, then (offset, value before, value after)."""
    own_times: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Changes by tasks: offset and time of each."""
    erased: list[int] = field(default_factory=list)
    """Offsets of `session.erased`."""
    tasks: dict[str, Task] = field(default_factory=dict)
    conflicts: list[tuple[str, Role, int]] = field(default_factory=list)
    """Dispatches that contradict an earlier one of the same task: task, role, offset."""
    reads: dict[str, list[tuple[Role, int, Facets]]] = field(default_factory=dict)
    results: dict[str, list[Result]] = field(default_factory=dict)
    refused: dict[str, list[Result]] = field(default_factory=dict)
    """Results that the gate knew before it refused them, by task: for want of room."""
    outputs: dict[str, list[Output]] = field(default_factory=dict)
    statuses: dict[str, Status] = field(default_factory=dict)
    cancels: list[CancelRequest] = field(default_factory=list)
    """In the order of the context topic."""
    unmatched: list[Unmatched] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    """By facet, the newest version stated so far."""
    acknowledged: dict[str, set[str]] = field(default_factory=dict)
    outcomes: dict[str, list[tuple[str, list[str] | None]]] = field(default_factory=dict)
    """The acknowledgements of each task: outcome, and the parts meant, or None for all."""
    unknown_parts: dict[str, list[tuple[int, list[str]]]] = field(default_factory=dict)
    """Acknowledgements that were refused for a part that was not delivered, by task: offset in the DLQ, parts."""
    signs: dict[str, list[Sign]] = field(default_factory=dict)
    """Signs of life of tasks that have clocks, and what put their deadlines off."""
    leases: dict[str, list[tuple[int, Lease | None]]] = field(default_factory=dict)
    """By facet, the lease that each change of it set, or None where it set none, with the change's offset."""
    steps: dict[str, list[StepTaken]] = field(default_factory=dict)
    """The steps of a task, in the order of their topic."""
    proposals: dict[str, list[Proposal]] = field(default_factory=dict)
    """Proposed effects by idempotency key."""
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    """Answers to them by key."""
    stops: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """`task.cancel` by task: reason, offset."""
    redispatches: dict[str, list[Redispatch]] = field(default_factory=dict)
    recent: Recent = field(default_factory=Recent)
    """Its last context events."""
    starts: dict[str, list[int]] = field(default_factory=dict)
    """Offsets of `task.start` by task."""
    outdated: dict[str, list[Outdated]] = field(default_factory=dict)
    first_ms: int = 0
    last_ms: int = 0
    """Times of the oldest and the newest input."""
    copies: set[tuple[str, str]] = field(default_factory=set)
    """Source and event id of events that were sent on from a wrong partition."""
    most_kept: int = -1
    """An eighth of what the gate kept of it at most; -1 if that has not been counted."""
    _ended_at_most: int = -1

    def histories(self, name: str) -> list[Facet]:
        """What is known of a facet: its history, and that of changes that were perhaps taken."""
        return [each[name] for each in (self.facets, self.perhaps) if name in each]

    def value_at(self, name: str, offset: int) -> tuple[Value, list[ContextEvent], bool]:
        """A facet's value once every context event below `offset` is folded, what gave it, and whether it is certain.

        Events that may have given it are listed from the newest to the oldest.
        """
        facet, perhaps = self.facets.get(name), self.perhaps.get(name)
        value = facet.at(offset)[0] if facet is not None else NEVER
        givers = facet.givers(offset) if facet is not None else []
        if perhaps is None:
            return value, givers, True
        if value is NEVER:
            return perhaps.at(offset)[0], perhaps.givers(offset), False
        oldest = givers[-1].offset
        is_same = perhaps.at(oldest)[0] == value
        return value, [*givers, *(perhaps.givers(oldest) if is_same else ())], True

    def values_at(
        self, name: str, offset: int, sure_ms: float, may_ms: float
    ) -> list[tuple[Value, list[ContextEvent], bool]]:
        """As `value_at`, with leases considered: those that had run out by `sure_ms`, and perhaps those by `may_ms`.

        More than one where that leaves open what the value is; none of them is certain then.
        """
        value, givers, is_certain = self.value_at(name, offset)
        lease = next((each for at, each in reversed(self.leases.get(name, ())) if at < offset), None)
        if lease is None or lease.until_ms > may_ms or (givers and givers[0].offset > lease.event.offset):
            return [(value, givers, is_certain)]
        expired: Value = "absent" if name.startswith("presence/") else None
        giver = lease.event._replace(at_ms=lease.until_ms, cause=None)
        if value == expired:
            return [(value, [*givers, giver], is_certain)]
        if lease.until_ms < sure_ms:
            return [(expired, [giver], is_certain)]
        return [(value, givers, False), (expired, [giver], False)]

    def heard_at(self, at_ms: int) -> None:
        """Note the time of an input."""
        self.first_ms = min(self.first_ms or at_ms, at_ms)
        self.last_ms = max(self.last_ms, at_ms)

    def may_have_idled(self, ttl_ms: int) -> bool:
        """Whether there was a time of `ttl_ms` without an event that is sure to have kept the session in memory."""
        if self.last_ms - self.first_ms < ttl_ms:
            return False
        times = sorted([self.first_ms, *(task.at_ms for task in self.tasks.values()), self.last_ms])
        return any(later - earlier >= ttl_ms for earlier, later in pairwise(times))

    @property
    def ended_at_most(self) -> int:
        """How many tasks the gate may have seen end. To be asked once everything is read."""
        if self._ended_at_most < 0:
            self._ended_at_most = len(self.outputs.keys() | self.statuses.keys())
        return self._ended_at_most

    def is_new_copy(self, source: str, event_id: str) -> bool:
        """Whether this event has not been sent on before: a crash in between sends it on twice."""
        known = len(self.copies)
        self.copies.add((source, event_id))
        return len(self.copies) > known

    def erased_before(self, offset: int) -> int:
        """The offset of the last erasure below `offset`, or -1."""
        index = bisect_left(self.erased, offset) - 1
        return self.erased[index] if index >= 0 else -1


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of one topic partition there is, and how far the gate had got with it."""

    beginning: int
    end: int
    committed: int | None = None
    """Inputs: every record below was handled when the audit began. None: the group has no offset here."""
    settled: int = 0
    """Outputs: transactions with a record below have all their records below every output's `end`."""

    @property
    def handled(self) -> int:
        """The committed offset, 0 where there is none."""
        return self.committed or 0

    @property
    def truncated(self) -> bool:
        """Whether the oldest records are gone."""
        return self.beginning > 0


class Clock:
    """Offsets and times of a topic partition's records, to ask which ones are older than a moment."""

    def __init__(self) -> None:
        self._offsets = array("q")
        self._times = array("q")
        self._least_from: array[int] | None = None

    def add(self, offset: int, at_ms: int) -> None:
        """Note a record; offsets ascend."""
        self._offsets.append(offset)
        self._times.append(at_ms)

    def last_before(self, at_ms: int) -> int:
        """The offset of the last record with a time below `at_ms`, or -1."""
        if self._least_from is None:
            # The broker's clock may have been set back: the least time from here on ascends in any case.
            least = array("q", self._times)
            for index in range(len(least) - 2, -1, -1):
                least[index] = min(least[index], least[index + 1])
            self._least_from = least
        index = bisect_left(self._least_from, at_ms) - 1
        return self._offsets[index] if index >= 0 else -1

    def set_back(self) -> list[tuple[int, int]]:
        """From which time to which the broker's clock was set back, each time that it was; later ones last."""
        found: list[tuple[int, int]] = []
        latest = 0
        for at_ms in self._times:
            if at_ms < latest:
                found.append((latest, at_ms))
            latest = at_ms
        return found


SET_BACK_SLACK_MS: Final = 1000
"""How much further than the next record shows a clock may have been set back: until then nobody wrote."""


class Clocks:
    """The clocks of a partition's inputs, to ask which records are surely older than a moment.

    The broker that stamps them may set its clock back: of two times within such a fold nothing tells which came first.
    """

    def __init__(self, roles: Iterable[Role]) -> None:
        self._by_role = {role: Clock() for role in roles}
        self._folds: list[tuple[int, int]] | None = None

    def add(self, role: Role, offset: int, at_ms: int) -> None:
        """Note a record of a topic; offsets ascend."""
        self._by_role[role].add(offset, at_ms)

    def last_before(self, role: Role, at_ms: int) -> int:
        """The offset of the topic's last record that is surely older than `at_ms`, or -1."""
        if self._folds is None:
            folds = [fold for clock in self._by_role.values() for fold in clock.set_back()]
            self._folds = sorted(((low - SET_BACK_SLACK_MS, high) for high, low in folds), reverse=True)
        for low, high in self._folds:
            if low < at_ms <= high:
                at_ms = low
        return self._by_role[role].last_before(at_ms)
