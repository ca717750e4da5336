"""What came of a replay: figures as one object, and as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from tidegate.replay.ledger import AnswerId, Ledger
from tidegate.replay.plan import Answer
from tidegate.replay.player import Played

_NAMED = 20


def figures(played: Played, *, file: str, conversations: int, sessions: int) -> dict[str, Any]:
    """Everything the tables show, and the ids they leave out. Counts, and milliseconds where it says so."""
    ledger = played.ledger
    answers = ledger.answers
    verdicts = ledger.verdicts
    kinds = Counter(kind for verdict in verdicts.values() for kind in {facet_kind(name) for name in verdict.stale})
    times = sorted(verdict.seconds for verdict in verdicts.values())
    following = [answer for answer in answers.values() if answer.follows_write]
    return {
        "file": file,
        "conversations": conversations,
        "sessions": sessions,
        "events": played.events,
        "seconds": round(played.seconds, 3),
        "answers": len(answers),
        "tool_answers": sum(answer.tool_answer for answer in answers.values()),
        "fresh": sum(verdict.delivered and verdict.reason == "fresh" for verdict in verdicts.values()),
        "withheld": sum(not verdict.delivered for verdict in verdicts.values()),
        "withheld_by_reason": dict(
            Counter(verdict.reason for verdict in verdicts.values() if not verdict.delivered).most_common()
        ),
        "stale_by_facet_kind": dict(kinds.most_common()),
        "interfered_with": sum(answer.interfered_with is not None for answer in answers.values()),
        "superseded": sum(answer.superseded for answer in answers.values()),
        "after_own_write": {
            "answers": len(following),
            "withheld": sum(_withheld(ledger, answer) for answer in following),
            "fixed_snapshot_would_withhold": sum(answer.fixed_snapshot_differs for answer in following),
        },
        "latency_ms": {
            name: round(percentile(times, share) * 1000, 2) if times else None
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        },
        "missing": _ids(ledger.missing),
        "judged_again": _ids(ledger.judged_again),
        "unexpected": _ids(unexpected(ledger)),
        "refused": ledger.refused,
    }


def is_sound(found: dict[str, Any]) -> bool:
    """Whether every answer got one verdict, and the one that was to be expected."""
    return not (found["missing"] or found["judged_again"] or found["unexpected"] or found["refused"])


def unexpected(ledger: Ledger) -> list[AnswerId]:
    """Answers delivered although a change made them stale, withheld although none did, or stale by another facet."""
    return [
        name
        for name, verdict in ledger.verdicts.items()
        if name in ledger.answers
        and (verdict.delivered == bool(ledger.answers[name].stale) or verdict.stale != ledger.answers[name].stale)
    ]


def facet_kind(facet: str) -> str:
    """The kind of thing a facet belongs to: `reservation` for `reservation/OI5L9G/details`."""
    return facet.partition("/")[0]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that at least this share of them does not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def show(found: dict[str, Any], console: Console) -> None:
    """Print the report."""
    for table in (_verdicts(found), _reasons(found)):
        if table is not None:
            console.print(table)
    console.print(*_sentences(found), sep="\n")
    for title, names in _troubles(found):
        console.print(f"[bold red]{title}[/bold red]")
        for name in names[:_NAMED]:
            console.print(f"  {name}", highlight=False, markup=False)
        if len(names) > _NAMED:
            console.print(f"  and {len(names) - _NAMED} more (--json lists all)")


def _verdicts(found: dict[str, Any]) -> Table:
    table = Table(title="Answers", title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column(min_width=34)
    table.add_column(justify="right")
    table.add_column(justify="right")
    answers = found["answers"]
    for label, count in (
        ("played", answers),
        ("delivered, fresh", found["fresh"]),
        ("withheld", found["withheld"]),
        *((f"  {reason.replace('_', ' ')}", count) for reason, count in found["withheld_by_reason"].items()),
        *([("no verdict", len(found["missing"]))] if found["missing"] else []),
    ):
        table.add_row(label, f"{count:,}", f"{count / answers:.1%}" if answers else "")
    return table


def _reasons(found: dict[str, Any]) -> Table | None:
    if not found["stale_by_facet_kind"]:
        return None
    table = Table(title="\nStale by kind of facet", title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column(min_width=34)
    table.add_column(justify="right")
    for kind, count in found["stale_by_facet_kind"].items():
        table.add_row(kind, f"{count:,}")
    return table


def _sentences(found: dict[str, Any]) -> list[RenderableType]:
    after, latency = found["after_own_write"], found["latency_ms"]
    lines = [
        "",
        (
            f"{found['interfered_with']:,} answers had a thing they had read changed by somebody else before they came;"
            f" the user had already sent the next message before {found['superseded']:,}."
        ),
        (
            f"{after['answers']:,} answers came after their task had written something itself: {after['withheld']:,} of"
            " them were withheld. Comparing with the dispatch's snapshot alone would have withheld"
            f" {after['fixed_snapshot_would_withhold']:,}."
        ),
    ]
    if latency["p50"] is not None:
        lines.append(
            f"Result produced to verdict received: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms."
            f" {found['events']:,} events in {found['seconds']:.1f} s."
        )
    return list(lines)


def _troubles(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    told = (
        ("missing", "answers without a verdict (is a worker running?):"),
        ("judged_again", "answers with more than one verdict:"),
        ("unexpected", "answers with another verdict than their history asks for:"),
        ("refused", "events the gate did not understand:"),
    )
    return [(f"\n{len(found[name]):,} {title}", found[name]) for name, title in told if found[name]]


def _withheld(ledger: Ledger, answer: Answer) -> bool:
    verdict = ledger.verdicts.get((answer.session_id, answer.task_id))
    return verdict is not None and not verdict.delivered


def _ids(names: list[AnswerId]) -> list[str]:
    return [f"{session_id} {task_id}" for session_id, task_id in names]
