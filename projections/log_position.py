"""Where the logs of a partition stood when the gate decided something."""

from schemas.topics import Role


class LogPosition:
    """Where the logs stood when something was decided: every record below these offsets was folded.

    `steps_offset` is of the topic `steps_role`. `asked_offset`: how far that one had been folded when the barrier was
    asked for. A proposed effect that was folded after that may have seen a context that the barrier did not cover.
    """

    def __init__(
        self,
        partition: int,
        context_offset: int,
        steps_offset: int,
        steps_role: Role = "steps",
        asked_offset: int | None = None,
    ) -> None:
        self.partition = partition
        self.context_offset = context_offset
        self.steps_offset = steps_offset
        self.steps_role = steps_role
        self.asked_offset = asked_offset

    def covers(self, role: Role, offset: int) -> bool:
        """Whether a step had been folded when the barrier was asked for."""
        return role == self.steps_role and offset < (
            self.steps_offset if self.asked_offset is None else self.asked_offset
        )
