"""The search for the record that breaks its partition: the same input again, in smaller pieces, each one committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from projections.decode import Batch, Refusal
from schemas.topics import Role
from streams.failure import Failure

SHRINKS_BY: Final = 8
"""A piece that fails is divided by this, and one that is committed is followed by one twice as large: a bad record
among 65,536 is found within about 60 transactions."""

Work = Literal["fold", "decide", "ready", "time", "commit"]
ALONE: Final = ("ready", "time")
"""Work that takes no record: results that waited are judged, timers act. A search gives it its own transactions."""


class Search:
    """Of one partition: whether a record is sought, and the records that were found and are left out."""

    def __init__(self) -> None:
        self._found: dict[tuple[Role, int], Failure] = {}
        self._piece: int | None = None
        """Records in a transaction; None while nothing is sought."""
        self._left = 0
        self._last: tuple[Role, int] | None = None
        """The last record that was taken."""
        self._until: Mapping[Role, int] = {}
        """Where the failure was."""
        self._awaits: Work | None = None
        """What has failed without a record: the search goes on until that has been done."""

    @property
    def is_on(self) -> bool:
        """Whether a record is sought."""
        return self._piece is not None

    @property
    def leaves_out(self) -> bool:
        """Whether records were found that have to be left out."""
        return bool(self._found)

    @property
    def limit(self) -> int | None:
        """How many records may be taken before the next transaction; None without a search."""
        return None if self._piece is None else self._left

    def failed(self, work: Work, records: int, reached: Mapping[Role, int], failure: Failure) -> bool:
        """Work has raised, after `records` were taken since the last transaction, up to the positions in `reached`.

        Returns whether to try again from there; False if no single record is to blame.
        """
        if not records:
            return False
        if self._piece is None:
            self._until, self._awaits = dict(reached), work if work in ALONE else None
            self._begin(records // SHRINKS_BY)
        elif records > 1:
            self._begin(records // SHRINKS_BY)
        elif self._last is None or self._last in self._found:
            return False
        else:
            self._found[self._last] = failure
            self._begin(1)
        return True

    def _begin(self, piece: int) -> None:
        self._piece = self._left = max(1, piece)
        self._last = None

    def took(self, batch: Batch, refusals: list[Refusal]) -> Batch:
        """A batch is about to be folded or judged. Returns it without records that were found: those are refused."""
        if self._piece is not None:
            self._left -= len(batch)
            if batch.offsets:
                self._last = batch.role, batch.offsets[-1]
        if not self._found:
            return batch
        keep: list[int] = []
        for index, offset in enumerate(batch.offsets):
            failure = self._found.get((batch.role, offset))
            if failure is None:
                keep.append(index)
            else:
                refusals.append(Refusal(batch, index, "processing_failed", str(failure)))
        if len(keep) == len(batch):
            return batch
        return replace(
            batch,
            offsets=[batch.offsets[index] for index in keep],
            timestamps=[batch.timestamps[index] for index in keep],
            keys=[batch.keys[index] for index in keep],
            values=[batch.values[index] for index in keep],
            headers=[batch.headers[index] for index in keep],
        )

    def done(self, work: Work) -> None:
        """Work without records has been done."""
        if work == self._awaits:
            self._awaits = None

    def end_piece(self) -> None:
        """Take no record before the next transaction."""
        self._left = 0

    def committed(self, applied: Mapping[Role, int]) -> None:
        """A transaction has been committed: go on with a larger piece, or end the search past the failure."""
        if self._found:
            self._found = {
                record: failure for record, failure in self._found.items() if record[1] >= applied[record[0]]
            }
        if self._piece is None:
            return
        is_past = all(applied[role] >= position for role, position in self._until.items())
        if is_past and self._awaits is None:
            self._piece = None
        else:
            self._begin(self._piece * 2)
