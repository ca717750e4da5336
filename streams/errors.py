"""What stops a worker."""


class FatalError(Exception):
    """The worker cannot go on without an operator: the message says what is wrong, where, and what to do."""


class LostInputError(FatalError):
    """Records that were not folded yet are no longer on the broker."""


class RestoreError(FatalError):
    """The changelog and the group's committed offsets do not belong together."""
