"""The bounded field types that events share.

Sizes are UTF-8 bytes; `schemas.limits` checks what pydantic counts in characters.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

MAX_NAME_BYTES: Final = 256
MAX_VALUE_BYTES: Final = 1024
MAX_FACETS: Final = 256
MAX_SNAPSHOT_BYTES: Final = 16 * 1024
MAX_METADATA_BYTES: Final = 4 * 1024
MAX_INLINE_PART_BYTES: Final = 256 * 1024
MAX_PARTS: Final = 64
MAX_PLANNED_STEPS: Final = 64
MAX_TEXT_BYTES: Final = 4 * 1024
MAX_URI_BYTES: Final = 2 * 1024
MAX_EVENT_BYTES: Final = 768 * 1024
"""The largest input event: an output echoes it and adds a verdict, and must fit the broker's default of 1 MiB."""
MAX_NESTING: Final = 200
"""Arrays and objects inside each other, below the event itself. Parsers give up at some depth, each at another."""
MAX_INTEGER: Final = 2**63 - 1
"""What every language's integers hold."""

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)


def _as_rfc3339(value: Any) -> Any:
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC3339.fullmatch(value)):
        return value
    raise ValueError("not a time as in RFC 3339, with an offset")


Instant = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_as_rfc3339)]
"""A point in time, RFC 3339 with an offset, up to nanoseconds (kept to the microsecond)."""

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_BYTES)]
"""An id or a facet's name: 1 to 256 bytes."""

FacetValue = Annotated[str, Field(max_length=MAX_VALUE_BYTES)]
"""An opaque facet value, up to 1 KiB: an id, a version, a digest. Compared for equality only."""

Version = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
"""A number that grows with every change of a facet: a revision, a sequence, a time."""

LeaseSeconds = Annotated[float, Field(gt=0, le=604_800)]
"""How long a facet's value stands if nobody sets it again."""

Text = Annotated[str, Field(max_length=MAX_TEXT_BYTES)]
"""Text for people, up to 4 KiB."""

Facets = Annotated[dict[Name, FacetValue | None], Field(max_length=MAX_FACETS)]
"""Facets with the values seen; `null` means that the facet was seen to be absent."""

Metadata = dict[str, JsonValue]
"""Anything the dispatcher wants back with every output, up to 4 KiB as JSON."""

Lane = Literal["hot", "cold"]
Outcome = Literal["completed", "failed"]
OnStale = Literal["withhold", "annotate", "hold", "redispatch"]
WhenAbsent = Literal["deliver", "withhold", "hold"]
WhileStale = Literal["continue", "cancel"]
OnNewer = Literal["allow", "enqueue", "enqueue_latest", "reject", "interrupt"]
OnLate = Literal["withhold", "deliver"]
StepKind = Literal["model_call", "tool_call", "checkpoint", "progress", "other"]
StepStatus = Literal["started", "progressed", "completed", "failed", "input_required"]
PartKind = Literal["show", "apply"]
Acknowledged = Literal["shown", "applied", "refused"]
Decision = Literal["delivered", "withheld"]
Disposition = Literal["delivered", "withheld", "cancelled", "expired", "rejected"]

Reason = Literal[
    "fresh",
    "stale",
    "unknown_task",
    "late",
    "cancelled",
    "session_closed",
    "request_archived",
    "deadline_passed",
    "superseded",
    "user_absent",
    "heartbeat_missed",
    "not_started",
    "hold_expired",
    "held",
    "parent_ended",
    "unknown_parent",
    "scope_closed",
    "slot_taken",
    "session_full",
    "unsupported",
    "key_conflict",
    "duplicate_effect",
]
"""Why a part, a result or a task was decided as it was. `fresh` is the reason of an unmarked delivery."""


class Model(BaseModel):
    """Base of every contract model. Unknown fields are ignored, so that version 1 can grow; types are not converted."""

    model_config = ConfigDict(extra="ignore", strict=True, ser_json_inf_nan="null", use_attribute_docstrings=True)


class Cause(Model):
    """What brought a context change about."""

    task_id: Name
    """The task whose own work the change is. A task never goes stale by its own work."""


class PayloadRef(Model):
    """Where a payload too large to travel inline is kept."""

    uri: Annotated[str, Field(min_length=1, max_length=MAX_URI_BYTES)]
    """Address the consumer can fetch the payload from."""
    sha256: Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[0-9a-f]{64}$")]
    """Digest of the payload's bytes, lower-case hexadecimal."""
    bytes: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    """Size of the payload."""


class Checkpoint(Model):
    """Reference to a state the task can be resumed from."""

    uri: Annotated[str, Field(min_length=1, max_length=MAX_URI_BYTES)]
    """Address of the checkpoint, opaque to the gate."""
    sequence: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """Order of the checkpoints of one task; the last one wins."""


class Part(Model):
    """One separately judged part of a result."""

    part_id: Name
    """Unique within the result."""
    kind: PartKind
    """`show`: put before the user. `apply`: changes something."""
    payload: JsonValue = None
    """The content, any JSON value, up to 256 KiB as JSON."""
    payload_ref: PayloadRef | None = None
    """Instead of `payload` where the content is larger."""
    content_type: Name | None = None
    """Media type of the content."""
    depends_on: Annotated[list[Name], Field(max_length=MAX_FACETS)] | None = None
    """Only these of the task's expected facets matter to this part. Absent: all of them."""
    on_stale: OnStale | None = None
    """What to do with this part when an expected facet differs; absent: the task's own policy."""


class ResultError(Model):
    """Why a task failed."""

    code: Name
    """Short machine-readable code."""
    message: Text = ""
    """For people."""
