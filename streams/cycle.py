"""One owned partition at work: take what is queued, fold it, judge what has reached its barrier, write one transaction.

Responsible for the order of these, for the place of every batch, and for starting afresh when a transaction fails. What
events mean is decided in `projections`; taking the partition over is `streams.handover`.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced

from projections.changes import Changes
from projections.log_position import LogPosition
from projections.partition import Partition
from schemas.decode import Batch, Refusal
from schemas.envelope import producers_headers
from schemas.fields import Lane
from schemas.topics import Role, topics
from streams.batches import (
    NO_HEADERS,
    ROWS,
    UNTOUCHED,
    BatchWriter,
    EnvelopeEncoder,
    Headers,
    RecordBatch,
    header_block,
)
from streams.changelog import PROGRESS_KEY, progress_to_bytes
from streams.config import DELIVERED, FOLDED_ROLES, HOT_ROLES, RESULTS, STEPS, EngineConfig
from streams.errors import NOT_ALLOWED, FatalError, not_allowed
from streams.handover import Surroundings, take_over
from streams.metrics import LANES, State
from streams.tally import Tally
from streams.transaction import TransactionWriter

_log = structlog.get_logger(__name__)

FOLDED_AT_ONCE: Final = 128
"""Records of a topic, rounded up to whole batches, between two looks at what else there is to do: the broker's answers
to other partitions wait meanwhile. Dividing the large batches of a backlog, too, cost 4 % of the throughput."""
JUDGED_AT_ONCE: Final = 4096
"""Results of one transaction."""
OTHERS_FIRST_SECONDS: Final = 0.01
"""How long cold work waits for hot records of other partitions, whose end nobody tells it."""
RETRY_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
SWEEP_SECONDS: Final = 1.0
SWEPT_AT_ONCE: Final = 5_000


@dataclass(slots=True)
class Barrier:
    """End offsets that were asked for, and whether everything below them has been folded.

    `covers`: the results that had been fetched when it was asked, below this position. `folded`: the steps that had
    been folded by then. `asked_ms` is the wall clock
    then.
    """

    covers: int
    folded: int
    asked_ms: int
    asked_at: float
    ends: dict[Role, int] | None = None

    def is_reached(self, applied: dict[Role, int]) -> bool:
        """Whether everything below the ends has been applied."""
        return self.ends is not None and all(applied[role] >= end for role, end in self.ends.items())


class Cycle:
    """The life of one partition on this worker."""

    def __init__(self, config: EngineConfig, number: int, surroundings: Surroundings) -> None:
        self.number = number
        self.state: State = "starting"
        self._config = config
        self._around = surroundings
        self._topics: dict[Role, str] = {role: config.topic(role) for role in FOLDED_ROLES}
        self._outputs: dict[Role, str] = {topic.role: topic.name for topic in topics(config.topic_prefix)}
        self._envelopes = EnvelopeEncoder()
        self._queues: dict[Role, deque[Batch]] = {role: deque() for role in FOLDED_ROLES}
        self._next: dict[Role, int] = {}
        self._applied: dict[Role, int] = {}
        self._committed: dict[Role, int] = {}
        self._partition: Partition | None = None
        self._writer: TransactionWriter | None = None
        self._barriers: dict[Lane, Barrier] = {}
        self._time_barriers: dict[bool, Barrier] = {}
        """By whether they are of the hot lane's topics only, or of all."""
        self._asking: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._allowed = asyncio.Event()
        self._allowed.set()
        self._writing = asyncio.Lock()
        self._last_commit = 0.0
        self._last_sweep = time.monotonic()
        self._tally = Tally()

    # What the engine asks of it

    async def run(self) -> None:
        """Take the partition over and work on it until cancelled; take it over again when a transaction fails.

        Raises `FatalError` where waiting cannot help. Cancelled, it leaves at most an open transaction, which the next
        owner's fence ends.
        """
        failures = 0
        try:
            while True:
                try:
                    await self._take_over()
                    failures = 0
                    await self._work()
                except (KafkaError, OSError) as error:
                    await self._start_afresh(error, failures)
                    failures += 1
        finally:
            self._forget()

    def offer(self, batch: Batch) -> None:
        """Queue a fetched batch if it continues what is queued; drop what was there before, seek back over a hole."""
        if self.number not in self._around.flow.joined:
            return
        role = batch.role
        expected = self._next[role]
        if batch.end <= expected:
            return
        if batch.start > expected:
            _log.info("hole_sought_back", topic=self._topics[role], partition=self.number, expected=expected)
            self._around.flow.seek(self._topics[role], self.number, expected)
            return
        if batch.start < expected:
            batch = batch.since(expected)
        self._queues[role].append(batch)
        self._next[role] = batch.end
        self._queue_changed(role, batch.size_bytes)
        self._wake.set()

    async def suspend(self) -> None:
        """Finish the transaction under way and start no other until `resume`. Bounded by the session timeout."""
        self._allowed.clear()
        try:
            async with asyncio.timeout(self._config.session_timeout_seconds / 2):
                async with self._writing:
                    pass
        except TimeoutError:
            _log.warning("transaction_still_running", partition=self.number)

    def resume(self) -> None:
        """Go on: the partition stayed with this worker. The consumer's position was reset, so seek to ours."""
        if self.number in self._around.flow.joined:
            self._seek()
        self._allowed.set()
        self._wake.set()

    # Taking over, and starting afresh

    async def _take_over(self) -> None:
        self._set_state("restoring")
        taken = await take_over(self._config, self.number, self._around)
        self._partition, self._writer = taken.partition, taken.writer
        self._applied, self._next, self._committed = dict(taken.applied), dict(taken.applied), dict(taken.committed)
        await self._allowed.wait()
        self._seek()
        self._around.flow.joined.add(self.number)
        self._set_state("running")
        self._around.metrics.handover()

    def _seek(self) -> None:
        for role, position in self._next.items():
            self._around.flow.seek(self._topics[role], self.number, position)

    async def _start_afresh(self, error: BaseException, failures: int) -> None:
        self._around.metrics.transaction_failed(error)
        if isinstance(error, NOT_ALLOWED):
            raise not_allowed(error) from error
        if isinstance(error, MessageSizeTooLargeError):
            raise FatalError(
                f"partition {self.number}: the broker refuses what has to be written: {error!r}"
            ) from error
        self._forget()
        self._set_state("restoring")
        delay = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
        if isinstance(error, ProducerFenced):
            # Perhaps the partition has a new owner: hear of it before fencing that one in turn.
            delay = max(delay, self._config.heartbeat_interval_seconds + 0.5)
        _log.warning("partition_starts_afresh", partition=self.number, error=repr(error), retry_seconds=delay)
        await asyncio.sleep(delay)

    def _forget(self) -> None:
        self._around.flow.joined.discard(self.number)
        for task in self._asking:
            task.cancel()
        self._barriers.clear()
        self._time_barriers.clear()
        writer, self._writer, self._partition = self._writer, None, None
        if writer is not None:
            self._around.in_background(writer.stop())
        for role, queue in self._queues.items():
            self._queue_changed(role, -sum(batch.size_bytes for batch in queue))
            queue.clear()
        self._tally = Tally()

    # Working

    async def _work(self) -> None:
        while True:
            await self._allowed.wait()
            self._wake.clear()
            self._ask_for_barriers()
            folded = self._fold()
            judged = self._judge("hot")
            if not self._hot_waits:
                folded += self._fold_role("steps.cold", self._config.cold_max_records)
                folded += self._judge("cold")  # nobody waits for these verdicts: they may wait for more of them
            judged = self._act_on_time() or judged
            if self._must_commit(judged=judged):
                await self._commit()
            elif folded:
                await asyncio.sleep(0)
            else:
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._seconds_to_next()):
                await self._wake.wait()
        except TimeoutError:
            return

    def _seconds_to_next(self) -> float:
        swept = self._last_sweep + SWEEP_SECONDS - time.monotonic()
        waits = [swept if False not in self._time_barriers else SWEEP_SECONDS]
        if self._around.flow.hot_bytes and (self._queues["steps.cold"] or self._queues["results.cold"]):
            waits.append(OTHERS_FIRST_SECONDS)
        if self._is_dirty or self._known.has_changes:
            waits.append(self._last_commit + self._commit_pause - time.monotonic())
        for hot_only in (True, False):
            due = self._known.next_due_ms(hot_only=hot_only)
            if due is not None and hot_only not in self._time_barriers:
                waits.append(due / 1000 - time.time())
        return max(0.0, min(waits)) + 0.001

    @property
    def _known(self) -> Partition:
        if self._partition is None:
            raise RuntimeError(f"partition {self.number} has not been taken over")
        return self._partition

    @property
    def _is_dirty(self) -> bool:
        return self._applied != self._committed

    @property
    def _hot_waits(self) -> bool:
        """Whether hot work is there to be done.

        In any partition of this worker: they share its core. Results behind an open transaction of a producer do not
        hold up cold work.
        """
        if self._around.flow.hot_bytes:
            return True
        barrier = self._barriers.get("hot")
        is_blocked = barrier is not None and barrier.ends is not None and not barrier.is_reached(self._applied)
        return bool(self._queues["results"]) and not is_blocked

    def _fold(self) -> int:
        return self._fold_role("context", FOLDED_AT_ONCE) + self._fold_role("steps", FOLDED_AT_ONCE)

    def _fold_role(self, role: Role, limit: int) -> int:
        queue, folded = self._queues[role], 0
        while queue and folded < limit:
            batch = queue.popleft()
            self._queue_changed(role, -batch.size_bytes)
            self._tally.count(batch)
            with self._tally.stage("fold"):
                if role == "context":
                    self._known.fold_context(batch, _now_ms())
                else:
                    self._known.fold_steps(batch, _now_ms())
            self._applied[role] = batch.end
            folded += max(len(batch), 1)
        return folded

    # Judging

    def _ask_for_barriers(self) -> None:
        for lane in LANES:
            if lane not in self._barriers and (
                self._queues[RESULTS[lane]]
                or self._known.has_proposals(STEPS[lane])
                or (lane == "hot" and self._known.has_ready)
            ):
                barrier = self._barriers[lane] = self._new_barrier(lane)
                self._ask(barrier, ("context", STEPS[lane]))
                self._begin_transaction(lane)
        for hot_only, roles in ((True, HOT_ROLES), (False, FOLDED_ROLES)):
            due = self._known.next_due_ms(hot_only=hot_only)
            is_due = due is not None and due <= _now_ms()
            if hot_only not in self._time_barriers and (is_due or (not hot_only and self._known.has_idle)):
                barrier = self._time_barriers[hot_only] = self._new_barrier("hot")
                self._ask(barrier, roles)

    def _new_barrier(self, lane: Lane) -> Barrier:
        return Barrier(self._next[RESULTS[lane]], self._applied[STEPS[lane]], _now_ms(), time.monotonic())

    def _ask(self, barrier: Barrier, roles: tuple[Role, ...]) -> None:
        task = asyncio.get_running_loop().create_task(self._fill_in(barrier, roles))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    def _begin_transaction(self, lane: Lane) -> None:
        """Begin the transaction of the verdicts while the barrier is asked for.

        Where it then delivers nothing, its marker is all that the topic of deliveries gets.
        """
        if self._writer is not None:
            roles: tuple[Role, ...] = ("sessions.changelog", "tasks", DELIVERED[lane])
            self._writer.begin(self._config.topic(role) for role in roles)

    async def _fill_in(self, barrier: Barrier, roles: tuple[Role, ...]) -> None:
        partitions: dict[Role, TopicPartition] = {
            role: TopicPartition(self._topics[role], self.number) for role in roles
        }
        offsets = await self._around.barrier.end_offsets(partitions.values())
        barrier.ends = {role: offsets[tp] for role, tp in partitions.items()}
        self._wake.set()

    def _position(self, lane: Lane, barrier: Barrier) -> LogPosition:
        role = STEPS[lane]
        return LogPosition(self.number, self._applied["context"], self._applied[role], role, barrier.folded)

    def _judge(self, lane: Lane) -> bool:
        barrier = self._barriers.get(lane)
        if barrier is None or not barrier.is_reached(self._applied):
            return False
        if barrier.asked_at:
            self._tally.barrier_waits.append((lane, time.monotonic() - barrier.asked_at))
            barrier.asked_at = 0.0
        role = RESULTS[lane]
        position, queue, judged = self._position(lane, barrier), self._queues[role], 0
        limit = JUDGED_AT_ONCE if lane == "hot" else self._config.cold_max_records
        while queue and queue[0].start < barrier.covers and judged < limit:
            batch = queue.popleft()
            self._queue_changed(role, -batch.size_bytes)
            self._tally.count(batch)
            with self._tally.stage("judge"):
                self._known.judge(batch, position, _now_ms())
            self._applied[role] = batch.end
            judged += len(batch)
        if not (queue and queue[0].start < barrier.covers):
            self._known.judge_ready(position, _now_ms())
            del self._barriers[lane]
        return True

    def _act_on_time(self) -> bool:
        """Act on timers past a barrier on the input topics, results included: the hot lane's, where that is enough.

        Forget idle sessions past one on all of them.
        """
        now = time.monotonic()
        if False not in self._time_barriers and now - self._last_sweep >= SWEEP_SECONDS:
            self._last_sweep = now
            self._known.find_idle(_now_ms(), SWEPT_AT_ONCE)
        reached = [each for each in self._time_barriers.items() if each[1].is_reached(self._applied)]
        for hot_only, barrier in reached:
            self._known.act_on_due(self._position("hot", barrier), barrier.asked_ms, hot_only=hot_only)
            if not hot_only:
                self._known.drop_idle()
            del self._time_barriers[hot_only]
        return bool(reached)

    # Committing

    def _must_commit(self, *, judged: bool) -> bool:
        if not (self._is_dirty or self._known.has_changes):
            return self._writer is not None and self._writer.is_waiting
        return (
            judged
            or self._tally.records >= self._config.cycle_max_records
            or self._tally.cold_records >= self._config.cold_commit_records
            or time.monotonic() >= self._last_commit + self._commit_pause
        )

    @property
    def _commit_pause(self) -> float:
        """How long folding may go on between two transactions.

        Behind a backlog nobody waits for what it writes, and a row that is written once for many events costs less.
        """
        barrier = self._barriers.get("hot")
        behind = barrier is not None and barrier.ends is not None and not barrier.is_reached(self._applied)
        behind = behind or bool(self._queues["context"] or self._queues["steps"])
        return self._config.backlog_commit_seconds if behind else self._config.lazy_commit_seconds

    async def _commit(self) -> None:
        async with self._writing:
            began = time.monotonic()
            tally, self._tally = self._tally, Tally()
            with tally.stage("commit"):
                changes = self._known.take(_now_ms())
                batches = self._batches_of(changes)
            applied = dict(self._applied)
            offsets = {
                self._topics[role]: position
                for role, position in applied.items()
                if position != self._committed.get(role)
            }
            if self._writer is None:
                raise RuntimeError(f"partition {self.number} has no producer")
            if changes.misrouted:
                await self._around.forwarder.forward(changes.misrouted)
            await self._writer.write(batches, offsets)
            self._known.committed()
            self._committed = applied
            self._last_commit = time.monotonic()
        tally.tell(self._around.metrics, self._topics, changes, self._last_commit - began)
        self._tell_partition()

    def _batches_of(self, changes: Changes) -> dict[str, list[RecordBatch]]:
        """What the transaction writes, by topic: changed rows and the progress row, outputs, dead letters."""
        writers: dict[Role, BatchWriter] = {}
        for output in changes.outputs:
            writer = writers.get(output.role)
            if writer is None:
                writer = writers[output.role] = BatchWriter(self._config.output_compression)
            envelope = output.envelope
            writer.add(output.key, output.value, NO_HEADERS if envelope is None else self._envelopes.encode(envelope))
        rows = writers["sessions.changelog"] = BatchWriter(ROWS)
        for key, value in changes.rows.items():
            rows.add(key, value, NO_HEADERS)
        rows.add(PROGRESS_KEY, progress_to_bytes(dict(self._applied)), NO_HEADERS)
        if changes.refusals:
            dead_letters = writers["dlq"] = BatchWriter(UNTOUCHED)
            for refusal in changes.refusals:
                batch, index = refusal.batch, refusal.index
                headers = header_block(self._dead_letter_headers(refusal))
                dead_letters.add(batch.keys[index], batch.values[index], headers)
            self._tell_dead_letters(changes.refusals)
        return {self._outputs[role]: writer.batches() for role, writer in writers.items()}

    def _dead_letter_headers(self, refusal: Refusal) -> Headers:
        batch, index = refusal.batch, refusal.index
        return [
            *producers_headers(batch.headers[index]),
            ("tidegate_error", refusal.error.encode()),
            ("tidegate_error_detail", refusal.detail.encode()),
            ("tidegate_origin_topic", self._config.topic(batch.role).encode()),
            ("tidegate_origin_partition", str(batch.partition).encode()),
            ("tidegate_origin_offset", str(batch.offsets[index]).encode()),
            ("tidegate_origin_timestamp", str(batch.timestamps[index]).encode()),
        ]

    # Telling

    def _tell_dead_letters(self, refusals: list[Refusal]) -> None:
        first: dict[str, Refusal] = {}
        for refusal in refusals:
            first.setdefault(refusal.error, refusal)
        for error, refusal in first.items():
            batch, index = refusal.batch, refusal.index
            _log.warning(
                "records_dead_lettered",
                error=error,
                count=sum(each.error == error for each in refusals),
                first_topic=self._config.topic(batch.role),
                partition=batch.partition,
                first_offset=batch.offsets[index],
                first_detail=refusal.detail,
            )

    def _tell_partition(self) -> None:
        store = self._known.store
        self._around.metrics.partition(
            self.number,
            sessions=store.session_count,
            row_bytes=store.row_bytes,
            ended_task_bytes=store.ended_bytes,
            waiting_bytes=store.waiting_bytes,
            parked_results=store.waiting_count,
            queued_bytes=sum(
                self._around.flow.queued_bytes.get((topic, self.number), 0) for topic in self._topics.values()
            ),
        )

    @property
    def positions(self) -> dict[str, int]:
        """The position folded up to, by topic."""
        return {self._topics[role]: position for role, position in self._applied.items()}

    def _set_state(self, state: State) -> None:
        self.state = state
        self._around.metrics.state(self.number, state)

    def _queue_changed(self, role: Role, size_bytes: int) -> None:
        flow = self._around.flow
        name = self._topics[role], self.number
        flow.queued_bytes[name] = flow.queued_bytes.get(name, 0) + size_bytes
        if role in {"context", "steps"}:
            flow.hot_bytes += size_bytes


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
