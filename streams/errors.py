"""What stops a worker."""


class FatalError(Exception):
    """The worker cannot go on without an operator: the message says what is wrong, where, and what to do."""


class LostInputError(FatalError):
    """Records that were not folded yet are no longer on the broker."""


class RestoreError(FatalError):
    """The changelog is not whole, or does not belong to the group's committed offsets."""
