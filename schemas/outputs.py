"""The output events: what the gate writes. Shapes only; what they say is decided in `projections`."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from schemas.events import Event
from schemas.fields import (
    Acknowledged,
    Checkpoint,
    Disposition,
    Facets,
    FacetValue,
    Instant,
    Lane,
    Metadata,
    Model,
    Name,
    Outcome,
    Part,
    Reason,
    ResultError,
    Text,
)

AllFacets = dict[Name, FacetValue | None]
"""What a dispatch named and steps have read: as many as it came to."""


class ChangedBy(Model):
    """The context event that gave a facet its value."""

    source: Name
    """Its `source`."""
    event_id: Name
    """Its `event_id`."""
    offset: int
    """Its offset on the context topic, in the session's partition."""
    at: Instant
    """The broker's timestamp of it."""
    cause_task_id: Name | None = None
    """The task whose own work it was, if any."""
    expired_at: Instant | None = None
    """Where the event set the facet with a lease, and that has run out: when. Until then it had another value."""


class Difference(Model):
    """One expected facet that the row contradicts."""

    facet: Name
    """Its name."""
    expected: FacetValue | None
    """What the task depends on; `null` is absence."""
    actual: FacetValue | None
    """What the row holds; `null` is absence."""
    changed_by: ChangedBy
    """The event that gave it its actual value."""
    since: Literal["dispatch", "running"]
    """`dispatch`: that event was there before the task was dispatched. `running`: it came after."""


class PartVerdict(Model):
    """The decision on one part."""

    part_id: Name
    """The part judged."""
    decision: Literal["delivered", "withheld", "held"]
    """What became of it. `held`: not decided yet; another event of the same result will tell."""
    reason: Reason
    """Why."""
    annotated: bool = False
    """True: delivered although stale, and to be shown as such."""
    differences: list[Difference] = []
    """The facets that differ, at most 32."""
    differences_omitted: int = 0
    """How many more differ."""


class Judged(Model):
    """Where the logs stood when it was decided. A consumer that knows a later context offset knows better."""

    partition: int
    """The session's partition, the same on every topic."""
    lane: Lane = "hot"
    """Of which topics the offsets below are. A task may be stopped by one of the other lane."""
    context_offset: int
    """Every context event below this offset was folded."""
    steps_offset: int
    """Every step below this offset was folded."""
    results_offset: int | None = None
    """Every result below this offset was decided, this one included."""
    at: Instant
    """The gate's clock."""


class Verdict(Model):
    """The gate's answer for one result."""

    decision: Literal["delivered", "withheld"]
    """`delivered` where at least one part was."""
    reason: Reason
    """Why; where parts differ, the reason of the first withheld one."""
    parts: list[PartVerdict]
    """One for each part of the result."""
    judged: Judged
    """Where the logs stood."""
    disposition: Disposition | None = None
    """How the task ended; for a late result how it had already ended.

    Null for an unknown task, and while parts are held.
    """
    late: bool = False
    """True: the task had ended `expired`, and asked for its result all the same (`on_late: deliver`)."""


class ResultIdentity(Model):
    """Which result was judged."""

    source: Name
    """Its `source`."""
    event_id: Name
    """Its `event_id`."""
    offset: int
    """Its offset on the results topic, in the session's partition."""
    at: Instant
    """The broker's timestamp of it."""


class TaskEcho(Event):
    """What every output about a task repeats from its dispatch."""

    task_id: Name
    """The task."""
    task_type: Name | None = None
    """From the dispatch; null where the task is unknown."""
    destination: FacetValue | None = None
    """From the dispatch."""
    metadata: Metadata = {}
    """From the dispatch."""
    request_id: Name | None = None
    """From the dispatch."""
    slot: Name | None = None
    """From the dispatch."""
    lane: Lane = "hot"
    """From the dispatch."""


class JudgedResult(TaskEcho):
    """What a delivered and a withheld result have in common."""

    outcome: Outcome
    """From the result."""
    parts: list[Part]
    """The parts this event is about, whole."""
    error: ResultError | None = None
    """From the result."""
    result: ResultIdentity
    """The result that was judged."""
    verdict: Verdict
    """The decision, for all parts of the result."""
    final: bool = True
    """From the result: false for an interim answer, after which the task goes on."""
    snapshot: AllFacets = {}
    """The expected facets at the verdict, moved along by the task's own changes: for the writer's compare-and-set."""


class Shadow(Model):
    """What the gate would have done, where it only watches."""

    decision: Literal["delivered", "withheld", "held"]
    """What it would have done with the result."""
    reason: Reason
    """Why."""


class ResultDelivered(JudgedResult):
    """Parts to show or apply now."""

    type: Literal["result.delivered"]
    shadow: Shadow | None = None
    """Present in shadow mode: everything is delivered, and this is what the gate would have done."""
    valid_until: Instant | None = None
    """From the dispatch: show or apply no later."""


class ResultWithheld(JudgedResult):
    """Parts not to show or apply, whole, with the reason."""

    type: Literal["result.withheld"]


class Receipt(Model):
    """What a task that was stopped had done."""

    done: list[Name] = []
    """Steps that were completed, the last 64."""
    failed: list[Name] = []
    """Steps that failed, the last 64."""
    in_flight: list[Name] = []
    """Steps begun and not finished: their effect is uncertain."""
    not_attempted: list[Name] = []
    """Steps of the dispatch's `plan` that were never begun."""


class TaskStatus(TaskEcho):
    """Where a task stands. The newest one per task is kept (compacted topic, key: JSON array of session and task)."""

    type: Literal["task.status"]
    status: Literal["running", "waiting", "ended"]
    """`waiting`: the result is there, and waits. `ended` is final."""
    waiting_for: Literal["children", "slot", "parent", "context", "user"] | None = None
    """What the result waits for."""
    parent_task_id: Name | None = None
    """From the dispatch."""
    receipt: Receipt | None = None
    """What the task had done, where it was cancelled or expired."""
    disposition: Disposition | None = None
    """How it ended, exactly one; null while running."""
    reason: Reason | None = None
    """Why it ended so."""
    detail: Text | None = None
    """For people, such as the field that is not supported."""
    progress: Annotated[float, Field(ge=0, le=1)] | None = None
    """The last progress told, 0 to 1."""
    message: Text | None = None
    """The last message told."""
    steps_started: int = 0
    """Steps begun."""
    steps_completed: int = 0
    """Steps completed or failed."""
    stale: bool = False
    """True while the context contradicts what the running task depends on."""
    stale_facets: list[Name] = []
    """Which facets differ, at most 32."""
    taken: Facets = {}
    """Values the gate took for `depends_on` facets when it folded the dispatch."""
    checkpoint: Checkpoint | None = None
    """The last checkpoint told."""
    queued: bool = False
    """True while the task queues for its slot: `task.start` says when its turn has come."""
    input_required: bool = False
    """True while the task waits for a person, and its clocks stand still."""
    acknowledged: Acknowledged | None = None
    """What the consumer did with the delivery."""
    acknowledged_parts: dict[Name, Acknowledged] = {}
    """The same part by part, where consumers named the parts they meant."""
    dispatched_at: Instant | None = None
    """The broker's timestamp of the dispatch."""
    ended_at: Instant | None = None
    """When it ended."""
    judged: Judged | None = None
    """Where the logs stood when it was rejected, cancelled or expired. Of any other end, the verdict says so."""


class TaskStart(TaskEcho):
    """Command to the agent: the task has queued for its slot, and its turn has come."""

    type: Literal["task.start"]
    dispatched_at: Instant
    """The broker's timestamp of the dispatch."""
    judged: Judged | None = None
    """Where the logs stood when this was decided."""


class ResultOutdated(TaskEcho):
    """What was delivered is not what the latest context asks for any more. Told once, within `watch_seconds`."""

    type: Literal["result.outdated"]
    result: ResultIdentity
    """The result that was delivered."""
    part_ids: list[Name]
    """The delivered parts that depend on a facet that differs."""
    differences: list[Difference]
    """The facets that differ, at most 32."""
    judged: Judged | None = None
    """Where the logs stood when this was decided; missing where a change of the context alone led to it."""


class TaskCancel(TaskEcho):
    """Command to the agent: stop."""

    type: Literal["task.cancel"]
    reason: Reason
    """Why."""
    judged: Judged | None = None
    """Where the logs stood when this was decided."""


class EventIdentity(Model):
    """Which input event an output is about."""

    source: Name
    """Its `source`."""
    event_id: Name
    """Its `event_id`."""
    offset: int
    """Its offset on its topic, in the session's partition."""
    at: Instant
    """The broker's timestamp of it."""


class TaskCancelUnmatched(Event):
    """A request to cancel met no task, and is forgotten: a task that is dispatched from now on runs."""

    type: Literal["task.cancel_unmatched"]
    task_id: Name | None = None
    """From the request."""
    request_id: Name | None = None
    """From the request."""
    slot: Name | None = None
    """From the request."""
    all: bool = False
    """From the request."""
    requested: EventIdentity
    """The request."""
    judged: Judged | None = None
    """Where the logs stood when this was decided."""


class TaskRedispatch(TaskEcho):
    """Command to the orchestrator: dispatch a new attempt."""

    type: Literal["task.redispatch"]
    new_task_id: Name
    """`<id>~2` and so on."""
    attempt: int
    """2 for the second attempt."""
    snapshot: AllFacets
    """The current values of the facets the task depends on."""
    dispatch: dict[str, JsonValue] = {}
    """The dispatch of the task to be repeated, without its envelope and without fields that have their defaults."""
    checkpoint: Checkpoint | None = None
    """Where the last attempt had got to."""
    judged: Judged | None = None
    """Where the logs stood when this was decided."""


class ProposalIdentity(Model):
    """Which proposed effect was answered."""

    source: Name
    """Its `source`."""
    event_id: Name
    """Its `event_id`."""
    offset: int
    """Its offset on the steps topic of its lane, in the session's partition."""
    at: Instant
    """The broker's timestamp of it."""


class OtherEffect(Model):
    """The effect that a proposal is in conflict with."""

    idempotency_key: Name
    """Its key."""
    task_id: Name | None = None
    """The task that proposed it, or the first task that this one repeats."""
    effect: Name
    """What was proposed."""


class EffectCleared(TaskEcho):
    """Answer to a proposed effect: go ahead."""

    type: Literal["effect.cleared"]
    idempotency_key: Name
    """The key proposed."""
    effect: Name
    """What was proposed."""
    proposal: ProposalIdentity | None = None
    """The proposal that is answered."""
    repeat: bool = False
    """True: it had been cleared under this key before, so it may have happened already."""
    first_cleared: Judged | None = None
    """Where the logs stood when it was cleared first, if this is a repeat."""
    judged: Judged
    """Where the logs stood."""


class EffectRefused(TaskEcho):
    """Answer to a proposed effect: do not."""

    type: Literal["effect.refused"]
    idempotency_key: Name
    """The key proposed."""
    effect: Name
    """What was proposed."""
    proposal: ProposalIdentity | None = None
    """The proposal that is answered."""
    reason: Reason
    """Why."""
    first_cleared: Judged | None = None
    """Where the logs stood when it was cleared under this key before: it may have happened, so ask the payee."""
    conflicts_with: OtherEffect | None = None
    """What the key belongs to (`key_conflict`), or the effect with the same fingerprint (`duplicate_effect`)."""
    differences: list[Difference] = []
    """The facets that differ, at most 32."""
    judged: Judged
    """Where the logs stood."""


OUTPUT_EVENTS: tuple[type[Event], ...] = (
    ResultDelivered,
    ResultWithheld,
    TaskStatus,
    TaskStart,
    ResultOutdated,
    TaskCancel,
    TaskCancelUnmatched,
    TaskRedispatch,
    EffectCleared,
    EffectRefused,
)
MAX_DIFFERENCES = 32
