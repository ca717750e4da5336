"""Cases made up by chance, of everything that the oracle has an answer to.

Left out: children dispatched and steps taken after a result that waits; `enqueue`, whose result waits as long as the
older task runs; and `reject`, for the oracle does not know how long a result waits.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from tests.scenarios.case import Case, Later, Step, cancels, dispatches, fails, returns, sets, steps, unsets, writes

FACETS: Final = ("doc/41", "doc/42", "view/tab-1")
TASKS: Final = 4


def case_by_chance(random: Random) -> Case:
    """A case without expectations."""
    script: list[Step] = [sets(dict.fromkeys(FACETS, "v1"))]
    tasks: list[str] = []
    returned: set[str] = set()
    for _ in range(random.randint(4, 14)):
        running = [task_id for task_id in tasks if task_id not in returned]
        what = random.choices(
            ("dispatch", "context", "cancel", "step", "later", "return"), weights=(30, 25, 7, 8, 6, 24)
        )[0]
        if what == "dispatch" and len(tasks) < TASKS:
            tasks.append(f"task-{len(tasks)}")
            script.append(dispatches(tasks[-1], _snapshot(random), **_policies(random, running)))
        elif what == "context":
            script.append(_change(random, tasks))
        elif what == "cancel" and tasks:
            script.append(cancels(random.choice(tasks)))
        elif what == "step" and running:
            reads = {random.choice(FACETS): random.choice(("v1", "v2"))} if random.random() < 0.6 else {}
            script.append(steps(random.choice(running), "look", reads=reads))
        elif what == "later":
            script.append(Later(random.choice((10, 40, 70))))
        elif what == "return" and tasks:
            task_id = random.choice(tasks)
            returned.add(task_id)
            script.append((returns if random.random() < 0.8 else fails)(task_id))
    script += [Later(3_000), Later(3_000)]
    return Case("by chance", tuple(script), {})


def _snapshot(random: Random) -> dict[str, str | None]:
    return {facet: random.choice(("v1", "v1", "v2")) for facet in FACETS if random.random() < 0.4}


def _policies(random: Random, running: list[str]) -> dict[str, Any]:
    def maybe(chance: float, **fields: Any) -> dict[str, Any]:
        return fields if random.random() < chance else {}

    return {
        **maybe(0.3, slot="panel", on_newer=random.choice(("allow", "interrupt"))),
        **maybe(0.15, protected=True),
        **maybe(0.4, on_stale=random.choice(("annotate", "hold", "redispatch"))),
        **maybe(0.3, hold_ttl_seconds=50),
        **maybe(0.2, when_absent=random.choice(("hold", "withhold"))),
        **(maybe(0.4, parent_task_id=random.choice(running)) if running else {}),
        **maybe(0.2, independent=True),
        **maybe(0.2, heartbeat_timeout_seconds=60),
        **maybe(0.2, deadline_in=100),
        **maybe(0.2, while_stale="cancel", while_stale_grace_seconds=60),
        **maybe(0.2, request_id="42"),
    }


def _change(random: Random, tasks: list[str]) -> Step:
    facet = random.choice(FACETS)
    what = random.choices(("unset", "own", "presence", "request", "set"), weights=(15, 20, 10, 7, 48))[0]
    if what == "unset":
        return unsets(facet)
    if what == "own" and tasks:
        return writes(random.choice(tasks), {facet: random.choice(("v1", "v2", "v3"))})
    if what == "presence":
        return sets({"presence/tab-1": random.choice(("present", "absent"))})
    if what == "request":
        return sets({"request/42": random.choice(("r1", "archived"))})
    return sets({facet: random.choice(("v1", "v2"))})
