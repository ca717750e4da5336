"""Results and proposed effects, as they are judged and as they are kept while they wait."""

from base64 import b64decode, b64encode
from typing import Any, Final, Literal

import msgspec
import orjson
from mypy_extensions import mypyc_attr

from projections.decode import Batch, Decoder
from projections.json_equality import canonical
from projections.records import UnknownFormatError
from projections.rows import FORMAT, ResultDigests
from projections.text import quoted
from schemas.envelope import Headers, traceparent_of
from schemas.identity import digest
from schemas.topics import Role

WaitingFor = Literal["unknown", "result", "effect"]
"""Why an event is kept: the dispatch of its task has not been folded (`unknown`); its task's result cannot be decided
yet, or its task was stopped meanwhile (`result`); its barrier has not been reached (`effect`)."""

_results: Final = Decoder("results")
_steps: Final = Decoder("steps")
_encode_content: Final = msgspec.json.Encoder().encode
_NEITHER: Final = b"{},null]"
"""The end of a result's content without reads and error."""
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode


@mypyc_attr(acyclic=True, free_list_len=1)
class Arrived:
    """A result or a proposed effect with the record it came in.

    `timestamp` is the broker's (ms). What decisions and records need of the event again and again is read once:
    attributes of this class cost a tenth. `undecided`: the parts that nothing had decided when its task was stopped.
    """

    def __init__(
        self,
        event: Any,
        value: bytes,
        key: bytes | None,
        headers: Headers,
        offset: int,
        timestamp: int,
        role: Role,
        partition: int,
        undecided: list[str] | None = None,
    ) -> None:
        self.event = event
        self.session_id: str = event.session_id
        self.task_id: str = event.task_id
        self.task_json = quoted(self.task_id)
        self.source_json = quoted(event.source)
        self.event_id_json = quoted(event.event_id)
        self.value = value
        self.key = key
        self.headers = headers
        self.offset = offset
        self.timestamp = timestamp
        self.role = role
        self.partition = partition
        self.undecided = undecided
        self.kept_as: bytes | None = None
        """Its key on the changelog, while it is kept there."""
        self._digests: ResultDigests | None = None
        self._parts_json: bytes | None = None

    @property
    def traceparent(self) -> str | None:
        """Its own trace context."""
        return traceparent_of(self.headers) if self.headers else None

    @property
    def is_proposal(self) -> bool:
        """Whether it is a proposed effect, and not a result."""
        return self.role.startswith("steps")

    @property
    def size_bytes(self) -> int:
        """What it takes while it is kept: the record with its headers, and its key on the changelog."""
        size = len(self.value) + len(self.key or b"") + 2 * len(self.session_id) + len(self.task_id) + 64
        for name, value in self.headers:
            size += len(name) + len(value or b"") + 8
        return size

    @property
    def parts_json(self) -> bytes:
        """All its parts, as a JSON array."""
        if self._parts_json is None:
            self._parts_json = _encode_content(self.event.parts)
        return self._parts_json

    @property
    def digests(self) -> ResultDigests:
        """What a result is recognized by. Content is everything but the envelope; payloads count as JSON values."""
        if self._digests is None:
            event = self.event
            outcome: str = event.outcome
            reads, error = event.reads, event.error
            rest: bytes = _NEITHER if not reads and error is None else _encode_sorted((reads, error))[1:]
            if not event.final:
                rest = rest[:-1] + b",false]"
            content = b'["%s",%s,%s' % (outcome.encode(), self._canonical_parts(), rest)
            identity = digest(f"[{self.source_json},{self.event_id_json}]".encode())
            self._digests = ResultDigests(identity, digest(content))
        return self._digests

    @property
    def digest_of_bytes(self) -> str:
        """Its content's digest as it was before payloads were compared as JSON values: rows have such digests."""
        event = self.event
        rest = _encode_content((event.reads, event.error))
        return digest(b'["%s",%s,%s' % (event.outcome.encode(), self.parts_json, rest[1:]))

    def _canonical_parts(self) -> bytes:
        """Its parts as JSON, with their payloads in canonical text."""
        parts = self.event.parts
        changed: list[Any] | None = None
        for index, part in enumerate(parts):
            payload = part.payload
            if payload is None:
                continue
            raw = bytes(payload)
            text = canonical(raw)
            if text is raw or (text == raw and raw != b"null"):
                continue
            if changed is None:
                changed = list(parts)
            value = None if text == b"null" else msgspec.Raw(text)
            changed[index] = msgspec.structs.replace(part, payload=value)
        return self.parts_json if changed is None else _encode_content(changed)

    def copy(self) -> "Arrived":
        """The same event, to be kept in another way."""
        return Arrived(
            self.event,
            self.value,
            self.key,
            self.headers,
            self.offset,
            self.timestamp,
            self.role,
            self.partition,
            self.undecided,
        )

    def stopped_with(self, undecided: list[str]) -> "Arrived":
        """The same result, of a task that was stopped before these parts were decided."""
        stopped = self.copy()
        stopped.undecided = undecided
        stopped.kept_as = self.kept_as
        return stopped

    def as_batch(self) -> Batch:
        """The record it came in, for the dead-letter topic."""
        offset = self.offset
        return Batch(
            self.role,
            self.partition,
            offset,
            offset + 1,
            [offset],
            [self.timestamp],
            [self.key],
            [self.value],
            [self.headers],
        )

    def changelog_key(self, waiting_for: WaitingFor) -> bytes:
        """The key it is kept under, without the first byte that tells kinds of records apart."""
        return orjson.dumps([waiting_for, self.session_id, self.task_id, self.role, self.offset])

    def to_bytes(self) -> bytes:
        """A line of JSON with the place it came from, then the record's own bytes.

        Headers are in base64: as text in JSON, control characters would take six times their size.
        """
        headers = [(_base64(name.encode()), None if value is None else _base64(value)) for name, value in self.headers]
        origin = [self.offset, self.timestamp, self.key is not None, headers, self.undecided, FORMAT]
        return orjson.dumps(origin) + b"\n" + self.value


def arrived(batch: Batch, index: int, event: Any) -> Arrived:
    """A record of a batch whose event may have to wait."""
    return Arrived(
        event,
        batch.values[index] or b"",
        batch.keys[index],
        batch.headers[index],
        batch.offsets[index],
        batch.timestamps[index],
        batch.role,
        batch.partition,
    )


def from_bytes(key: bytes, raw: bytes, partition: int) -> tuple[WaitingFor, Arrived]:
    """What `changelog_key` and `to_bytes` wrote. Raises `UnknownFormatError`."""
    waiting_for, session_id, _, role, _ = orjson.loads(key)
    line, value = raw.split(b"\n", 1)
    origin = orjson.loads(line)
    offset, timestamp, has_key, texts, undecided = origin[:5]
    headers = _headers_of(texts, origin[5] if len(origin) > 5 else 1)
    event = (_steps if role.startswith("steps") else _results).event_of(value, headers)
    record_key = session_id.encode() if has_key else None
    return waiting_for, Arrived(event, value, record_key, headers, offset, timestamp, role, partition, undecided)


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _headers_of(texts: list[tuple[str, str | None]], record_format: int) -> Headers:
    """Headers as `to_bytes` wrote them; those of format 1 were text in Latin-1."""
    if record_format == 1:
        return [(name, None if text is None else text.encode("latin-1")) for name, text in texts]
    if record_format != FORMAT:
        raise UnknownFormatError(
            f"an event that waits has format {record_format}, but this version reads formats 1 and {FORMAT}:"
            " go back to the version that wrote it, or to a newer one"
        )
    return [(b64decode(name).decode(), None if text is None else b64decode(text)) for name, text in texts]


def identity_of(event: Any) -> str:
    """Digest of an event's identity: its source and its id there."""
    return digest(f"[{quoted(event.source)},{quoted(event.event_id)}]".encode())


def undecided_rest(result: Arrived) -> Any:
    """The event of a stopped task's result with only the parts that nothing had decided."""
    if result.undecided is None:
        return result.event
    undecided = set(result.undecided)
    parts = [part for part in result.event.parts if part.part_id in undecided]
    return msgspec.structs.replace(result.event, parts=parts)
