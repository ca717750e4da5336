"""One partition: what its events make of it, in the order context, steps, results, timers.

The engine feeds it batches and writes what `take` returns in one transaction; tests feed it without Kafka. It does no
I/O and reads no clock: times come in as arguments, in ms.
"""

from collections.abc import Callable, Iterator

from projections.changes import Changes
from projections.context import Context
from projections.gate import Place
from projections.intake import Intake
from projections.life import Life
from projections.results import Results
from projections.row import has_open_tasks, last_event_at
from projections.rules import Rules
from projections.steps import Steps
from projections.store import Store
from schemas.decode import Batch
from schemas.topics import Role


class Partition:
    """The sessions of one partition."""

    def __init__(self, number: int, rules: Rules, is_home: Callable[[str], bool] = lambda _session_id: True) -> None:
        self.number = number
        self.store = Store(rules)
        self._rules = rules
        self._life = Life(self.store)
        intake = Intake(self.store, is_home)
        self._context = Context(self.store, self._life, intake)
        self._steps = Steps(self.store, self._life, intake)
        self._results = Results(number, self.store, self._life, intake)
        self._sweep: Iterator[str] = iter(())
        self._idle: list[tuple[str, bytes]] = []

    @property
    def has_ready(self) -> bool:
        """Whether results that waited can be judged at the next barrier."""
        return self._life.has_ready

    @property
    def has_idle(self) -> bool:
        """Whether sessions were found idle, to be looked at again past a barrier."""
        return bool(self._idle)

    def has_proposals(self, role: Role) -> bool:
        """Whether effects proposed on this steps topic wait for a barrier."""
        return any(proposal.role == role for proposal in self.store.proposals)

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take over one changelog record."""
        self.store.restore(key, value)

    def settle(self) -> None:
        """Everything is restored."""
        ready = self.store.settle()
        self._life.ready = [result for result in ready if result.undecided is None]
        self._life.late = [result for result in ready if result.undecided is not None]
        self._life.freed = dict.fromkeys(self.store.results)

    def take(self, now_ms: int) -> Changes:
        """Everything changed since the last call, to be written in one transaction."""
        return self.store.take(now_ms)

    # What comes

    def fold_context(self, batch: Batch, now_ms: int) -> None:
        """Fold a decoded batch of context events."""
        self._context.fold(batch, now_ms)

    def fold_steps(self, batch: Batch, now_ms: int) -> None:
        """Fold a decoded batch of dispatches, steps, heartbeats and proposed effects, of one lane."""
        self._steps.fold(batch, now_ms)

    def judge(self, batch: Batch, place: Place, now_ms: int) -> None:
        """Judge a decoded batch of results. The caller has folded up to the barrier that `place` tells of."""
        self._results.judge(batch, place, now_ms)

    def judge_ready(self, place: Place, now_ms: int) -> None:
        """Judge what waited and waits no more: for its dispatch, for other tasks, for the context, for its barrier."""
        self._results.judge_ready(place, now_ms)

    # Time

    def next_due_ms(self, *, hot_only: bool | None = None) -> int | None:
        """Broker time at which the first thing falls due; None where nothing does.

        `hot_only`: of what no record of the cold lane can keep from falling due (True), of the rest (False), or of all.
        """
        dues = []
        if hot_only is not False:
            dues.append(self.store.timers.next_due_ms())
        if hot_only is not True:
            oldest = next(iter(self.store.unknown.values()), None)
            dues.append(oldest[0].timestamp + self._rules.unknown_task_grace_ms if oldest else None)
            dues.append(self.store.cold_timers.next_due_ms())
        return min((due for due in dues if due is not None), default=None)

    def act_on_due(self, place: Place, now_ms: int, *, hot_only: bool = False) -> None:
        """Act on what has fallen due at `now_ms`.

        The caller has folded and judged everything that was on the topics of both lanes at that time, with `hot_only`
        on those of the hot one, so what is on them already cannot be missed.
        """
        self.judge_ready(place, now_ms)  # nothing expires whose result or proposed effect is there
        if not hot_only:
            self._results.give_up_unknown(place, now_ms)
        self.store.set_timers()
        due = list(self.store.timers.take_due(now_ms))
        if not hot_only:
            due += self.store.cold_timers.take_due(now_ms)
        for session_id in dict.fromkeys(due):
            self._life.fall_due(session_id, self.store.row(session_id), now_ms, hot_only=hot_only)
            self.store.dirty[session_id] = None  # its timer is set again when it is taken
        self.judge_ready(place, now_ms)

    def find_idle(self, now_ms: int, limit: int) -> None:
        """Look at the next `limit` sessions for those idle for longer than the TTL and without open tasks."""
        oldest = now_ms - self._rules.session_ttl_ms
        for looked, session_id in enumerate(self._sweep, start=1):
            raw = self.store.raw(session_id)
            if raw is not None and last_event_at(raw) < oldest and not has_open_tasks(raw):
                self._idle.append((session_id, raw))
            if looked >= limit:
                return
        self._sweep = iter(self.store.session_ids())

    def drop_idle(self) -> None:
        """Forget the sessions that were found idle, and still are.

        The caller has folded everything that was on the topics when they were found: what is on them already may be
        newer than what the rows know.
        """
        for session_id, raw in self._idle:
            if self.store.is_unchanged(session_id, raw):
                self.store.forget_ended(session_id)
                self.store.drop(session_id)
        self._idle.clear()
