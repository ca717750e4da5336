"""What stops a worker."""

from typing import Final

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

NOT_ALLOWED: Final[tuple[type[KafkaError], ...]] = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
"""Answers of a broker to a user who lacks a permission. Waiting does not help."""


class FatalError(Exception):
    """The worker cannot go on without an operator: the message says what is wrong, where, and what to do."""


class LostInputError(FatalError):
    """Records that were not folded yet are no longer on the broker."""


class RestoreError(FatalError):
    """The changelog is not whole, or does not belong to the group's committed offsets."""


def not_allowed(error: BaseException) -> FatalError:
    """What to tell of one of `NOT_ALLOWED`."""
    return FatalError(
        f"the broker does not allow it: {error!r}. Give the worker's user the permissions that docs/operations.md lists"
        " under Security."
    )
