"""The input events: what user-facing services, orchestrators and agents write. Shapes and bounds only.

Sizes are in UTF-8 bytes. Version 1 changes additively: unknown fields are ignored.
"""

from typing import Annotated, Literal

from pydantic import Field

from schemas.fields import (
    MAX_FACETS,
    MAX_PARTS,
    MAX_PLANNED_STEPS,
    Acknowledged,
    Cause,
    Checkpoint,
    Facets,
    FacetValue,
    Instant,
    Lane,
    LeaseSeconds,
    Metadata,
    Model,
    Name,
    OnLate,
    OnNewer,
    OnStale,
    Outcome,
    Part,
    ResultError,
    StepKind,
    StepStatus,
    Text,
    Version,
    WhenAbsent,
    WhileStale,
)


class Event(Model):
    """What every event carries. `source` and `event_id` together are its identity."""

    source: Name
    """The service that wrote the event (CloudEvents `source`)."""
    event_id: Name
    """Unique within the source (CloudEvents `id`). The same pair with another body is an error, not a repeat."""
    session_id: Name
    """The session the event belongs to; also the record's key. Unique across tenants: prefix it."""
    occurred_at: Instant
    """When it happened at the source, RFC 3339 with an offset. For people; the gate compares the broker's time."""


class ContextChanged(Event):
    """The user's context changed: facets were set or unset."""

    type: Literal["context.changed"]
    set: Annotated[dict[Name, FacetValue], Field(max_length=MAX_FACETS)] = {}
    """Facets with their new values."""
    unset: Annotated[list[Name], Field(max_length=MAX_FACETS)] = []
    """Facets that are gone. They are remembered as absent."""
    cause: Cause | None = None
    """Present where a task's own work made the change."""
    versions: Annotated[dict[Name, Version], Field(max_length=MAX_FACETS)] = {}
    """Versions of the facets changed, where several services report one: only a newer one than any before counts."""
    expires_in_seconds: Annotated[dict[Name, LeaseSeconds], Field(max_length=MAX_FACETS)] = {}
    """Leases on facets that are set: so long after the broker's timestamp `presence/<client>` becomes `absent`, and any
    other facet is unset, unless an event sets it again before."""


class TaskCancelRequested(Event):
    """Somebody asks for tasks to be cancelled: exactly one of `task_id`, `request_id`, `slot` and `all` says which."""

    type: Literal["task.cancel_requested"]
    task_id: Name | None = None
    """The task to cancel, with its children. Its dispatch may come later, within the grace of unknown tasks."""
    request_id: Name | None = None
    """Cancel every task of this request that was dispatched before, with its children."""
    slot: Name | None = None
    """Cancel every task of this slot that was dispatched before, with its children."""
    all: bool = False
    """True: cancel every task of the session that was dispatched before."""
    reason: Text | None = None
    """For people."""


class ResultAcknowledged(Event):
    """A consumer says what became of a delivered result."""

    type: Literal["result.acknowledged"]
    task_id: Name
    """The task whose result it was."""
    outcome: Acknowledged
    """`shown`, `applied`, or `refused` by the consumer's own last check."""
    result_event_id: Name | None = None
    """`event_id` of the `result.delivered` event. One that the task does not have is refused."""
    part_ids: Annotated[list[Name], Field(max_length=MAX_PARTS)] | None = None
    """The parts meant; absent: all delivered parts. Each part's outcome is kept; what was not delivered is refused."""
    reason: Text | None = None
    """Why it was refused."""


class SessionErased(Event):
    """Everything the gate remembers of the session is to be removed."""

    type: Literal["session.erased"]


class TaskDispatched(Event):
    """A task was handed to an agent. The snapshot travels inside, so it cannot be separated from the task."""

    type: Literal["task.dispatched"]
    task_id: Name
    """Chosen by the dispatcher, unique within the session. Dispatching it twice is the same task."""
    task_type: Name
    """Kind of work, a bounded set: it becomes a metric label."""
    snapshot: Facets = {}
    """The facets the task depends on, with the values the dispatcher saw; `null` expects absence. Up to 16 KiB."""
    depends_on: Annotated[list[Name], Field(max_length=MAX_FACETS)] = []
    """Facets without values: the gate takes the values it knows when it folds the dispatch, and says which."""
    destination: FacetValue | None = None
    """Where the answer belongs: a conversation, a panel, a mailbox. Echoed."""
    metadata: Metadata = {}
    """Echoed in every output, up to 4 KiB as JSON."""
    request_id: Name | None = None
    """The request this work answers; facet `request/<id>` set to `archived` withholds the result."""
    lane: Lane = "hot"
    """`hot`: a user waits. `cold`: nobody does."""
    slot: Name | None = None
    """A place only one answer may stand in."""
    on_newer: OnNewer = "allow"
    """What happens when a newer task takes the slot."""
    protected: bool = False
    """True: never interrupted by a newer task."""
    parent_task_id: Name | None = None
    """The task this one is a child of."""
    independent: bool = False
    """True: what this child reads does not join its parent's reads."""
    on_stale: OnStale = "withhold"
    """What to do with a completed result's parts when an expected facet differs."""
    on_stale_failure: OnStale = "annotate"
    """The same for a failed result: a user waiting must hear of it."""
    when_absent: WhenAbsent = "deliver"
    """What to do when every known client of the user is absent."""
    while_stale: WhileStale = "continue"
    """Whether a running task whose snapshot is broken goes on."""
    while_stale_grace_seconds: Annotated[float, Field(ge=0, le=86_400)] = 5.0
    """How long the user has to come back before `while_stale: cancel` acts."""
    deadline_at: Instant | None = None
    """After this moment the task ends `expired`."""
    heartbeat_timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """Longest silence of the agent before the task ends `expired`. With `start_timeout_seconds` from its first sign of
    life on."""
    scope_grace_seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """How long a parent's result waits for its children."""
    hold_ttl_seconds: Annotated[float, Field(gt=0, le=604_800)] | None = None
    """How long a held part waits before it is withheld."""
    max_redispatches: Annotated[int, Field(ge=0, le=16)] = 1
    """How many new attempts `redispatch` may command."""
    plan: Annotated[list[Name], Field(max_length=MAX_PLANNED_STEPS)] = []
    """Ids of the steps the task means to take: a receipt of a cancelled task tells which were never attempted."""
    attempt: Annotated[int, Field(ge=1, le=17)] = 1
    """1 for the first attempt; `<id>~2` is the second."""
    valid_until: Instant | None = None
    """Echoed with a delivery: the consumer shows or applies it no later."""
    detached: bool = False
    """True: background work, shown under its parent, and a task of its own otherwise: neither waits for the other."""
    deadline_seconds: Annotated[float, Field(gt=0, le=31_536_000)] | None = None
    """A deadline that counts from the broker's timestamp of the dispatch. With `deadline_at` the earlier one counts."""
    start_timeout_seconds: Annotated[float, Field(gt=0, le=604_800)] | None = None
    """How long the agent's first sign of life may take before the task ends `expired`."""
    on_late: OnLate = "withhold"
    """`deliver`: the result of a task that ended `expired` is judged by all other rules, and delivered as `late`."""
    watch_seconds: Annotated[float, Field(gt=0, le=604_800)] | None = None
    """How long after its delivery the gate tells with `result.outdated` that what it depends on has changed."""


class TaskStep(Event):
    """Something a task does before its result."""

    type: Literal["task.step"]
    task_id: Name
    """The task the step belongs to."""
    step_id: Name
    """Unique within the task; the events of one step share it."""
    kind: StepKind = "other"
    """What sort of step."""
    name: Name | None = None
    """The model or tool called."""
    status: StepStatus
    """Where the step stands. `input_required`: it waits for a person, and the task's clocks stand still until its next
    sign of life."""
    progress: Annotated[float, Field(ge=0, le=1)] | None = None
    """How far the whole task is, 0 to 1."""
    message: Text | None = None
    """Progress for people."""
    reads: Facets = {}
    """What the agent looked at: joins the snapshot, or replaces values in it."""
    checkpoint: Checkpoint | None = None
    """A state to resume from."""


class TaskHeartbeat(Event):
    """The agent is alive."""

    type: Literal["task.heartbeat"]
    task_id: Name
    """The task being worked on."""


class TaskExtended(Event):
    """The task may take longer: exactly one of `deadline_at` and `deadline_seconds` says until when."""

    type: Literal["task.extended"]
    task_id: Name
    """The task whose deadline is put off. One that has none, or a later one, stays as it is."""
    deadline_at: Instant | None = None
    """The new deadline."""
    deadline_seconds: Annotated[float, Field(gt=0, le=31_536_000)] | None = None
    """The new deadline, from the broker's timestamp of this event on."""


class TaskEffectProposed(Event):
    """Before an irreversible step: may this effect still happen?"""

    type: Literal["task.effect_proposed"]
    task_id: Name
    """The task proposing it."""
    idempotency_key: Name
    """Belongs to one effect of one task and its attempts in the session."""
    effect: Name
    """What would be done."""
    fingerprint: Name | None = None
    """By what the effect is known whatever its key: a digest of payee and amount, for example."""
    allow_duplicate: bool = False
    """True: it is meant that an effect with this fingerprint was cleared under another key."""
    reads: Facets = {}
    """What the agent looked at for this effect."""


class TaskResult(Event):
    """What the task returns."""

    type: Literal["task.result"]
    task_id: Name
    """The task that ends with it."""
    outcome: Outcome
    """`completed` or `failed`."""
    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]
    """The parts, judged separately."""
    reads: Facets = {}
    """What the agent looked at last: joins the snapshot, or replaces values in it."""
    error: ResultError | None = None
    """Why it failed."""
    final: bool = True
    """False: an interim answer. It is judged and delivered, and the task goes on. It never waits: what would be held
    is withheld."""


CONTEXT_EVENTS = (ContextChanged, TaskCancelRequested, ResultAcknowledged, SessionErased)
STEP_EVENTS = (TaskDispatched, TaskStep, TaskHeartbeat, TaskExtended, TaskEffectProposed)
RESULT_EVENTS = (TaskResult,)
INPUT_EVENTS: tuple[type[Event], ...] = (*CONTEXT_EVENTS, *STEP_EVENTS, *RESULT_EVENTS)
