"""What is kept of a session on the changelog: typed rows, written as positional MessagePack.

Shapes only. `records` turns them into bytes and back, `session` holds them while events are folded, and only `evolve`
changes them. Fields are only ever added at the end of a row, with a default: older rows are then still read.
Times are the broker's, in ms since 1970. These classes stay plain Python in a compiled build: msgspec makes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

FORMAT: Final = 2
"""Version of the row format. Format 1 was JSON, which `format_1` still reads."""

CHANGED_BY_SEVERAL: Final = ""
"""Stands for the cause of a value that several tasks gave a facet one after the other: it is nobody's own change."""

Seen = Literal[0, 1, 2]
UNSEEN: Final[Seen] = 0
"""The facet had never changed before: its earlier value contradicts nothing."""
KNOWN: Final[Seen] = 1
UNKNOWN: Final[Seen] = 2
"""The facet had a value that the session had no room for."""


class Change(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Which event changed a facet: decoded only when a difference is reported."""

    offset: int
    timestamp: int
    source: str
    event_id: str
    expired_at: int = 0
    """When the lease ran out with which the event had set the facet; 0 if the event itself made it what it is."""


class Facet(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A facet's last change. `value` is None if the facet was unset.

    `cause` is the task whose own work the change is. `change` is an encoded `Change`; it is empty if the last change
    did not fit into the session, so that nobody knows the value.
    """

    value: str | None
    cause: str | None
    change: bytes


FacetFields = tuple[str | None, str | None, bytes]
"""The fields of a `Facet`, in their order."""

if TYPE_CHECKING:
    StoredFacet = Any
else:
    StoredFacet = msgspec.Raw
"""A `Facet` as it stands in a row: still encoded if the row was read and nothing asked for the facet or replaced it.
Decoding makes all of them `Raw`; both are encoded as the same bytes."""


class OwnChange(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One change that a task's own work made to a facet, with the value `before` it."""

    offset: int
    before: str | None
    after: str | None
    seen: Seen = KNOWN


OwnChanges = dict[str, list[OwnChange]]
"""By facet, in the order of offsets."""


class StatedBelow(msgspec.Struct, array_like=True, gc=False):
    """What descendants of a task stated about a facet, next to what the task expects itself.

    `ended` are values stated by descendants that have ended. `by_task` is the last value each open descendant stated;
    the empty key stands for the task itself.
    """

    ended: list[str | None]
    by_task: dict[str, str | None]


class Scope(msgspec.Struct, array_like=True, gc=False):
    """A task's place in the tree of tasks. `children` are the open ones.

    `parentless_until`: the parent's dispatch has not been folded; when to give up.
    """

    parent: str | None = None
    children: dict[str, None] = {}
    parentless_until: int | None = None
    below: dict[str, StatedBelow] = {}


class Options(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What few dispatches ask for: a policy without any of it has no options, and its row one byte more."""

    detached_from: str | None = None
    """The parent that a detached child is shown under. It has no `Scope` with it: neither ends with the other."""
    start_timeout_ms: int | None = None
    delivers_late: bool = False
    watch_ms: int | None = None


class Clocks(msgspec.Struct, array_like=True, gc=False):
    """What has become of a task's clocks, once they are not as dispatched any more."""

    deadline_ms: int | None = None
    """The deadline as it was put off."""
    waits_since: int | None = None
    """Since when it waits for a person."""
    has_started: bool = False
    """Whether the agent has been heard of. Kept if the dispatch limits how long that may take."""
    is_queued: bool = False
    """Whether it queues for its slot."""
    turn_at: int | None = None
    """When its turn came, after it had queued."""


class Policy(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The policies and limits of a dispatch that has any besides the defaults of the contract."""

    on_stale: str = "withhold"
    on_stale_failure: str = "annotate"
    when_absent: str = "deliver"
    on_newer: str = "allow"
    protected: bool = False
    independent: bool = False
    while_stale_grace_ms: int | None = None
    """None: the task continues while it is stale."""
    deadline_ms: int | None = None
    heartbeat_timeout_ms: int | None = None
    scope_grace_ms: int | None = None
    hold_ttl_ms: int | None = None
    max_redispatches: int = 1
    attempt: int = 1
    valid_until: str | None = None
    plan: list[str] = []
    options: Options | None = None


DEFAULT_POLICY: Final = Policy()

NOTHING_KEPT: Final = msgspec.Raw(b"null")


class Wait(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A result that has arrived and cannot be decided yet.

    `undecided` are the ids of the parts that wait. `delivered`: other parts were delivered already. `expired`: the time
    `until` which it waits has come.
    """

    why: str
    """children, slot, parent, context or user."""
    undecided: list[str]
    until: int | None = None
    expired: bool = False
    delivered: bool = False


class Checkpoint(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Reference to a state that the task can be resumed from."""

    uri: str
    sequence: int


class Work(msgspec.Struct, array_like=True, gc=False):
    """How far a task has come, as far as few tasks report it. Step ids are in the order of their events."""

    failed: list[str] = []
    in_flight: list[str] = []
    progress: float | None = None
    message: str | None = None
    checkpoint: Checkpoint | None = None


class ResultDigests(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a result is recognized by when it comes again: digests of its identity and of its content."""

    identity: str
    content: str


class Lineage(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Of a commanded attempt: the first task that it repeats, and where its dispatch stands among others."""

    first: str
    timestamp: int
    offset: int
    is_cold: bool = False


class NextAttempt(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The attempt that was commanded after a task: its number, and whether it was cancelled before its dispatch."""

    lineage: Lineage
    attempt: int
    is_revoked: bool = False


class Task(msgspec.Struct, array_like=True, gc=False):
    """One open task. `format` comes first, because a task may have a record of its own."""

    format: int
    dispatched_at: int
    offset: int
    """Of the dispatch."""
    digest: str
    """Of the dispatch's content."""
    task_type: str
    echo: str
    """What every output repeats of the dispatch, as JSON members: `"task_type":"search","slot":"panel"`."""
    expected: dict[str, str | None]
    """The facets the task depends on, with the values last stated."""
    is_cold: bool = False
    slot: str | None = None
    request_id: str | None = None
    steps_started: int = 0
    steps_completed: int = 0
    """Completed or failed."""
    done: str = ""
    """Ids of the last completed steps, as JSON: `"plan","search"`."""
    stale: list[str] = []
    """Facets that differ now, in the order in which they became different."""
    policy: Policy | None = None
    own: OwnChanges | None = None
    taken: str = ""
    """The facets of `depends_on` with the values taken for them, as a JSON object."""
    scope: Scope | None = None
    wait: Wait | None = None
    work: Work | None = None
    traceparent: str | None = None
    last_heartbeat: int = 0
    """Last sign of life. Kept if the dispatch limits the silence."""
    stale_since: int | None = None
    """When the snapshot broke. Kept if that stops the task."""
    later_results: list[ResultDigests] = []
    """Further results that arrived while the first one waits."""
    acknowledgement: str = ""
    """What the consumer reported of the parts that were delivered, while others wait, as JSON members."""
    position: int = 0
    """Its place among the open tasks of a session whose tasks have records of their own."""

    # By what events are known that come again, see `recent_ids`
    step_ids: bytes = b""
    heartbeat_ids: bytes = b""
    """Kept if the dispatch limits the silence."""

    # What the dispatch said, where the rest of the task does not tell, see `dispatched`
    snapshot: dict[str, str | None] | None = None
    """`expected` as it was dispatched, once it is something else."""
    depends_on: list[str] = []

    # The attempt it is, and the one that was commanded after it, see `attempts`
    lineage: Lineage | None = None
    commanded: int = 0

    clocks: Clocks | None = None
    delivered: list[list[str]] = []
    """What was delivered of it while it is open: the beginning of each output's event id, and the ids of its parts."""


class DispatchOrder(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Where a dispatch stands among others."""

    timestamp: int
    offset: int
    is_cold: bool = False


class EffectAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What an idempotency key belongs to, and whether that was ever cleared.

    `members`: where and when it was cleared first, as the JSON of `judged`; empty if it was not. Rows without an
    `effect` have the JSON members of the whole answer.
    """

    cleared: bool
    members: str
    owner: str = ""
    """Id of the task, or of the first one that its attempts repeat."""
    effect: str = ""
    fingerprint: str | None = None


class Replaced(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A value that a facet had until it was changed at this time. `seen` says whether it was known."""

    name: str
    until: int
    value: str | None
    seen: int


class CancelRequest(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A request to cancel that may still meet tasks whose dispatches have not been folded.

    Exactly one of the first three is set, or none: then it means every task of the session.
    """

    task_id: str | None
    request_id: str | None
    slot: str | None
    timestamp: int
    offset: int
    source: str
    event_id: str
    is_matched: bool = False
    """Whether it has met a task."""


class Lease(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A facet's value that stands until `until`. `change` is the encoded `Change` of the event that said so last."""

    until: int
    change: bytes


class Delivery(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What was delivered of a task that is watched."""

    result: str
    """Which result it was, as JSON of a `ResultIdentity`."""
    parts: dict[str, list[str] | None]
    """The parts delivered as fresh, each with the facets it depends on; None: all that the task does."""


class KeptTask(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A task that has ended, and of which more is asked than how. `task.stale` and `task.own` are kept up to date.

    With a `delivery` it is watched until then; without, a result that comes by then is judged all the same.
    """

    task: Task
    until: int
    delivery: Delivery | None = None


class Extras(msgspec.Struct, array_like=True, gc=False):
    """What few sessions have. A row without any of it has none, and takes one byte more."""

    versions: dict[str, int] = {}
    """By facet, the newest version that a change of it stated."""
    cancels: list[CancelRequest] = []
    """In the order of their offsets. Each is forgotten when its grace is over."""
    undispatched_since: dict[str, int] = {}
    """When the last own change of each task came whose dispatch has not been folded."""
    leases: dict[str, Lease] = {}
    """By facet."""
    kept: dict[str, KeptTask] = {}
    """By task."""


class SessionRow(msgspec.Struct, array_like=True, gc=False):
    """Everything kept of one session, except its ended tasks and the events that wait."""

    format: int
    last_event_at: int
    open_tasks: int
    """How many tasks are open: in `tasks`, or all of them in records of their own."""
    size_estimate: int
    """No less than the bytes of the row and its tasks: as last measured, plus what events have added since."""
    facets: dict[str, StoredFacet]
    """To be read through `facets.Facets`."""
    tasks: dict[str, Task]
    """In the order in which their dispatches were folded."""
    undispatched: dict[str, OwnChanges]
    """Own changes of tasks whose dispatch has not been folded: topics have no common order."""
    slots: dict[str, DispatchOrder]
    """By slot, the newest dispatch whose result was delivered into it."""
    cancels: dict[str, int]
    """Tasks that are to be cancelled, with the time: open ones, and those whose dispatch has not been folded."""
    effects: dict[str, EffectAnswer]
    """By idempotency key."""
    forwarded: list[str]
    """Identities of the last events that were sent on from a wrong partition: a crash in between sends one twice."""
    replaced: list[Replaced] = []
    """Values that facets had before, in the order of their changes: a dispatch that has not been folded may have been
    sent before the change. One without a name says until when values have been forgotten."""
    context_ids: bytes = b""
    """The last context events, see `recent_ids`. They outlive an erasure: it may come again, too."""
    extras: Extras | None = None


RowFields = tuple[
    int,
    int,
    int,
    int,
    dict[str, StoredFacet],
    dict[str, Task],
    dict[str, OwnChanges],
    dict[str, DispatchOrder],
    dict[str, int],
    dict[str, EffectAnswer],
    list[str],
    list[Replaced],
    bytes,
    Extras | None,
]
"""The fields of a `SessionRow`, in their order. Encoded they are the same bytes."""


class RowHead(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Of a `SessionRow`, what finds idle sessions and those with timers. The rest of the row is not decoded."""

    format: int
    last_event_at: int
    open_tasks: int
    size_estimate: int = 0
    facets: msgspec.Raw = msgspec.Raw()
    tasks: msgspec.Raw = msgspec.Raw()
    undispatched: msgspec.Raw = msgspec.Raw()
    slots: msgspec.Raw = msgspec.Raw()
    cancels: msgspec.Raw = msgspec.Raw()
    effects: msgspec.Raw = msgspec.Raw()
    forwarded: msgspec.Raw = msgspec.Raw()
    replaced: msgspec.Raw = msgspec.Raw()
    context_ids: msgspec.Raw = msgspec.Raw()
    extras: msgspec.Raw = msgspec.Raw()

    @property
    def has_extras(self) -> bool:
        """Whether something of the session may fall due, or must be kept, besides its tasks."""
        return bytes(self.extras) not in (b"", _NIL)


_NIL: Final = b"\xc0"
"""MessagePack's null."""


def new_row() -> SessionRow:
    """A session that nothing is known of."""
    return SessionRow(FORMAT, 0, 0, 0, {}, {}, {}, {}, {}, {}, [])


class Echo(msgspec.Struct, gc=False, frozen=True):
    """Of what outputs repeat of a dispatch, what is asked for again after the task has ended."""

    task_type: str | None = None
    lane: str = "hot"


class EndedLineHead(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The first fields of an `EndedLine`: enough to refuse those of an unknown format. Format 1 has a text or null."""

    task_id: str
    format: int | str | None


class EndedLine(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An `ended.EndedTask` as it is written: one line of JSON."""

    task_id: str
    format: int
    disposition: str | None
    reason: str | None
    ended_at: int
    digest: str | None
    results: list[ResultDigests]
    parent: str | None
    open_ms: int
    """From its dispatch to its end."""
    steps_started: int
    steps_completed: int
    echo: msgspec.Raw
    work: msgspec.Raw
    acknowledged: str | None = None
    detail: str | None = None
    dispatch: msgspec.Raw = NOTHING_KEPT
    next: NextAttempt | None = None
    delivered: list[list[str]] = []
    outcomes: dict[str, str] = {}
