"""What a refusal for want of room says."""

from projections.budget import MAX_FULL_ROW_BYTES, MAX_ROW_BYTES, MAX_WAITING_BYTES
from projections.session import Session


def session_full(session: Session) -> str:
    """The session's row has no room for the event."""
    return (
        f"session: {session.id!r} keeps about {session.size_estimate} bytes of facets and open tasks, and takes no"
        f" new ones beyond {MAX_ROW_BYTES} bytes and nothing at all beyond {MAX_FULL_ROW_BYTES}; use fewer facets and"
        " shorter values, or erase the session"
    )


def too_many_waiting(session: Session, size_bytes: int) -> str:
    """The session has no room for one more event that waits."""
    return (
        f"session: {session.waiting_bytes} bytes of results and proposed effects wait in {session.id!r}, at most"
        f" {MAX_WAITING_BYTES}, and this one takes {size_bytes}; send large parts as payload_ref, and let fewer results"
        " wait at a time"
    )
