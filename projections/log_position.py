"""Where the logs of a partition stood when the gate decided something."""


class LogPosition:
    """How far the input topics had been read when something was decided: every record below these offsets was folded.

    Steps and results are of the lane that is being decided. It moves along with the records.
    """

    def __init__(
        self,
        partition: int,
        context_offset: int,
        steps_offset: int,
        results_offset: int = 0,
        *,
        is_cold: bool = False,
    ) -> None:
        self.partition = partition
        self.context_offset = context_offset
        self.steps_offset = steps_offset
        self.results_offset = results_offset
        self.is_cold = is_cold
