"""The kinds of finding an audit can make, what each means, and a collector that counts all and keeps a few of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal, get_args

Headline = Literal["lost", "duplicated", "stale_delivered", "fresh_withheld"]
HEADLINES: Final[tuple[Headline, ...]] = get_args(Headline)
MAX_EXAMPLES: Final = 20


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of finding means, and which headline number it counts in, if any."""

    meaning: str
    headline: Headline | None = None


KINDS: Final[dict[str, Kind]] = {
    # lost
    "result_without_verdict": Kind("a result below the committed offset has no verdict and is no repeat", "lost"),
    "task_without_disposition": Kind("a result of the task was judged, but its status never said ended", "lost"),
    "dispatch_without_status": Kind("a dispatch below the committed offset has no status", "lost"),
    "disposition_without_output": Kind("the task ended delivered or withheld, but no such output exists", "lost"),
    "output_missing": Kind("a verdict names parts as delivered or withheld that no output carries", "lost"),
    "part_altered": Kind("an output carries a part that is not the result's part, whole and unchanged", "lost"),
    "input_unaccounted": Kind(
        "an input that cannot be folded is below the committed offset, but not in the DLQ", "lost"
    ),
    "conflict_unaccounted": Kind("a second dispatch or result contradicts the first, but is not in the DLQ", "lost"),
    "misrouted_not_forwarded": Kind("a record on the wrong partition was passed over without being sent on", "lost"),
    "forwarded_altered": Kind("a record was sent on to its partition with other bytes", "lost"),
    "input_deleted_unfolded": Kind("the broker deleted inputs that were not folded yet", "lost"),
    "dlq_altered": Kind("a DLQ record's key or value is not that of its origin", "lost"),
    "held_undecided": Kind("a held part's task ended, and nothing decided the part", "lost"),
    "waits_too_long": Kind("a held result or part waits beyond its time", "lost"),
    "cancel_not_sent": Kind("a task was stopped, but its agent was not told", "lost"),
    "redispatch_missing": Kind("a new attempt was due, but none was commanded", "lost"),
    "effect_unanswered": Kind("a proposed effect below the committed offset has no answer", "lost"),
    "not_expired": Kind("a task is open beyond its deadline, without its heartbeat, or for nobody any more", "lost"),
    "turn_not_told": Kind("a queued task's turn has come, but its agent was not told", "lost"),
    "outdated_not_told": Kind("a watched delivery has gone stale, and nobody was told", "lost"),
    "cancel_unanswered": Kind("a request to cancel met no task, and was not answered so", "lost"),
    "child_outlives_parent": Kind("a task is, or was, open after its parent had ended", "lost"),
    # duplicated
    "event_id_twice": Kind("two output records share an event_id", "duplicated"),
    "verdict_twice": Kind("one result has two verdicts", "duplicated"),
    "repeat_judged": Kind("a repeat of a judged result got a verdict of its own", "duplicated"),
    "task_judged_twice": Kind("two results of one task were both judged as its first", "duplicated"),
    "two_dispositions": Kind("the task's status names two different dispositions", "duplicated"),
    "ended_then_running": Kind("the task's status says running after it said ended", "duplicated"),
    "dlq_twice": Kind("one input is in the DLQ twice", "duplicated"),
    "dlq_and_verdict": Kind("a result in the DLQ has a verdict, too", "duplicated"),
    "effect_answered_twice": Kind("a proposed effect has more answers than proposals", "duplicated"),
    "effect_answered_differently": Kind("two answers to one idempotency key differ", "duplicated"),
    # stale delivered
    "stale_delivered": Kind("a part was delivered unmarked against what the context said", "stale_delivered"),
    "barrier_missed": Kind(
        "a part was delivered unmarked by a verdict that had not folded a record older than the result",
        "stale_delivered",
    ),
    "effect_cleared_stale": Kind("an effect was cleared against what the logs said", "stale_delivered"),
    "cancel_not_obeyed": Kind("a task went on after it was to be cancelled", "stale_delivered"),
    # fresh withheld
    "fresh_withheld": Kind("a part was withheld as stale, but nobody else's event contradicts it", "fresh_withheld"),
    "reason_false": Kind("a part was withheld for a reason that does not hold", "fresh_withheld"),
    "late_without_end": Kind("a result was withheld as late, but the task had not ended so before", "fresh_withheld"),
    "known_task_unknown": Kind("a result was withheld as unknown_task, but its dispatch was there", "fresh_withheld"),
    "unknown_too_early": Kind("a result was withheld as unknown_task before its grace was over", "fresh_withheld"),
    "rejected_without_reason": Kind("a task was rejected for a reason that does not hold", "fresh_withheld"),
    "stopped_without_reason": Kind("a task was cancelled or expired for a reason that does not hold", "fresh_withheld"),
    "hold_cut_short": Kind("a held part was withheld before its time was over", "fresh_withheld"),
    "effect_refused_fresh": Kind("an effect was refused for a reason that does not hold", "fresh_withheld"),
    # inconsistent
    "barrier_missed_withheld": Kind("a withholding verdict had not folded a record older than the result"),
    "annotated_fresh": Kind("a part was delivered as annotated, but is not stale"),
    "policy_not_followed": Kind("a stale part was withheld or delivered against its on_stale policy"),
    "reason_order": Kind("a part was withheld for a reason that holds, but another comes first"),
    "difference_wrong": Kind("a verdict names differences other than those the logs show"),
    "taken_never_held": Kind("the gate took a value for a depends_on facet that the facet never had"),
    "reason_unexpected": Kind("a verdict or status gives a reason or disposition this gate cannot give"),
    "verdict_inconsistent": Kind("a verdict contradicts itself, its outputs or the parts of its result"),
    "verdict_without_result": Kind("an output is about a result that is not on the topic"),
    "judged_before_dispatch": Kind(
        "a verdict or status knows a task whose dispatch is not below the steps offset it names"
    ),
    "judged_before_request": Kind("a task was cancelled below a context offset that no request to cancel it is below"),
    "judged_past_end": Kind("a verdict or status names an offset beyond the end of the topic"),
    "disposition_contradicts": Kind("the task's status names another disposition than its verdict"),
    "scope_not_awaited": Kind("a task's result was decided while a child of it was open"),
    "slot_not_awaited": Kind("a task's result was decided while the older task it is to wait for was open"),
    "slot_not_respected": Kind("an older task of a slot was open, but the newer one's on_newer was not followed"),
    "cancel_answered_wrongly": Kind("a request to cancel that met a task was answered as unmatched, or one twice"),
    "command_unfounded": Kind("a command was sent that nothing calls for"),
    "receipt_wrong": Kind("a stopped task has no receipt, or one that the steps do not bear out"),
    "redispatch_wrong": Kind("a new attempt was commanded that was not due, or not as it should be"),
    "acknowledgement_unfounded": Kind("a status tells an acknowledgement that nobody gave"),
    "effect_reason_wrong": Kind("an effect was rightly refused, but for another reason"),
    "status_without_dispatch": Kind("a task has a status, but no dispatch"),
    "output_unreadable": Kind("an output record is not an event of the contract"),
    "output_misplaced": Kind("an output has another partition or key than its session asks for"),
    "dlq_without_origin": Kind("a DLQ record names no existing input as its origin"),
    "forwarded_without_origin": Kind("a record claims to be sent on from a place where no such record is"),
    "dlq_unfounded": Kind("an input is in the DLQ for a reason that does not hold"),
    "committed_past_end": Kind("the group's committed offset is beyond the topic's end: was the topic created anew?"),
    "not_drained": Kind("an input is still waiting (only an error with --require-drained)"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """One finding: where, and what exactly. Fields that do not apply are None."""

    detail: str
    partition: int | None = None
    topic: str | None = None
    offset: int | None = None
    session_id: str | None = None
    task_id: str | None = None


class Findings:
    """All findings of an audit: every one counted, the first `MAX_EXAMPLES` of each kind kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[Example]] = {}

    def add(self, kind: str, example: Example) -> None:
        """Count one finding of `kind`, which must be one of `KINDS`."""
        if kind not in KINDS:
            raise KeyError(kind)
        self.counts[kind] += 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < MAX_EXAMPLES:
            kept.append(example)

    def headline(self, name: Headline) -> int:
        """How many findings count as `lost`, `duplicated`, `stale_delivered` or `fresh_withheld`."""
        return sum(count for kind, count in self.counts.items() if KINDS[kind].headline == name)

    def __bool__(self) -> bool:
        return bool(self.counts)
