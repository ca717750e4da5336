"""Holding, commanding new attempts, stopping early."""

from tests.scenarios.case import (
    NEVER,
    SHADOWED,
    SOON,
    Case,
    Later,
    acknowledges,
    cancels,
    dispatches,
    fails,
    part,
    returns,
    sets,
    steps,
    unsets,
)

WAITING = (
    Case(
        "held until it matches again",
        (
            sets({"view/tab-1": "inbox"}),
            dispatches("summary", {"view/tab-1": "inbox"}, on_stale="hold"),
            sets({"view/tab-1": "calendar"}),
            returns("summary"),
            sets({"conversation": "c2"}),
            sets({"view/tab-1": "settings"}),
            sets({"view/tab-1": "inbox"}),
        ),
        {"summary": ["waits: context", "delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "held until it is too late",
        (
            sets({"view/tab-1": "inbox"}),
            dispatches("summary", {"view/tab-1": "inbox"}, on_stale="hold", hold_ttl_seconds=SOON),
            sets({"view/tab-1": "calendar"}),
            returns("summary"),
            Later(2 * SOON),
            sets({"view/tab-1": "inbox"}),
        ),
        {"summary": ["waits: context", "withheld: hold_expired", "end: withheld, hold_expired"]},
        says=(("result.withheld", {"verdict": {"parts": [{"differences": [{"facet": "view/tab-1"}]}]}}),),
    ),
    Case(
        "held until its request is archived",
        (
            sets({"view/tab-1": "inbox", "request/42": "r1"}),
            dispatches("summary", {"view/tab-1": "inbox"}, request_id="42", on_stale="hold"),
            sets({"view/tab-1": "calendar"}),
            returns("summary"),
            sets({"request/42": "archived"}),
        ),
        {"summary": ["waits: context", "withheld: request_archived", "end: withheld, request_archived"]},
    ),
    Case(
        "one part held, the other delivered at once",
        (
            sets({"doc/42": "v1", "conversation": "c1"}),
            dispatches("rewrite", {"doc/42": "v1", "conversation": "c1"}),
            sets({"doc/42": "v2"}),
            returns("rewrite", part("message", depends_on=["conversation"]), part("write", "apply", on_stale="hold")),
            sets({"doc/42": "v1"}),
        ),
        {
            "rewrite": [
                "delivered message: fresh",
                "waits: context",
                "delivered: fresh",
                "end: delivered, fresh",
            ]
        },
    ),
    Case(
        "one part held until it is too late, the other delivered at once",
        (
            sets({"doc/42": "v1", "conversation": "c1"}),
            dispatches("rewrite", {"doc/42": "v1", "conversation": "c1"}, hold_ttl_seconds=SOON),
            sets({"doc/42": "v2"}),
            returns("rewrite", part("message", depends_on=["conversation"]), part("write", "apply", on_stale="hold")),
            Later(2 * SOON),
        ),
        {
            "rewrite": [
                "delivered message: fresh",
                "waits: context",
                "withheld: hold_expired",
                "end: delivered, hold_expired",
            ]
        },
    ),
    Case(
        "a repeat and a second answer while the first is held",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, on_stale="hold"),
            sets({"doc/42": "v2"}),
            returns("rewrite"),
            returns("rewrite", event_id="retry"),
            returns("rewrite", part("other")),
            sets({"doc/42": "v1"}),
        ),
        {"rewrite": ["waits: context", "withheld: late", "delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "held for the user, then for the context",
        (
            sets({"presence/tab-1": "absent", "doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, on_stale="hold", when_absent="hold"),
            returns("rewrite"),
            sets({"doc/42": "v2"}),
            sets({"presence/tab-1": "present"}),
            sets({"doc/42": "v1"}),
        ),
        {"rewrite": ["waits: user", "waits: context", "delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a failure that is held",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, on_stale_failure="hold"),
            sets({"doc/42": "v2"}),
            fails("rewrite"),
            sets({"doc/42": "v1"}),
        ),
        {"rewrite": ["waits: context", "delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a new attempt, with what it needs",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1", "doc/43": "x"}, on_stale="redispatch"),
            steps("rewrite", "draft", checkpoint={"uri": "store://drafts/1", "sequence": 1}),
            steps("rewrite", "polish", checkpoint={"uri": "store://drafts/2", "sequence": 2}),
            sets({"doc/42": "v2"}),
            returns("rewrite"),
        ),
        {"rewrite": ["withheld: stale", "redispatch: rewrite~2", "end: withheld, stale"]},
        says=(
            (
                "task.redispatch",
                {
                    "attempt": 2,
                    "snapshot": {"doc/42": "v2", "doc/43": "x"},
                    "checkpoint": {"uri": "store://drafts/2", "sequence": 2},
                },
            ),
        ),
    ),
    Case(
        "a new attempt, after what it depends on was deleted",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, on_stale="redispatch"),
            unsets("doc/42"),
            returns("rewrite"),
        ),
        {"rewrite": ["withheld: stale", "redispatch: rewrite~2", "end: withheld, stale"]},
        says=(("task.redispatch", {"snapshot": {"doc/42": None}}),),
    ),
    Case(
        "new attempts are bounded",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, on_stale="redispatch"),
            sets({"doc/42": "v2"}),
            returns("rewrite"),
            dispatches("rewrite~2", {"doc/42": "v2"}, on_stale="redispatch", attempt=2),
            sets({"doc/42": "v3"}),
            returns("rewrite~2"),
        ),
        {
            "rewrite": ["withheld: stale", "redispatch: rewrite~2", "end: withheld, stale"],
            "rewrite~2": ["withheld: stale", "end: withheld, stale"],
        },
    ),
    Case(
        "new attempts, two of them",
        (
            sets({"doc/42": "v1"}),
            dispatches("a~b", {"doc/42": "v1"}, on_stale="redispatch", max_redispatches=2),
            sets({"doc/42": "v2"}),
            returns("a~b"),
            dispatches("a~b~2", {"doc/42": "v2"}, on_stale="redispatch", max_redispatches=2, attempt=2),
            sets({"doc/42": "v3"}),
            returns("a~b~2"),
            dispatches("a~b~3", {"doc/42": "v3"}, on_stale="redispatch", max_redispatches=2, attempt=3),
            returns("a~b~3"),
        ),
        {
            "a~b": ["withheld: stale", "redispatch: a~b~2", "end: withheld, stale"],
            "a~b~2": ["withheld: stale", "redispatch: a~b~3", "end: withheld, stale"],
            "a~b~3": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "no new attempt where none is allowed",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, on_stale="redispatch", max_redispatches=0),
            sets({"doc/42": "v2"}),
            returns("rewrite"),
        ),
        {"rewrite": ["withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "no new attempt of what was archived",
        (
            sets({"request/42": "r1"}),
            dispatches("rewrite", {"request/42": "r1"}, request_id="42", on_stale="redispatch"),
            sets({"request/42": "archived"}),
            returns("rewrite"),
        ),
        {"rewrite": ["withheld: request_archived", "end: withheld, request_archived"]},
    ),
    Case(
        "stopped while stale",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, while_stale="cancel", while_stale_grace_seconds=SOON),
            sets({"doc/42": "v2"}),
            Later(2 * SOON),
            returns("rewrite"),
        ),
        {"rewrite": ["cancel: stale", "end: cancelled, stale", "withheld: late"]},
    ),
    Case(
        "stopped as it was stale when dispatched",
        (
            sets({"doc/42": "v2"}),
            dispatches("rewrite", {"doc/42": "v1"}, while_stale="cancel", while_stale_grace_seconds=SOON),
            Later(2 * SOON),
        ),
        {"rewrite": ["cancel: stale", "end: cancelled, stale"]},
    ),
    Case(
        "not stopped where the user comes back in time",
        (
            sets({"view/tab-1": "inbox"}),
            dispatches("summary", {"view/tab-1": "inbox"}, while_stale="cancel", while_stale_grace_seconds=60),
            sets({"view/tab-1": "calendar"}),
            Later(50),
            sets({"view/tab-1": "inbox"}),
            Later(50),
            returns("summary"),
        ),
        {"summary": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "not stopped where the grace begins anew",
        (
            sets({"view/tab-1": "inbox"}),
            dispatches("summary", {"view/tab-1": "inbox"}, while_stale="cancel", while_stale_grace_seconds=60),
            sets({"view/tab-1": "calendar"}),
            Later(50),
            sets({"view/tab-1": "inbox"}),
            Later(50),
            sets({"view/tab-1": "calendar"}),
            Later(50),
            sets({"view/tab-1": "inbox"}),
            returns("summary"),
        ),
        {"summary": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "not stopped by its own work",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, while_stale="cancel", while_stale_grace_seconds=60),
            sets({"doc/42": "v2"}, cause={"task_id": "rewrite"}),
            Later(600),
            returns("rewrite"),
        ),
        {"rewrite": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "watched: a stale result",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, task_type=SHADOWED),
            sets({"doc/42": "v2"}),
            returns("rewrite"),
        ),
        {"rewrite": ["delivered: stale, watched", "end: delivered, stale"]},
        says=(("result.delivered", {"shadow": {"decision": "withheld", "reason": "stale"}}),),
    ),
    Case(
        "watched: a result that would be held",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}, task_type=SHADOWED, on_stale="hold", hold_ttl_seconds=NEVER),
            sets({"doc/42": "v2"}),
            returns("rewrite"),
        ),
        {"rewrite": ["delivered: stale, watched", "end: delivered, stale"]},
        says=(("result.delivered", {"shadow": {"decision": "held"}}),),
    ),
    Case(
        "watched: a fresh result",
        (dispatches("rewrite", task_type=SHADOWED), returns("rewrite")),
        {"rewrite": ["delivered: fresh, watched", "end: delivered, fresh"]},
    ),
    Case(
        "watched: a late result",
        (dispatches("rewrite", task_type=SHADOWED), returns("rewrite"), returns("rewrite", part("more"))),
        {"rewrite": ["delivered: fresh, watched", "end: delivered, fresh", "delivered: late, watched"]},
    ),
    Case(
        "one part delivered, the other cancelled while it is held",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            returns("rewrite", part("message", depends_on=[]), part("write", "apply", on_stale="hold")),
            cancels("rewrite"),
        ),
        {
            "rewrite": [
                "delivered message: fresh",
                "waits: context",
                "cancel: cancelled",
                "end: delivered, cancelled",
                "withheld: late",
            ]
        },
    ),
    Case(
        "one part delivered and shown, the other held",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            returns("rewrite", part("message", depends_on=[]), part("write", "apply", on_stale="hold")),
            acknowledges("rewrite", "shown"),
            sets({"doc/42": "v1"}),
        ),
        {
            "rewrite": [
                "delivered message: fresh",
                "waits: context",
                "acknowledged: shown",
                "delivered: fresh",
                "end: delivered, fresh",
            ]
        },
        says=(("task.status", {"status": "ended", "acknowledged": "shown"}),),
    ),
    Case(
        "one part marked, the other attempted anew",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            returns("rewrite", part("message", on_stale="annotate"), part("write", "apply", on_stale="redispatch")),
        ),
        {
            "rewrite": [
                "delivered message: stale, marked",
                "withheld write: stale",
                "redispatch: rewrite~2",
                "end: delivered, stale",
            ]
        },
    ),
    Case(
        "one part held, the other attempted anew",
        (
            sets({"doc/42": "v1"}),
            dispatches("rewrite", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            returns("rewrite", part("message", on_stale="hold"), part("write", "apply", on_stale="redispatch")),
            sets({"doc/42": "v1"}),
        ),
        {
            "rewrite": [
                "withheld write: stale",
                "redispatch: rewrite~2",
                "waits: context",
                "delivered: fresh",
                "end: delivered, fresh",
            ]
        },
    ),
)
