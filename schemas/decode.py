"""From a batch of records to events: one validation call for the whole batch, and bad records set apart.

A batch is joined into one JSON list and validated at once. A bad record is found by its index and left out of a second
call; records that break the list itself are looked at one by one. No good record is decoded more than twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from schemas.envelope import Headers, completed_from_headers
from schemas.events import CONTEXT_EVENTS, RESULT_EVENTS, STEP_EVENTS
from schemas.limits import exceeded, may_exceed
from schemas.topics import Role
from schemas.wire import Event, event_adapter, list_adapter


@dataclass(slots=True)
class Batch:
    """The records of one fetch from one topic partition, and the place it takes in the log.

    `start` and `end` are the consumer's positions before and after the fetch; a batch may hold no record (commit
    markers, aborted transactions, compacted gaps). `offsets`, `timestamps` (ms, the broker's), `keys`, `values` and
    `headers` run in parallel; `events` joins them once decoded, with None for a record that is not an event.
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
    events: list[Event | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.offsets)

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
            self.events[keep:],
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """One record that cannot be used: it goes to the dead-letter topic with its bytes.

    `error` is a short code, `detail` says what was wrong, where and what to do.
    """

    batch: Batch
    index: int
    error: str
    detail: str


class Decoder:
    """Decodes the records of one group of topics (context, steps or results)."""

    def __init__(self, role: Role) -> None:
        models = {"context": CONTEXT_EVENTS, "steps": STEP_EVENTS, "results": RESULT_EVENTS}[role.split(".")[0]]
        self._list: TypeAdapter[list[Event]] = list_adapter(models)
        self._one: TypeAdapter[Event] = event_adapter(models)

    def decode(self, batch: Batch) -> list[Refusal]:
        """Fill `batch.events`; what is not an event is None there and returned as a refusal. Raises nothing."""
        values = batch.values
        events = self._together(values, range(len(values)))
        if events is None or not _aligned(batch.keys, events):
            return self._separately(batch, range(len(values)))
        batch.events = list(events)
        suspects = [index for index, event in enumerate(events) if event is None]
        refusals = self._separately(batch, suspects) if suspects else []
        refusals += _beyond_limits(batch)
        return refusals

    def _together(self, values: Sequence[bytes | None], indices: Sequence[int]) -> list[Event | None] | None:
        """All events in one call, None for those to look at alone; None for all where the list itself is broken."""
        present = [index for index in indices if values[index] is not None]
        try:
            decoded = self._list.validate_json(b"[" + b",".join(values[index] for index in present) + b"]")  # type: ignore[misc]
        except ValidationError as error:
            bad = {present[place[0]] for place in _places(error) if place and place[0] < len(present)}  # type: ignore[index]
            if not bad:
                return None
            good = [index for index in present if index not in bad]
            return self._together(values, good) if len(good) < len(present) else None
        if len(decoded) != len(present):
            return None
        if len(present) == len(values):
            return decoded  # type: ignore[return-value]
        events: list[Event | None] = [None] * len(values)
        for index, event in zip(present, decoded, strict=True):
            events[index] = event
        return events

    def _separately(self, batch: Batch, indices: Sequence[int]) -> list[Refusal]:
        if not batch.events:
            batch.events = [None] * len(batch)
        refusals = []
        for index in indices:
            value = batch.values[index]
            if value is None:
                refusals.append(Refusal(batch, index, "empty_value", "a record without a value is not an event"))
                continue
            try:
                event = self._one.validate_json(value)
            except ValidationError as error:
                completed = completed_from_headers(value, batch.headers[index])
                event_or_none = self._completed(completed) if completed is not None else None
                if event_or_none is None:
                    refusals.append(Refusal(batch, index, "invalid_event", _explained(error)))
                    continue
                event = event_or_none
            problem = exceeded(event, value) or _key_problem(batch.keys[index], event)
            if problem is not None:
                refusals.append(Refusal(batch, index, "invalid_event", problem))
            else:
                batch.events[index] = event
        return refusals

    def _completed(self, value: bytes) -> Event | None:
        try:
            return self._one.validate_json(value)
        except ValidationError:
            return None


def _aligned(keys: Sequence[bytes | None], events: Sequence[Event | None]) -> bool:
    """Whether every event stands at its own record: a crafted record can hold two list elements, another one half."""
    try:
        return b"\0".join(keys).decode() == "\0".join([event["session_id"] for event in events])  # type: ignore[arg-type, index]
    except (TypeError, UnicodeDecodeError):  # a missing key or event: compare one by one
        return all(event is None or _key_problem(key, event) is None for key, event in zip(keys, events, strict=True))


def _key_problem(key: bytes | None, event: Event) -> str | None:
    if key is None or key == event["session_id"].encode():
        return None
    return f"key: {key[:64]!r} is not the session_id {event['session_id'][:64]!r}; key every record by its session id"


def _beyond_limits(batch: Batch) -> list[Refusal]:
    refusals = []
    for index, value in enumerate(batch.values):
        event = batch.events[index]
        if event is not None and value is not None and may_exceed(value):
            problem = exceeded(event, value)
            if problem is not None:
                batch.events[index] = None
                refusals.append(Refusal(batch, index, "invalid_event", problem))
    return refusals


def _places(error: ValidationError) -> list[tuple[int | str, ...]]:
    return [details["loc"] for details in error.errors(include_url=False, include_input=False, include_context=False)]


def _explained(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    told = [f"{'.'.join(str(step) for step in problem['loc']) or 'event'}: {problem['msg']}" for problem in problems[:5]]
    if len(problems) > len(told):
        told.append(f"and {len(problems) - len(told)} more")
    return "; ".join(told)
