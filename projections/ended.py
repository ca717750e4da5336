"""The tasks of a session that ended, within the horizon: how each ended, and which results of it were judged.

They are many, looked for often and read seldom, so they are kept as lines of JSON: to find one is to search for its
first bytes (a newline, a bracket, the task id in quotes), and only that line is parsed.
"""

from typing import Final

import msgspec
from mypy_extensions import mypyc_attr

from projections import format_1
from projections.records import UnknownFormatError
from projections.rows import FORMAT, Echo, EndedLine, EndedLineHead, NextAttempt, ResultDigests
from projections.text import json_of, quoted

PRUNE_EVERY: Final = 8
"""How many tasks of a session end between two looks at the oldest one's age: looking costs more than the rest of
remembering a task."""

MAX_RESULTS: Final = 16
"""Results of one ended task that are known again as repeats."""

MAX_ENDED_BYTES: Final = 1024 * 1024
"""Of one session's lines. Beyond it the oldest tasks are forgotten before their time."""

_decode_line: Final = msgspec.json.Decoder(EndedLine).decode
_decode_head: Final = msgspec.json.Decoder(EndedLineHead).decode
_decode_echo: Final = msgspec.json.Decoder(Echo).decode


@mypyc_attr(acyclic=True, free_list_len=1)
class EndedTask:
    """One ended task.

    `disposition`, `reason` and `digest` are None if a result was given up as unknown before any dispatch of the task
    was seen. `echo` and `work` are JSON members that the task's last status has. `dispatch`: what else its dispatch
    said, as a JSON object, if that is known, see `projections.dispatched`. `next` is the attempt that was commanded
    after it. `acknowledged` is the outcome that the consumer reported, `detail` why it refused, or why the task was
    rejected. `delivered` are the outputs with parts to show or apply: the beginning of each one's event id, and the ids
    of its parts. `outcomes` are what consumers said of single parts. Times are the broker's, in ms.
    """

    def __init__(
        self,
        task_id: str,
        disposition: str | None,
        reason: str | None,
        ended_at: int,
        digest: str | None,
        results: list[ResultDigests],
        parent: str | None = None,
        dispatched_at: int = 0,
        steps_started: int = 0,
        steps_completed: int = 0,
        echo: str = "",
        work: str = "",
        acknowledged: str | None = None,
        detail: str | None = None,
        dispatch: str | None = None,
        next_attempt: NextAttempt | None = None,
        delivered: list[list[str]] | None = None,
        outcomes: dict[str, str] | None = None,
    ) -> None:
        self.task_id = task_id
        self.task_json = quoted(task_id)
        self.disposition = disposition
        self.reason = reason
        self.ended_at = ended_at
        self.digest = digest
        self.results = results
        self.parent = parent
        self.dispatched_at = dispatched_at
        self.steps_started = steps_started
        self.steps_completed = steps_completed
        self.echo = echo
        self.work = work
        self.acknowledged = acknowledged
        self.detail = detail
        self.dispatch = dispatch
        self.next = next_attempt
        self.delivered = delivered or None
        self.outcomes = outcomes or None

    @property
    def was_unknown(self) -> bool:
        """Whether no dispatch of the task was seen."""
        return self.disposition is None

    @property
    def task_type(self) -> str | None:
        """The type of the task, if its dispatch was seen."""
        return _decode_echo(f"{{{self.echo}}}").task_type

    @property
    def is_cold(self) -> bool:
        """Whether the task was on the cold lane."""
        return _decode_echo(f"{{{self.echo}}}").lane == "cold"

    def with_result(self, digests: ResultDigests) -> "EndedTask":
        """The same, with one more result known."""
        results = [*self.results, digests]
        if len(results) > MAX_RESULTS:
            del results[1]  # the first is the one that was judged
        changed = self._copy()
        changed.results = results
        return changed

    def with_next(self, next_attempt: NextAttempt) -> "EndedTask":
        """The same, with what is known of the attempt that was commanded after it."""
        changed = self._copy()
        changed.next = next_attempt
        return changed

    def acknowledged_as(self, outcome: str, detail: str | None, outcomes: dict[str, str] | None = None) -> "EndedTask":
        """The same, with what the consumer reported."""
        changed = self._copy()
        changed.acknowledged, changed.detail = outcome, detail
        if outcomes is not None:
            changed.outcomes = outcomes or None
        return changed

    def delivered_late(self, delivery: list[str]) -> "EndedTask":
        """The same, with one more output that was delivered."""
        changed = self._copy()
        changed.delivered = [*(self.delivered or ()), delivery]
        return changed

    def _copy(self) -> "EndedTask":
        return EndedTask(
            self.task_id,
            self.disposition,
            self.reason,
            self.ended_at,
            self.digest,
            self.results,
            self.parent,
            self.dispatched_at,
            self.steps_started,
            self.steps_completed,
            self.echo,
            self.work,
            self.acknowledged,
            self.detail,
            self.dispatch,
            self.next,
            self.delivered,
            self.outcomes,
        )

    def line(self) -> bytes:
        """The line it is kept as: the fields of `rows.EndedLine`."""
        results = ",".join([f'["{each.identity}","{each.content}"]' for each in self.results])
        reported = ""
        if self.delivered is not None or self.next is not None:
            told = f"{_text(self.acknowledged)},{_text(self.detail)},{self.dispatch or 'null'}"
            reported = f",{told},{'null' if self.next is None else json_of(self.next)}"
        elif self.dispatch is not None:
            if self.acknowledged is None and self.detail is None:
                reported = f",null,null,{self.dispatch}"
            else:
                reported = f",{_text(self.acknowledged)},{_text(self.detail)},{self.dispatch}"
        elif self.acknowledged is not None or self.detail is not None:
            reported = f",{_text(self.acknowledged)},{_text(self.detail)}"
        if self.delivered is not None:
            reported = f"{reported},{json_of(self.delivered)}"
            if self.outcomes is not None:
                reported = f"{reported},{json_of(self.outcomes)}"
        return (
            f"\n[{self.task_json},{FORMAT},{_text(self.disposition)},{_text(self.reason)},{self.ended_at},"
            f"{_text(self.digest)},[{results}],{_text(self.parent)},{self.ended_at - self.dispatched_at},"
            f"{self.steps_started},{self.steps_completed},{{{self.echo}}},{{{self.work}}}{reported}]"
        ).encode()


def _text(value: str | None) -> str:
    return "null" if value is None else quoted(value)


def task_of(line: bytes) -> EndedTask:
    """The task of a line. Raises `UnknownFormatError`."""
    if format_1.is_ended_line(line):
        fields = format_1.ended_from_line(line)
    else:
        try:
            fields = _decode_line(line)
        except msgspec.DecodeError as error:
            raise UnknownFormatError(f"the line of an ended task cannot be read: {error}") from error
        if fields.format != FORMAT:
            raise _unknown_format(fields.format)
    return EndedTask(
        fields.task_id,
        fields.disposition,
        fields.reason,
        fields.ended_at,
        fields.digest,
        fields.results,
        fields.parent,
        fields.ended_at - fields.open_ms,
        fields.steps_started,
        fields.steps_completed,
        bytes(fields.echo)[1:-1].decode(),
        bytes(fields.work)[1:-1].decode(),
        fields.acknowledged,
        fields.detail,
        _object_or_none(bytes(fields.dispatch)),
        fields.next,
        fields.delivered,
        fields.outcomes,
    )


def _object_or_none(raw: bytes) -> str | None:
    return None if raw == b"null" else raw.decode()


def check_format(line: bytes) -> None:
    """Raises `UnknownFormatError` if another version wrote the line."""
    try:
        found = _decode_head(line).format
    except msgspec.DecodeError as error:
        raise UnknownFormatError(f"the line of an ended task cannot be read: {error}") from error
    if isinstance(found, int) and found != FORMAT:
        raise _unknown_format(found)


def _unknown_format(found: int) -> UnknownFormatError:
    return UnknownFormatError(
        f"an ended task has format {found}, but this version reads formats 1 and {FORMAT}:"
        " go back to the version that wrote it, or to a newer one"
    )


def find(lines: bytes, task_id: str) -> EndedTask | None:
    """How the task ended; None if it has not, or longer ago than the horizon."""
    if not lines:
        return None
    begin, end = _place(lines, task_id)
    return task_of(lines[begin:end]) if begin >= 0 else None


def put(lines: bytes, task_id: str, line: bytes) -> bytes:
    """The lines with one more task at their end, or with what is remembered of it replaced."""
    return without(lines, task_id) + line


def without(lines: bytes, task_id: str) -> bytes:
    """The lines without one task."""
    if not lines:
        return lines
    begin, end = _place(lines, task_id)
    return lines[:begin] + lines[end:] if begin >= 0 else lines


def beyond_horizon(lines: bytes, oldest_ms: int, max_count: int) -> list[EndedTask]:
    """The tasks at the beginning that are to be forgotten.

    They ended before `oldest_ms`, or are more than `max_count`, or take more than `MAX_ENDED_BYTES`.
    """
    count = len(lines) - len(lines.replace(b"\n", b""))  # a third of what `count` takes: 0.3 instead of 0.9 µs for 2 KB
    surplus, surplus_bytes = count - max_count, len(lines) - MAX_ENDED_BYTES
    if surplus <= 0 and surplus_bytes <= 0 and count % PRUNE_EVERY:
        return []
    found: list[EndedTask] = []
    begin = 0
    while begin < len(lines):
        end = lines.find(b"\n", begin + 1)
        end = len(lines) if end < 0 else end
        oldest = task_of(lines[begin:end])
        if surplus <= len(found) and surplus_bytes <= begin and oldest.ended_at >= oldest_ms:
            break
        found.append(oldest)
        begin = end
    return found


def task_ids(lines: bytes) -> list[str]:
    """Every task remembered, the oldest first."""
    return [task_of(line).task_id for line in lines.split(b"\n") if line]


def told_ids(lines: bytes) -> list[str]:
    """Those of which a status was published: their dispatches were seen."""
    return [task.task_id for task in map(task_of, filter(None, lines.split(b"\n"))) if not task.was_unknown]


def _place(lines: bytes, task_id: str) -> tuple[int, int]:
    begin = lines.find(f"\n[{quoted(task_id)},".encode())
    if begin < 0:
        return -1, -1
    end = lines.find(b"\n", begin + 1)
    return begin, len(lines) if end < 0 else end
