"""Parents and children."""

from tests.scenarios.case import (
    SHADOWED,
    SOON,
    Case,
    Later,
    Together,
    cancels,
    dispatches,
    returns,
    sets,
    steps,
    writes,
)

SCOPES = (
    Case(
        "a parent waits for its children",
        (
            dispatches("trip"),
            dispatches("flight", parent_task_id="trip"),
            dispatches("hotel", parent_task_id="trip"),
            returns("trip"),
            returns("flight"),
            returns("hotel"),
        ),
        {
            "flight": ["delivered: fresh", "end: delivered, fresh"],
            "hotel": ["delivered: fresh", "end: delivered, fresh"],
            "trip": ["waits: children", "delivered: fresh", "end: delivered, fresh"],
        },
        says=(("task.status", {"task_id": "flight", "parent_task_id": "trip"}),),
    ),
    Case(
        "a stale child in a fan-out",
        (
            sets({"doc/41": "v1", "doc/42": "v1"}),
            dispatches("report"),
            dispatches("left", {"doc/41": "v1"}, parent_task_id="report"),
            dispatches("right", {"doc/42": "v1"}, parent_task_id="report"),
            sets({"doc/42": "v2"}),
            returns("left"),
            returns("right"),
            returns("report"),
        ),
        {
            "left": ["delivered: fresh", "end: delivered, fresh"],
            "right": ["withheld: stale", "end: withheld, stale"],
            "report": ["withheld: stale", "end: withheld, stale"],
        },
    ),
    Case(
        "a stale child in a fan-out, by what it read",
        (
            sets({"doc/42": "v1"}),
            dispatches("report"),
            dispatches("right", parent_task_id="report"),
            steps("right", "look", reads={"doc/42": "v1"}),
            returns("right"),
            sets({"doc/42": "v2"}),
            returns("report"),
        ),
        {
            "right": ["delivered: fresh", "end: delivered, fresh"],
            "report": ["withheld: stale", "end: withheld, stale"],
        },
    ),
    Case(
        "a fan-out whose children read at different times",
        (
            sets({"fare": "90"}),
            dispatches("trip"),
            dispatches("out", parent_task_id="trip"),
            dispatches("back", parent_task_id="trip"),
            steps("out", "look", reads={"fare": "90"}),
            returns("out"),
            sets({"fare": "190"}),
            steps("back", "look", reads={"fare": "190"}),
            returns("back"),
            returns("trip"),
        ),
        {
            "out": ["delivered: fresh", "end: delivered, fresh"],
            "back": ["delivered: fresh", "end: delivered, fresh"],
            "trip": ["withheld: stale", "end: withheld, stale"],
        },
    ),
    Case(
        "a child that looks again takes back what it read, and nothing else",
        (
            sets({"fare": "90"}),
            dispatches("trip", {"fare": "90"}),
            dispatches("out", parent_task_id="trip"),
            dispatches("back", parent_task_id="trip"),
            steps("out", "look", reads={"fare": "90"}),
            sets({"fare": "190"}),
            steps("back", "look", reads={"fare": "190"}),
            steps("out", "look again", reads={"fare": "190"}),
            steps("trip", "look again", reads={"fare": "190"}),
            returns("out"),
            returns("back"),
            returns("trip"),
        ),
        {
            "out": ["delivered: fresh", "end: delivered, fresh"],
            "back": ["delivered: fresh", "end: delivered, fresh"],
            "trip": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "a stale child that is independent",
        (
            sets({"doc/42": "v1"}),
            dispatches("report"),
            dispatches("aside", {"doc/42": "v1"}, parent_task_id="report", independent=True),
            sets({"doc/42": "v2"}),
            returns("aside"),
            returns("report"),
        ),
        {
            "aside": ["withheld: stale", "end: withheld, stale"],
            "report": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "a child's write is its parent's own",
        (
            sets({"doc/42": "v1"}),
            dispatches("report", {"doc/42": "v1"}),
            dispatches("writer", {"doc/42": "v1"}, parent_task_id="report"),
            writes("writer", {"doc/42": "v2"}),
            returns("writer"),
            returns("report"),
        ),
        {
            "writer": ["delivered: fresh", "end: delivered, fresh"],
            "report": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "a child that never ends",
        (
            dispatches("trip", scope_grace_seconds=SOON),
            dispatches("flight", parent_task_id="trip"),
            returns("trip"),
            Later(2 * SOON),
            returns("flight"),
        ),
        {
            "flight": ["cancel: scope_closed", "end: cancelled, scope_closed", "withheld: late"],
            "trip": ["waits: children", "delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "a parent whose request was archived ends with its children",
        (
            sets({"request/42": "r1"}),
            dispatches("trip", request_id="42"),
            dispatches("flight", parent_task_id="trip"),
            sets({"request/42": "archived"}),
            returns("trip"),
            returns("flight"),
        ),
        {
            "trip": ["withheld: request_archived", "end: withheld, request_archived"],
            "flight": ["cancel: parent_ended", "end: cancelled, parent_ended", "withheld: late"],
        },
    ),
    Case(
        "a parent in a session that was closed ends with its children's children",
        (
            dispatches("trip"),
            dispatches("flight", parent_task_id="trip"),
            dispatches("seat", parent_task_id="flight"),
            sets({"session": "closed"}),
            returns("trip"),
        ),
        {
            "trip": ["withheld: session_closed", "end: withheld, session_closed"],
            "flight": ["cancel: parent_ended", "end: cancelled, parent_ended"],
            "seat": ["cancel: parent_ended", "end: cancelled, parent_ended"],
        },
    ),
    Case(
        "a parent that expires cancels its children",
        (
            dispatches("trip", heartbeat_timeout_seconds=SOON),
            dispatches("flight", parent_task_id="trip"),
            Later(2 * SOON),
        ),
        {
            "flight": ["cancel: parent_ended", "end: cancelled, parent_ended"],
            "trip": ["cancel: heartbeat_missed", "end: expired, heartbeat_missed"],
        },
    ),
    Case(
        "a child before its parent",
        (
            Together((dispatches("flight", parent_task_id="trip"), dispatches("trip"))),
            returns("trip"),
            returns("flight"),
        ),
        {
            "flight": ["delivered: fresh", "end: delivered, fresh"],
            "trip": ["waits: children", "delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "a child's result before its parent",
        (
            Together((dispatches("flight", parent_task_id="trip"), returns("flight"), dispatches("trip"))),
            returns("trip"),
        ),
        {
            "flight": ["delivered: fresh", "end: delivered, fresh"],
            "trip": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "a child of nobody",
        (dispatches("flight", parent_task_id="trip"), returns("flight"), Later(6)),
        {
            "flight": [
                "waits: parent",
                "cancel: unknown_parent",
                "end: rejected, unknown_parent",
                "withheld: late",
            ]
        },
    ),
    Case(
        "a child of a parent that has ended",
        (dispatches("trip"), returns("trip"), dispatches("flight", parent_task_id="trip"), returns("flight")),
        {
            "trip": ["delivered: fresh", "end: delivered, fresh"],
            "flight": ["end: rejected, parent_ended", "withheld: late"],
        },
    ),
    Case(
        "a child of a parent that was cancelled before its dispatch",
        (cancels("trip"), dispatches("trip"), dispatches("flight", parent_task_id="trip")),
        {
            "trip": ["cancel: cancelled", "end: cancelled, cancelled"],
            "flight": ["end: rejected, parent_ended"],
        },
    ),
    Case(
        "a child of itself",
        (dispatches("trip", parent_task_id="trip"),),
        {"trip": ["end: rejected, unknown_parent"]},
    ),
    Case(
        "a stale child of a child",
        (
            sets({"doc/42": "v1"}),
            dispatches("trip"),
            dispatches("flight", parent_task_id="trip"),
            dispatches("seat", {"doc/42": "v1"}, parent_task_id="flight"),
            returns("seat"),
            sets({"doc/42": "v2"}),
            returns("flight"),
            returns("trip"),
        ),
        {
            "seat": ["delivered: fresh", "end: delivered, fresh"],
            "flight": ["withheld: stale", "end: withheld, stale"],
            "trip": ["withheld: stale", "end: withheld, stale"],
        },
    ),
    Case(
        "a parent cancelled while it waits for its children",
        (dispatches("trip"), dispatches("flight", parent_task_id="trip"), returns("trip"), cancels("trip")),
        {
            "flight": ["cancel: parent_ended", "end: cancelled, parent_ended"],
            "trip": ["waits: children", "cancel: cancelled", "end: cancelled, cancelled", "withheld: late"],
        },
    ),
    Case(
        "a parent whose request is archived while it waits for its children",
        (
            sets({"request/42": "r1"}),
            dispatches("trip", request_id="42"),
            dispatches("flight", parent_task_id="trip"),
            returns("trip"),
            sets({"request/42": "archived"}),
        ),
        {
            "flight": ["cancel: parent_ended", "end: cancelled, parent_ended"],
            "trip": ["waits: children", "withheld: request_archived", "end: withheld, request_archived"],
        },
    ),
    Case(
        "a child with its parent's slot",
        (
            dispatches("trip", slot="panel", scope_grace_seconds=SOON),
            dispatches("flight", slot="panel", on_newer="enqueue", parent_task_id="trip"),
            returns("flight"),
            returns("trip"),
            Later(2 * SOON),
        ),
        {
            "flight": ["waits: slot", "cancel: scope_closed", "end: cancelled, scope_closed", "withheld: late"],
            "trip": ["waits: children", "delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "a child that is held makes its parent wait",
        (
            sets({"doc/42": "v1"}),
            dispatches("trip"),
            dispatches("flight", {"doc/42": "v1"}, parent_task_id="trip", on_stale="hold"),
            sets({"doc/42": "v2"}),
            returns("flight"),
            returns("trip"),
            sets({"doc/42": "v1"}),
        ),
        {
            "flight": ["waits: context", "delivered: fresh", "end: delivered, fresh"],
            "trip": ["waits: children", "delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "watched: a parent does not wait for its children, and stops none",
        (
            dispatches("trip", task_type=SHADOWED),
            dispatches("flight", task_type=SHADOWED, parent_task_id="trip"),
            returns("trip"),
            returns("flight"),
        ),
        {
            "trip": ["delivered: held, watched", "end: delivered, held"],
            "flight": ["delivered: fresh, watched", "end: delivered, fresh"],
        },
    ),
)
