"""From facts to records: the only code that builds the events the gate writes, and the only check of their size.

Nothing is decided here. Every output has its own event id; the same decision taken again has the same one. Most of an
output is text that exists already (the echo of the dispatch, the producer's payload): it is spliced, not encoded again.
"""

from typing import Final
from zlib import crc32

from mypy_extensions import mypyc_attr

from projections.dispatched import dispatched_fields
from projections.ended import EndedTask
from projections.expectation import contradicted, expected_values, is_unknown
from projections.facts import (
    AttemptCommanded,
    CancelExpired,
    EffectAnswered,
    Fact,
    ResultAcknowledged,
    ResultJudged,
    ResultOutdated,
    SessionForgotten,
    TaskEnded,
    TaskOpened,
    TurnCame,
)
from projections.gate import DELIVERED, HELD, WITHHELD, PartVerdict
from projections.keys import task_key
from projections.log_position import LogPosition
from projections.records import change_of
from projections.rows import CancelRequest, Task
from projections.session import Session
from projections.text import json_of, quoted
from projections.waiting import Arrived
from schemas.envelope import Envelope
from schemas.identity import output_event_id
from schemas.outputs import MAX_DIFFERENCES
from schemas.times import rfc3339
from schemas.topics import Role

MAX_OUTPUT_BYTES: Final = 1_000_000
"""Largest value of an output record: the broker's default limit of 1,048,588 bytes less room for key, headers and
batch."""

MAX_STATUS_GROWTH: Final = 512 * 1024
"""What a task's status can gain after its dispatch, in JSON: 64 ids each of done, failed, running and planned steps, 32
differing facets, a message, a checkpoint."""


@mypyc_attr(acyclic=True)
class Output:
    """One record to write. `value` is None for a tombstone, and then `envelope`, which becomes the headers, is too."""

    def __init__(self, role: Role, key: bytes, value: bytes | None, envelope: Envelope | None) -> None:
        self.role = role
        self.key = key
        self.value = value
        self.envelope = envelope

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """The headers as pairs."""
        return [] if self.envelope is None else self.envelope.headers()


class TooLargeError(ValueError):
    """A record would be larger than its topic takes. `bytes_needed` of its value."""

    def __init__(self, what: str, bytes_needed: int) -> None:
        super().__init__(f"{what} would have {bytes_needed} bytes, at most {MAX_OUTPUT_BYTES}")
        self.what = what
        self.bytes_needed = bytes_needed


class Publisher:
    """Builds the records of one partition's facts. `source` is the gate's own CloudEvents source."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._source_json = quoted(source)
        self._status_beginning = f'{{"type":"task.status","source":{self._source_json},"session_id":'
        self._now_ms = -1
        self._now = ""
        self._now_of_task = ""
        """The JSON members between the ids of session and task, the same in every output."""
        self._position: LogPosition | None = None

    def at(self, position: LogPosition | None, now_ms: int) -> None:
        """What is published from now on was decided at this position (None: while folding context) and this time."""
        if now_ms != self._now_ms:
            self._now_ms = now_ms
            self._now = rfc3339(now_ms)
            self._now_of_task = f',"occurred_at":"{self._now}","task_id":'
        self._position = position

    @property
    def judged(self) -> str:
        """`judged` of what is decided now, as JSON."""
        position = self._position
        assert position is not None, "context decides nothing"
        lane = '"lane":"cold",' if position.is_cold else ""
        return (
            f'{{"partition":{position.partition},{lane}"context_offset":{position.context_offset},'
            f'"steps_offset":{position.steps_offset},"results_offset":{position.results_offset},"at":"{self._now}"}}'
        )

    @property
    def context_offset(self) -> int:
        """How far the context was known; 0 while folding it."""
        return 0 if self._position is None else self._position.context_offset

    @property
    def has_cut(self) -> bool:
        """Whether what is decided now has a cut: not what follows from the context alone."""
        return self._position is not None

    @property
    def _where(self) -> str:
        """`judged` as a JSON member after a comma; nothing for what has no cut."""
        return f',"judged":{self.judged}' if self.has_cut else ""

    def publish(self, session: Session, fact: Fact, outputs: list[Output]) -> None:
        """Add the records that report the fact. The session is as it was when the fact was decided.

        Raises `TooLargeError`.
        """
        if isinstance(fact, TaskEnded):
            if fact.commanded is not None:
                fields = f'"reason":"{fact.commanded}"'
                outputs.append(self._command("task.cancel", session, fact.task_id, fact.task, fields))
            traceparent = fact.task.traceparent if fact.task is not None else None
            ended = fact.ended
            where = self._where if ended.disposition in _ENDS_WITHOUT_VERDICT else ""
            outputs.append(self._ended_status(session, ended, traceparent, None, where))
        elif isinstance(fact, ResultJudged):
            self._publish_result(session, fact, outputs)
        elif isinstance(fact, TaskOpened):
            size = len(fact.task.taken.encode()) + len(fact.task.echo.encode()) + MAX_STATUS_GROWTH
            if size > MAX_OUTPUT_BYTES:
                raise TooLargeError("its status, with the values taken for depends_on,", size)
        elif isinstance(fact, EffectAnswered):
            event_type = "effect.cleared" if fact.cleared else "effect.refused"
            task_id, members = fact.proposal.task_id, fact.members + fact.differences
            outputs.append(self._command(event_type, session, task_id, fact.task, members, where=""))
        elif isinstance(fact, AttemptCommanded):
            outputs.append(self._redispatch(session, fact))
        elif isinstance(fact, TurnCame):
            if fact.commanded:
                members = f'"dispatched_at":"{rfc3339(fact.task.dispatched_at)}"'
                outputs.append(self._command("task.start", session, fact.task_id, fact.task, members))
        elif isinstance(fact, ResultOutdated):
            outputs.append(self._outdated(session, fact))
        elif isinstance(fact, CancelExpired):
            if not fact.request.is_matched:
                outputs.append(self._unmatched(session, fact.request))
        elif isinstance(fact, ResultAcknowledged):
            if fact.ended is not None:
                outputs.append(self._ended_status(session, fact.ended, None, fact.offset, ""))
        elif isinstance(fact, SessionForgotten):
            outputs += [Output("tasks", task_key(session.id, task_id), None, None) for task_id in fact.erased]

    def open_status(self, session: Session, task_id: str, task: Task) -> Output:
        """`task.status` of an open task: running, or waiting with its result."""
        wait, stale, task_json = task.wait, task.stale, quoted(task_id)
        state = '"running"' if wait is None else f'"waiting","waiting_for":"{wait.why}"'
        work = work_members(task)
        members = f",{work}" if work else ""
        acknowledgement = task.acknowledgement
        if acknowledgement:
            members = f"{members},{acknowledgement}"
        clocks = task.clocks
        if clocks is not None:
            if clocks.is_queued and wait is None:
                members = f'{members},"queued":true'
            if clocks.waits_since is not None:
                members = f'{members},"input_required":true'
        if stale:
            members = f'{members},"stale":true,"stale_facets":{json_of(stale[:MAX_DIFFERENCES])}'
        steps = _steps(task.steps_started, task.steps_completed)
        body = (
            f'{self._status_head(session, task_json)}{task.echo},"status":{state},'
            f'"dispatched_at":"{rfc3339(task.dispatched_at)}"{steps}{members}'
        ).encode()
        event_id = f"{task.digest}-{self._now_ms}-{crc32(body):08x}"
        value = b'%s,"event_id":"%s"}' % (body, event_id.encode())
        return self._status(session, task_json, value, event_id, task.traceparent)

    # Statuses

    def _status_head(self, session: Session, task_json: str) -> str:
        return f"{self._status_beginning}{session.json}{self._now_of_task}{task_json},"

    def _ended_status(
        self, session: Session, task: EndedTask, traceparent: str | None, acknowledged_at: int | None, where: str
    ) -> Output:
        """`task.status` with the task's one disposition.

        `acknowledged_at`: offset of the acknowledgement that it reports. `shown`, `refused`, `shown` are three records.
        `where`: what it says of its cut.
        """
        echo = f"{task.echo}," if task.echo else ""
        members = f",{task.work}" if task.work else ""
        if task.acknowledged is not None:
            members = f'{members},"acknowledged":"{task.acknowledged}"'
            if task.outcomes is not None:
                members = f'{members},"acknowledged_parts":{json_of(task.outcomes)}'
        if task.detail is not None:
            members = f'{members},"detail":{quoted(task.detail)}'
        event_id = f"{task.digest}-{task.ended_at}"
        if acknowledged_at is not None:
            event_id = f"{event_id}-{acknowledged_at}"
        value = (
            f'{self._status_head(session, task.task_json)}{echo}"status":"ended","disposition":"{task.disposition}",'
            f'"reason":"{task.reason}","dispatched_at":"{rfc3339(task.dispatched_at)}",'
            f'"ended_at":"{rfc3339(task.ended_at)}"{_steps(task.steps_started, task.steps_completed)}{members}{where},'
            f'"event_id":"{event_id}"}}'
        ).encode()
        return self._status(session, task.task_json, value, event_id, traceparent)

    def _status(self, session: Session, task_json: str, value: bytes, event_id: str, traceparent: str | None) -> Output:
        envelope = Envelope("task.status", self._source, event_id, session.key, self._now, traceparent)
        key = f"[{session.json},{task_json}]".encode()
        return _checked(Output("tasks", key, value, envelope), "the task's status")

    # Results

    def _publish_result(self, session: Session, fact: ResultJudged, outputs: list[Output]) -> None:
        """`result.delivered` with the delivered parts, `result.withheld` with the withheld ones; none for held ones."""
        judgement = fact.judgement
        verdict = self._verdict(session, fact)
        if fact.shadow:
            judged = {each.part.part_id for each in judgement.parts}
            parts = [part for part in fact.event.parts if part.part_id in judged]
            outputs.append(self._result(session, fact, verdict, DELIVERED, parts))
            return
        if judgement.decision != HELD and len(judgement.parts) == 1:
            outputs.append(self._result(session, fact, verdict, judgement.decision, [judgement.parts[0].part]))
            return
        for decision in (DELIVERED, WITHHELD):
            parts = [each.part for each in judgement.parts if each.decision == decision]
            if parts:
                outputs.append(self._result(session, fact, verdict, decision, parts))

    def _verdict(self, session: Session, fact: ResultJudged) -> str:
        judgement = fact.judgement
        decision = WITHHELD if judgement.decision == HELD else judgement.decision
        disposition = "null" if fact.disposition is None else f'"{fact.disposition}"'
        parts = ",".join([self._part_verdict(session, fact, each) for each in judgement.parts])
        return (
            f'{{"decision":"{decision}","reason":"{judgement.reason}","parts":[{parts}],'
            f'"judged":{self.judged},"disposition":{disposition}{_LATE if fact.late else ""}}}'
        )

    def _part_verdict(self, session: Session, fact: ResultJudged, verdict: PartVerdict) -> str:
        text = f'{{"part_id":{quoted(verdict.part.part_id)},"decision":"{verdict.decision}","reason":"{verdict.reason}"'
        if verdict.facets is not None and fact.task is not None:
            text = f'{text},"differences":{differences_json(session, fact.task, verdict.facets)}'
            if verdict.omitted:
                text = f'{text},"differences_omitted":{verdict.omitted}'
        if verdict.annotated:
            text = f'{text},"annotated":true'
        return text + "}"

    def _result(self, session: Session, fact: ResultJudged, verdict: str, decision: str, parts: list[object]) -> Output:
        result, event, task = fact.result, fact.event, fact.task
        reason, delivers = fact.judgement.reason, decision == DELIVERED
        event_type = "result.delivered" if delivers else "result.withheld"
        first = parts[0].part_id  # type: ignore[attr-defined]
        task_json, result_source, result_id = result.task_json, result.source_json, result.event_id_json
        event_id = fact.delivered_id if delivers else ""
        if not event_id:
            event_id = result_event_id(session, result, event_type, reason, first)
        echo = f"{fact.echo}," if fact.echo else ""
        parts_json = result.parts_json if len(parts) == len(result.event.parts) else json_of(parts).encode()
        head = (
            f'{{"type":"{event_type}","source":{self._source_json},"event_id":"{event_id}","session_id":{session.json}'
            f'{self._now_of_task}{task_json},{echo}"outcome":"{event.outcome}","parts":'
        )
        members, error = "", event.error
        if error is not None:
            members = f',"error":{json_of(error)}'
        if not event.final:
            members = f'{members},"final":false'
        if fact.shadow:
            members = f'{members},"shadow":{{"decision":"{fact.judgement.decision}","reason":"{reason}"}}'
        traceparent = result.traceparent
        if task is not None:
            members = f'{members},"snapshot":{json_of(expected_values(session.facets, task))}'
            policy = task.policy
            if delivers and policy is not None and policy.valid_until is not None:
                members = f'{members},"valid_until":"{policy.valid_until}"'
            traceparent = traceparent or task.traceparent
        tail = (
            f',"result":{{"source":{result_source},"event_id":{result_id},"offset":{result.offset},'
            f'"at":"{rfc3339(result.timestamp)}"}},"verdict":{verdict}{members}}}'
        )
        role: Role = "withheld"
        if delivers:
            role = "delivered.cold" if fact.is_cold else "delivered"
        envelope = Envelope(event_type, self._source, event_id, session.key, self._now, traceparent)
        value = b"%s%s%s" % (head.encode(), parts_json, tail.encode())
        return _checked(Output(role, session.key, value, envelope), "its output")

    # Commands

    def _command(
        self,
        event_type: str,
        session: Session,
        task_id: str,
        task: Task | None,
        members: str,
        where: str | None = None,
    ) -> Output:
        """A record of the commands topic. `where`: what it says of its cut, if `members` says so already.

        The cut is no part of its id: the same command after a restart is the same one.
        """
        task_json, cut = quoted(task_id), self._where if where is None else where
        event_id = output_event_id(f'[{session.json},{task_json},"{event_type}",{{{members}}}]'.encode())
        echo = f"{task.echo}," if task is not None else ""
        value = (
            f'{{"type":"{event_type}","source":{self._source_json},"event_id":"{event_id}","session_id":{session.json},'
            f'"occurred_at":"{self._now}","task_id":{task_json},{echo}{members}{cut}}}'
        ).encode()
        traceparent = task.traceparent if task is not None else None
        envelope = Envelope(event_type, self._source, event_id, session.key, self._now, traceparent)
        return _checked(Output("commands", session.key, value, envelope), f"the {event_type} that it calls for")

    def _outdated(self, session: Session, fact: ResultOutdated) -> Output:
        """`result.outdated`: what was delivered has gone stale."""
        kept = fact.kept
        delivery = kept.delivery
        assert delivery is not None
        facets = fact.facets[:MAX_DIFFERENCES]
        members = (
            f'"result":{delivery.result},"part_ids":{json_of(fact.part_ids)},'
            f'"differences":{differences_json(session, kept.task, facets)}'
        )
        return self._command("result.outdated", session, fact.task_id, kept.task, members)

    def _unmatched(self, session: Session, request: CancelRequest) -> Output:
        """`task.cancel_unmatched`: a request to cancel has met no task."""
        what = '"all":true'
        for field, named in (
            ("task_id", request.task_id),
            ("request_id", request.request_id),
            ("slot", request.slot),
        ):
            if named is not None:
                what = f'"{field}":{quoted(named)}'
        requested = (
            f'{{"source":{quoted(request.source)},"event_id":{quoted(request.event_id)},"offset":{request.offset},'
            f'"at":"{rfc3339(request.timestamp)}"}}'
        )
        event_type = "task.cancel_unmatched"
        event_id = output_event_id(f'[{session.json},"{event_type}",{requested}]'.encode())
        value = (
            f'{{"type":"{event_type}","source":{self._source_json},"event_id":"{event_id}","session_id":{session.json},'
            f'"occurred_at":"{self._now}",{what},"requested":{requested}{self._where}}}'
        ).encode()
        envelope = Envelope(event_type, self._source, event_id, session.key, self._now)
        return Output("commands", session.key, value, envelope)

    def _redispatch(self, session: Session, fact: AttemptCommanded) -> Output:
        task, facets = fact.task, session.facets
        snapshot: dict[str, str | None] = {}
        for name, stated in task.expected.items():
            facet = facets.get(name)
            snapshot[name] = stated if facet is None or is_unknown(facet) else facet.value
        members = f'"new_task_id":{quoted(fact.new_task_id)},"attempt":{fact.attempt},"snapshot":{json_of(snapshot)}'
        dispatch = {"type": "task.dispatched", "task_id": fact.task_id, **dispatched_fields(task)}
        members = f'{members},"dispatch":{json_of(dispatch)}'
        if task.work is not None and task.work.checkpoint is not None:
            members = f'{members},"checkpoint":{_checkpoint_json(task)}'
        return self._command("task.redispatch", session, fact.task_id, task, members)


def _steps(started: int, completed: int) -> str:
    """The numbers of steps as JSON members, each after a comma; nothing if there were none."""
    return f',"steps_started":{started},"steps_completed":{completed}' if started or completed else ""


_ENDS_WITHOUT_VERDICT: Final = frozenset({"rejected", "cancelled", "expired"})
"""Of a task that ended with a result, the verdict says where the logs stood."""
_LATE: Final = ',"late":true'
KNOWN_DIGITS: Final = 8
"""Of an output's event id, so many hexadecimal digits are remembered, to know it when a consumer names it."""


def result_event_id(session: Session, result: Arrived, event_type: str, reason: str, first_part_id: str) -> str:
    """The event id of an output about a result whose first part is this."""
    name = (
        f"[{session.json},{result.task_json},{result.source_json},{result.event_id_json},"
        f'"{event_type}","{reason}",{quoted(first_part_id)}]'
    )
    return output_event_id(name.encode())


def identity_json(result: Arrived) -> str:
    """Which result it is, as JSON of a `ResultIdentity`."""
    return (
        f'{{"source":{result.source_json},"event_id":{result.event_id_json},"offset":{result.offset},'
        f'"at":"{rfc3339(result.timestamp)}"}}'
    )


def work_members(task: Task) -> str:
    """What a status says of the way a task has come, besides the numbers of its steps, as JSON members."""
    text = ""
    scope, work = task.scope, task.work
    parent = scope.parent if scope is not None else None
    if parent is None and task.policy is not None and task.policy.options is not None:
        parent = task.policy.options.detached_from
    if parent is not None:
        text = f',"parent_task_id":{quoted(parent)}'
    if work is not None:
        if work.progress is not None:
            text = f'{text},"progress":{json_of(work.progress)}'
        if work.message is not None:
            text = f'{text},"message":{quoted(work.message)}'
        if work.checkpoint is not None:
            text = f'{text},"checkpoint":{_checkpoint_json(task)}'
    taken = task.taken
    if taken:
        text = f'{text},"taken":{taken}'
    return text[1:]


def differences_json(session: Session, task: Task, names: list[str]) -> str:
    """What the session contradicts of these facets, as a JSON array of `Difference`."""
    return "[" + ",".join([_difference(session, task, name) for name in names]) + "]"


def _difference(session: Session, task: Task, name: str) -> str:
    facet = session.facets[name]
    change = change_of(facet)
    cause = f',"cause_task_id":{quoted(facet.cause)}' if facet.cause else ""
    since = "dispatch" if (change.expired_at or change.timestamp) <= task.dispatched_at else "running"
    if change.expired_at:
        cause = f'{cause},"expired_at":"{rfc3339(change.expired_at)}"'
    return (
        f'{{"facet":{quoted(name)},"expected":{json_of(contradicted(task, name, facet.value))},'
        f'"actual":{json_of(facet.value)},"changed_by":{{"source":{quoted(change.source)},'
        f'"event_id":{quoted(change.event_id)},"offset":{change.offset},"at":"{rfc3339(change.timestamp)}"{cause}}},'
        f'"since":"{since}"}}'
    )


def _checkpoint_json(task: Task) -> str:
    work = task.work
    if work is None or work.checkpoint is None:
        return "null"
    return f'{{"uri":{quoted(work.checkpoint.uri)},"sequence":{work.checkpoint.sequence}}}'


def _checked(output: Output, what: str) -> Output:
    """The output. Raises `TooLargeError`."""
    if output.value is not None and len(output.value) > MAX_OUTPUT_BYTES:
        raise TooLargeError(what, len(output.value))
    return output
