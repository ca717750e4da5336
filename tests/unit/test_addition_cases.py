"""The cases of the contract's additions, in memory: by one worker, and by another one after every step."""

from __future__ import annotations

from copy import deepcopy
from typing import Final

import pytest

from tests.cases.memory import MemoryRun
from tests.cases.reading import Case, cases

CASES: Final = cases("additions.jsonl")


@pytest.mark.parametrize("restarts", [False, True], ids=["one-worker", "restarts"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_ends_as_expected(case: Case, *, restarts: bool) -> None:
    case = deepcopy(case)
    run = MemoryRun(case, restarts=restarts)
    run.run()
    assert list(case.mistakes()) == []
    assert run.audit().examples == {}
    expected = case.expect.get("ignored")
    assert expected is None or case.ignored == expected


def test_every_case_has_an_id_of_its_own_and_fails_without_its_outputs() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    for case in map(deepcopy, CASES):
        if case.expect.get("outputs") or case.expect.get("statuses"):
            assert list(case.mistakes()), case.id  # it has not run
