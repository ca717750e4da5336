"""What the settings mean to the engine."""

from __future__ import annotations

from projections.rules import Rules
from streams.config import EngineConfig
from tidegate.settings import Settings


def engine_config(settings: Settings) -> EngineConfig:
    """What the settings mean to the engine."""
    return EngineConfig(
        kafka=settings.kafka_kwargs(),
        topic_prefix=settings.topic_prefix,
        group_id=settings.group_id,
        instance_id=settings.instance_id,
        rules=Rules(
            source=settings.group_id,
            topic_prefix=settings.topic_prefix,
            unknown_task_grace_ms=int(settings.unknown_task_grace_seconds * 1000),
            ended_task_retention_ms=int(settings.ended_task_retention_seconds * 1000),
            ended_tasks_per_session=settings.ended_tasks_per_session,
            scope_grace_ms=int(settings.scope_grace_seconds * 1000),
            hold_ttl_ms=int(settings.hold_ttl_seconds * 1000),
            session_ttl_ms=int(settings.session_ttl_seconds * 1000),
            shadow=settings.shadow,
            shadow_task_types=frozenset(settings.shadow_task_types),
        ),
        session_timeout_seconds=settings.session_timeout_seconds,
        heartbeat_interval_seconds=settings.heartbeat_interval_seconds,
        rebalance_timeout_seconds=settings.rebalance_timeout_seconds,
        transaction_timeout_seconds=settings.transaction_timeout_seconds,
        request_timeout_seconds=settings.request_timeout_seconds,
        output_compression=settings.output_compression,
        queue_budget_bytes=settings.queue_budget_bytes,
        cycle_max_records=settings.cycle_max_records,
        state_dir=str(settings.state_dir),
    )
