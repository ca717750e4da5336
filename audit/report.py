"""What an audit found, as tables for people and as one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audit.findings import HEADLINES, KINDS, Example, Findings

_COUNTS = (
    ("records", "records read"),
    ("sessions", "sessions"),
    ("tasks", "tasks dispatched"),
    ("dispositions", "tasks with a disposition"),
    ("results", "results"),
    ("verdicts", "verdicts"),
    ("repeats", "results that repeat another"),
    ("pending", "results waiting for a verdict"),
    ("held", "results held, as a whole or in part"),
    ("shadow", "results only watched, in shadow mode"),
    ("cancel_commands", "tasks stopped"),
    ("redispatches", "new attempts commanded"),
    ("effects", "effects proposed"),
    ("effect_answers", "answers to proposed effects"),
    ("effects_pending", "proposed effects waiting for an answer"),
    ("waiting", "inputs the gate has not come to yet"),
    ("dlq", "records in the DLQ"),
    ("forwarded", "records sent on to their partition"),
    ("unverifiable", "not verifiable: records deleted, or session erased"),
    ("uncertain", "verdicts whose expectations the logs tell in part"),
    ("steps_unverifiable", "verdicts that waited and name a steps offset of either lane"),
)
_ALWAYS = ("records", "sessions", "tasks", "dispositions", "results", "verdicts", "pending", "waiting", "dlq")


@dataclass(slots=True)
class Report:
    """The outcome of an audit."""

    prefix: str
    group_id: str
    partitions: int
    counts: Counter[str]
    reasons: Counter[tuple[str, str]]
    """Parts by what became of them (`delivered`, `annotated`, `withheld`, `shadow`) and reason."""
    findings: Findings
    notes: list[str] = field(default_factory=list)
    """What limits this audit, in sentences."""
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values: counts, the four headline numbers, and the findings by kind."""
        return {
            "clean": self.clean,
            "prefix": self.prefix,
            "group_id": self.group_id,
            "partitions": self.partitions,
            **{name: self.counts[name] for name, _ in _COUNTS},
            **{name: self.findings.headline(name) for name in HEADLINES},
            "parts": {f"{decision}_{reason}": count for (decision, reason), count in sorted(self.reasons.items())},
            "findings": [
                {
                    "kind": kind,
                    "meaning": KINDS[kind].meaning,
                    "counts_as": KINDS[kind].headline,
                    "count": count,
                    "examples": [asdict(example) for example in self.findings.examples[kind]],
                }
                for kind, count in self.findings.counts.most_common()
            ],
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
        }

    def to_json(self) -> str:
        """One JSON object on one line."""
        return orjson.dumps(self.to_dict()).decode()

    def print(self, console: Console) -> None:
        """Tables: what there is, what became of the parts, the four headline numbers, then every finding."""
        title = f"audit of {self.prefix}, group {self.group_id}, {self.partitions} partitions, {self.seconds:.1f} s"
        console.print(escape(title), style="bold", highlight=False)
        seen = Table("what", "count", box=None, pad_edge=False, show_header=False)
        seen.columns[1].justify = "right"
        for name, words in _COUNTS:
            if self.counts[name] or name in _ALWAYS:
                seen.add_row(words, f"{self.counts[name]:,}")
        for (decision, reason), count in sorted(self.reasons.items()):
            seen.add_row(f"parts {decision}, reason {reason}", f"{count:,}")
        for headline in HEADLINES:
            number = self.findings.headline(headline)
            style = "bold red" if number else "bold green"
            seen.add_row(f"[{style}]{headline.replace('_', ' ')}[/]", f"[{style}]{number:,}[/]")
        console.print(seen)
        for note in self.notes:
            console.print(f"[yellow]note:[/] {escape(note)}")
        if self.clean:
            so_far = " so far: some wait" if self.counts["pending"] or self.counts["waiting"] else ""
            console.print(f"[bold green]clean[/]: every input is accounted for, and every verdict holds{so_far}")
            return
        for kind, count in self.findings.counts.most_common():
            console.print(f"\n[bold red]{kind}[/] ({count:,}): {escape(KINDS[kind].meaning)}")
            examples = self.findings.examples[kind]
            for example in examples:
                console.print("  " + escape(_line(example)), highlight=False, soft_wrap=True)
            if count > len(examples):
                console.print(f"  and {count - len(examples):,} more")


def _line(example: Example) -> str:
    return ", ".join(_words(example))


def _words(example: Example) -> Iterator[str]:
    if example.session_id is not None:
        yield f"session {example.session_id}"
    if example.task_id is not None:
        yield f"task {example.task_id}"
    if example.topic is not None:
        offset = "" if example.offset is None else f"/{example.offset}"
        yield f"at {example.topic}/{example.partition}{offset}"
    elif example.partition is not None:
        yield f"partition {example.partition}"
    if example.detail:
        yield example.detail
