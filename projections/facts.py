"""What the gate establishes about events: the vocabulary between deciding, publishing and changing a session.

`decide` functions return facts and change nothing; `publish` turns a fact into the records that report it; `evolve`
applies it to the session. A fact therefore says everything that both need. Times are the broker's, in ms.

`mypyc_attr` is for the compiled core: instances of these classes are in no reference cycles, so the garbage collector
need not track them, and the memory of the last one freed is used for the next one.
"""

from typing import Any

from mypy_extensions import mypyc_attr

from projections.ended import EndedTask
from projections.gate import Judgement
from projections.rows import CancelRequest, Delivery, EffectAnswer, KeptTask, Lease, ResultDigests, Task, Wait
from projections.waiting import Arrived
from schemas.fields import Reason


@mypyc_attr(acyclic=True)
class Fact:
    """Something that is now true of one session."""


@mypyc_attr(acyclic=True)
class QuietFact(Fact):
    """A fact that no record reports by itself: the task's status does, once for everything a transaction writes."""


# Context


@mypyc_attr(acyclic=True, free_list_len=1)
class FacetChange:
    """A facet's new value. `cause` is the task whose own work it is; `before` and `seen` tell the value it replaces."""

    def __init__(self, name: str, value: str | None, cause: str | None, before: str | None, seen: int) -> None:
        self.name = name
        self.value = value
        self.cause = cause
        self.before = before
        self.seen = seen


@mypyc_attr(acyclic=True, free_list_len=1)
class FacetsChanged(QuietFact):
    """Facets have other values than before.

    `change` is the encoded `rows.Change`. The changes are own changes of the open task `holder` and of those above it;
    or of `undispatched`, a task whose dispatch has not been folded.
    """

    def __init__(
        self,
        changes: list[FacetChange],
        change: bytes,
        offset: int,
        timestamp: int,
        holder: str | None,
        undispatched: str | None,
        size_estimate: int,
        identity: bytes,
        kept: list[str] | None = None,
    ) -> None:
        self.changes = changes
        self.change = change
        self.offset = offset
        self.timestamp = timestamp
        self.holder = holder
        self.undispatched = undispatched
        self.size_estimate = size_estimate
        self.identity = identity
        """Of the event, as in `EventTaken`."""
        self.kept = kept
        """Ended tasks of which more is kept, and whose own changes these are, too."""


class VersionsStated(QuietFact):
    """Newer versions of facets than any before were stated."""

    def __init__(self, versions: dict[str, int], timestamp: int, size_estimate: int) -> None:
        self.versions = versions
        self.timestamp = timestamp
        self.size_estimate = size_estimate


class LeasesChanged(QuietFact):
    """Facets were set for a time only, or are not any more."""

    def __init__(self, leases: dict[str, Lease], ended: list[str], timestamp: int, size_estimate: int) -> None:
        self.leases = leases
        self.ended = ended
        self.timestamp = timestamp
        self.size_estimate = size_estimate


class FacetsLost(Fact):
    """Facets changed, but the session has no room for the change: their values are unknown now."""

    def __init__(self, names: list[str], timestamp: int) -> None:
        self.names = names
        self.timestamp = timestamp


class CancelRequested(Fact):
    """A task is to be cancelled. Its dispatch may not have been folded."""

    def __init__(self, task_id: str, timestamp: int) -> None:
        self.task_id = task_id
        self.timestamp = timestamp


class CancelRemembered(Fact):
    """Tasks are to be cancelled, and dispatches that have not been folded may be among them."""

    def __init__(self, request: CancelRequest, size_estimate: int) -> None:
        self.request = request
        self.size_estimate = size_estimate


class CancelExpired(Fact):
    """Every task that a request to cancel can mean has been folded. It is forgotten, and answered if it met none."""

    def __init__(self, request: CancelRequest) -> None:
        self.request = request


class UndispatchedForgotten(QuietFact):
    """The dispatch of a task that is named as the cause of changes has not come within the grace."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id


class ResultAcknowledged(Fact):
    """A consumer reports what became of a delivery.

    `ended` is the ended task with the report, if it says something new. If the task still waits with other parts,
    `members` are the JSON members that its status gets.
    """

    def __init__(
        self, task_id: str, outcome: str, offset: int, ended: EndedTask | None, members: str, size_estimate: int
    ) -> None:
        self.task_id = task_id
        self.outcome = outcome
        self.offset = offset
        self.ended = ended
        self.members = members
        self.size_estimate = size_estimate


class SessionForgotten(Fact):
    """Everything kept of the session is removed: it was erased, or is idle.

    `erased` are the tasks whose published status is removed, too. `context_ids` are the identities that stay.
    """

    def __init__(self, erased: list[str], context_ids: bytes) -> None:
        self.erased = erased
        self.context_ids = context_ids


class SessionHeard(QuietFact):
    """The session had an event that changed nothing else, at this time."""

    def __init__(self, timestamp: int) -> None:
        self.timestamp = timestamp


# Tasks


@mypyc_attr(acyclic=True, free_list_len=1)
class TaskOpened(Fact):
    """A dispatch was folded. `task` has its own expectations; what joins it and the tasks above follows from it."""

    def __init__(self, task_id: str, task: Task, size_estimate: int) -> None:
        self.task_id = task_id
        self.task = task
        self.size_estimate = size_estimate


@mypyc_attr(acyclic=True, free_list_len=1)
class StepTaken(QuietFact):
    """A step of an open task, as its event tells it. `identity`: of the event, as in `EventTaken`."""

    def __init__(
        self,
        task_id: str,
        step_id: str,
        status: str,
        progress: float | None,
        message: str | None,
        reads: dict[str, str | None],
        checkpoint: Any,
        timestamp: int,
        size_estimate: int,
        identity: bytes,
    ) -> None:
        self.task_id = task_id
        self.step_id = step_id
        self.status = status
        self.progress = progress
        self.message = message
        self.reads = reads
        self.checkpoint = checkpoint
        self.timestamp = timestamp
        self.size_estimate = size_estimate
        self.identity = identity


class TurnCame(Fact):
    """A task that queued for its slot is the oldest in it. `commanded`: its agent is told to start."""

    def __init__(self, task_id: str, task: Task, timestamp: int, *, commanded: bool) -> None:
        self.task_id = task_id
        self.task = task
        self.timestamp = timestamp
        self.commanded = commanded


class DeadlineExtended(QuietFact):
    """A task may take until this time. `identity`: of the event, as in `EventTaken`."""

    def __init__(self, task_id: str, deadline_ms: int, timestamp: int, identity: bytes) -> None:
        self.task_id = task_id
        self.deadline_ms = deadline_ms
        self.timestamp = timestamp
        self.identity = identity


class HeartbeatReceived(QuietFact):
    """The agent of a task is alive, which one of its clocks needs. `identity`: of the event, as in `EventTaken`."""

    def __init__(self, task_id: str, timestamp: int, identity: bytes) -> None:
        self.task_id = task_id
        self.timestamp = timestamp
        self.identity = identity


class ReadsStated(Fact):
    """A result or a proposed effect states what the task looked at last."""

    def __init__(self, task_id: str, reads: dict[str, str | None], timestamp: int, size_estimate: int) -> None:
        self.task_id = task_id
        self.reads = reads
        self.timestamp = timestamp
        self.size_estimate = size_estimate


class WaitExpired(Fact):
    """The time for which a task's result waits is over."""

    def __init__(self, task_id: str, timestamp: int) -> None:
        self.task_id = task_id
        self.timestamp = timestamp


@mypyc_attr(acyclic=True, free_list_len=1)
class TaskEnded(Fact):
    """A task has its one disposition.

    `task` is None if it ended with its dispatch. `commanded`: its agents are to stop, for this reason. `readers` are
    the tasks above that keep what it depended on. `undecided` are the parts of its waiting result that nothing has
    decided.
    """

    def __init__(
        self,
        task_id: str,
        ended: EndedTask,
        task: Task | None,
        readers: list[str],
        commanded: Reason | None = None,
        undecided: list[str] | None = None,
        holder: str | None = None,
    ) -> None:
        self.task_id = task_id
        self.ended = ended
        self.task = task
        self.readers = readers
        self.commanded = commanded
        self.undecided = undecided
        self.holder = holder
        """For a task that ended with its dispatch: the open task above that takes over its own changes."""


# Results and effects


class ResultParked(Fact):
    """A result waits for the dispatch of its task."""

    def __init__(self, result: Arrived) -> None:
        self.result = result


@mypyc_attr(acyclic=True, free_list_len=1)
class ResultJudged(Fact):
    """Parts of a result were decided: those of `judgement` that are not held.

    `task` is the open task, with what the result read; None if the task is unknown or ended, and then `echo` is what is
    known of its dispatch. `disposition` is the task's, if it has one with this.
    """

    def __init__(
        self,
        result: Arrived,
        event: Any,
        judgement: Judgement,
        disposition: str | None,
        task: Task | None,
        echo: str,
        *,
        is_cold: bool,
        task_type: str | None,
        shadow: bool,
        late: bool = False,
        delivered: list[str] | None = None,
        delivered_id: str = "",
    ) -> None:
        self.late = late
        """Whether its task had expired, and asked for it all the same."""
        self.delivered = delivered or []
        """The ids of the delivered parts; in shadow mode all are."""
        self.delivered_id = delivered_id
        """Event id of the output with the delivered parts."""
        self.result = result
        self.event = event
        self.judgement = judgement
        self.disposition = disposition
        self.task = task
        self.echo = echo
        self.is_cold = is_cold
        self.task_type = task_type
        self.shadow = shadow


class InterimJudged(Fact):
    """An interim answer of an open task was judged. It is known if it comes again; a part of it may be in the slot."""

    def __init__(
        self, task_id: str, digests: ResultDigests, timestamp: int, *, takes_slot: bool, delivery: list[str] | None
    ) -> None:
        self.delivery = delivery
        """What is delivered of it, see `rows.Task.delivered`."""
        self.task_id = task_id
        self.digests = digests
        self.timestamp = timestamp
        self.takes_slot = takes_slot


class DeliveryWatched(Fact):
    """What was delivered of a task that has ended is watched. `task` has what the result read."""

    def __init__(self, task_id: str, task: Task, until: int, delivery: Delivery) -> None:
        self.task_id = task_id
        self.task = task
        self.until = until
        self.delivery = delivery


class ResultOutdated(Fact):
    """What was delivered has gone stale: these facets differ now, and these parts depend on them."""

    def __init__(self, task_id: str, kept: KeptTask, facets: list[str], part_ids: list[str]) -> None:
        self.task_id = task_id
        self.kept = kept
        self.facets = facets
        self.part_ids = part_ids


class KeptForgotten(QuietFact):
    """Nothing more is asked of a task that has ended."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id


class LateResultDelivered(Fact):
    """The result of a task that had expired was delivered, which does not change how the task ended."""

    def __init__(self, task_id: str, task: Task, timestamp: int) -> None:
        self.task_id = task_id
        self.task = task
        self.timestamp = timestamp


class ResultHeld(Fact):
    """An open task waits with its result. `result` is kept if the task did not wait before."""

    def __init__(
        self,
        task_id: str,
        result: Arrived,
        wait: Wait,
        size_estimate: int,
        *,
        is_new: bool,
        takes_slot: bool,
        delivery: list[str] | None,
    ) -> None:
        self.delivery = delivery
        """What is delivered of it now, see `rows.Task.delivered`."""
        self.task_id = task_id
        self.result = result
        self.wait = wait
        self.size_estimate = size_estimate
        self.is_new = is_new
        self.takes_slot = takes_slot


class GraceExpired(Fact):
    """The dispatch that parked results waited for has not come in time: they are judged without it."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id


class ResultDropped(Fact):
    """A waiting result cannot be written, and went to the dead letters: its task waits for another one."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id


class LaterResultKnown(Fact):
    """Another result of a task that is open, ended or unknown was judged: it is recognized if it comes again.

    `ended` is the ended task with it, `digests` what an open task gets.
    """

    def __init__(self, task_id: str, digests: ResultDigests, ended: EndedTask | None) -> None:
        self.task_id = task_id
        self.digests = digests
        self.ended = ended


class AttemptCommanded(Fact):
    """Stale work is to be done again, as another task with the current facets."""

    def __init__(self, task_id: str, task: Task, new_task_id: str, attempt: int) -> None:
        self.task_id = task_id
        self.task = task
        self.new_task_id = new_task_id
        self.attempt = attempt


class AttemptRevoked(Fact):
    """A commanded attempt was cancelled before its dispatch. `ended` is the task that it repeats, with that."""

    def __init__(self, ended: EndedTask) -> None:
        self.ended = ended


class ProposalParked(Fact):
    """A proposed effect waits for the dispatch of its task."""

    def __init__(self, proposal: Arrived) -> None:
        self.proposal = proposal


class EffectAnswered(Fact):
    """A proposed effect may happen, or not.

    `members` are the JSON members of the answer, `differences` more of them. `task` is the open task. `remembered` is
    what is known under its key from now on, if that changes; `forgotten` is a key that makes room for it.
    """

    def __init__(
        self,
        proposal: Arrived,
        members: str,
        differences: str,
        task: Task | None,
        size_estimate: int,
        *,
        cleared: bool,
        remembered: EffectAnswer | None,
        forgotten: str | None,
    ) -> None:
        self.proposal = proposal
        self.members = members
        self.differences = differences
        self.task = task
        self.size_estimate = size_estimate
        self.cleared = cleared
        self.remembered = remembered
        self.forgotten = forgotten


class WaitingJudged(Fact):
    """An event that waited has been taken out to be judged, or its session was erased."""

    def __init__(self, event: Arrived) -> None:
        self.event = event


# Events that change nothing, and what they are recognized by when they come again


class EventTaken(QuietFact):
    """An event was looked at: when it comes again, it changes nothing. `identity`: `schemas.identity.event_digest`.

    Of a session's context, or of the open task `task_id`.
    """

    def __init__(self, identity: bytes, timestamp: int, task_id: str | None = None) -> None:
        self.identity = identity
        self.timestamp = timestamp
        self.task_id = task_id


class ForwardedOnce(Fact):
    """An event that was sent on from a wrong partition has arrived. A crash in between sends it twice."""

    def __init__(self, identity: str) -> None:
        self.identity = identity


class EventRepeated(Fact):
    """The event was there before."""

    def __init__(self, event_type: str) -> None:
        self.event_type = event_type


class EventIgnored(Fact):
    """The event says nothing that matters any more: its task is not open, for example."""

    def __init__(self, event_type: str) -> None:
        self.event_type = event_type


class EventRefused(Fact):
    """The record goes to the dead-letter topic. `error` is a short code, `detail` says what to do."""

    def __init__(self, error: str, detail: str) -> None:
        self.error = error
        self.detail = detail
