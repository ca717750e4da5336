"""`tidegate audit`: what the settings tell an audit, and what a person is told of it."""

from __future__ import annotations

import asyncio

import typer
from aiokafka.errors import KafkaError
from rich.console import Console

from audit import AuditConfig, AuditError, Report
from audit import audit as run_audit
from tidegate.errors import TidegateError
from tidegate.refusals import tell_once, unanswered
from tidegate.settings import Settings


def run(settings: Settings, *, json: bool = False, require_drained: bool = False, margin_ms: int = 0) -> int:
    """Audit, print the report, and return the exit status: 0 if nothing was found, 1 otherwise.

    json: one JSON object on standard output instead of tables. For the others see `AuditConfig`.
    Raises `TidegateError` if the broker cannot be reached or a topic is missing.
    """
    tell_once()
    report = asyncio.run(audit(settings, require_drained=require_drained, margin_ms=margin_ms))
    if json:
        typer.echo(report.to_json())
    else:
        report.print(Console())
    return 0 if report.clean else 1


async def audit(settings: Settings, *, require_drained: bool = False, margin_ms: int = 0) -> Report:
    """The report on everything the topics hold now. Raises `TidegateError` as `run` does."""
    config = AuditConfig(
        kafka=settings.kafka_kwargs(),
        bootstrap_servers=settings.bootstrap_servers,
        topic_prefix=settings.topic_prefix,
        group_id=settings.group_id,
        unknown_task_grace_ms=int(settings.unknown_task_grace_seconds * 1000),
        ended_task_retention_ms=int(settings.ended_task_retention_seconds * 1000),
        ended_tasks_per_session=settings.ended_tasks_per_session,
        scope_grace_ms=int(settings.scope_grace_seconds * 1000),
        hold_ttl_ms=int(settings.hold_ttl_seconds * 1000),
        session_ttl_ms=int(settings.session_ttl_seconds * 1000),
        request_timeout_seconds=settings.request_timeout_seconds,
        transaction_timeout_seconds=settings.transaction_timeout_seconds,
        margin_ms=margin_ms,
        require_drained=require_drained,
    )
    try:
        return await run_audit(config)
    except AuditError as error:
        raise TidegateError(error.message, error.hint) from error
    except (KafkaError, TimeoutError) as error:
        raise unanswered(settings, error) from error
