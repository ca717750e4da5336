"""What is true of a case, worked out from what was said in it and nothing else.

It asks one question: should this part of this result still reach the user, or what it changes, at this place in the
case? Written from the words of the design (§2 and §4), and slow: every answer reads the whole case again. It knows
neither rows nor verdicts, and judges the gate and the approaches it is compared with alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, Final

from tests.scenarios.case import UNKNOWN_TASK_GRACE, Case, Later, Moment, Said, each_of, moments

SCOPE_GRACE: Final = 30.0
UNSEEN: Final = object()
_CONTENT: Final = ("outcome", "parts", "reads", "error", "final")
_SIGNS: Final = frozenset({"task.step", "task.heartbeat", "task.extended"})
NOTHING: Final = Said("context", {"type": "nothing"})


class Truth:
    """The truth of one case. `end` is the place behind its last event.

    `is_erased`: the session was erased at some time, and nothing need be known of what was before.
    """

    def __init__(self, case: Case) -> None:
        self.moments = list(moments(case))
        self.end = len(self.moments)
        self.is_erased = any(self._of("session.erased", self.end))
        self._now = 0.0
        self._ends_at = sum(each.seconds for step in case.steps for each in each_of(step) if isinstance(each, Later))

    # What was said

    @property
    def results(self) -> list[Moment]:
        """Every result."""
        return [moment for moment in self.moments if moment.said.role == "results"]

    @property
    def tasks(self) -> list[str]:
        """Every task that was dispatched."""
        found = [moment.said.body["task_id"] for moment in self._of("task.dispatched", self.end)]
        return list(dict.fromkeys(found))

    def first_result(self, task_id: str) -> Moment | None:
        """The task's first result that is not an interim answer."""
        return next((each for each in self.results if each.said.body["task_id"] == task_id and _is_final(each)), None)

    def is_repeat(self, result: Moment) -> bool:
        """Whether the same came before, under this event id or another; or another under this one."""
        mine = result.said.body
        return any(
            earlier.position < result.position
            and earlier.said.body["task_id"] == mine["task_id"]
            and (
                earlier.event_id == result.event_id
                or all(earlier.said.body.get(name) == mine.get(name) for name in _CONTENT)
            )
            for earlier in self.results
        )

    # The question

    def why_not(
        self, result: Moment, part: dict[str, Any], place: int, at: float, delivered: Collection[str]
    ) -> str | None:
        """Why this part must not reach anybody, unmarked, at `place`, `at` seconds; None where it should.

        `delivered`: the tasks of which something was delivered before.
        """
        self._forget_erased(place)
        self._now = at
        task_id = result.said.body["task_id"]
        dispatch = self._dispatch(task_id, place)
        if dispatch is None or dispatch.at - result.at > UNKNOWN_TASK_GRACE:
            return "nobody knows the task"
        first = self.first_result(task_id)
        if first is not None and first.position < result.position:
            return "the task has returned before"
        body = dispatch.said.body
        over = self._why_cancelled(task_id, place) or self.why_over(task_id, result.position, result.at)
        if body.get("on_late") == "deliver" and over is not None and self._why_cancelled(task_id, place) is None:
            over = self._why_past_deadline(dispatch, result)
        if over is None and _parent_of(body):
            over = self._why_parent_over(dispatch, place, at)
        if over is not None:
            return over
        if not body.get("protected") and any(
            self._is_newer_in_slot(other, dispatch, place) for other in delivered if other != task_id
        ):
            return "a newer answer stands in its place"
        blocked = self._why_blocked(task_id, place)
        if blocked is not None:
            return blocked
        if not _is_final(result) and self._queues(dispatch, place):
            return "its turn has not come"
        if body.get("when_absent", "deliver") != "deliver" and self._is_user_absent(place):
            return "the user is away"
        expected = self._expected(task_id, place, result)
        scope = part.get("depends_on")
        for (facet, _reader), stated in expected.items():
            if (scope is None or facet in scope) and self._is_contradicted(task_id, facet, stated, place):
                return f"{facet} is another"
        return None

    def why_over(self, task_id: str, place: int, at: float | None = None) -> str | None:
        """Why the task is over at `place`, though it has not returned; None where it runs."""
        at = self._ends_at if at is None else at
        dispatch = self._dispatch(task_id, place)
        if dispatch is None:
            return None
        body = dispatch.said.body
        return (
            self._why_cancelled(task_id, place)
            or self._why_rejected(dispatch)
            or self._why_expired(dispatch, place, at)
            or (self._why_parent_over(dispatch, place, at) if _parent_of(body) else None)
        )

    def _forget_erased(self, place: int) -> None:
        """What was said before the session was erased counts no more. Places are asked about in their order."""
        for erased in list(self._of("session.erased", place)):
            for position in range(erased.position + 1):
                self.moments[position] = replace(self.moments[position], said=NOTHING)

    # Over before its time

    def _why_cancelled(self, task_id: str, place: int) -> str | None:
        returned = self.first_result(task_id)
        for cancel in self._of("task.cancel_requested", place):
            # A request that was there before the gate looked counts, one after a delivery does not: the place tells.
            if self._means(cancel, task_id) and (returned is None or cancel.position < place):
                return "it was cancelled"
        dispatch = self._dispatch(task_id, place)
        if dispatch is None or dispatch.said.body.get("protected"):
            return None
        for other in self._of("task.dispatched", place):
            on_newer = other.said.body.get("on_newer")
            if (
                (on_newer == "interrupt" or (on_newer == "enqueue_latest" and self._queues(dispatch, other.position)))
                and other.said.body.get("slot") == dispatch.said.body.get("slot")
                and other.position > dispatch.position
                and self._why_rejected(other) is None
            ):
                return "a newer task interrupted it"
        return None

    def _means(self, cancel: Moment, task_id: str) -> bool:
        """Whether somebody who asked for tasks to be cancelled meant this one."""
        body, dispatch = cancel.said.body, self._dispatch(task_id, self.end)
        if "task_id" in body:
            return bool(body["task_id"] == task_id) and (
                dispatch is None or dispatch.at <= cancel.at + UNKNOWN_TASK_GRACE
            )
        if dispatch is None or dispatch.position > cancel.position:
            return False
        told = dispatch.said.body
        return all(name not in body or body[name] == told.get(name) for name in ("slot", "request_id"))

    def _queues(self, dispatch: Moment, place: int) -> bool:
        """Whether the task waits for an older one of its slot."""
        body = dispatch.said.body
        if not body.get("on_newer", "allow").startswith("enqueue"):
            return False
        at = self.moments[place - 1].at
        for other in self._of("task.dispatched", dispatch.position):
            other_id = other.said.body["task_id"]
            returned = self.first_result(other_id)
            is_open = returned is None or returned.position >= place
            if other.said.body.get("slot") == body["slot"] and is_open and self.why_over(other_id, place, at) is None:
                return True
        return False

    def _why_rejected(self, dispatch: Moment) -> str | None:
        body = dispatch.said.body
        parent = body.get("parent_task_id") if body.get("parent_task_id") == body["task_id"] else _parent_of(body)
        if parent == body["task_id"]:
            return "it is its own parent"
        if parent is not None and self._dispatch(parent, dispatch.position) is not None:
            returned = self.first_result(parent)
            if returned is not None and returned.position < dispatch.position:
                return "its parent had returned"
            if self.why_over(parent, dispatch.position, dispatch.at) is not None:
                return "its parent was over"
        if body.get("on_newer") == "reject":
            for other in self._of("task.dispatched", dispatch.position):
                other_id = other.said.body["task_id"]
                returned = self.first_result(other_id)
                if (
                    other.said.body.get("slot") == body["slot"]
                    and (returned is None or returned.position > dispatch.position)
                    and self.why_over(other_id, dispatch.position, dispatch.at) is None
                ):
                    return "its place was taken"
        return None

    def _why_expired(self, dispatch: Moment, place: int, at: float) -> str | None:
        body = dispatch.said.body
        returned = self.first_result(body["task_id"])
        until = min(at, returned.at) if returned is not None and returned.position <= place else at
        why = self._why_out_of_time(dispatch, place, until)
        if why is not None:
            return why
        if body.get("while_stale") == "cancel" and self._is_stale_for(
            dispatch, place, until, body["while_stale_grace_seconds"]
        ):
            return "it was stale for too long"
        return None

    def _why_out_of_time(self, dispatch: Moment, place: int, until: float) -> str | None:
        """The clocks of a task, sign by sign. They stand still while it waits for somebody."""
        body = dispatch.said.body
        deadline = self._first_deadline(dispatch)
        beat, start = body.get("heartbeat_timeout_seconds"), body.get("start_timeout_seconds")
        heard, waits_since, has_started = dispatch.at, None, start is None
        signs = [each for each in self._by(body["task_id"], place) if dispatch.at <= each.at <= until]
        for sign in [*signs, None]:
            at = until if sign is None else sign.at
            if waits_since is None:
                if deadline is not None and at > deadline:
                    return "its time was up"
                limit = beat if has_started else start
                if limit is not None and at - heard > limit:
                    return "its agent fell silent"
            if sign is None:
                return None
            if sign.said.body["type"] == "task.extended":
                if deadline is not None:
                    deadline = max(deadline, sign.at + sign.said.body["deadline_seconds"])
                continue
            if waits_since is not None and deadline is not None:
                deadline += sign.at - waits_since
            waits_since = sign.at if sign.said.body.get("status") == "input_required" else None
            heard, has_started = sign.at, True
        return None

    def _first_deadline(self, dispatch: Moment) -> float | None:
        body = dispatch.said.body
        found = [body[name] for name in ("deadline_in", "deadline_seconds") if name in body]
        return dispatch.at + min(found) if found else None

    def _why_past_deadline(self, dispatch: Moment, result: Moment) -> str | None:
        """A task that takes its result late takes it before its deadline all the same."""
        deadline = self._first_deadline(dispatch)
        return "its time was up" if deadline is not None and result.at > deadline else None

    def _is_stale_for(self, dispatch: Moment, place: int, until: float, grace: float) -> bool:
        task_id = dispatch.said.body["task_id"]
        since: float | None = None
        for moment in [*self.moments[dispatch.position : place], None]:
            at = until if moment is None else min(moment.at, until)
            if since is not None and at - since > grace:
                return True
            if moment is not None:
                here = moment.position + 1
                expected = self._expected(task_id, here, None)
                is_stale = any(
                    self._is_contradicted(task_id, name, stated, here) for (name, _), stated in expected.items()
                )
                is_stale = is_stale or self._why_blocked(task_id, here) is not None
                since = None if not is_stale else at if since is None else since
        return False

    def _why_parent_over(self, dispatch: Moment, place: int, at: float) -> str | None:
        parent_id = dispatch.said.body["parent_task_id"]
        parent = self._dispatch(parent_id, self.end)
        if parent is None or parent.at - dispatch.at > UNKNOWN_TASK_GRACE:
            return "nobody knows its parent"
        if parent.position >= place:
            return None
        over = self.why_over(parent_id, place, at)
        if over is not None:
            return f"its parent is over: {over}"
        returned = self.first_result(parent_id)
        if returned is not None and returned.position < place:
            if self._why_blocked(parent_id, returned.position) is not None:
                return "its parent was withheld"
            if round(at - returned.at, 3) >= parent.said.body.get("scope_grace_seconds", SCOPE_GRACE):
                return "its parent has waited long enough"
        return None

    # Nobody wants it any more

    def _why_blocked(self, task_id: str, place: int) -> str | None:
        dispatch = self._dispatch(task_id, place)
        request_id = dispatch.said.body.get("request_id") if dispatch is not None else None
        for facet, value in (("session", "closed"), (f"request/{request_id}", "archived")):
            history = list(self._history(facet, place))
            if history and history[-1][0] == value and history[-1][1] != task_id:
                return f"{facet} is {value}"
        return None

    def _is_user_absent(self, place: int) -> bool:
        clients = {
            name: self._history(name, place)
            for moment in self._of("context.changed", place)
            for name in _facets_of(moment)
            if name.startswith("presence/")
        }
        return bool(clients) and all([*history][-1][0] in (None, "absent") for history in clients.values())

    def _is_newer_in_slot(self, other_id: str, dispatch: Moment, place: int) -> bool:
        other = self._dispatch(other_id, place)
        slot = dispatch.said.body.get("slot")
        return (
            other is not None
            and slot is not None
            and other.said.body.get("slot") == slot
            and other.position > dispatch.position
        )

    # What it depends on

    def _expected(self, task_id: str, place: int, result: Moment | None) -> dict[tuple[str, str], str | None]:
        """What was stated last of each facet, by the task and by each below it."""
        expected: dict[tuple[str, str], str | None] = {}
        family = [task_id, *self._children(task_id, place, whatever_they_are=False)]
        for moment in self.moments[:place]:
            body = moment.said.body
            reader = body.get("task_id")
            if reader not in family:
                continue
            if body["type"] == "task.dispatched" and moment is self._dispatch(body["task_id"], place):
                for name in body.get("depends_on", ()):
                    history = list(self._history(name, moment.position))
                    if history:
                        expected[name, reader] = history[-1][0]
                expected |= {(name, reader): value for name, value in body["snapshot"].items()}
            elif self.why_over(body["task_id"], moment.position, moment.at) is not None:
                continue  # what an agent reads that was told to stop counts for nobody
            elif body["type"] in {"task.step", "task.effect_proposed"} or (
                body["type"] == "task.result" and (body["task_id"] != task_id or self._counts(moment, result))
            ):
                expected |= {(name, reader): value for name, value in body.get("reads", {}).items()}
        return expected

    def _is_contradicted(self, task_id: str, facet: str, stated: str | None, place: int) -> bool:
        own = {task_id, *self._children(task_id, place, whatever_they_are=True)}
        history = list(self._history(facet, place))
        expected = [self._followed(stated, UNSEEN, history, own)]
        if history and history[0][1] in own:  # perhaps it read what others had made of its own first change
            expected.append(self._followed(stated, history[0][0], history[1:], own))
        return bool(history) and history[-1][0] not in expected

    def _followed(self, expected: Any, value: Any, history: list[tuple[Any, Any]], own: set[str]) -> Any:
        for after, cause in history:
            if cause in own and value in (UNSEEN, expected):
                expected = after
            value = after
        return expected

    def _children(self, task_id: str, place: int, *, whatever_they_are: bool) -> Iterator[str]:
        for moment in self._of("task.dispatched", place):
            body = moment.said.body
            if _parent_of(body) == task_id != body["task_id"] and (
                whatever_they_are or not (body.get("independent") or self._why_rejected(moment))
            ):
                yield body["task_id"]
                yield from self._children(body["task_id"], place, whatever_they_are=whatever_they_are)

    # Reading

    def _of(self, event_type: str, place: int) -> Iterator[Moment]:
        return (each for each in self.moments[:place] if each.said.body["type"] == event_type)

    def _by(self, task_id: str, place: int) -> Iterator[Moment]:
        return (
            each
            for each in self.moments[:place]
            if each.said.body.get("task_id") == task_id
            and (each.said.body["type"] in _SIGNS or (each.said.role == "results" and not _is_final(each)))
        )

    def _counts(self, moment: Moment, result: Moment | None) -> bool:
        """Whether what a result of the task read counts for another one: its own, and that of interim answers."""
        if moment == result:
            return True
        return not _is_final(moment) and (result is None or moment.position < result.position)

    def _dispatch(self, task_id: str, place: int) -> Moment | None:
        return next((each for each in self._of("task.dispatched", place) if each.said.body["task_id"] == task_id), None)

    def _history(self, facet: str, place: int) -> Iterator[tuple[str | None, str | None]]:
        newest, expires = -1, None
        gone = "absent" if facet.startswith("presence/") else None
        for moment in self._of("context.changed", place):
            facets, body = _facets_of(moment), moment.said.body
            if expires is not None and moment.at >= expires:
                expires = None
                yield gone, None
            version = body.get("versions", {}).get(facet)
            if facet not in facets or (version is not None and version <= newest):
                continue
            newest = newest if version is None else version
            seconds = body.get("expires_in_seconds", {}).get(facet)
            expires = None if seconds is None else moment.at + seconds
            yield facets[facet], body.get("cause", {}).get("task_id")
        if expires is not None and self._now >= expires:
            yield gone, None


def _is_final(result: Moment) -> bool:
    return bool(result.said.body.get("final", True))


def _parent_of(body: dict[str, Any]) -> str | None:
    """The parent that a task ends with; background work has none."""
    return None if body.get("detached") else body.get("parent_task_id")


def _facets_of(moment: Moment) -> dict[str, str | None]:
    body = moment.said.body
    return {**body.get("set", {}), **dict.fromkeys(body.get("unset", ()))}
