"""Which tasks a request to cancel means. Changes nothing."""

from projections.rows import CancelRequest, Task
from projections.session import Session


def reached_by(session: Session, request: CancelRequest) -> list[str]:
    """The open tasks that a request means which names no task id, in the order in which they were folded."""
    found = session.tasks if request.request_id is None else session.tasks_of_request(request.request_id)
    tasks = session.tasks
    return [task_id for task_id in found if reaches(request, task_id, tasks[task_id], 0)]


def reaches(request: CancelRequest, task_id: str, task: Task, grace_ms: int) -> bool:
    """Whether a request to cancel means the task. A task that it names must be dispatched within the grace after it."""
    if request.task_id is not None:
        return request.task_id == task_id and task.dispatched_at <= request.timestamp + grace_ms
    if request.request_id is not None and request.request_id != task.request_id:
        return False
    if request.slot is not None and request.slot != task.slot:
        return False
    return task.dispatched_at <= request.timestamp


def cancelled_by(session: Session, task_id: str, task: Task, grace_ms: int) -> tuple[int, int] | None:
    """The first request that means this task, whose dispatch is being folded: when it came (ms), and its offset.

    None if there is none.
    """
    extras, at_ms = session.extras, session.cancels.get(task_id)
    found = None if at_ms is None else (at_ms, 0)
    if extras is not None:
        for request in extras.cancels:
            if reaches(request, task_id, task, grace_ms) and (found is None or request.timestamp < found[0]):
                found = request.timestamp, request.offset
    return found
