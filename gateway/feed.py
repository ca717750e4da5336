"""Reads the output topics for the open streams: one consumer without a group, only partitions with open streams.

Responsible for which partitions are read and from where, and for streams that come back with an older cursor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.partitioner import murmur2

from gateway.config import GatewayConfig
from gateway.cursor import STREAM_ROLES, Cursor, fingerprint_of
from gateway.frames import frame, position_frame, session_of
from gateway.metrics import Metrics
from gateway.problems import Problem
from gateway.subscriber import Reason, Subscriber
from gateway.tail import Tail, replay
from gateway.topic_ids import describe
from schemas.topics import topic_name

_log = structlog.get_logger(__name__)

POLL_MS: Final = 200
GATHER_SECONDS: Final = 0.02
"""How long a catch-up waits for other streams of its partition: after a restart they come at once, and one reading
serves them all."""
MAX_ROUNDS: Final = 3
"""Catch-ups of one stream: the tail may lose its oldest records meanwhile."""
RETRY_SECONDS: Final = 1.0
ADVANCE_SECONDS: Final = 1.0
"""Time between two checks of topics that hold only markers, so that cursors pass these as well."""


class TooFarBehindError(Exception):
    """A cursor is older than what is read again: the client has to begin with a snapshot."""


class _CatchUp:
    """Streams of one partition that wait for the same reading."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Subscriber, list[int], asyncio.Future[list[int]]]] = []


class Feed:
    """Everything that streams are fed from."""

    def __init__(self, config: GatewayConfig, metrics: Metrics) -> None:
        self.fingerprint = ""
        self.partition_count = 0
        self._config = config
        self._metrics = metrics
        self._topics = [topic_name(role, config.topic_prefix) for role in STREAM_ROLES]
        self._index = {name: index for index, name in enumerate(self._topics)}
        self._consumer = self.new_consumer("feed")
        self._admin = AIOKafkaAdminClient(**config.kafka, client_id=f"{config.group_id}-gateway")
        self._tails: dict[int, Tail] = {}
        self._opening: dict[int, asyncio.Task[Tail]] = {}
        self._catching_up: dict[int, _CatchUp] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._assigned = asyncio.Event()
        self._alive_at = time.monotonic()
        self._advanced_at = time.monotonic()

    def new_consumer(self, name: str) -> Any:
        """A consumer of committed records without a group, not started."""
        return AIOKafkaConsumer(
            **self._config.kafka,
            client_id=f"{self._config.group_id}-gateway-{name}",
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=500,
            max_partition_fetch_bytes=1024 * 1024,
            request_timeout_ms=int(self._config.request_timeout_seconds * 1000),
            retry_backoff_ms=20,
        )

    async def start(self) -> None:
        """Connect and begin to read. Raises `KafkaError` if no broker answers or a topic is missing."""
        await self._admin.start()
        await self._consumer.start()
        topic_ids, self.partition_count = await describe(self._admin, self._topics)
        self.fingerprint = fingerprint_of(topic_ids)
        self._spawn(self._read())
        self._spawn(self._beat())

    async def stop(self) -> None:
        """End all streams and disconnect."""
        self.close_all("gone")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._consumer.stop()
        await self._admin.close()

    @property
    def admin(self) -> Any:
        """The started admin client, for other questions to the cluster."""
        return self._admin

    def partition_of(self, session_id: str) -> int:
        """The session's partition, as Apache Kafka's Java client computes it."""
        return int((murmur2(session_id.encode()) & 0x7FFFFFFF) % self.partition_count)

    def is_alive(self) -> bool:
        """Whether the reading loop has come round lately."""
        return bool(self._tasks) and time.monotonic() - self._alive_at < 5 * RETRY_SECONDS + POLL_MS / 1000

    # Streams

    async def subscribe(self, subscriber: Subscriber, cursor: Cursor | None, first: bytes = b"") -> None:
        """Make a stream follow its session from `cursor` on, or from now, with `first` before everything else.

        Raises `TooFarBehindError` if the cursor is of other topics or too old, and `KafkaError` if the broker does not
        answer. Cancelled or failed, the stream does not follow.
        """
        partition = self.partition_of(subscriber.session_id)
        if cursor is not None and (cursor.fingerprint, cursor.partition) != (self.fingerprint, partition):
            raise TooFarBehindError("the cursor is of another partition or of topics that were created again")
        began = time.monotonic()
        tail = await self._tail(partition, cursor)
        if cursor is None:
            if first:
                subscriber.put(first)
            tail.follow(subscriber, tail.positions)
            return
        self._metrics.resumes.inc()
        positions = list(cursor.positions)
        for _ in range(MAX_ROUNDS):
            tail = self._tails.get(partition) or await self._tail(partition, cursor)
            if any(position > end for position, end in zip(positions, tail.positions, strict=True)):
                # another instance was ahead: this stream takes nothing that it has had
                await self._reach(tail, positions)
            if tail.covers(positions):
                tail.follow(subscriber, positions)
                self._metrics.catch_up_seconds.observe(time.monotonic() - began)
                return
            positions = await self._catch_up(tail, subscriber, positions)
        raise TooFarBehindError("records are dropped faster than the stream catches up")

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """End a stream."""
        tail = self._tails.get(self.partition_of(subscriber.session_id))
        if tail is not None:
            tail.leave(subscriber, time.monotonic())

    def close_all(self, reason: Reason, block: bytes = b"") -> None:
        """End every stream, with a last block."""
        for tail in self._tails.values():
            for each in tail.everyone():
                if block:
                    each.put(block)
                each.close(reason)

    async def _reach(self, tail: Tail, positions: list[int]) -> None:
        """Wait until everything below `positions` has been read. Raises `TooFarBehindError` if it does not exist."""
        deadline = time.monotonic() + self._config.limits.catch_up_seconds
        while any(position > at for position, at in zip(positions, tail.positions, strict=True)):
            if time.monotonic() > deadline:
                raise TooFarBehindError("the cursor is beyond the end of its topics")
            await asyncio.sleep(0.02)

    async def _tail(self, partition: int, cursor: Cursor | None) -> Tail:
        tail = self._tails.get(partition)
        if tail is not None:
            return tail
        task = self._opening.get(partition)
        if task is None:
            task = self._opening[partition] = self._spawn(self._open(partition, cursor))
            task.add_done_callback(lambda _: self._opening.pop(partition, None))
        return await asyncio.shield(task)

    async def _open(self, partition: int, cursor: Cursor | None) -> Tail:
        """Begin to read a partition: at the first stream's cursor if it is near, else at the end."""
        tps = [TopicPartition(topic, partition) for topic in self._topics]
        ends = await self._consumer.end_offsets(tps)  # of what is committed: an open transaction is not passed over
        positions = [ends[tp] for tp in tps]
        if cursor is not None:
            begins = await self._consumer.beginning_offsets(tps)
            wanted = [min(at, end) for at, end in zip(cursor.positions, positions, strict=True)]
            behind = sum(end - at for at, end in zip(wanted, positions, strict=True))
            is_there = all(at >= begins[tp] for at, tp in zip(wanted, tps, strict=True))
            if is_there and behind <= self._config.limits.catch_up_records:
                positions = wanted
        tail = self._tails[partition] = Tail(self.fingerprint, partition, positions)
        tail.idle_since = time.monotonic()
        self._assign()
        return tail

    def _assign(self) -> None:
        """Read the partitions that there are tails for, each where its tail ends. Without an await: one step."""
        tps = {
            TopicPartition(topic, tail.partition): tail.positions[index]
            for tail in self._tails.values()
            for index, topic in enumerate(self._topics)
        }
        self._consumer.assign(list(tps))
        for tp, position in tps.items():
            self._consumer.seek(tp, position)
        self._metrics.partitions.set(len(self._tails))
        if tps:
            self._assigned.set()
        else:
            self._assigned.clear()

    # Reading

    async def _read(self) -> None:
        while True:
            self._alive_at = time.monotonic()
            try:
                await self._read_once()
            except OffsetOutOfRangeError as error:
                self._begin_anew({tp.partition for tp in error.args[0]})
            except KafkaError as error:
                _log.warning("feed_cannot_read", error=type(error).__name__, retry_seconds=RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)

    async def _read_once(self) -> None:
        if not self._assigned.is_set():
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._assigned.wait()
            except TimeoutError:
                return
        fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
        handed = 0
        for tp, records in fetched.items():
            tail = self._tails.get(tp.partition)
            if tail is None:
                continue
            role = self._index[tp.topic]
            for record in records:
                handed += tail.add(role, record.offset, record.key, record.value)
            tail.trim(self._config.limits.tail_bytes // len(self._tails))
        self._metrics.events_out.inc(handed)
        if not fetched or time.monotonic() - self._advanced_at > ADVANCE_SECONDS:
            self._advanced_at = time.monotonic()
            passed = self._consumer.assignment()
        else:
            passed = fetched
        for tp in passed:
            tail = self._tails.get(tp.partition)
            if tail is not None and self._consumer._subscription.is_assigned(tp):
                tail.advance(self._index[tp.topic], await self._consumer.position(tp))

    def _begin_anew(self, partitions: set[int]) -> None:
        """Forget partitions whose records are gone from the broker. Their streams get `reset`."""
        _log.warning("positions_are_gone", partitions=sorted(partitions))
        for partition in partitions:
            tail = self._tails.pop(partition, None)
            for each in tail.everyone() if tail is not None else ():
                each.put(frame("reset", b'{"reason":"the records at the cursor are gone"}', None))
                each.close("gone")
        self._assign()

    async def _beat(self) -> None:
        """Heartbeats, expired tokens, idle partitions: a share of the streams every second."""
        turn = 0
        turns = max(1, int(self._config.heartbeat_seconds))
        while True:
            await asyncio.sleep(self._config.heartbeat_seconds / turns)
            turn = (turn + 1) % turns
            now, wall = time.monotonic(), time.time()
            idle = []
            for tail in self._tails.values():
                block = position_frame(tail.cursor())
                for each in tail.everyone():
                    if wall >= each.expires_at:
                        each.put(frame("unauthorized", b'{"reason":"the token has expired"}', None))
                        each.close("unauthorized")
                    elif each.number % turns == turn:
                        each.put(block)
                if tail.idle_since is not None and now - tail.idle_since > self._config.idle_partition_seconds:
                    idle.append(tail.partition)
            for partition in idle:
                del self._tails[partition]
            if idle:
                self._assign()

    # Catching up

    async def _catch_up(self, tail: Tail, subscriber: Subscriber, positions: list[int]) -> list[int]:
        """Give a stream what lies between its positions and the tail; returns where it stands then."""
        behind = sum(max(0, start - at) for at, start in zip(positions, tail.start, strict=True))
        if behind > self._config.limits.catch_up_records:
            raise TooFarBehindError(f"the cursor is {behind} records behind, more than are read again")
        waiting = self._catching_up.get(tail.partition)
        if waiting is None:
            waiting = self._catching_up[tail.partition] = _CatchUp()
            self._spawn(self._catch_up_together(tail, waiting))
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        waiting.waiting.append((subscriber, positions, done))
        return await done

    async def _catch_up_together(self, tail: Tail, group: _CatchUp) -> None:
        await asyncio.sleep(GATHER_SECONDS)
        del self._catching_up[tail.partition]
        goal = list(tail.start)
        try:
            async with asyncio.timeout(self._config.limits.catch_up_seconds):
                await self._read_between(tail, group, goal)
        except TimeoutError:
            _fail(group, lambda: TooFarBehindError("catching up takes too long"))
        except OffsetOutOfRangeError:
            _fail(group, lambda: TooFarBehindError("the records at the cursor are gone"))
        except KafkaError as error:
            failure = error
            _fail(group, lambda: failure)
        except BaseException:
            _fail(group, asyncio.CancelledError)
            raise
        for _, positions, done in group.waiting:
            if not done.done():
                done.set_result([max(at, end) for at, end in zip(positions, goal, strict=True)])

    async def _read_between(self, tail: Tail, group: _CatchUp, goal: list[int]) -> None:
        followers: dict[str, list[tuple[Subscriber, list[int]]]] = {}
        for subscriber, positions, _ in group.waiting:
            followers.setdefault(subscriber.session_id, []).append((subscriber, positions))
        begin = [min(positions[role] for _, positions, _ in group.waiting) for role in range(len(goal))]
        consumer = self.new_consumer("catch-up")
        await consumer.start()
        try:
            tps = {
                TopicPartition(topic, tail.partition): role
                for role, topic in enumerate(self._topics)
                if begin[role] < goal[role]
            }
            consumer.assign(list(tps))
            for tp, role in tps.items():
                consumer.seek(tp, begin[role])
            open_tps = set(tps)
            while open_tps:
                for tp, records in (await consumer.getmany(*open_tps, timeout_ms=POLL_MS)).items():
                    role = tps[tp]
                    for record in records:
                        if record.offset >= goal[role]:
                            break
                        session_id = session_of(STREAM_ROLES[role], record.key)
                        for subscriber, positions in followers.get(session_id or "", ()):
                            if record.offset >= positions[role]:
                                one = [(role, record.offset, record.value)]
                                replay(subscriber, self.fingerprint, tail.partition, positions, one)
                for tp in list(open_tps):
                    if await consumer.position(tp) >= goal[tps[tp]]:
                        open_tps.discard(tp)
        finally:
            await consumer.stop()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, KafkaError):
            _log.error("feed_task_failed", error=repr(error))


def _fail(group: _CatchUp, error: Callable[[], BaseException]) -> None:
    for _, _, done in group.waiting:
        if not done.done():
            done.set_exception(error())


@asynccontextmanager
async def watching(feed: Feed, session_id: str, buffer_bytes: int) -> AsyncIterator[Subscriber]:
    """Follow a session from now on, for a request that waits for something. Raises `Problem` if Kafka is away."""
    watcher = Subscriber(session_id, buffer_bytes)
    try:
        await feed.subscribe(watcher, None)
    except KafkaError as error:
        raise Problem("kafka_unavailable", "Kafka does not answer", retry_after_seconds=1) from error
    try:
        yield watcher
    finally:
        feed.unsubscribe(watcher)
