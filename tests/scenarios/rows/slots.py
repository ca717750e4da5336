"""A place that only one answer may stand in."""

from tests.scenarios.case import SOON, Case, Later, cancels, dispatches, fails, returns, sets

PANEL = "answer-panel"

SLOTS = (
    Case(
        "slot, allow: both land in their order",
        (dispatches("old", slot=PANEL), dispatches("new", slot=PANEL), returns("old"), returns("new")),
        {
            "old": ["delivered: fresh", "end: delivered, fresh"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, allow: the older never lands after the newer",
        (dispatches("old", slot=PANEL), dispatches("new", slot=PANEL), returns("new"), returns("old")),
        {
            "old": ["withheld: superseded", "end: withheld, superseded"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, allow: a newer one that was withheld takes nothing",
        (
            sets({"doc/42": "v1"}),
            dispatches("old", slot=PANEL),
            dispatches("new", {"doc/42": "v1"}, slot=PANEL),
            sets({"doc/42": "v2"}),
            returns("new"),
            returns("old"),
        ),
        {
            "old": ["delivered: fresh", "end: delivered, fresh"],
            "new": ["withheld: stale", "end: withheld, stale"],
        },
    ),
    Case(
        "slot, allow: an older one that is held gives way",
        (
            sets({"doc/42": "v1"}),
            dispatches("old", {"doc/42": "v1"}, slot=PANEL, on_stale="hold"),
            sets({"doc/42": "v2"}),
            returns("old"),
            dispatches("new", slot=PANEL),
            returns("new"),
        ),
        {
            "old": ["waits: context", "withheld: superseded", "end: withheld, superseded"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, enqueue: the newer waits for the older",
        (
            dispatches("old", slot=PANEL),
            dispatches("new", slot=PANEL, on_newer="enqueue"),
            returns("new"),
            returns("old"),
        ),
        {
            "old": ["delivered: fresh", "end: delivered, fresh"],
            "new": ["waits: slot", "delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, enqueue: three in a row",
        (
            dispatches("one", slot=PANEL),
            dispatches("two", slot=PANEL, on_newer="enqueue"),
            dispatches("three", slot=PANEL, on_newer="enqueue"),
            returns("three"),
            returns("two"),
            fails("one"),
        ),
        {
            "one": ["delivered: fresh", "end: delivered, fresh"],
            "two": ["waits: slot", "delivered: fresh", "end: delivered, fresh"],
            "three": ["waits: slot", "delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, enqueue: the older is cancelled",
        (
            dispatches("old", slot=PANEL),
            dispatches("new", slot=PANEL, on_newer="enqueue"),
            returns("new"),
            cancels("old"),
        ),
        {
            "old": ["cancel: cancelled", "end: cancelled, cancelled"],
            "new": ["waits: slot", "delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, enqueue: what waits is judged when its turn comes",
        (
            sets({"doc/42": "v1"}),
            dispatches("old", slot=PANEL),
            dispatches("new", {"doc/42": "v1"}, slot=PANEL, on_newer="enqueue"),
            returns("new"),
            sets({"doc/42": "v2"}),
            returns("old"),
        ),
        {
            "old": ["delivered: fresh", "end: delivered, fresh"],
            "new": ["waits: slot", "withheld: stale", "end: withheld, stale"],
        },
    ),
    Case(
        "slot, reject: the newer is turned away",
        (
            dispatches("old", slot=PANEL),
            dispatches("new", slot=PANEL, on_newer="reject"),
            returns("new"),
            returns("old"),
        ),
        {
            "old": ["delivered: fresh", "end: delivered, fresh"],
            "new": ["end: rejected, slot_taken", "withheld: late"],
        },
    ),
    Case(
        "slot, reject: a place that is free again",
        (
            dispatches("old", slot=PANEL),
            returns("old"),
            dispatches("new", slot=PANEL, on_newer="reject"),
            returns("new"),
        ),
        {
            "old": ["delivered: fresh", "end: delivered, fresh"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, interrupt: the older is cancelled",
        (
            dispatches("old", slot=PANEL),
            dispatches("new", slot=PANEL, on_newer="interrupt"),
            returns("old"),
            returns("new"),
        ),
        {
            "old": ["cancel: superseded", "end: cancelled, superseded", "withheld: late"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, interrupt: with its children",
        (
            dispatches("old", slot=PANEL),
            dispatches("part", parent_task_id="old"),
            dispatches("new", slot=PANEL, on_newer="interrupt"),
            returns("new"),
        ),
        {
            "part": ["cancel: parent_ended", "end: cancelled, parent_ended"],
            "old": ["cancel: superseded", "end: cancelled, superseded"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, interrupt: what is held is withheld",
        (
            sets({"doc/42": "v1"}),
            dispatches("old", {"doc/42": "v1"}, slot=PANEL, on_stale="hold"),
            sets({"doc/42": "v2"}),
            returns("old"),
            dispatches("new", slot=PANEL, on_newer="interrupt"),
            sets({"doc/42": "v1"}),
            returns("new"),
        ),
        {
            "old": ["waits: context", "cancel: superseded", "end: cancelled, superseded", "withheld: late"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot: a protected task is not interrupted",
        (
            dispatches("approval", slot=PANEL, protected=True),
            dispatches("new", slot=PANEL, on_newer="interrupt"),
            returns("new"),
            returns("approval"),
        ),
        {
            "approval": ["delivered: fresh", "end: delivered, fresh"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot: other slots are not touched",
        (
            dispatches("side", slot="side-panel"),
            dispatches("none"),
            dispatches("new", slot=PANEL, on_newer="interrupt"),
            returns("new"),
            returns("side"),
            returns("none"),
        ),
        {
            "side": ["delivered: fresh", "end: delivered, fresh"],
            "none": ["delivered: fresh", "end: delivered, fresh"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, enqueue: the older is held, until it is too late",
        (
            sets({"doc/42": "v1"}),
            dispatches("old", {"doc/42": "v1"}, slot=PANEL, on_stale="hold", hold_ttl_seconds=SOON),
            dispatches("new", slot=PANEL, on_newer="enqueue"),
            sets({"doc/42": "v2"}),
            returns("old"),
            returns("new"),
            Later(2 * SOON),
        ),
        {
            "old": ["waits: context", "withheld: hold_expired", "end: withheld, hold_expired"],
            "new": ["waits: slot", "delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "slot, reject: also where the older is protected",
        (
            dispatches("approval", slot=PANEL, protected=True),
            dispatches("new", slot=PANEL, on_newer="reject"),
            returns("approval"),
        ),
        {"approval": ["delivered: fresh", "end: delivered, fresh"], "new": ["end: rejected, slot_taken"]},
    ),
    Case(
        "slot, interrupt: a parent and its child in the same place",
        (
            dispatches("old", slot=PANEL),
            dispatches("part", slot=PANEL, parent_task_id="old"),
            dispatches("new", slot=PANEL, on_newer="interrupt"),
            returns("new"),
        ),
        {
            "part": ["cancel: parent_ended", "end: cancelled, parent_ended"],
            "old": ["cancel: superseded", "end: cancelled, superseded"],
            "new": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
)
