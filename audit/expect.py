"""What a task may have depended on at some place in the logs: stated by itself, read on the way, or by those below it.

The topics have no common order, and not everything the gate did tells where it did it. So a statement has an interval
of steps offsets in which it was folded, and a facet has a set of values that may have been expected: one wherever the
logs tell exactly, more where they do not. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from audit.case import STEPS_OF, Case, Place
from audit.logs import NEVER, Answer, Facets, Output, Proposal, Result, Value
from audit.room import was_never_near

MAX_EFFECTS: Final = 256
"""The gate remembers the answers to so many keys of a session."""
_MAX_OWN_CHANGES: Final = 64
"""The gate keeps so many changes of a facet by one task's own work; beyond that it joins some."""


class Odd(Enum):
    """What a facet may be expected to be beside a value."""

    ANYTHING = "anything"
    NOTHING = "nothing"


ANYTHING: Final = Odd.ANYTHING
"""The logs do not tell which value."""
NOTHING: Final = Odd.NOTHING
"""The task does not depend on the facet."""

Expected = frozenset[Value | Odd]
END: Final = float("inf")
BEFORE: Final = 0.5
"""Distance from a steps offset at which something was folded that came after all steps below that offset."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A place among the steps: everything below `least` was folded, nothing at or beyond `most`."""

    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Statement:
    """Values that joined what a task depends on, folded somewhere from `low` to `high` among the steps.

    `reader` is the task that stated them, it or one below it: what that one states later replaces them, nothing else.
    `is_certain`: that it was folded at all. `is_inside`: that it was folded before the cut in question, whatever `high`
    says.
    """

    reader: str
    low: float
    high: float
    values: dict[str, Expected]
    is_certain: bool = True
    is_inside: bool = False

    def is_below(self, cut: Cut) -> bool:
        """Whether it was certainly folded before the cut."""
        return self.is_certain and (self.is_inside or self.high < cut.least)


def exactly(facets: Facets) -> dict[str, Expected]:
    """Stated values that are known."""
    return {name: frozenset((value,)) for name, value in facets.items()}


def expected_at(statements: Iterable[Statement], cut: Cut) -> dict[tuple[str, str], Expected]:
    """For every facet and who may have stated it before the cut, the values that that one may have stated last."""
    found: dict[tuple[str, str], list[Statement]] = {}
    for statement in statements:
        if statement.low < cut.most or statement.is_inside:
            for name in statement.values:
                found.setdefault((name, statement.reader), []).append(statement)
    expected: dict[tuple[str, str], Expected] = {}
    for (name, reader), several in found.items():
        if len(several) == 1 and several[0].is_below(cut):
            expected[name, reader] = several[0].values[name]
            continue
        certain = [each.low for each in several if each.is_below(cut)]
        latest = max(certain, default=-1.0)
        values: Expected = frozenset() if certain else frozenset((NOTHING,))
        for each in several:
            if each.high >= latest:
                values |= each.values[name]
        expected[name, reader] = values
    return expected


def statements_of(
    case: Case,
    here: Place | None = None,
    result: Result | None = None,
    output: Output | None = None,
    seen: frozenset[str] = frozenset(),
) -> list[Statement]:
    """Everything that a known task states, and that those below it state for it.

    `here`: the place in question, in the task's lane, where it is known.

    `result`: the one being judged, whose reads are in; `output` is its verdict. Without it, the reads of whichever
    result was looked at first.
    """
    task = case.task
    if task is None:
        return []
    me, offset = case.task_id, task.offset
    told = [Statement(me, offset, offset, exactly(task.snapshot) | taken_by(case, result, output))]
    for role, at, reads in case.session.reads.get(case.task_id, ()):
        if role != task.role:
            told.append(Statement(me, offset, END, exactly(reads), is_certain=False))
        elif at > offset:
            told.append(Statement(me, at, at, exactly(reads)))
    told += _reads_of_results(case, result)
    told += _reads_of_effects(case, here)
    for child in case.children:
        if child.task is not None and not child.task.independent and child.task_id not in seen:
            told += _joined(child, case, here, seen | {case.task_id})
    return told


def taken_by(case: Case, result: Result | None, output: Output | None) -> dict[str, Expected]:
    """What the gate took for `depends_on`: as its status says, or failing that, what the verdict echoes."""
    task, status, session = case.task, case.status, case.session
    if task is None or not task.depends_on:
        return {}
    names = [name for name in task.depends_on if name not in task.snapshot]
    if status is not None and status.seen:
        return exactly({name: status.taken[name] for name in names if name in status.taken})
    if result is None or output is None or case.children or session.proposals:
        return {name: frozenset((ANYTHING, NOTHING)) for name in names}
    read = set(result.reads)
    for _, _, reads in session.reads.get(case.task_id, ()):
        read |= reads.keys()
    return exactly({name: output.snapshot[name] for name in names if name in output.snapshot and name not in read})


def _reads_of_results(case: Case, judged: Result | None) -> Iterator[Statement]:
    """A result's reads are folded when it is first looked at, which is told only where it was decided at once."""
    first = next((result for result, verdict in case.judged if verdict.was_first and result.final), None)
    for result in case.results:
        if not result.reads:
            continue
        if not result.final and result is not judged:
            # An interim answer's reads count from then on, like those of a step.
            if judged is not None and judged.role == result.role and judged.offset < result.offset:
                continue
        elif judged is not None:
            if result is not judged:
                continue
        elif first is not None and result is not first:
            continue
        verdict = next((verdict for each, verdict in case.judged if each is result), None)
        low = high = case.least_steps(result) - BEFORE
        if verdict is None or not verdict.was_first:
            high = END
        else:
            place = case.place_of(result, verdict, 0)
            if place.steps_offset is None:
                high = END
            else:
                high = place.steps_offset - BEFORE
                if not case.may_wait(result):
                    low = high
        yield Statement(
            case.task_id,
            min(low, high),
            high,
            exactly(result.reads),
            is_certain=verdict is not None and (verdict.was_first or verdict.is_late),
            is_inside=result is judged,
        )


def _reads_of_effects(case: Case, here: Place | None) -> Iterator[Statement]:
    """A proposed effect's reads are folded when it is answered, if its task is open then and its session takes them."""
    task, session = case.task, case.session
    if task is None or not session.answers:
        return
    if case.unsettled or len(session.proposals) > MAX_EFFECTS:
        # The answer to a key may be forgotten: then a later proposal with it counts like the first.
        for proposal in (each for several in session.proposals.values() for each in several):
            if proposal.task_id == case.task_id and proposal.reads:
                yield Statement(case.task_id, task.offset, END, exactly(proposal.reads), is_certain=False)
        return
    seen: set[tuple[str, str]] = set()
    answers = sorted((each for several in session.answers.values() for each in several), key=lambda told: told.offset)
    for answer in answers:
        if answer.task_id != case.task_id or answer.reason in NOT_READ:
            continue
        proposals = proposals_for(session.proposals.get(answer.key, ()), answer)
        for proposal in proposals:
            if not proposal.reads:
                continue
            reads = exactly(proposal.reads)
            # Either there was no room for the reads, or what they name is unknown for want of room. What comes again
            # states nothing, and of some reasons it is not told whether the task had ended.
            is_again = (proposal.source, proposal.event_id) in seen
            seen.add((proposal.source, proposal.event_id))
            is_taken = answer.reason is None or (answer.reason == "stale" and bool(answer.differences))
            is_taken = (is_taken or answer.reason in ("session_closed", "request_archived")) and not is_again
            if is_taken and len(proposals) == 1 and proposal.role == task.role:
                at, there = answer.steps_offset, Place(answer.context_offset, answer.steps_offset)
                if here is None or not here.is_before(there):
                    is_inside = here is not None and there.is_before(here)
                    yield Statement(case.task_id, at - BEFORE, at + BEFORE, reads, is_inside=is_inside)
            else:
                yield Statement(case.task_id, task.offset, END, reads, is_certain=False)


NOT_READ: Final = ("late", "unknown_task", "cancelled", "key_conflict", "duplicate_effect")
"""Reasons of answers to proposals whose reads certainly did not join what their task depends on."""


def proposals_for(proposals: Iterable[Proposal], answer: Answer) -> list[Proposal]:
    """The proposals that an answer may be about: one, or of those of an older version the first of each lane."""
    about = [each for each in proposals if answer.is_about(each)]
    return about[:1] if len({each.role for each in about}) == 1 else about


def _joined(child: Case, above: Case, here: Place | None, seen: frozenset[str]) -> list[Statement]:
    """What a child states, as far and as exactly as it joined the task above it."""
    task, parent, status = child.task, above.task, child.status
    if task is None or parent is None:
        return []
    several_lives = task.again and child.unsettled
    if child.disposition == "rejected" and not several_lives:
        return []
    told = statements_of(child, here if task.role == parent.role and task.offset > parent.offset else None, seen=seen)
    ended = child.ended_at
    ended_at = ended.steps_offset if ended is not None else None
    is_certain = status is not None and status.seen and task.role == parent.role and not child.given_up
    if task.role != parent.role or several_lives:
        return [replace(each, low=parent.offset, high=END, is_certain=False, is_inside=False) for each in told]
    if ended_at is not None:
        told = [each for each in told if each.low < ended_at]
    elif not child.is_open:  # it was stopped, and nothing says where among the steps
        told = [each if each.low <= task.offset else replace(each, is_certain=False) for each in told]
    if task.offset > parent.offset:
        return told if is_certain else [replace(each, is_certain=False) for each in told]
    # Its dispatch came before its parent's: all it expected by then joined with that.
    is_certain = is_certain and (child.is_open or (ended_at is not None and ended_at > parent.offset))
    moment = parent.offset + BEFORE / 2
    then = expected_at(told, Cut(parent.offset, parent.offset))
    joined = [
        Statement(reader, moment, moment, {name: values - {NOTHING}}, is_certain=is_certain and NOTHING not in values)
        for (name, reader), values in then.items()
    ]
    later = [each if each.low > parent.offset else replace(each, is_certain=False) for each in told]
    later = [each for each in later if each.high > parent.offset]
    return joined + (later if is_certain else [replace(each, is_certain=False) for each in later])


# ---- own changes


@dataclass(frozen=True, slots=True)
class Mover:
    """A task whose changes move along what another expects. Surely so for those below context offset `until`."""

    task_id: str
    until: float


def movers_of(case: Case, cut: Cut) -> list[Mover]:
    """The task itself, and those below it that may have joined before the cut."""
    movers = [Mover(case.task_id, END)]
    _add_movers(case, cut, END, movers, {case.task_id})
    own = case.session.own
    return [mover for mover in movers if mover.task_id in own]


def _add_movers(case: Case, cut: Cut, until: float, movers: list[Mover], seen: set[str]) -> None:
    parent = case.task
    if parent is None:
        return
    for child in case.children:
        task, status = child.task, child.status
        if task is None or child.task_id in seen or (task.role == parent.role and task.offset >= cut.most):
            continue
        seen.add(child.task_id)
        ended = child.ended_at
        surely = (
            status is not None
            and status.seen
            and child.disposition != "rejected"
            and not child.given_up
            and not child.unsettled
            and task.role == parent.role
            and task.offset < cut.least
            and (
                task.offset > parent.offset
                or child.is_open
                or (ended is not None and ended.steps_offset is not None and ended.steps_offset > parent.offset)
            )
        )
        here = until if surely else 0.0
        movers.append(Mover(child.task_id, here))
        # What those further down change counts as long as the child is open.
        below = here if child.is_open else min(here, ended.context_offset if ended is not None else 0.0)
        _add_movers(child, cut, below, movers, seen)


def moved_along(
    case: Case, movers: list[Mover], name: str, stated: Expected, context_offset: int, actual: Value
) -> Expected:
    """The values expected of a facet after the own changes below `context_offset`.

    A first change of a facet never seen before may have come before the read or after it: if what was read is what is
    there, it came before. A change that the session may have had no room for does not surely move anything.
    """
    session = case.session
    since = session.erased_before(context_offset)
    had_room = was_never_near(case)
    changes = []
    for mover in movers:
        forgotten, perhaps_forgotten = _forgotten_before_dispatch(case, mover.task_id)
        changes += [
            (offset, before, after, had_room and perhaps_forgotten <= offset < mover.until)
            for offset, before, after in session.own[mover.task_id].get(name, ())
            if since < offset < context_offset and offset >= forgotten
        ]
    if not changes:
        return stated
    if len(changes) > _MAX_OWN_CHANGES:
        return frozenset((ANYTHING,))
    changes.sort(key=lambda change: change[0])
    if changes[0][1] is not NEVER or not had_room:
        return _moved(stated, changes)
    values: Expected = frozenset()
    for each in stated:
        later = _moved(frozenset((each,)), changes[1:])
        values |= later if later == {actual} else _moved(frozenset((each,)), changes) | (later & {actual})
    return values


def _forgotten_before_dispatch(case: Case, task_id: str) -> tuple[int, int]:
    """Own changes that came too long before the task's dispatch to count: surely, and perhaps, below these offsets.

    They are kept for the grace from the last one on.
    """
    session, terms, task = case.session, case.terms, case.session.tasks.get(task_id)
    if task is None:
        return 0, 0
    surely = perhaps = 0
    earlier = [each for each in session.own_times.get(task_id, ()) if each[1] <= task.at_ms]
    for number, (offset, at_ms) in enumerate(earlier, start=1):
        next_ms = earlier[number][1] if number < len(earlier) else task.at_ms
        if next_ms - at_ms > terms.grace_ms - terms.margin_ms:
            perhaps = offset + 1
            if number == len(earlier) and next_ms - at_ms > terms.grace_ms + terms.margin_ms:
                surely = perhaps
    return surely, perhaps


def _moved(values: Expected, changes: list[tuple[int, Value, Value, bool]]) -> Expected:
    for _, before, after, is_certain in changes:
        moved: set[Value | Odd] = set()
        for value in values:
            if isinstance(value, Odd) or not (before is NEVER or before == value):
                moved.add(value)
            else:
                moved.add(after)
                if not is_certain:
                    moved.add(value)
        values = frozenset(moved)
    return values


def cut_of(case: Case, result: Result, steps_offset: int | None) -> Cut:
    """Where among its task's steps a result was judged."""
    task = case.task
    if task is not None and task.role != STEPS_OF[result.role]:
        return Cut(task.offset + 1, END)
    if steps_offset is None:
        return Cut(case.least_steps(result), END)
    return Cut(steps_offset, steps_offset)
