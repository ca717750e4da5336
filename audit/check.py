"""Compare what the gate wrote on one partition with what the rules say. Pure: time and settings are given."""

from __future__ import annotations

from collections import Counter

from audit.after import check_after
from audit.cancels import CancelsCheck
from audit.case import Case, Terms, families
from audit.collect import PartitionLogs
from audit.effects import EffectsCheck
from audit.lineage import link_attempts
from audit.tasks import check_task, match
from schemas.topics import INPUT_ROLES


class PartitionCheck:
    """The comparison for one partition. `run` fills the logs' findings, `counts` and `reasons`."""

    def __init__(self, logs: PartitionLogs, terms: Terms) -> None:
        self.logs = logs
        self.terms = terms
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        """Parts by what became of them (`delivered`, `annotated`, `withheld`) and reason."""

    def run(self) -> None:
        """Check everything of the partition."""
        self._check_inputs()
        self._check_refused()
        for session_id, session in self.logs.sessions.items():
            names = session.tasks.keys() | session.results.keys() | session.outputs.keys() | session.statuses.keys()
            for told in (session.stops, session.redispatches, session.starts, session.outdated):
                for task_id in told.keys() - names:
                    self._unfounded(session_id, task_id)
            link_attempts(session)
            cases = {name: Case(self.logs, self.terms, self.counts, session_id, name) for name in sorted(names)}
            families(cases)
            for case in cases.values():
                match(case)
            for case in cases.values():
                check_task(case, self.reasons)
                if not session.erased:
                    check_after(case)
            if session.proposals or session.answers:
                EffectsCheck(self.logs, self.terms, session_id, cases).run()
            if session.cancels or session.unmatched:
                CancelsCheck(self.logs, self.terms, session_id, cases).run()
            for task_id, role, offset in session.conflicts:
                case = cases[task_id]
                if case.handled(role, offset) and not case.unsettled:
                    case.note("conflict_unaccounted", "dispatched before with other content", role, offset)
            self.counts["tasks"] += len(session.tasks)
        self._check_output_ids()
        self.counts["sessions"] += len(self.logs.sessions)
        self.counts["results"] += self.logs.counts["results_refused"]
        self.counts["unverifiable"] += self.logs.counts["effects_unverifiable"]
        for name in ("effects", "effect_answers", "effects_pending"):
            self.counts[name] += self.logs.counts[name]

    def _unfounded(self, session_id: str, task_id: str) -> None:
        """A command about a task that nothing else is known of."""
        case = Case(self.logs, self.terms, self.counts, session_id, task_id)
        if case.truncated("steps", "steps.cold") or case.session.erased:
            self.counts["unverifiable"] += 1
        else:
            case.note("command_unfounded", "there is no such task", "commands")

    def _check_inputs(self) -> None:
        """How far the gate had got with each input."""
        logs = self.logs
        for role in INPUT_ROLES:
            bounds = logs.bounds[role]
            if bounds.committed is not None and bounds.committed < bounds.beginning:
                detail = f"folded below {bounds.committed}, but the topic now begins at {bounds.beginning}"
                logs.note("input_deleted_unfolded", detail, role, bounds.committed)
            if bounds.handled > bounds.end:
                logs.note("committed_past_end", f"committed {bounds.committed}, end {bounds.end}", role, bounds.end)
            if logs.waiting[role] and self.terms.require_drained:
                detail = f"{logs.waiting[role]} records from the committed offset {bounds.handled} on"
                logs.note("not_drained", detail, role, bounds.handled)

    def _check_refused(self) -> None:
        """DLQ records whose origin did not come by."""
        logs = self.logs
        for (role, offset), refused in logs.refused.items():
            if refused.seen:
                continue
            if offset < logs.bounds[role].beginning:
                self.counts["unverifiable"] += 1
            else:
                detail = f"there is no record at {logs.names[role]}/{logs.partition}/{offset}"
                logs.note("dlq_without_origin", detail, "dlq", refused.offset)

    def _check_output_ids(self) -> None:
        """An output id twice is one decision taken twice, right only where the gate had to forget the first."""
        for session_id, task_id, event_id, role, offset in self.logs.repeated_ids:
            case = Case(self.logs, self.terms, self.counts, session_id, task_id)
            if not case.unsettled:
                case.note("event_id_twice", event_id, role, offset)
