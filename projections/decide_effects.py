"""Answers to proposed effects past their barrier: may this still happen? Once per idempotency key in the session."""

from typing import Final

from projections.budget import NO_ROOM, added_by_reads, room_for
from projections.expectation import differing, is_unknown
from projections.facts import EffectAnswered, EventRepeated, Fact, ReadsStated
from projections.gate import reason_for_all
from projections.publish import differences_json
from projections.rows import Task
from projections.session import Session
from projections.stale import with_reads
from projections.text import json_of, quoted
from projections.waiting import Arrived
from schemas.events import TaskEffectProposed
from schemas.fields import Reason
from schemas.outputs import MAX_DIFFERENCES

_OVERHEAD_BYTES: Final = 16
"""Of an answer that is remembered, besides its key and its members."""


def decide_proposal_past_barrier(session: Session, proposal: Arrived, judged: str) -> list[Fact]:
    """Answer a proposed effect. `judged` is where and when it is decided, as JSON.

    A second proposal with the key gets the first one's answer, without its differences: the row has no room for those.
    """
    event: TaskEffectProposed = proposal.event
    task_id = event.task_id
    task = session.tasks.get(task_id)
    if task is not None and session.pending_cancel(task_id) is not None:
        task = None
    known = session.row.effects.get(event.idempotency_key)
    if known is not None:
        answer = EffectAnswered(proposal, known.members, "", task, 0, cleared=known.cleared, is_new=False)
        return [EventRepeated("task.effect_proposed"), answer]
    members = f'"idempotency_key":{quoted(event.idempotency_key)},"effect":{quoted(event.effect)},"judged":{judged}'
    if task is None:
        is_known = task_id in session.tasks or session.ended_task(task_id) is not None
        reason: Reason = "late" if is_known else "unknown_task"
        return [_answer(session, proposal, None, members, reason, "", 0)]
    facts: list[Fact] = []
    seen, added = task, 0
    if event.reads:
        above = len(session.readers_above(task))
        added = added_by_reads(len(json_of(event.reads).encode()), len(event.reads), task_id, above)
        estimate = room_for(session, added, adds_names=not event.reads.keys() <= task.expected.keys())
        if estimate == NO_ROOM:
            return [_answer(session, proposal, task, members, "session_full", "", 0)]
        seen = with_reads(session.facets, task, event.reads, proposal.timestamp)
        facts.append(ReadsStated(task_id, event.reads, proposal.timestamp, estimate))
    refused = reason_for_all(session, task_id, seen, proposal.timestamp)
    differences = ""
    if refused is None:
        stale = differing(seen)
        if any(is_unknown(session.facets[name]) for name in stale):
            refused = "session_full"
        elif stale:
            refused = "stale"
            differences = f',"differences":{differences_json(session, seen, stale[:MAX_DIFFERENCES])}'
    facts.append(_answer(session, proposal, task, members, refused, differences, added))
    return facts


def _answer(
    session: Session,
    proposal: Arrived,
    task: Task | None,
    members: str,
    refused: Reason | None,
    differences: str,
    added: int,
) -> EffectAnswered:
    """The answer, as far as the session has room to remember it; without room the effect may not happen."""
    if refused is not None:
        members = f'{members},"reason":"{refused}"'
    added += len(members.encode()) + len(proposal.event.idempotency_key.encode()) + _OVERHEAD_BYTES
    estimate = room_for(session, added, adds_names=False)
    if estimate == NO_ROOM:
        if refused is None:
            members, refused = f'{members},"reason":"session_full"', "session_full"
        return EffectAnswered(proposal, members, differences, task, 0, cleared=False, is_new=False)
    return EffectAnswered(proposal, members, differences, task, estimate, cleared=refused is None, is_new=True)
