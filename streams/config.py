"""What the engine needs to be told. Made from the settings by `tidegate.worker`."""

from dataclasses import dataclass, field
from typing import Any

from projections.rules import Rules
from schemas.fields import Lane
from schemas.topics import Role, topic_name
from streams.batches import Compression

HOT_ROLES: tuple[Role, ...] = ("context", "steps", "results")
"""The input topics of the group's consumer, in the order in which a cycle works on them."""

COLD_ROLES: tuple[Role, ...] = ("steps.cold", "results.cold")
"""The input topics of the second consumer: looked at when no hot record waits."""

FOLDED_ROLES: tuple[Role, ...] = (*HOT_ROLES, *COLD_ROLES)

STEPS: dict[Lane, Role] = {"hot": "steps", "cold": "steps.cold"}
RESULTS: dict[Lane, Role] = {"hot": "results", "cold": "results.cold"}
LANE: dict[Role, Lane] = {role: "cold" if role in COLD_ROLES else "hot" for role in FOLDED_ROLES}
DELIVERED_ROLES: dict[Lane, Role] = {"hot": "delivered", "cold": "delivered.cold"}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One gate: its brokers, topics, group and bounds. Times in seconds, sizes in bytes.

    `kafka` holds the keyword arguments every aiokafka client takes: bootstrap_servers, security_protocol and
    credentials. `cold_max_records` are looked at in one go, `cold_commit_records` written in one transaction: a hot
    result waits for as much of each partition, and for one such transaction of its own. `output_compression` is of what
    others read, dead letters apart.
    """

    kafka: dict[str, Any]
    topic_prefix: str = "tidegate"
    group_id: str = "tidegate"
    instance_id: str | None = None
    rules: Rules = field(default_factory=Rules)
    session_timeout_seconds: float = 6.0
    heartbeat_interval_seconds: float = 2.0
    rebalance_timeout_seconds: float = 30.0
    transaction_timeout_seconds: float = 15.0
    request_timeout_seconds: float = 20.0
    output_compression: Compression = "none"
    queue_budget_bytes: int = 16 * 1024 * 1024
    cycle_max_records: int = 65_536
    cold_max_records: int = 16
    cold_commit_records: int = 512
    lazy_commit_seconds: float = 0.05
    backlog_commit_seconds: float = 0.5
    state_dir: str = "."

    def topic(self, role: Role) -> str:
        """The topic's name under this gate's prefix."""
        return topic_name(role, self.topic_prefix)
