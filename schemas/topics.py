"""The topic registry: which topics exist, who writes them, and how the broker must keep them.

Names, partitioning and policies only. Creating and checking topics on a broker is `tidegate.topics`.
Source: design of the contract, docs/contract.md.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

Role = Literal[
    "context",
    "steps",
    "steps.cold",
    "results",
    "results.cold",
    "delivered",
    "delivered.cold",
    "withheld",
    "tasks",
    "commands",
    "dlq",
    "sessions.changelog",
]
"""What a topic is for. The topic's name is `<prefix>.<role>.v1`."""

VERSION: Final = "v1"
DEFAULT_PREFIX: Final = "tidegate"

DAY_MS: Final = 86_400_000
INPUT_RETENTION_MS: Final = 7 * DAY_MS
OUTPUT_RETENTION_MS: Final = 7 * DAY_MS
DLQ_RETENTION_MS: Final = 30 * DAY_MS

MAX_INPUT_BYTES: Final = 1_048_588
"""The broker's default `message.max.bytes`: the largest batch an ordinary topic takes."""

DLQ_MAX_MESSAGE_BYTES: Final = 2 * MAX_INPUT_BYTES
"""The DLQ keeps an input's bytes untouched and adds headers, so it takes more than an input topic does. Both limits are
of what a record takes when it is compressed."""


CHANGELOG_MAX_MESSAGE_BYTES: Final = 16 * MAX_INPUT_BYTES
"""A row takes at most 2 MiB. An event that waits takes what its record does unpacked, with headers in base64, and all
of a session at most 4 MiB: so less than 6 MiB. The rest is room for rows of format 1, which could be larger."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the contract.

    `name` is the full topic name, `written_by` a short phrase for people, `event_types` the values of
    `type` found on it (empty: not events), `config` the topic-level settings that must hold on the broker.
    """

    role: Role
    name: str
    written_by: str
    event_types: tuple[str, ...]
    config: dict[str, str] = field(default_factory=dict)

    @property
    def is_input(self) -> bool:
        """True where other services write and the gate reads."""
        return self.role in INPUT_ROLES


INPUT_ROLES: Final[tuple[Role, ...]] = ("context", "steps", "steps.cold", "results", "results.cold")

_STEP_TYPES = ("task.dispatched", "task.step", "task.heartbeat", "task.extended", "task.effect_proposed")

_WRITTEN_BY: Final[dict[Role, str]] = {
    "context": "user-facing services",
    "steps": "orchestrators and agents",
    "steps.cold": "orchestrators and agents",
    "results": "agents",
    "results.cold": "agents",
    "delivered": "the gate",
    "delivered.cold": "the gate",
    "withheld": "the gate",
    "tasks": "the gate",
    "commands": "the gate",
    "dlq": "the gate",
    "sessions.changelog": "the gate",
}

_EVENT_TYPES: Final[dict[Role, tuple[str, ...]]] = {
    "context": ("context.changed", "task.cancel_requested", "result.acknowledged", "session.erased"),
    "steps": _STEP_TYPES,
    "steps.cold": _STEP_TYPES,
    "results": ("task.result",),
    "results.cold": ("task.result",),
    "delivered": ("result.delivered",),
    "delivered.cold": ("result.delivered",),
    "withheld": ("result.withheld",),
    "tasks": ("task.status",),
    "commands": (
        "task.start",
        "task.cancel",
        "task.cancel_unmatched",
        "task.redispatch",
        "effect.cleared",
        "effect.refused",
        "result.outdated",
    ),
    "dlq": (),
    "sessions.changelog": (),
}

# Timers compare the broker's clock, not the producers' clocks.
_INPUT_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": str(INPUT_RETENTION_MS),
    "message.timestamp.type": "LogAppendTime",
}
_OUTPUT_CONFIG = {"cleanup.policy": "delete", "retention.ms": str(OUTPUT_RETENTION_MS)}

_CONFIG: Final[dict[Role, dict[str, str]]] = {
    "context": _INPUT_CONFIG,
    "steps": _INPUT_CONFIG,
    "steps.cold": _INPUT_CONFIG,
    "results": _INPUT_CONFIG,
    "results.cold": _INPUT_CONFIG,
    "delivered": _OUTPUT_CONFIG,
    "delivered.cold": _OUTPUT_CONFIG,
    "withheld": _OUTPUT_CONFIG,
    "tasks": {"cleanup.policy": "compact"},
    "commands": _OUTPUT_CONFIG,
    "dlq": {
        "cleanup.policy": "delete",
        "retention.ms": str(DLQ_RETENTION_MS),
        "max.message.bytes": str(DLQ_MAX_MESSAGE_BYTES),
    },
    "sessions.changelog": {"cleanup.policy": "compact", "max.message.bytes": str(CHANGELOG_MAX_MESSAGE_BYTES)},
}


def topic_name(role: Role, prefix: str = DEFAULT_PREFIX) -> str:
    """The full name of the topic with this role: `topic_name("context")` is `tidegate.context.v1`."""
    return f"{prefix}.{role}.{VERSION}"


def topics(prefix: str = DEFAULT_PREFIX) -> list[Topic]:
    """Every topic of the contract under `prefix`, inputs first. All of them have the same partition count."""
    return [
        Topic(role, topic_name(role, prefix), _WRITTEN_BY[role], _EVENT_TYPES[role], dict(_CONFIG[role]))
        for role in _WRITTEN_BY
    ]
