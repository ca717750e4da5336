"""Background work, versions, leases, interim answers, clocks, queues, and what is told after a delivery."""

from tests.scenarios.case import (
    NEVER,
    SOON,
    UNKNOWN_TASK_GRACE,
    Case,
    Later,
    Together,
    beats,
    cancels,
    cancels_all_of,
    dispatches,
    extends,
    returns,
    sets,
    steps,
    writes,
)

SILENT = "time has to pass of which nothing is told"
DONE = ["delivered: fresh", "end: delivered, fresh"]
GONE = ["cancel: cancelled", "end: cancelled, cancelled"]
INTERIM = "delivered: fresh, interim"

ADDITIONS = (
    Case(
        "background work outlives its turn",
        (
            dispatches("turn"),
            dispatches("review", parent_task_id="turn", detached=True),
            returns("turn"),
            cancels("turn"),
            returns("review"),
        ),
        {"turn": DONE, "review": DONE},
    ),
    Case(
        "background work is spared when its turn is cancelled",
        (
            dispatches("turn"),
            dispatches("build", parent_task_id="turn", detached=True),
            dispatches("sub", parent_task_id="turn"),
            cancels("turn"),
            returns("build"),
        ),
        {"turn": GONE, "build": DONE, "sub": ["cancel: parent_ended", "end: cancelled, parent_ended"]},
    ),
    Case(
        "what background work reads is its own",
        (
            sets({"doc/42": "v1"}),
            dispatches("turn"),
            dispatches("build", {"doc/42": "v1"}, parent_task_id="turn", detached=True),
            sets({"doc/42": "v2"}),
            returns("turn"),
            returns("build"),
        ),
        {"turn": DONE, "build": ["withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "an older version comes last",
        (
            sets({"doc/42": "v9"}, versions={"doc/42": 9}),
            sets({"doc/42": "v8"}, versions={"doc/42": 8}),
            dispatches("mail", {"doc/42": "v9"}),
            returns("mail"),
        ),
        {"mail": DONE},
    ),
    Case(
        "a newer version comes last",
        (
            sets({"doc/42": "v8"}, versions={"doc/42": 8}),
            dispatches("mail", {"doc/42": "v8"}),
            sets({"doc/42": "v9"}, versions={"doc/42": 9}),
            returns("mail"),
        ),
        {"mail": ["withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "everything in a slot is cancelled",
        (
            dispatches("one", slot="panel"),
            dispatches("two", slot="panel"),
            dispatches("other", slot="inbox"),
            cancels_all_of(slot="panel"),
            returns("other"),
        ),
        {"one": GONE, "two": GONE, "other": DONE},
    ),
    Case(
        "everything of a request is cancelled",
        (
            dispatches("one", request_id="r-1"),
            dispatches("other", request_id="r-2"),
            cancels_all_of(request_id="r-1"),
            returns("other"),
        ),
        {"one": GONE, "other": DONE},
    ),
    Case(
        "everything is cancelled",
        (dispatches("one"), dispatches("two"), cancels_all_of(all=True)),
        {"one": GONE, "two": GONE},
    ),
    Case(
        "nobody is there to cancel",
        (cancels("mail"), Later(2 * UNKNOWN_TASK_GRACE), dispatches("mail"), returns("mail")),
        {"mail": ["unmatched", *DONE]},
    ),
    Case(
        "an archived request stops its work",
        (
            dispatches("mail", request_id="r-1", while_stale="cancel", while_stale_grace_seconds=SOON),
            sets({"request/r-1": "archived"}),
            Later(2 * SOON),
            returns("mail"),
        ),
        {"mail": ["cancel: stale", "end: cancelled, stale", "withheld: late"]},
    ),
    Case(
        "a closed session stops its work",
        (
            dispatches("mail", while_stale="cancel", while_stale_grace_seconds=SOON),
            sets({"session": "closed"}),
            Later(2 * SOON),
        ),
        {"mail": ["cancel: stale", "end: cancelled, stale"]},
    ),
    Case(
        "interim answers",
        (
            dispatches("mail"),
            returns("mail", final=False),
            returns("mail", final=False, event_id="again"),
            returns("mail"),
        ),
        {"mail": [INTERIM, *DONE]},
    ),
    Case(
        "an interim answer that would have to wait",
        (
            sets({"doc/42": "v2"}),
            dispatches("mail", {"doc/42": "v1"}, on_stale="hold"),
            returns("mail", final=False),
            sets({"doc/42": "v1"}),
            returns("mail"),
        ),
        {"mail": ["withheld: stale, interim", *DONE]},
    ),
    Case(
        "an interim answer before the task's turn",
        (
            dispatches("old", slot="panel"),
            dispatches("mail", slot="panel", on_newer="enqueue"),
            returns("mail", final=False),
            returns("old"),
            returns("mail"),
        ),
        {"old": DONE, "mail": ["withheld: slot_taken, interim", "start", *DONE]},
    ),
    Case(
        "a parent's interim answer",
        (
            dispatches("trip"),
            dispatches("flight", parent_task_id="trip"),
            returns("trip", final=False),
            returns("flight"),
            returns("trip"),
        ),
        {"trip": [INTERIM, *DONE], "flight": DONE},
    ),
    Case(
        "a newer task's interim answer stands in the slot",
        (
            dispatches("old", slot="panel"),
            dispatches("new", slot="panel"),
            returns("new", final=False),
            returns("old"),
            returns("new"),
        ),
        {"old": ["withheld: superseded", "end: withheld, superseded"], "new": [INTERIM, *DONE]},
    ),
    Case(
        "the browser crashes",
        (
            sets({"presence/tab-1": "present"}, expires_in_seconds={"presence/tab-1": SOON}),
            Later(2 * SOON),
            dispatches("mail", when_absent="withhold"),
            returns("mail"),
        ),
        {"mail": ["withheld: user_absent", "end: withheld, user_absent"]},
        clock_only=SILENT,
    ),
    Case(
        "the browser renews its lease",
        (
            sets({"presence/tab-1": "present"}, expires_in_seconds={"presence/tab-1": SOON}),
            sets({"presence/tab-1": "present"}, expires_in_seconds={"presence/tab-1": NEVER}),
            Later(2 * SOON),
            dispatches("mail", when_absent="withhold"),
            returns("mail"),
        ),
        {"mail": DONE},
        clock_only=SILENT,
    ),
    Case(
        "a value that stands for a time only",
        (
            sets({"selection": "row 7"}, expires_in_seconds={"selection": SOON}),
            dispatches("mail", {"selection": "row 7"}),
            Later(2 * SOON),
            returns("mail"),
        ),
        {"mail": ["withheld: stale", "end: withheld, stale"]},
        clock_only=SILENT,
    ),
    Case(
        "a deadline from the dispatch on",
        (dispatches("mail", deadline_seconds=SOON), Later(2 * SOON), returns("mail")),
        {"mail": ["cancel: deadline_passed", "end: expired, deadline_passed", "withheld: late"]},
    ),
    Case(
        "a deadline that is put off",
        (
            Together((dispatches("mail", deadline_seconds=3 * SOON), extends("mail", NEVER))),
            Later(5 * SOON),
            returns("mail"),
        ),
        {"mail": DONE},
    ),
    Case(
        "nobody takes the work up",
        (dispatches("mail", start_timeout_seconds=SOON, heartbeat_timeout_seconds=NEVER), Later(2 * SOON)),
        {"mail": ["cancel: not_started", "end: expired, not_started"]},
    ),
    Case(
        "work is taken up late, and then done",
        (
            dispatches("mail", start_timeout_seconds=NEVER, heartbeat_timeout_seconds=3 * SOON),
            Later(5 * SOON),
            beats("mail"),
            returns("mail"),
        ),
        {"mail": DONE},
        clock_only=SILENT,
    ),
    Case(
        "a person takes their time",
        (
            Together(
                (
                    dispatches("mail", deadline_seconds=3 * SOON, heartbeat_timeout_seconds=3 * SOON),
                    steps("mail", "ask", "input_required"),
                )
            ),
            Later(6 * SOON),
            Together((steps("mail", "ask"), returns("mail"))),
        ),
        {"mail": DONE},
    ),
    Case(
        "late but complete",
        (
            dispatches("mail", heartbeat_timeout_seconds=SOON, on_late="deliver"),
            Later(2 * SOON),
            returns("mail"),
        ),
        {"mail": ["cancel: heartbeat_missed", "end: expired, heartbeat_missed", "delivered: late"]},
    ),
    Case(
        "late and stale",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}, heartbeat_timeout_seconds=SOON, on_late="deliver"),
            Later(2 * SOON),
            sets({"doc/42": "v2"}),
            returns("mail"),
        ),
        {"mail": ["cancel: heartbeat_missed", "end: expired, heartbeat_missed", "withheld: stale"]},
    ),
    Case(
        "only the newest that waits",
        (
            dispatches("first", slot="panel"),
            dispatches("second", slot="panel", on_newer="enqueue_latest"),
            dispatches("third", slot="panel", on_newer="enqueue_latest"),
            returns("first"),
            returns("third"),
        ),
        {
            "first": DONE,
            "second": ["cancel: superseded", "end: cancelled, superseded"],
            "third": ["start", *DONE],
        },
    ),
    Case(
        "what was delivered goes stale",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}, watch_seconds=NEVER),
            returns("mail"),
            writes("mail", {"doc/42": "v2"}),
            sets({"doc/42": "v3"}),
            sets({"doc/42": "v4"}),
        ),
        {"mail": [*DONE, "outdated: doc/42"]},
    ),
)
