"""Situations that people and agents get into."""

from tests.scenarios.case import (
    HOUR,
    NEVER,
    SOON,
    Case,
    Later,
    Together,
    dispatches,
    fails,
    part,
    returns,
    sets,
    steps,
    unsets,
    writes,
)

SITUATIONS = (
    Case(
        "two tabs with different views",
        (
            sets({"view/tab-1": "inbox", "view/tab-2": "calendar"}),
            dispatches("summary", {"view/tab-1": "inbox"}),
            dispatches("agenda", {"view/tab-2": "calendar"}),
            sets({"view/tab-2": "settings"}),
            returns("summary"),
            returns("agenda"),
        ),
        {
            "summary": ["delivered: fresh", "end: delivered, fresh"],
            "agenda": ["withheld: stale", "end: withheld, stale"],
        },
    ),
    Case(
        "a teammate's edit",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}, source="teammate", event_id="edit"),
            returns("rewrite", part("text", "apply")),
        ),
        {"rewrite": ["withheld: stale", "end: withheld, stale"]},
        says=(
            (
                "result.withheld",
                {
                    "verdict": {
                        "parts": [
                            {
                                "part_id": "text",
                                "differences": [
                                    {
                                        "facet": "doc/42",
                                        "expected": "v1",
                                        "actual": "v2",
                                        "since": "running",
                                        "changed_by": {"source": "teammate", "event_id": "edit"},
                                    }
                                ],
                            }
                        ]
                    }
                },
            ),
            ("task.status", {"status": "running", "stale": True, "stale_facets": ["doc/42"]}),
        ),
    ),
    Case(
        "a deleted document",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            unsets("doc/42"),
            returns("rewrite"),
        ),
        {"rewrite": ["withheld: stale", "end: withheld, stale"]},
        says=(("result.withheld", {"verdict": {"parts": [{"differences": [{"expected": "v1", "actual": None}]}]}}),),
    ),
    Case(
        "the agent's own write",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            writes("rewrite", {"doc/42": "v2"}),
            returns("rewrite"),
        ),
        {"rewrite": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "the agent's own write, then a teammate's",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            writes("rewrite", {"doc/42": "v2"}),
            sets({"doc/42": "v3"}),
            returns("rewrite"),
        ),
        {"rewrite": ["withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "another agent's write",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            dispatches("translate", {"doc/42": "v1"}),
            writes("translate", {"doc/42": "v2"}),
            returns("rewrite"),
            returns("translate"),
        ),
        {
            "rewrite": ["withheld: stale", "end: withheld, stale"],
            "translate": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "a read in mid-run",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            steps("rewrite", "look again", reads={"doc/42": "v2"}),
            returns("rewrite"),
        ),
        {"rewrite": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a read in mid-run of what changes then",
        (
            sets({"doc/42": "v1", "doc/43": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            steps("rewrite", "look", reads={"doc/43": "v1"}),
            sets({"doc/43": "v2"}),
            returns("rewrite"),
        ),
        {"rewrite": ["withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "a read with the result",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            returns("rewrite", reads={"doc/42": "v2"}),
        ),
        {"rewrite": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a message to show with a write to apply",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            returns("rewrite", part("message", on_stale="annotate"), part("write", "apply")),
        ),
        {
            "rewrite": [
                "delivered message: stale, marked",
                "withheld write: stale",
                "end: delivered, stale",
            ]
        },
    ),
    Case(
        "a message that depends on less than its write",
        (
            sets({"conversation": "c1", "doc/42": "v1"}),
            dispatches("rewrite", {"conversation": "c1", "doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            returns("rewrite", part("message", depends_on=["conversation"]), part("write", "apply")),
        ),
        {"rewrite": ["delivered message: fresh", "withheld write: stale", "end: delivered, stale"]},
    ),
    Case(
        "a retry with a new event id",
        (
            dispatches("mail"),
            returns("mail", event_id="first try"),
            returns("mail", event_id="second try"),
        ),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "the same result twice, the second with another content",
        (
            dispatches("mail"),
            returns("mail", event_id="once"),
            returns("mail", part("other"), event_id="once"),
        ),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
        refused=("identity_conflict",),
    ),
    Case(
        "a second answer after the first",
        (dispatches("mail"), returns("mail"), returns("mail", part("afterthought"))),
        {"mail": ["delivered: fresh", "end: delivered, fresh", "withheld: late"]},
        says=(("result.withheld", {"verdict": {"disposition": "delivered"}}),),
    ),
    Case(
        "an old failure after a newer success",
        (
            dispatches("first", slot="answer-panel"),
            dispatches("second", slot="answer-panel"),
            returns("second"),
            fails("first"),
        ),
        {
            "first": ["withheld: superseded", "end: withheld, superseded"],
            "second": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "a failure nobody has heard of",
        (fails("nobody's"), Later(6)),
        {"nobody's": ["withheld: unknown_task"]},
        says=(("result.withheld", {"outcome": "failed", "verdict": {"disposition": None}}),),
    ),
    Case(
        "a failure nobody has heard of, whose dispatch comes after all",
        (fails("nobody's"), Later(6), dispatches("nobody's")),
        {"nobody's": ["withheld: unknown_task", "end: withheld, unknown_task"]},
    ),
    Case(
        "a failure that the user must hear of",
        (sets({"doc/42": "v1"}), dispatches("rewrite", {"doc/42": "v1"}), sets({"doc/42": "v2"}), fails("rewrite")),
        {"rewrite": ["delivered: stale, marked", "end: delivered, stale"]},
    ),
    Case(
        "a dispatcher behind the UI",
        (
            sets({"view/tab-1": "inbox"}),
            sets({"view/tab-1": "calendar"}),
            dispatches("summary", {"view/tab-1": "inbox"}),
            returns("summary"),
        ),
        {"summary": ["withheld: stale", "end: withheld, stale"]},
        says=(
            ("result.withheld", {"verdict": {"parts": [{"differences": [{"since": "dispatch"}]}]}}),
            ("task.status", {"status": "running", "stale": True}),
        ),
    ),
    Case(
        "a dispatcher ahead of the UI",
        (
            dispatches("summary", {"view/tab-1": "inbox"}),
            Together((returns("summary"), sets({"view/tab-1": "inbox"}))),
        ),
        {"summary": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a dispatch that comes after its result",
        (sets({"view/tab-1": "inbox"}), Together((returns("summary"), dispatches("summary", {"view/tab-1": "inbox"})))),
        {"summary": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a change on its way when the result comes",
        (
            sets({"view/tab-1": "inbox"}),
            dispatches("summary", {"view/tab-1": "inbox"}),
            Together((returns("summary"), sets({"view/tab-1": "calendar"}))),
        ),
        {"summary": ["withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "a return after an hour",
        (
            sets({"presence/tab-1": "present", "view/tab-1": "inbox"}),
            dispatches("summary", {"view/tab-1": "inbox"}, when_absent="hold", hold_ttl_seconds=NEVER),
            sets({"presence/tab-1": "absent"}),
            returns("summary"),
            Later(HOUR),
            sets({"presence/tab-1": "present"}),
        ),
        {"summary": ["waits: user", "delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a return after an hour, to another view",
        (
            sets({"presence/tab-1": "present", "view/tab-1": "inbox"}),
            dispatches("summary", {"view/tab-1": "inbox"}, when_absent="hold", hold_ttl_seconds=NEVER),
            sets({"presence/tab-1": "absent"}),
            returns("summary"),
            Later(HOUR),
            sets({"view/tab-1": "calendar"}),
            sets({"presence/tab-1": "present"}),
        ),
        {"summary": ["waits: user", "withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "a return that comes too late",
        (
            sets({"presence/tab-1": "absent"}),
            dispatches("summary", when_absent="hold", hold_ttl_seconds=SOON),
            returns("summary"),
            Later(HOUR),
            sets({"presence/tab-1": "present"}),
        ),
        {"summary": ["waits: user", "withheld: hold_expired", "end: withheld, hold_expired"]},
    ),
    Case(
        "one tab closed, another open",
        (
            sets({"presence/tab-1": "present", "presence/tab-2": "present"}),
            dispatches("summary", when_absent="withhold"),
            sets({"presence/tab-1": "absent"}),
            returns("summary"),
        ),
        {"summary": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a disconnect cancels nothing",
        (
            sets({"presence/tab-1": "present"}),
            dispatches("summary"),
            unsets("presence/tab-1"),
            steps("summary", "look"),
            returns("summary"),
        ),
        {"summary": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "away and back again",
        (
            sets({"view/tab-1": "inbox"}),
            dispatches("summary", {"view/tab-1": "inbox"}),
            sets({"view/tab-1": "calendar"}),
            sets({"view/tab-1": "inbox"}),
            returns("summary"),
        ),
        {"summary": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "an addition where none was expected",
        (
            sets({"request/42": "r1"}),
            dispatches("summary", {"request/42": "r1", "addition/42": None}, request_id="42"),
            sets({"addition/42": "a1"}),
            returns("summary"),
        ),
        {"summary": ["withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "an absence that is still so",
        (
            sets({"addition/42": "a1"}),
            unsets("addition/42"),
            dispatches("summary", {"addition/42": None}),
            returns("summary"),
        ),
        {"summary": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "facets named without values",
        (
            sets({"doc/42": "v1", "doc/43": "v1"}),
            dispatches("rewrite", depends_on=["doc/42"]),
            dispatches("translate", depends_on=["doc/43"]),
            sets({"doc/42": "v2"}),
            returns("rewrite"),
            returns("translate"),
        ),
        {
            "rewrite": ["withheld: stale", "end: withheld, stale"],
            "translate": ["delivered: fresh", "end: delivered, fresh"],
        },
        says=(("task.status", {"task_id": "rewrite", "taken": {"doc/42": "v1"}}),),
    ),
    Case(
        "changes that nobody asked about",
        (
            sets({"doc/42": "v1", "calendar/tuesday": "free", "shared/team": "t1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"calendar/tuesday": "busy"}),
            sets({"shared/team": "t2"}),
            sets({"view/tab-9": "anything"}),
            unsets("calendar/tuesday"),
            returns("rewrite"),
        ),
        {"rewrite": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a session that the user ended",
        (dispatches("mail"), sets({"session": "closed"}), returns("mail")),
        {"mail": ["withheld: session_closed", "end: withheld, session_closed"]},
    ),
    Case(
        "a session that the task itself ended",
        (dispatches("goodbye"), writes("goodbye", {"session": "closed"}), returns("goodbye")),
        {"goodbye": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a request that the task itself archived",
        (
            sets({"request/42": "r1"}),
            dispatches("done", {"request/42": "r1"}, request_id="42"),
            writes("done", {"request/42": "archived"}),
            returns("done"),
        ),
        {"done": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "one task id dispatched twice",
        (dispatches("mail"), dispatches("mail"), returns("mail")),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "one task id for two tasks",
        (dispatches("mail"), dispatches("mail", destination="elsewhere"), returns("mail")),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
        refused=("dispatch_conflict",),
    ),
    Case(
        "a write over a teammate's edit",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            writes("rewrite", {"doc/42": "v3"}),
            returns("rewrite"),
        ),
        {"rewrite": ["withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "one task id dispatched again after its end",
        (dispatches("mail"), returns("mail"), dispatches("mail"), dispatches("mail", destination="elsewhere")),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
        refused=("dispatch_conflict",),
    ),
    Case(
        "nobody knows whether the user is there",
        (dispatches("mail", when_absent="hold"), returns("mail")),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "two answers before their dispatch",
        (
            Together((returns("mail"), returns("mail", part("other")))),
            Together((dispatches("mail", valid_until="2030-01-01T00:00:00+00:00"),)),
        ),
        {"mail": ["delivered: fresh", "end: delivered, fresh", "withheld: late"]},
        says=(("result.delivered", {"valid_until": "2030-01-01T00:00:00+00:00", "parts": [{"part_id": "answer"}]}),),
    ),
    Case(
        "what a dispatch says comes back",
        (
            dispatches("mail", destination="mailbox", metadata={"row": 7}, request_id="42", slot="panel"),
            returns("mail"),
        ),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
        says=tuple(
            (output, {"destination": "mailbox", "metadata": {"row": 7}, "request_id": "42", "slot": "panel"})
            for output in ("result.delivered", "task.status")
        ),
    ),
)
