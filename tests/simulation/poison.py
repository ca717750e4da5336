"""Records that break the core where they are decided, judged or encoded: a mistake of the core that nobody knows of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from projections import partition, store
from schemas.events import Event
from tests.broker.events import changed, dispatched, returned

POISON: Final = "poison"
POISON_ROW: Final = "poison-row"
POISON_TIMER: Final = "poison-timer"


class BoomError(Exception):
    """What such a record raises. Its message quotes the record, as messages of real errors do."""


@contextmanager
def planted() -> Iterator[None]:
    """With a core that breaks on poison, and on nothing else."""
    with ExitStack() as stack:
        for module, name, is_poison in (
            (partition, "decide_change", lambda _session, event, *_: POISON in event.set),
            (partition, "decide_result", lambda _session, result, *_: result.event.task_id == POISON),
            (partition, "decide_due", lambda _session, task_id, *_: task_id == POISON_TIMER),
            (
                store,
                "row_to_bytes",
                lambda fields: any(POISON_ROW in each for each in fields if isinstance(each, dict)),
            ),
        ):
            stack.enter_context(patch.object(module, name, _breaking(getattr(module, name), is_poison)))
        yield


def _breaking(work: Callable[..., Any], is_poison: Callable[..., bool]) -> Callable[..., Any]:
    def checked(*arguments: Any) -> Any:
        if is_poison(*arguments):
            raise BoomError(arguments)
        return work(*arguments)

    return checked


def poisonous(session_id: str, kind: str) -> list[Event]:
    """Events of which the last is poison, where it is folded, judged or encoded."""
    if kind == "judged":
        return [dispatched(session_id, POISON, {}), returned(session_id, POISON)]
    return [changed(session_id, {POISON if kind == "folded" else POISON_ROW: "1"})]
