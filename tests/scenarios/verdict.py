"""Whether what a case told is what is written of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from projections.keys import SESSION_KEY
from projections.records import row_from_bytes
from projections.rows import new_row
from tests.scenarios.case import Case
from tests.scenarios.pipeline import Run, run
from tests.scenarios.told import Told, has_at_least


def mistakes(case: Case, **how: object) -> list[str]:
    """What is not as written, when the case is run in memory."""
    found = run(case, **how)  # type: ignore[arg-type]
    return [*wrong_lines(case, found.lines), *wrong_outputs(case, found.told), *_wrong_rest(case, found)]


def wrong_lines(case: Case, lines: dict[str, list[str]], *, in_any_order: bool = False) -> Iterator[str]:
    """Tasks of which something else was told. From a broker the topics come without a common order."""
    for task_id in {**case.told, **lines}:
        written, told = list(case.told.get(task_id, ())), lines.get(task_id, [])
        if (sorted(written) != sorted(told)) if in_any_order else (written != told):
            yield f"{case.name}: {task_id}: written {written}, told {told}"


def wrong_outputs(case: Case, told: Sequence[Told]) -> Iterator[str]:
    """Outputs that are missing or do not have what they should."""
    for event_type, wanted in case.says:
        bodies = [each.body for each in told if each.body is not None and each.body["type"] == event_type]
        if not any(has_at_least(body, wanted) for body in bodies):
            yield f"{case.name}: no {event_type} has {wanted}, of {bodies}"


def _wrong_rest(case: Case, found: Run) -> Iterator[str]:
    if found.refused != list(case.refused):
        yield f"{case.name}: refused {found.refused}, not {list(case.refused)}"
    if not case.forgotten:
        return
    left = [key for key, raw in found.changelog.items() if not _has_identities_only(key, raw)]
    if left:
        yield f"{case.name}: what is left: {sorted(left)}"


def _has_identities_only(key: bytes, raw: bytes) -> bool:
    """Whether it is what an erasure leaves: by what the last context events are known when they come again."""
    if key[:1] != SESSION_KEY:
        return False
    row = row_from_bytes(raw)
    kept = {"last_event_at": row.last_event_at, "context_ids": row.context_ids}
    return row == msgspec.structs.replace(new_row(), **kept) and len(row.context_ids) <= 128
