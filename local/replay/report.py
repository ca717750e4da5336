"""What came of a replay: figures as one object, and as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from local.replay.ledger import Ledger
from local.replay.plan import Answer, AnswerId
from local.replay.player import Played

_NAMED = 10


def figures(played: Played, *, file: str, conversations: int, sessions: int) -> dict[str, Any]:
    """Everything the report shows, and the ids it leaves out."""
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
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(min_width=40)
    table.add_column(justify="right")
    table.add_column(justify="right")
    for title, rows in _sections(found):
        table.add_row(Text(title, "bold"))
        for row in rows:
            table.add_row(*row)
        table.add_row()
    console.print(table)
    for sentence in _sentences(found):
        console.print(sentence, highlight=False)
    for title, names in _troubles(found):
        console.print(f"\n[bold red]{len(names):,} {title}[/bold red]")
        for name in names[:_NAMED]:
            console.print(f"  {name}", highlight=False, markup=False)
        if len(names) > _NAMED:
            console.print(f"  and {len(names) - _NAMED} more (--json lists all)")


def _sections(found: dict[str, Any]) -> list[tuple[str, Sequence[Sequence[str]]]]:
    answers = found["answers"]
    verdicts = [
        ("delivered, fresh", found["fresh"]),
        *((f"withheld, {reason.replace('_', ' ')}", count) for reason, count in found["withheld_by_reason"].items()),
        *([("no verdict", len(found["missing"]))] if found["missing"] else []),
    ]
    sections: list[tuple[str, Sequence[Sequence[str]]]] = [
        ("answers", [(f"{answers:,} in {found['sessions']:,} conversations",)]),
        ("verdicts", [(label, f"{count:,}", f"{count / max(1, answers):.1%}") for label, count in verdicts]),
    ]
    if found["stale_by_facet_kind"]:
        sections.append(("stale by", [(kind, f"{count:,}") for kind, count in found["stale_by_facet_kind"].items()]))
    meanwhile = (
        ("somebody else changed a thing it had read", found["interfered_with"]),
        ("the user sent the next message", found["superseded"]),
        ("it changed things itself", found["after_own_write"]["answers"]),
    )
    sections.append(("while the agent worked", [(label, f"{count:,}") for label, count in meanwhile]))
    return sections


def _sentences(found: dict[str, Any]) -> list[str]:
    after, latency = found["after_own_write"], found["latency_ms"]
    sentences = []
    if after["answers"]:
        sentences.append(
            f"Of the {after['answers']:,} answers whose task had changed things itself, {after['withheld']:,} were"
            " withheld. A gate that knows only the dispatch's snapshot would withhold"
            f" {after['fixed_snapshot_would_withhold']:,}."
        )
    if latency["p50"] is not None:
        sentences.append(
            f"Result produced to verdict received: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms."
            f" {found['events']:,} events in {found['seconds']:.1f} s."
        )
    return sentences


def _troubles(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    told = (
        ("missing", "answers without a verdict; is a worker running on these settings?"),
        ("judged_again", "answers with more than one verdict:"),
        ("unexpected", "answers with another verdict than their history asks for:"),
        ("refused", "events the gate did not understand:"),
    )
    return [(title, found[name]) for name, title in told if found[name]]


def _withheld(ledger: Ledger, answer: Answer) -> bool:
    verdict = ledger.verdicts.get(answer.name)
    return verdict is not None and not verdict.delivered


def _ids(names: list[AnswerId]) -> list[str]:
    return [f"{session_id} {task_id}" for session_id, task_id in names]
