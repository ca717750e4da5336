"""`tidegate audit`: read all topics and recompute what the gate should have done, by code that shares nothing with it.

What it knows is what the topics say. Its limits:
- The tasks topic is compacted, so values taken for `depends_on` facets come from the newest status or, failing that,
  from the verdict's echoed snapshot. That the facet once had that value is checked, not that it had it at the right
  moment.
- Where the oldest records are gone, what cannot be verified any more is counted, and not held against the gate.
- Sessions that were erased: their verdicts are checked against the context since, their dispositions are not.
- The topics have no common order. What a task depends on through others (its children's reads, reads of results that
  waited, effects) is told exactly only where a verdict names the place; elsewhere several values are possible, and only
  what contradicts all of them is held against the gate. So it is with slots, scopes and cancellations: an older or
  newer task, a parent or a child counts as open where a verdict shows it. Such verdicts are counted as uncertain.
- Whether a step comes again is told among those of its task's lane. Of two lanes the order is not known.
- Whether a proposal that was refused kept its key is not always told (was its task open, had the session room): until
  another proposal with the key is answered, both are possible. Of more than 256 keys of a session none is verified,
  nor are answers of versions that did not name their proposals.
- A verdict that waited names a steps offset without saying of which lane's topic.
- How full a session was is counted roughly: a part may be withheld `session_full` if it depends on a facet that changed
  when the session may have kept an eighth of its limit or more. Where it may have, own changes perhaps moved nothing.
- That a task was stopped while its snapshot was broken is checked by its policy and its grace only.
- Whether a barrier was kept is told by the brokers' timestamps. With replicas or several brokers a record can carry an
  older time than one that was acknowledged before it: give a margin there.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import Counter

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.topics import INPUT_ROLES
from tidegate.audit.case import Terms
from tidegate.audit.check import PartitionCheck
from tidegate.audit.collect import OUTPUT_ROLES, PartitionLogs
from tidegate.audit.findings import Findings
from tidegate.audit.forwarding import check_forwarding
from tidegate.audit.read import Extent, reader
from tidegate.audit.report import Report
from tidegate.refusals import tell_once
from tidegate.settings import Settings

__all__ = ["audit", "run"]


def run(settings: Settings, *, json: bool = False, require_drained: bool = False, margin_ms: int = 0) -> int:
    """Audit, print the report, and return the exit status: 0 if nothing was found, 1 otherwise.

    json: one JSON object on standard output instead of tables.
    require_drained: an input the gate has not come to yet, or a parked result, is a finding.
    margin_ms: how much older than a result a record must be for the verdict to have had to know it.
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
    """The report on everything the topics hold now. May be called while the gate runs.

    Raises `TidegateError` if the broker cannot be reached or a topic is missing. Cancelled, it leaves nothing behind.
    """
    began = time.monotonic()
    findings, counts, reasons = Findings(), Counter[str](), Counter[tuple[str, str]]()
    checked: list[PartitionLogs] = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    collecting = gc.isenabled()
    gc.disable()  # nothing cyclic arises here, and looking through millions of objects takes half the time
    try:
        async with reader(settings) as read:
            extent = await read.extent()
            terms = _terms(settings, extent, require_drained=require_drained, margin_ms=margin_ms)
            with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
                bar = progress.add_task("reading", total=extent.records)
                for group in extent.groups():
                    logs = [
                        PartitionLogs(each, extent.partitions, extent.bounds[each], findings, settings.topic_prefix)
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
    notes = _notes(settings, extent, counts)
    return Report(
        settings.topic_prefix, settings.group_id, extent.partitions, counts, reasons, findings, notes, seconds
    )


def _kept(logs: PartitionLogs) -> Counter[str]:
    read = sum(logs.counts[name] for name in (*INPUT_ROLES, "outputs", "statuses", "dlq"))
    return Counter(
        records=read, dlq=logs.counts["dlq"], forwarded=logs.counts["forwarded"], waiting=logs.waiting.total()
    )


def _terms(settings: Settings, extent: Extent, *, require_drained: bool, margin_ms: int) -> Terms:
    return Terms(
        now_ms=extent.now_ms,
        gate_running=extent.gate_running,
        grace_ms=int(settings.unknown_task_grace_seconds * 1000),
        retention_ms=int(settings.ended_task_retention_seconds * 1000),
        ended_per_session=settings.ended_tasks_per_session,
        scope_grace_ms=int(settings.scope_grace_seconds * 1000),
        hold_ttl_ms=int(settings.hold_ttl_seconds * 1000),
        session_ttl_ms=int(settings.session_ttl_seconds * 1000),
        margin_ms=margin_ms,
        require_drained=require_drained,
    )


def _notes(settings: Settings, extent: Extent, counts: Counter[str]) -> list[str]:
    notes = []
    if not extent.has_offsets and counts["records"]:
        notes.append(f"group {settings.group_id} has no committed offsets here: every input counts as waiting")
    if not extent.gate_running and (counts["pending"] or counts["waiting"]):
        notes.append(f"group {settings.group_id} has no members: what waits, waits for a worker")
    if extent.open_outputs:
        notes.append(f"an open transaction hides the end of {', '.join(extent.open_outputs)}")
    if counts["barrier_unverifiable"]:
        notes.append("some results carry their producer's time, not the broker's: their barrier was not checked")
    return notes
