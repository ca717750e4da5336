"""The identities of the last events of a session or a task: eight bytes each, one after the other, the oldest first."""

from typing import Final

from schemas.identity import EVENT_DIGEST_BYTES

MAX_RECENT: Final = 16
"""Context events of a session, and steps and heartbeats of an open task, that are recognized when they come again."""

_MAX_BYTES: Final = MAX_RECENT * EVENT_DIGEST_BYTES


def is_recent(recent: bytes, identity: bytes) -> bool:
    """Whether the event is one of the last. `identity`: `schemas.identity.event_digest`."""
    return identity in recent  # at an odd place, it is as unlikely as two events with one digest


def with_event(recent: bytes, identity: bytes) -> bytes:
    """The identities with one more event."""
    return (recent + identity)[-_MAX_BYTES:]
