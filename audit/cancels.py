"""Requests to cancel: which tasks each means, and that those which met none were answered so."""

from __future__ import annotations

from audit.case import Case, Terms
from audit.collect import PartitionLogs
from audit.findings import Example
from audit.logs import CancelRequest, Task


def may_reach(case: Case, task: Task, request: CancelRequest) -> bool:
    """Whether the request may have stopped the task."""
    if any(request.names(name, above) for name, above in _repeated(case, task, request)):
        return True
    if not request.names(case.task_id, task):
        return False
    if request.task_id is not None:
        if task.repeats is not None and request.offset >= task.commanded_at:
            return True
        return task.at_ms <= request.at_ms + case.terms.grace_ms + case.terms.slack_ms or not request.broker_time
    return task.at_ms <= request.at_ms or not request.broker_time


def must_reach(case: Case, task: Task, request: CancelRequest) -> bool:
    """Whether the request must have stopped the task, if that was open when it came or was dispatched later.

    One that names a task waits for its dispatch for the grace, and reaches the attempts that were commanded after it.
    Any other reaches what was dispatched before it.
    """
    if any(request.task_id == name for name, _ in _repeated(case, task, request)):
        return True
    if not request.names(case.task_id, task) or not request.broker_time:
        return False
    if request.task_id is not None:
        return task.at_ms + case.terms.margin_ms < request.at_ms + case.terms.grace_ms
    return task.at_ms <= request.at_ms


def _repeated(case: Case, task: Task, request: CancelRequest) -> list[tuple[str, Task]]:
    """The tasks that an attempt repeats, if it had been commanded when the request came."""
    if request.offset < task.commanded_at:
        return []
    tasks = case.session.tasks
    return [(name, tasks[name]) for name in task.above_it if name in tasks]


class CancelsCheck:
    """The comparison for the requests to cancel of one session."""

    def __init__(self, logs: PartitionLogs, terms: Terms, session_id: str, cases: dict[str, Case]) -> None:
        self._logs = logs
        self._terms = terms
        self._session_id = session_id
        self._session = logs.session(session_id)
        self._cases = cases

    def run(self) -> None:
        """Check every request and every answer."""
        session, logs = self._session, self._logs
        if session.erased or session.may_have_idled(self._terms.session_ttl_ms):
            return
        requests = {request.offset: request for request in session.cancels}
        answered: set[int] = set()
        for answer in session.unmatched:
            request = requests.get(answer.requested)
            if answer.requested in answered:
                self._note("cancel_answered_wrongly", f"{answer.event_id}: it was answered before", answer.offset)
            answered.add(answer.requested)
            if request is None or (request.source, request.event_id) != (answer.source, answer.event_id):
                if answer.requested >= logs.bounds["context"].beginning:
                    self._note("command_unfounded", f"nobody asked for it at {answer.requested}", answer.offset)
            elif met := self._surely_met(request):
                self._note("cancel_answered_wrongly", f"{answer.event_id}: it means task {met}", answer.offset)
        if logs.bounds["commands"].truncated or any(logs.bounds[role].truncated for role in ("steps", "steps.cold")):
            return
        seen: set[tuple[str, str]] = set()
        for request in session.cancels:
            identity = request.source, request.event_id
            is_repeat = identity in seen
            seen.add(identity)
            if is_repeat or request.offset in answered or not self._is_due(request) or self._may_have_met(request):
                continue
            self._note("cancel_unanswered", f"{request.event_id} at {request.offset} met nothing", None)

    def _is_due(self, request: CancelRequest) -> bool:
        terms, logs = self._terms, self._logs
        due_ms = request.at_ms + terms.grace_ms
        is_over = due_ms < terms.now_ms - terms.slack_ms
        handled = request.offset < logs.bounds["context"].handled
        return terms.gate_running and is_over and handled and not logs.waiting.total()

    def _may_have_met(self, request: CancelRequest) -> bool:
        """Whether a task is there that the request may have reached, or one that nothing but its name is known of."""
        commanded = [each.new_task_id for several in self._session.redispatches.values() for each in several]
        if request.task_id in commanded:
            return True
        for task_id, case in self._cases.items():
            if case.task is None:
                if request.task_id == task_id:
                    return True
            elif may_reach(case, case.task, request):
                return True
        return False

    def _surely_met(self, request: CancelRequest) -> str | None:
        """A task that was open when the request came."""
        for task_id, case in self._cases.items():
            task, status = case.task, case.status
            if task is None or status is None or case.unsettled or not must_reach(case, task, request):
                continue
            others = (each for each in self._session.cancels if each is not request and each.names(task_id, task))
            at_ms = max(request.at_ms, task.at_ms)
            is_only_one = all(each.at_ms > at_ms for each in others)
            was_stopped_by_it = status.reason == "cancelled" and status.ended_ms == at_ms and is_only_one
            if was_stopped_by_it or (case.is_open and case.handled(task.role, task.offset)):
                return task_id
        return None

    def _note(self, kind: str, detail: str, offset: int | None) -> None:
        topic = self._logs.names["context" if offset is None else "commands"]
        self._logs.findings.add(kind, Example(detail, self._logs.partition, topic, offset, self._session_id))
