"""From a batch of records to events, with the bad records set apart.

Every record is decoded once, by itself: a broken one costs its neighbours nothing and cannot shift them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Union

import msgspec
from pydantic import BaseModel, Field, TypeAdapter

from schemas.envelope import Headers, completed_from_headers
from schemas.events import CONTEXT_EVENTS, RESULT_EVENTS, STEP_EVENTS, TaskDispatched
from schemas.explain import explained
from schemas.limits import UNBOUNDED_BYTES, exceeded
from schemas.topics import DEFAULT_PREFIX, Role
from schemas.wire import decoder, struct_of

_MODELS: Final[dict[str, tuple[type[BaseModel], ...]]] = {
    "context": CONTEXT_EVENTS,
    "steps": STEP_EVENTS,
    "results": RESULT_EVENTS,
}
_DISPATCHED: Final[type[Any]] = struct_of(TaskDispatched)
_NOT_AN_EVENT: Final = (msgspec.DecodeError, TypeError, UnicodeDecodeError, RecursionError)
MAX_EXPLAINED_BYTES: Final = 16 * 1024
"""A record up to this size has all its problems told; of a larger one the decoder's first has to do. Finding 100,000
problems in one of 1 MB took 310 ms."""
_UNBOUNDED_BYTES: Final[int] = UNBOUNDED_BYTES
MAX_DETAIL: Final = 1000
"""Characters of a refusal's detail. Keys and values of a bad record can be as long as the record."""


@dataclass(slots=True)
class Batch:
    """The records of one fetch from one topic partition, and the place it takes in the log.

    `start` and `end` are the consumer's positions before and after the fetch; a batch may hold no record (commit
    markers, aborted transactions, compacted gaps). `offsets`, `timestamps` (ms, the broker's), `keys`, `values` and
    `headers` run in parallel. `unreadable` says why its only value, a whole batch of a producer, cannot be unpacked.
    """

    role: Role
    partition: int
    start: int
    end: int
    offsets: list[int]
    timestamps: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]
    size_bytes: int = 0
    unreadable: str = ""

    def __len__(self) -> int:
        return len(self.offsets)

    def pieces(self, count: int) -> "Iterator[Batch]":
        """The same records as batches of at most `count`, one after the other."""
        if len(self) <= count:
            yield self
            return
        share = self.size_bytes // len(self)
        start = self.start
        for first in range(0, len(self), count):
            last = min(first + count, len(self))
            is_rest = last == len(self)
            end = self.end if is_rest else self.offsets[last]
            yield Batch(
                self.role,
                self.partition,
                start,
                end,
                self.offsets[first:last],
                self.timestamps[first:last],
                self.keys[first:last],
                self.values[first:last],
                self.headers[first:last],
                self.size_bytes - first * share if is_rest else count * share,
            )
            start = end

    def between(self, first: int, last: int) -> "Batch":
        """The records at the places `first` to `last`, as a batch that begins and ends with them."""
        is_rest = last == len(self)
        return replace(
            self,
            start=self.start if first == 0 else self.offsets[first],
            end=self.end if is_rest else self.offsets[last],
            offsets=self.offsets[first:last],
            timestamps=self.timestamps[first:last],
            keys=self.keys[first:last],
            values=self.values[first:last],
            headers=self.headers[first:last],
            size_bytes=0,
        )

    def since(self, offset: int) -> "Batch":
        """The records at `offset` and later, as a batch that starts there."""
        keep = next((index for index, at in enumerate(self.offsets) if at >= offset), len(self.offsets))
        return Batch(
            self.role,
            self.partition,
            max(self.start, offset),
            self.end,
            self.offsets[keep:],
            self.timestamps[keep:],
            self.keys[keep:],
            self.values[keep:],
            self.headers[keep:],
            self.size_bytes,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """One record that cannot be used: it goes to the dead-letter topic with its bytes.

    `error` is a short code, `detail` says what was wrong, where and what to do. `judged` is where the logs stood when
    that was decided, as JSON; empty if it does not depend on them.
    """

    batch: Batch
    index: int
    error: str
    detail: str
    judged: str = ""


class Decoder:
    """Decodes the records of one group of topics (context, steps or results).

    Events have the attributes of the models in `schemas.events`.
    """

    def __init__(self, role: Role, prefix: str = DEFAULT_PREFIX) -> None:
        """`prefix` of the topics, to name them where a record is on the wrong one."""
        group = role.split(".", maxsplit=1)[0]
        models = _MODELS[group]
        self.session_id = ""
        """Of the event that was decoded last: reading it of the event costs ten times as much."""
        self._decode: Any = decoder(models).decode
        self._has_parts = group == "results"  # compiled, a tuple is not the same object twice
        self._explain: TypeAdapter[Any] = TypeAdapter(_told_apart(models))
        self._prefix = prefix

    def decode(self, batch: Batch, refusals: list[Refusal]) -> list[Any]:
        """The event of each record; None for what is not an event, which is added to `refusals`. Raises nothing."""
        return [self.event(batch, index, refusals) for index in range(len(batch))]

    def event(self, batch: Batch, index: int, refusals: list[Refusal]) -> Any:
        """The event of one record; None if it is not an event, and then it is added to `refusals`. Raises nothing."""
        value = batch.values[index]
        try:
            event = self._decode(value)
        except _NOT_AN_EVENT as error:
            event = self._refused(batch, index, error, refusals)
            if event is None:
                return None
        key = batch.keys[index]
        session_id: str = event.session_id
        self.session_id = session_id
        if key is not None and key != session_id.encode():
            # whoever partitions by the key would separate a session's records
            detail = f"key: {key[:64]!r} is not the session_id {session_id[:64]!r}; key every record by its session id"
            refusals.append(Refusal(batch, index, "invalid_event", detail))
            return None
        if self._may_exceed(event, value) and (problem := exceeded(event, value or b"")) is not None:
            refusals.append(Refusal(batch, index, "invalid_event", problem))
            return None
        return event

    def _may_exceed(self, event: Any, value: bytes | None) -> bool:
        """Whether the record might break a bound. Most cannot: they are short, and their characters are bytes."""
        if value is None or len(value) > _UNBOUNDED_BYTES or not value.isascii():
            return True
        if self._has_parts:
            return len(event.parts) > 1
        return type(event) is _DISPATCHED and bool(event.metadata)

    def _refused(self, batch: Batch, index: int, error: Exception, refusals: list[Refusal]) -> Any:
        value = batch.values[index]
        if value is None:
            detail = "value: there is none; write one JSON object (session.erased removes a session)"
            refusals.append(Refusal(batch, index, "empty_value", detail))
            return None
        completed = completed_from_headers(value, batch.headers[index])
        if completed is not None:
            try:
                event = self._decode(completed)
            except _NOT_AN_EVENT as still:
                error, value = still, completed
            else:
                problem = exceeded(event, completed)
                if problem is None:
                    return event
                refusals.append(Refusal(batch, index, "invalid_event", problem))
                return None
        detail = (
            explained(value, error, self._explain, batch.role, self._prefix)
            if len(value) <= MAX_EXPLAINED_BYTES or isinstance(error, RecursionError)
            else f"event: {error}"
        )
        refusals.append(Refusal(batch, index, "invalid_event", detail[:MAX_DETAIL]))
        return None

    def event_of(self, value: bytes, headers: Headers) -> Any:
        """The event in a record that was decoded before. Raises `msgspec.DecodeError` if it was not."""
        try:
            return self._decode(value)
        except msgspec.DecodeError:
            completed = completed_from_headers(value, headers)
            if completed is None:
                raise
            return self._decode(completed)


def _told_apart(models: tuple[type[BaseModel], ...]) -> Any:
    return models[0] if len(models) == 1 else Annotated[Union[models], Field(discriminator="type")]  # noqa: UP007
