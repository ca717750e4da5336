"""The clocks of an open task: its deadline, and how long its agent may be silent. Changes nothing.

While the task waits for a person, none of them runs. What is left of the deadline is then added again, see `evolve`.
"""

from projections.rows import Task
from schemas.fields import Reason


def is_waiting_for_person(task: Task) -> bool:
    """Whether its clocks stand still."""
    return task.clocks is not None and task.clocks.waits_since is not None


def deadline_of(task: Task) -> int | None:
    """The time (ms) after which the task ends; None if there is none, or while the clocks stand still."""
    policy, clocks = task.policy, task.clocks
    if policy is None:
        return None
    if clocks is None:
        return policy.deadline_ms
    if clocks.waits_since is not None:
        return None
    return policy.deadline_ms if clocks.deadline_ms is None else clocks.deadline_ms


def awaits_first_sign(task: Task) -> bool:
    """Whether the agent has not been heard of, and its dispatch limits for how long."""
    policy = task.policy
    if policy is None or policy.options is None or policy.options.start_timeout_ms is None:
        return False
    return task.clocks is None or not task.clocks.has_started


def given_up_at(task: Task) -> tuple[int, Reason] | None:
    """When (ms) and why the task ends if its agent stays silent; None if that has no limit."""
    policy = task.policy
    if policy is None or is_waiting_for_person(task):
        return None
    if awaits_first_sign(task):
        options, clocks = policy.options, task.clocks
        assert options is not None
        assert options.start_timeout_ms is not None
        if clocks is not None and clocks.is_queued:
            return None
        began = clocks.turn_at if clocks is not None and clocks.turn_at is not None else task.dispatched_at
        return began + options.start_timeout_ms, "not_started"
    if policy.heartbeat_timeout_ms is None:
        return None
    return task.last_heartbeat + policy.heartbeat_timeout_ms, "heartbeat_missed"


def has_run_out(task: Task, now_ms: int) -> bool:
    """Whether a clock ran out before that time, so that no later sign of life can turn it back.

    The task is open still: something on the cold lane's topics may have kept it from falling due.
    """
    if task.policy is None or task.wait is not None:
        return False
    deadline_ms, given_up = deadline_of(task), given_up_at(task)
    return (deadline_ms is not None and deadline_ms < now_ms) or (given_up is not None and given_up[0] < now_ms)


def minds_signs_of_life(task: Task) -> bool:
    """Whether it matters that the agent is alive."""
    policy = task.policy
    if policy is not None and policy.heartbeat_timeout_ms is not None:
        return True
    return awaits_first_sign(task) or is_waiting_for_person(task)
