"""Which tasks a request to cancel means. Changes nothing."""

from projections.rows import CancelRequest, SessionRow, Task
from projections.session import Session


def reached_by(session: Session, request: CancelRequest) -> list[str]:
    """The open tasks that a request means which names no task id, in the order in which they were folded."""
    found = session.tasks if request.request_id is None else session.tasks_of_request(request.request_id)
    tasks = session.tasks
    return [task_id for task_id in found if reaches(request, task_id, tasks[task_id])]


def reaches(request: CancelRequest, task_id: str, task: Task) -> bool:
    """Whether a request to cancel means the task."""
    if request.task_id is not None:
        return request.task_id == task_id
    if request.request_id is not None and request.request_id != task.request_id:
        return False
    if request.slot is not None and request.slot != task.slot:
        return False
    return task.dispatched_at <= request.timestamp


def is_cancelled(row: SessionRow, task_id: str, task: Task) -> bool:
    """Whether a request that came before means this task, whose dispatch is being folded."""
    extras = row.extras
    return task_id in row.cancels or (
        extras is not None and any(reaches(request, task_id, task) for request in extras.cancels)
    )
