"""Answers to proposed effects past their barrier: may this still happen?

An idempotency key belongs to one effect of one task and its attempts in the session. What is proposed again is judged
again, and the answer says whether it had been cleared before: an agent that crashed in between asks the payee then.
"""

from typing import Final

import orjson

from projections.attempts import attempt_id, family_of
from projections.budget import NO_ROOM, added_by_reads, room_for, snapshot_bytes
from projections.expectation import differing, is_unknown
from projections.facts import EffectAnswered, EventTaken, Fact, ProposalParked, ReadsStated
from projections.gate import reason_for_all
from projections.publish import differences_json
from projections.recent_ids import has_event
from projections.rows import EffectAnswer, Task
from projections.session import Session
from projections.stale import with_reads
from projections.task_index import MAX_ATTEMPTS
from projections.text import json_of, quoted
from projections.waiting import Arrived
from schemas.events import TaskEffectProposed
from schemas.fields import Reason
from schemas.identity import event_digest
from schemas.outputs import MAX_DIFFERENCES
from schemas.times import rfc3339

MAX_EFFECTS: Final = 256
"""Keys that are remembered of a session. Beyond it those of tasks that have ended are forgotten, the oldest first."""

_OVERHEAD_BYTES: Final = 32
"""Of an answer that is remembered, besides its texts."""


def decide_proposal_past_barrier(
    session: Session, proposal: Arrived, judged: str, *, has_waited: bool = False
) -> list[Fact]:
    """Answer a proposed effect, or let it wait for the dispatch of its task.

    `judged` is where and when it is decided, as JSON. `has_waited`: the dispatch has not come within its grace.
    """
    event: TaskEffectProposed = proposal.event
    task_id = event.task_id
    task = session.tasks.get(task_id)
    cancel = session.pending_cancel(task_id) if task is not None else None
    if cancel is not None:
        task = None
    answer = _Answer(session, proposal, task, judged)
    if task is None and cancel is None and not has_waited and session.ended_task(task_id) is None:
        return [ProposalParked(proposal)]
    if answer.is_conflict:
        return [answer.refused("key_conflict", 0)]
    if task is None:
        return [answer.refused(_reason_of_end(session, task_id) if cancel is None else cancel[0], 0)]
    if answer.duplicate_key is not None:
        return [answer.refused("duplicate_effect", 0)]
    facts: list[Fact] = []
    seen, added = task, 0
    reads = event.reads
    identity = event_digest(event.source, event.event_id) if reads else b""
    if reads and not has_event(task.step_ids, identity):
        above = len(session.readers_above(task))
        added = added_by_reads(len(json_of(reads).encode()), len(reads), task_id, above)
        added += snapshot_bytes(session, task)
        estimate = room_for(session, added, adds_names=not reads.keys() <= task.expected.keys())
        if estimate == NO_ROOM:
            return [answer.refused("session_full", 0), EventTaken(identity, proposal.timestamp, task_id)]
        seen = with_reads(session.facets, task, reads, proposal.timestamp)
        facts.append(ReadsStated(task_id, reads, proposal.timestamp, estimate))
        facts.append(EventTaken(identity, proposal.timestamp, task_id))
    refused = reason_for_all(session, task_id, seen, proposal.timestamp)
    if refused is None:
        stale = differing(seen)
        if any(is_unknown(session.facets[name]) for name in stale):
            refused = "session_full"
        elif stale:
            refused = "stale"
            answer.differences = f',"differences":{differences_json(session, seen, stale[:MAX_DIFFERENCES])}'
    facts.append(answer.cleared(added) if refused is None else answer.refused(refused, added))
    return facts


class _Answer:
    """The answer to one proposal, and what is remembered of it under its key."""

    def __init__(self, session: Session, proposal: Arrived, task: Task | None, judged: str) -> None:
        self.session = session
        self.proposal = proposal
        self.event: TaskEffectProposed = proposal.event
        self.task = task
        self.judged = judged
        self.differences = ""
        self.known = session.effects.get(self.event.idempotency_key)
        self.family = family_of(self.event.task_id, task)

    @property
    def is_conflict(self) -> bool:
        """Whether the key belongs to another effect, or to another task."""
        known, event = self.known, self.event
        if known is None:
            return False
        if not _is_of(known, event.task_id, self.task) or effect_of(known) != event.effect:
            return True
        prints = known.fingerprint, event.fingerprint
        return None not in prints and prints[0] != prints[1]

    @property
    def duplicate_key(self) -> str | None:
        """Another key under which an effect with the same fingerprint was cleared, if that is not meant."""
        event = self.event
        if event.fingerprint is None or event.allow_duplicate:
            return None
        for key, each in self.session.effects.items():
            if each.cleared and each.fingerprint == event.fingerprint and key != event.idempotency_key:
                return key
        return None

    def cleared(self, added: int) -> EffectAnswered:
        """It may happen, if the session has room to remember that."""
        known = self.known
        first = first_cleared(known) if known is not None else ""
        members = f'{self._head()},"repeat":true,"first_cleared":{first}' if first else self._head()
        remembered = self._remembered(first or self.judged, cleared=True)
        estimate, forgotten = self._room(remembered, added)
        if estimate == NO_ROOM:
            return self._answered(f'{self._head()},"reason":"session_full"', 0, None, None, cleared=False)
        return self._answered(members, estimate, remembered, forgotten, cleared=True)

    def refused(self, reason: Reason, added: int) -> EffectAnswered:
        """It must not happen. A refusal keeps the key for its effect, and nothing else."""
        known = self.known
        members = f'{self._head()},"reason":"{reason}"'
        if reason in ("key_conflict", "duplicate_effect"):
            members += f',"conflicts_with":{self._other(reason)}'
            return self._answered(members, 0, None, None, cleared=False)
        first = first_cleared(known) if known is not None else ""
        if first:
            members = f'{members},"first_cleared":{first}'
        if self.task is None or known is not None:
            return self._answered(members, 0, None, None, cleared=False)
        remembered = self._remembered("", cleared=False)
        estimate, forgotten = self._room(remembered, added)
        if estimate == NO_ROOM:
            return self._answered(members, 0, None, None, cleared=False)
        return self._answered(members, estimate, remembered, forgotten, cleared=False)

    def _head(self) -> str:
        event, proposal = self.event, self.proposal
        return (
            f'"idempotency_key":{quoted(event.idempotency_key)},"effect":{quoted(event.effect)},'
            f'"proposal":{{"source":{quoted(event.source)},"event_id":{quoted(event.event_id)},'
            f'"offset":{proposal.offset},"at":"{rfc3339(proposal.timestamp)}"}},"judged":{self.judged}'
        )

    def _other(self, reason: Reason) -> str:
        key = self.event.idempotency_key if reason == "key_conflict" else self.duplicate_key or ""
        other = self.session.effects[key]
        task = f'"task_id":{quoted(other.owner)},' if other.owner else ""
        return f'{{"idempotency_key":{quoted(key)},{task}"effect":{quoted(effect_of(other))}}}'

    def _remembered(self, first: str, *, cleared: bool) -> EffectAnswer:
        event, known = self.event, self.known
        fingerprint = event.fingerprint
        if fingerprint is None and known is not None:
            fingerprint = known.fingerprint
        return EffectAnswer(cleared, first, self.family, event.effect, fingerprint)

    def _room(self, remembered: EffectAnswer, added: int) -> tuple[int, str | None]:
        """The new size estimate and the key to forget; `NO_ROOM` if the session cannot remember one more."""
        effects, key = self.session.effects, self.event.idempotency_key
        forgotten: str | None = None
        if key not in effects and len(effects) >= MAX_EFFECTS:
            forgotten = _oldest_of_ended(self.session)
            if forgotten is None:
                return NO_ROOM, None
        texts = (key, remembered.members, remembered.owner, remembered.effect, remembered.fingerprint or "")
        added += sum(len(text.encode()) for text in texts) + _OVERHEAD_BYTES
        return room_for(self.session, added, adds_names=False), forgotten

    def _answered(
        self, members: str, estimate: int, remembered: EffectAnswer | None, forgotten: str | None, *, cleared: bool
    ) -> EffectAnswered:
        return EffectAnswered(
            self.proposal,
            members,
            self.differences,
            self.task,
            estimate,
            cleared=cleared,
            remembered=remembered,
            forgotten=forgotten,
        )


def effect_of(answer: EffectAnswer) -> str:
    """The effect that a key belongs to. Older rows have it among the members of the answer."""
    return answer.effect or str(_members_of(answer).get("effect", ""))


def first_cleared(answer: EffectAnswer) -> str:
    """Where and when an effect was first cleared, as JSON; empty if it was not."""
    if not answer.cleared:
        return ""
    return answer.members if answer.effect else json_of(_members_of(answer)["judged"])


def _members_of(answer: EffectAnswer) -> dict[str, object]:
    members: dict[str, object] = orjson.loads(f"{{{answer.members}}}")
    return members


def _is_of(known: EffectAnswer, task_id: str, task: Task | None) -> bool:
    """Whether the key belongs to the task: by its command if it is open, or as its name says."""
    owner = known.owner
    if not owner:
        return True  # an older row does not say whose it is
    if task is not None:
        return family_of(task_id, task) == owner
    return task_id == owner or (task_id.startswith(f"{owner}~") and task_id[len(owner) + 1 :].isdecimal())


def _reason_of_end(session: Session, task_id: str) -> Reason:
    """Why nothing of a task that is not open may happen: for what it was stopped, or it is too late."""
    ended = session.ended_task(task_id)
    if ended is None or ended.was_unknown:
        return "unknown_task"
    if ended.disposition in ("cancelled", "expired", "rejected"):
        return ended.reason  # type: ignore[return-value]
    return "late"


def _oldest_of_ended(session: Session) -> str | None:
    """The oldest key of a task of which no attempt is open."""
    tasks = session.tasks
    for key, answer in session.effects.items():
        owner = answer.owner
        attempts = [attempt_id(owner, number) for number in range(2, MAX_ATTEMPTS + 1)]
        if owner not in tasks and tasks.keys().isdisjoint(attempts):
            return key
    return None
