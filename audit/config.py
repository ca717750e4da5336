"""What an audit is told: where the topics are, and by which rules the gate was set to decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """`kafka`: the connection options of aiokafka's clients. Times that end in `_ms` are the gate's own settings."""

    kafka: dict[str, Any]
    bootstrap_servers: str
    """Where it looks, for messages."""
    topic_prefix: str
    group_id: str
    unknown_task_grace_ms: int
    ended_task_retention_ms: int
    ended_tasks_per_session: int
    scope_grace_ms: int
    hold_ttl_ms: int
    session_ttl_ms: int
    request_timeout_seconds: float
    transaction_timeout_seconds: float
    margin_ms: int = 0
    """How much older than a result a record must be for the verdict to have had to know it."""
    require_drained: bool = False
    """Whether an input that the gate has not come to yet, or a parked result, is a finding."""
