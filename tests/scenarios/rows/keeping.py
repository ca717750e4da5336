"""What consumers say of deliveries, and what is kept of a session and for how long."""

from tests.scenarios.case import HOUR, Case, Later, acknowledges, dispatches, erases, proposes, returns, sets

LONG = "a day has to pass"
DAY = 24 * HOUR

KEEPING = (
    Case(
        "shown by its consumer",
        (dispatches("mail"), returns("mail"), acknowledges("mail", "shown")),
        {"mail": ["delivered: fresh", "end: delivered, fresh", "acknowledged: shown"]},
    ),
    Case(
        "applied by its consumer, said twice",
        (dispatches("mail"), returns("mail"), acknowledges("mail", "applied"), acknowledges("mail", "applied")),
        {"mail": ["delivered: fresh", "end: delivered, fresh", "acknowledged: applied"]},
    ),
    Case(
        "refused by its consumer's own last check",
        (dispatches("mail"), returns("mail"), acknowledges("mail", "refused", reason="the cell has a newer value")),
        {"mail": ["delivered: fresh", "end: delivered, fresh", "acknowledged: refused"]},
        says=(
            (
                "task.status",
                {"disposition": "delivered", "acknowledged": "refused", "detail": "the cell has a newer value"},
            ),
        ),
    ),
    Case(
        "a consumer's word on what nobody delivered",
        (dispatches("mail"), acknowledges("mail", "shown"), acknowledges("nobody's", "shown"), returns("mail")),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a session that is erased",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}),
            dispatches("open", {"doc/42": "v1"}),
            dispatches("held", {"doc/42": "v1"}, on_stale="hold"),
            proposes("mail", "send-1"),
            returns("mail"),
            sets({"doc/42": "v2"}),
            returns("held"),
            erases(),
        ),
        {
            "mail": ["effect send-1: cleared", "delivered: fresh", "end: delivered, fresh", "gone"],
            "open": ["gone"],
            "held": ["waits: context", "gone"],
        },
        forgotten=True,
    ),
    Case(
        "a session idle for a day",
        (sets({"doc/42": "v1"}), dispatches("mail", {"doc/42": "v1"}), returns("mail"), Later(DAY + HOUR)),
        {"mail": ["delivered: fresh", "end: delivered, fresh", "gone"]},
        forgotten=True,
        clock_only=LONG,
    ),
    Case(
        "a session idle for a day, with a task that runs",
        (sets({"doc/42": "v1"}), dispatches("mail", {"doc/42": "v1"}), Later(DAY + HOUR), returns("mail")),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
        clock_only=LONG,
    ),
    Case(
        "a session of which only an unknown result is known, idle for a day",
        (returns("nobody's"), Later(DAY + HOUR)),
        {"nobody's": ["withheld: unknown_task"]},
        forgotten=True,
        clock_only=LONG,
    ),
    Case(
        "a session of which only a rejected task is known, idle for a day",
        (dispatches("self", parent_task_id="self"), Later(DAY + HOUR)),
        {"self": ["end: rejected, unknown_parent", "gone"]},
        forgotten=True,
        clock_only=LONG,
    ),
    Case(
        "a session of which only an unknown effect is known, idle for a day",
        (proposes("nobody's", "send-1"), Later(DAY + HOUR)),
        {"nobody's": ["effect send-1: refused, unknown_task"]},
        forgotten=True,
        clock_only=LONG,
    ),
    Case(
        "a consumer's word on what was withheld",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}),
            sets({"doc/42": "v2"}),
            returns("mail"),
            acknowledges("mail", "shown"),
        ),
        {"mail": ["withheld: stale", "end: withheld, stale"]},
    ),
    Case(
        "first refused by its consumer, then applied",
        (
            dispatches("mail"),
            returns("mail"),
            acknowledges("mail", "refused", reason="the cell has a newer value"),
            acknowledges("mail", "applied"),
        ),
        {"mail": ["delivered: fresh", "end: delivered, fresh", "acknowledged: refused", "acknowledged: applied"]},
    ),
    Case(
        "a session that begins again after it was erased",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}),
            returns("mail"),
            erases(),
            dispatches("mail", {"doc/42": "v0"}),
            returns("mail", event_id="again"),
        ),
        {
            "mail": [
                "delivered: fresh",
                "end: delivered, fresh",
                "gone",
                "delivered: fresh",
                "end: delivered, fresh",
            ]
        },
    ),
    Case(
        "a session that is erased while a result waits for its dispatch",
        (returns("nobody's"), erases(), Later(6)),
        {},
        forgotten=True,
    ),
)
