"""Effects that cannot be taken back, asked for before they happen."""

from tests.scenarios.case import Case, Later, Together, cancels, dispatches, proposes, returns, sets, writes

EFFECTS = (
    Case(
        "an effect that may happen",
        (sets({"doc/42": "v1"}), dispatches("mail", {"doc/42": "v1"}), proposes("mail", "send-1"), returns("mail")),
        {"mail": ["effect send-1: cleared", "delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "an effect refused in mid-run",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            proposes("mail", "send-1"),
        ),
        {"mail": ["effect send-1: refused, stale"]},
        says=(("effect.refused", {"differences": [{"facet": "doc/42", "expected": "v1", "actual": "v2"}]}),),
    ),
    Case(
        "an effect refused for what it read",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail"),
            sets({"doc/42": "v2"}),
            proposes("mail", "send-1", {"doc/42": "v1"}),
        ),
        {"mail": ["effect send-1: refused, stale"]},
    ),
    Case(
        "an effect after the task's own write",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}),
            writes("mail", {"doc/42": "v2"}),
            proposes("mail", "send-1"),
        ),
        {"mail": ["effect send-1: cleared"]},
    ),
    Case(
        "an effect with a change on its way",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}),
            Together((proposes("mail", "send-1"), sets({"doc/42": "v2"}))),
        ),
        {"mail": ["effect send-1: refused, stale"]},
    ),
    Case(
        "a second proposal with the key is judged again",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}),
            proposes("mail", "send-1"),
            sets({"doc/42": "v2"}),
            proposes("mail", "send-1"),
            proposes("mail", "send-2"),
        ),
        {"mail": ["effect send-1: cleared", "effect send-1: refused, stale", "effect send-2: refused, stale"]},
        says=(("effect.refused", {"idempotency_key": "send-1", "reason": "stale"}),),
    ),
    Case(
        "a refusal does not stick to its key",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            proposes("mail", "send-1"),
            sets({"doc/42": "v1"}),
            proposes("mail", "send-1"),
        ),
        {"mail": ["effect send-1: refused, stale", "effect send-1: cleared"]},
    ),
    Case(
        "a key belongs to one task",
        (dispatches("mail"), dispatches("mail~2"), proposes("mail", "send-1"), proposes("mail~2", "send-1")),
        {"mail": ["effect send-1: cleared"], "mail~2": ["effect send-1: refused, key_conflict"]},
    ),
    Case(
        "an effect of a cancelled task",
        (dispatches("mail"), cancels("mail"), proposes("mail", "send-1")),
        {"mail": ["cancel: cancelled", "end: cancelled, cancelled", "effect send-1: refused, cancelled"]},
    ),
    Case(
        "an effect of a task nobody knows",
        (proposes("nobody's", "send-1"), Later(6)),
        {"nobody's": ["effect send-1: refused, unknown_task"]},
    ),
    Case(
        "an effect that overtakes its dispatch",
        (proposes("mail", "send-1"), dispatches("mail"), returns("mail")),
        {"mail": ["effect send-1: cleared", "delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "an effect for a request that was archived",
        (
            sets({"request/42": "r1"}),
            dispatches("mail", request_id="42"),
            sets({"request/42": "archived"}),
            proposes("mail", "send-1"),
        ),
        {"mail": ["effect send-1: refused, request_archived"]},
    ),
    Case(
        "an effect of a superseded task",
        (
            dispatches("old", slot="answer-panel"),
            dispatches("new", slot="answer-panel"),
            returns("new"),
            proposes("old", "send-1"),
        ),
        {
            "new": ["delivered: fresh", "end: delivered, fresh"],
            "old": ["effect send-1: refused, superseded"],
        },
    ),
)
