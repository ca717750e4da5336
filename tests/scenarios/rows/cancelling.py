"""Stopping what nobody wants any more."""

from tests.scenarios.case import Case, Together, cancels, dispatches, returns, sets, steps

CANCELLING = (
    Case(
        "cancelled, with a receipt",
        (
            dispatches("book", plan=["search", "reserve", "pay", "tell"]),
            steps("book", "search", "started"),
            steps("book", "search"),
            steps("book", "reserve", "started"),
            cancels("book"),
        ),
        {"book": ["cancel: cancelled", "end: cancelled, cancelled"]},
        says=(
            (
                "task.status",
                {
                    "status": "ended",
                    "receipt": {"done": ["search"], "in_flight": ["reserve"], "not_attempted": ["pay", "tell"]},
                },
            ),
        ),
    ),
    Case(
        "cancelled, with a failed step in its receipt",
        (
            dispatches("book", plan=["search", "pay"]),
            steps("book", "search", "started"),
            steps("book", "search", "failed"),
            cancels("book"),
        ),
        {"book": ["cancel: cancelled", "end: cancelled, cancelled"]},
        says=(("task.status", {"status": "ended", "receipt": {"failed": ["search"], "not_attempted": ["pay"]}}),),
    ),
    Case(
        "cancelled twice",
        (dispatches("book"), cancels("book"), cancels("book")),
        {"book": ["cancel: cancelled", "end: cancelled, cancelled"]},
    ),
    Case(
        "cancelled before its dispatch",
        (Together((cancels("book"), cancels("book"))), dispatches("book"), returns("book")),
        {"book": ["cancel: cancelled", "end: cancelled, cancelled", "withheld: late"]},
    ),
    Case(
        "cancelled, and its result comes late",
        (dispatches("book"), cancels("book"), returns("book"), returns("book", event_id="retry")),
        {"book": ["cancel: cancelled", "end: cancelled, cancelled", "withheld: late"]},
        says=(("result.withheld", {"parts": [{"part_id": "answer"}], "verdict": {"disposition": "cancelled"}}),),
    ),
    Case(
        "cancelled while its result is on its way",
        (dispatches("book"), Together((returns("book"), cancels("book")))),
        {"book": ["cancel: cancelled", "end: cancelled, cancelled", "withheld: late"]},
    ),
    Case(
        "cancelled after its end",
        (dispatches("book"), returns("book"), cancels("book")),
        {"book": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "cancelled, with its children",
        (
            dispatches("trip"),
            dispatches("flight", parent_task_id="trip"),
            dispatches("seat", parent_task_id="flight"),
            cancels("trip"),
            returns("seat"),
        ),
        {
            "seat": ["cancel: parent_ended", "end: cancelled, parent_ended", "withheld: late"],
            "flight": ["cancel: parent_ended", "end: cancelled, parent_ended"],
            "trip": ["cancel: cancelled", "end: cancelled, cancelled"],
        },
    ),
    Case(
        "one child cancelled",
        (
            dispatches("trip"),
            dispatches("flight", parent_task_id="trip"),
            dispatches("hotel", parent_task_id="trip"),
            cancels("flight"),
            returns("trip"),
            returns("hotel"),
        ),
        {
            "flight": ["cancel: cancelled", "end: cancelled, cancelled"],
            "hotel": ["delivered: fresh", "end: delivered, fresh"],
            "trip": ["waits: children", "delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "cancelled while its result is held",
        (
            sets({"doc/42": "v1"}),
            dispatches("book", {"doc/42": "v1"}, on_stale="hold"),
            sets({"doc/42": "v2"}),
            returns("book"),
            cancels("book"),
            sets({"doc/42": "v1"}),
        ),
        {"book": ["waits: context", "cancel: cancelled", "end: cancelled, cancelled", "withheld: late"]},
    ),
)
