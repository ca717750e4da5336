"""What must hold for any log: laws of the fold and the gate, tried on random sessions."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from projections import store
from tests.unit.event_logs import CUTS, Kinds, Op, Written, logs, run

EVERYTHING = Kinds()

cuts = st.lists(st.sampled_from(CUTS), max_size=40)


def same(one: Written, other: Written) -> None:
    """Both runs wrote the same, but for how often an open task's status was told."""
    assert one.final == other.final
    assert one.rows == other.rows
    assert one.statuses == other.statuses
    assert one.refusals == other.refusals
    assert one.duplicates == other.duplicates
    assert one.ignored == other.ignored


# (a) The fold is pure


@settings(max_examples=300)
@given(ops=logs(EVERYTHING), drawn=cuts, kept=st.sampled_from([0, 1, 8192]))
def test_batches_transactions_restarts_and_evictions_change_nothing(
    ops: list[Op], drawn: list[str], kept: int
) -> None:
    whole = run(ops)
    with patch.object(store, "MAX_DECODED_ROWS", kept):
        same(run(ops, drawn), whole)  # type: ignore[arg-type]


def count(written: Written) -> Counter[str]:
    return Counter(body["type"] for body in written.verdicts)
