"""One audit from its first question to its report."""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from audit.case import Terms
from audit.check import PartitionCheck
from audit.collect import OUTPUT_ROLES, PartitionLogs
from audit.config import AuditConfig
from audit.findings import Findings
from audit.forwarding import check_forwarding
from audit.read import Extent, reader
from audit.report import Report
from schemas.topics import INPUT_ROLES


async def audit(config: AuditConfig) -> Report:
    """The report on everything the topics hold now. May be called while the gate runs.

    Raises `AuditError` if a topic is missing or records are deleted meanwhile, and `KafkaError` or `TimeoutError` if
    the broker does not answer. Cancelled, it leaves nothing behind.
    """
    began = time.monotonic()
    findings, counts, reasons = Findings(), Counter[str](), Counter[tuple[str, str]]()
    checked: list[PartitionLogs] = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    collecting = gc.isenabled()
    gc.disable()  # nothing cyclic arises here, and looking through millions of objects takes half the time
    try:
        async with reader(config) as read:
            extent = await read.extent()
            terms = _terms(config, extent)
            with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
                bar = progress.add_task("reading", total=extent.records)
                for group in extent.groups():
                    logs = [
                        PartitionLogs(each, extent.partitions, extent.bounds[each], findings, config.topic_prefix)
                        for each in group
                    ]
                    for roles in (OUTPUT_ROLES, INPUT_ROLES):
                        await read.read(roles, logs, lambda count: progress.advance(bar, count))
                    for each in logs:
                        check = PartitionCheck(each, terms)
                        check.run()
                        counts += check.counts + _kept(each)
                        reasons += check.reasons
                        each.sessions.clear()
                    checked += logs
    finally:
        if collecting:
            gc.enable()
    check_forwarding(checked)
    seconds = time.monotonic() - began
    notes = _notes(config, extent, counts)
    return Report(config.topic_prefix, config.group_id, extent.partitions, counts, reasons, findings, notes, seconds)


def _kept(logs: PartitionLogs) -> Counter[str]:
    read = sum(logs.counts[name] for name in (*INPUT_ROLES, "outputs", "statuses", "dlq"))
    return Counter(
        records=read, dlq=logs.counts["dlq"], forwarded=logs.counts["forwarded"], waiting=logs.waiting.total()
    )


def _terms(config: AuditConfig, extent: Extent) -> Terms:
    return Terms(
        now_ms=extent.now_ms,
        gate_running=extent.gate_running,
        grace_ms=config.unknown_task_grace_ms,
        retention_ms=config.ended_task_retention_ms,
        ended_per_session=config.ended_tasks_per_session,
        scope_grace_ms=config.scope_grace_ms,
        hold_ttl_ms=config.hold_ttl_ms,
        session_ttl_ms=config.session_ttl_ms,
        margin_ms=config.margin_ms,
        require_drained=config.require_drained,
    )


def _notes(config: AuditConfig, extent: Extent, counts: Counter[str]) -> list[str]:
    notes = []
    if not extent.has_offsets and counts["records"]:
        notes.append(f"group {config.group_id} has no committed offsets here: every input counts as waiting")
    if not extent.gate_running and (counts["pending"] or counts["waiting"]):
        notes.append(f"group {config.group_id} has no members: what waits, waits for a worker")
    if extent.open_outputs:
        notes.append(f"an open transaction hides the end of {', '.join(extent.open_outputs)}")
    if counts["barrier_unverifiable"]:
        notes.append("some results carry their producer's time, not the broker's: their barrier was not checked")
    return notes
