"""The identities of the last events of a session or a task: eight bytes each, one after the other, the oldest first.

Whether an event is one of them is asked as `identity in recent`: it is as unlikely to be found at an odd place as two
events are to have one digest.
"""

from typing import Final

from schemas.identity import EVENT_DIGEST_BYTES

MAX_RECENT: Final = 16
"""Context events of a session, and steps and heartbeats of an open task, that are recognized when they come again."""

RECENT_BYTES: Final = MAX_RECENT * EVENT_DIGEST_BYTES


def with_event(recent: bytes, identity: bytes) -> bytes:
    """The identities with one more event."""
    return (recent + identity)[-RECENT_BYTES:]
