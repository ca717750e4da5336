"""Which of two dispatches is the older one. An attempt stands where the first task stands that it repeats."""

from projections.rows import DispatchOrder, Task


def order_of(task: Task) -> DispatchOrder:
    """Where the task's dispatch stands among others."""
    lineage = task.lineage
    if lineage is not None:
        return DispatchOrder(lineage.timestamp, lineage.offset, lineage.is_cold)
    return DispatchOrder(task.dispatched_at, task.offset, task.is_cold)


def is_older(one: DispatchOrder, other: DispatchOrder) -> bool:
    """Whether the one dispatch came before the other: in the log of their lane; between lanes, by the broker's time.

    Not by time within a lane: a broker's clock may be set back, and another leader has another clock.
    """
    if one.is_cold == other.is_cold:
        return one.offset < other.offset
    if one.timestamp != other.timestamp:
        return one.timestamp < other.timestamp
    if one.offset != other.offset:
        return one.offset < other.offset
    return other.is_cold
