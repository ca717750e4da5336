"""The audit on the contract's additions: what the gate made of a case has no finding, and every corruption is found."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final

import orjson
import pytest

from audit.findings import KINDS
from schemas.topics import Role
from tests.cases.memory import MemoryRun
from tests.cases.reading import cases
from tests.unit.test_audit_oracle import CORRUPTIONS

CASES: Final = {case.id: case for case in cases("additions.jsonl")}


def ran(case_id: str) -> MemoryRun:
    """A case, run."""
    run = MemoryRun(deepcopy(CASES[case_id]))
    run.run()
    return run


def edit(role: Role, change: Callable[[dict[str, Any]], object], **which: Any) -> Callable[[MemoryRun], None]:
    """Change the body of the one record of a topic that has these fields."""

    def corrupt(run: MemoryRun) -> None:
        place = _place(run, role, which)
        record = run.topics[role][place]
        body = orjson.loads(record.value or b"")
        change(body)
        run.topics[role][place] = record._replace(value=orjson.dumps(body))

    return corrupt


def drop(role: Role, **which: Any) -> Callable[[MemoryRun], None]:
    """Take one record away, and leave its offset empty."""

    def corrupt(run: MemoryRun) -> None:
        del run.topics[role][_place(run, role, which)]

    return corrupt


def repeat(role: Role, **which: Any) -> Callable[[MemoryRun], None]:
    """Write one record again, as another event."""

    def corrupt(run: MemoryRun) -> None:
        record = run.topics[role][_place(run, role, which)]
        body = {**orjson.loads(record.value or b""), "event_id": "again"}
        offset = run.topics[role][-1].offset + 1
        run.topics[role].append(record._replace(offset=offset, value=orjson.dumps(body)))

    return corrupt


def _place(run: MemoryRun, role: Role, which: dict[str, Any]) -> int:
    (place,) = (
        place
        for place, record in enumerate(run.topics[role])
        if record.value is not None
        and all(orjson.loads(record.value).get(name) == value for name, value in which.items())
    )
    return place


def without(*names: str) -> Callable[[dict[str, Any]], object]:
    """Fields are taken out of a body."""
    return lambda body: [body.pop(name) for name in names]


def _older_version(body: dict[str, Any]) -> None:
    body["versions"] = {"doc/1": 7}


def of_dispatch(task_id: str, *names: str) -> Callable[[MemoryRun], None]:
    """Fields are taken out of a task's dispatch."""
    return edit("steps", without(*names), type="task.dispatched", task_id=task_id)


def _edited_interim(run: MemoryRun) -> None:
    edit("delivered", without("final"), parts=[{"part_id": "text", "kind": "show", "payload": "one"}])(run)


def _interim_again(run: MemoryRun) -> None:
    repeated = run.topics["results"][1]
    output = run.topics["delivered"][0]
    body = orjson.loads(output.value or b"")
    body["event_id"], body["result"]["offset"] = "another", repeated.offset
    offset = run.topics["delivered"][-1].offset + 1
    run.topics["delivered"].append(output._replace(offset=offset, value=orjson.dumps(body)))


def _shorter(body: dict[str, Any]) -> None:
    body["expires_in_seconds"] = {"presence/tab-1": 0.005}


def _waits_for_somebody(body: dict[str, Any]) -> None:
    body.update(type="task.step", step_id="ask", status="input_required")


def _only_begins(body: dict[str, Any]) -> None:
    body["status"] = "started"


def _extends_nobody(body: dict[str, Any]) -> None:
    body["task_id"] = "another"


def _asks_for_late(body: dict[str, Any]) -> None:
    body["on_late"] = "deliver"


def _another_part(body: dict[str, Any]) -> None:
    body["part_ids"] = ["another"]


def _other_parts(body: dict[str, Any]) -> None:
    body["part_ids"] = ["edit"]


def _refused_a_delivered_part(run: MemoryRun) -> None:
    """The gate refuses an acknowledgement of what it had delivered."""
    for role in ("context", "dlq"):
        edit(role, lambda body: body.update(part_ids=["a"]), event_id="e-5")(run)


def _without_policy(*task_ids: str) -> Callable[[MemoryRun], None]:
    def corrupt(run: MemoryRun) -> None:
        for task_id in task_ids:
            of_dispatch(task_id, "on_newer")(run)

    return corrupt


def _turn_not_told(run: MemoryRun) -> None:
    """The last task's turn has come, it is open, and its result never came."""
    drop("commands", type="task.start", task_id="c")(run)
    drop("results", task_id="c")(run)
    drop("delivered", task_id="c")(run)
    tasks = run.topics["tasks"]
    own = [record for record in tasks if orjson.loads(record.value or b"{}").get("task_id") == "c"]
    for record in own[1:]:
        tasks.remove(record)


ADDITIONS: Final[list[tuple[str, str, Callable[[MemoryRun], None]]]] = [
    ("cancel_unanswered", "cancel-that-meets-nothing", drop("commands", slot="s")),
    ("cancel_unanswered", "cancel-of-an-unknown-task", drop("commands", type="task.cancel_unmatched")),
    ("cancel_answered_wrongly", "cancel-that-meets-nothing", repeat("commands", slot="s")),
    (
        "cancel_not_obeyed",
        "cancel-of-an-unknown-task",
        edit("context", lambda body: body.update(task_id="other"), type="task.cancel_requested"),
    ),
    (
        "command_unfounded",
        "cancel-that-meets-nothing",
        edit("commands", lambda body: body["requested"].update(event_id="x"), slot="s"),
    ),
    (
        "stopped_without_reason",
        "cancel-by-slot",
        edit("context", lambda body: body.update(slot="side"), type="task.cancel_requested"),
    ),
    (
        "stopped_without_reason",
        "cancel-all",
        edit("context", lambda body: (body.pop("all"), body.update(slot="x")), type="task.cancel_requested"),
    ),
    (
        "cancel_not_obeyed",
        "cancel-by-slot",
        edit("context", lambda body: (body.pop("slot"), body.update(task_id="c")), type="task.cancel_requested"),
    ),
    ("stale_delivered", "older-version-arrives-last", edit("context", without("versions"), event_id="e-1")),
    (
        "fresh_withheld",
        "newer-version-counts",
        edit("context", lambda b: b.update(versions={"doc/1": 7}), event_id="e-2"),
    ),
    ("result_without_verdict", "interim-stale", drop("withheld", task_id="a")),
    ("fresh_withheld", "interim-stale", edit("context", lambda body: body["set"].update(doc="1"), event_id="e-4")),
    ("verdict_inconsistent", "interim-answers", _edited_interim),
    ("repeat_judged", "interim-again", _interim_again),
    ("reason_false", "interim-never-waits", of_dispatch("q", "on_newer")),
    ("reason_false", "result-before-the-lease-ran-out", edit("context", without("expires_in_seconds"))),
    ("stale_delivered", "presence-is-renewed", edit("context", _shorter, event_id="e-6")),
    ("fresh_withheld", "other-facets-are-unset", edit("context", without("expires_in_seconds"))),
    ("difference_wrong", "other-facets-are-unset", edit("context", lambda body: body.update(event_id="another"))),
    ("stopped_without_reason", "relative-deadline", of_dispatch("u", "deadline_seconds")),
    ("stopped_without_reason", "never-started", of_dispatch("q", "start_timeout_seconds")),
    ("stopped_without_reason", "silent-after-the-start", edit("steps", _waits_for_somebody, type="task.heartbeat")),
    ("stale_delivered", "waiting-for-a-person", edit("steps", _only_begins, status="input_required")),
    ("stale_delivered", "extended", edit("steps", _extends_nobody, type="task.extended", task_id="a")),
    ("policy_not_followed", "late-but-complete", of_dispatch("build", "on_late")),
    ("policy_not_followed", "late-by-default", edit("steps", _asks_for_late, type="task.dispatched")),
    ("stale_delivered", "late-own-work", edit("context", without("cause"), event_id="e-4")),
    ("stopped_without_reason", "keep-only-the-newest-waiting", _without_policy("q2", "q3")),
    ("command_unfounded", "turn-has-come", of_dispatch("c", "on_newer")),
    ("command_unfounded", "turn-has-come", repeat("commands", type="task.start", task_id="c")),
    ("turn_not_told", "turn-has-come", _turn_not_told),
    ("outdated_not_told", "outdated-after-delivery", drop("commands", type="result.outdated")),
    ("command_unfounded", "outdated-after-delivery", of_dispatch("review", "watch_seconds")),
    ("command_unfounded", "outdated-after-delivery", edit("commands", _another_part, type="result.outdated")),
    ("command_unfounded", "outdated-after-delivery", repeat("commands", type="result.outdated")),
    ("input_unaccounted", "presence-typo", drop("dlq", event_id="e-0")),
    ("acknowledgement_unfounded", "each-part-is-acknowledged", edit("context", _other_parts, outcome="shown")),
    ("dlq_unfounded", "unknown-part-and-result", _refused_a_delivered_part),
    ("input_unaccounted", "cancel-of-nothing-and-of-two-things", drop("dlq", slot="s")),
    (
        "child_outlives_parent",
        "detached-child-findings",
        of_dispatch("review", "detached"),
    ),
    (
        "stopped_without_reason",
        "archived-request-stops-work",
        of_dispatch("a", "while_stale"),
    ),
]


@pytest.mark.parametrize(
    ("kind", "case_id", "corrupt"), ADDITIONS, ids=[f"{kind}-{name}" for kind, name, _ in ADDITIONS]
)
def test_a_corrupted_case_is_found(kind: str, case_id: str, corrupt: Callable[[MemoryRun], None]) -> None:
    run = ran(case_id)
    corrupt(run)
    findings = run.audit()
    assert kind in findings.counts, findings.examples


def test_every_kind_of_finding_has_a_corruption() -> None:
    assert {kind for kind, *_ in (*CORRUPTIONS, *ADDITIONS)} == set(KINDS)
