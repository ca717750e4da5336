"""Deadlines, heartbeats, and a gate that was away."""

from tests.scenarios.case import HOUR, NEVER, SOON, Away, Case, Later, beats, dispatches, returns, sets, steps

AWAY = "the gate is away for an hour"
LONG = "time has to pass while nothing is told"

TIME = (
    Case(
        "a deadline that passes",
        (dispatches("mail", deadline_in=SOON), Later(2 * SOON), returns("mail")),
        {"mail": ["cancel: deadline_passed", "end: expired, deadline_passed", "withheld: late"]},
    ),
    Case(
        "a deadline that is kept",
        (dispatches("mail", deadline_in=NEVER), returns("mail")),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a deadline that passes while the result is held",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}, deadline_in=HOUR, on_stale="hold", hold_ttl_seconds=NEVER),
            sets({"doc/42": "v2"}),
            returns("mail"),
            Later(HOUR + 60),
            sets({"doc/42": "v1"}),
        ),
        {"mail": ["waits: context", "delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "a result in time, while the gate was away beyond the deadline",
        (dispatches("mail", deadline_in=60), Away((Later(30), returns("mail"), Later(HOUR)))),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
        clock_only=AWAY,
    ),
    Case(
        "a result too late, while the gate was away",
        (dispatches("mail", deadline_in=60), Away((Later(90), returns("mail"), Later(HOUR)))),
        {"mail": ["cancel: deadline_passed", "end: expired, deadline_passed", "withheld: late"]},
        clock_only=AWAY,
    ),
    Case(
        "heartbeats that stop",
        (dispatches("mail", heartbeat_timeout_seconds=SOON), beats("mail"), Later(3 * SOON), returns("mail")),
        {"mail": ["cancel: heartbeat_missed", "end: expired, heartbeat_missed", "withheld: late"]},
    ),
    Case(
        "heartbeats that go on",
        (
            dispatches("mail", heartbeat_timeout_seconds=60),
            Later(50),
            beats("mail"),
            Later(50),
            beats("mail"),
            Later(50),
            returns("mail"),
        ),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "no heartbeats after the result, while it is held",
        (
            sets({"doc/42": "v1"}),
            dispatches("mail", {"doc/42": "v1"}, heartbeat_timeout_seconds=60, on_stale="hold", hold_ttl_seconds=NEVER),
            sets({"doc/42": "v2"}),
            returns("mail"),
            Later(HOUR),
            sets({"doc/42": "v1"}),
        ),
        {"mail": ["waits: context", "delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "an outage of an hour, with heartbeats on the topic",
        (
            dispatches("mail", heartbeat_timeout_seconds=60),
            Away((*(each for _ in range(60) for each in (Later(59), beats("mail"))), Later(30))),
            returns("mail"),
        ),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
        clock_only=AWAY,
    ),
    Case(
        "an outage of an hour, with a last heartbeat half way",
        (dispatches("mail", heartbeat_timeout_seconds=60), Away((Later(HOUR / 2), beats("mail"), Later(HOUR / 2)))),
        {"mail": ["cancel: heartbeat_missed", "end: expired, heartbeat_missed"]},
        clock_only=AWAY,
    ),
    Case(
        "an outage of an hour, with the result on the topic",
        (dispatches("mail", heartbeat_timeout_seconds=60), Away((Later(30), returns("mail"), Later(HOUR)))),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
        clock_only=AWAY,
    ),
    Case(
        "an outage of an hour, with dispatch and result on the topic",
        (
            sets({"doc/42": "v1"}),
            Away(
                (
                    dispatches("mail", {"doc/42": "v1"}, heartbeat_timeout_seconds=60),
                    Later(30),
                    returns("mail"),
                    dispatches("late", {"doc/42": "v1"}, deadline_in=60),
                    Later(HOUR),
                )
            ),
        ),
        {
            "mail": ["delivered: fresh", "end: delivered, fresh"],
            "late": ["cancel: deadline_passed", "end: expired, deadline_passed"],
        },
        clock_only=AWAY,
    ),
    Case(
        "an outage of an hour, with the dispatch of a parked result on the topic",
        (returns("mail"), Away((Later(HOUR), dispatches("mail")))),
        {"mail": ["withheld: unknown_task", "end: withheld, unknown_task"]},
        clock_only=AWAY,
    ),
    Case(
        "an outage of an hour, in which the user came back",
        (
            sets({"presence/tab-1": "absent"}),
            dispatches("mail", when_absent="hold", hold_ttl_seconds=60),
            returns("mail"),
            Away((Later(HOUR), sets({"presence/tab-1": "present"}))),
        ),
        {"mail": ["waits: user", "delivered: fresh", "end: delivered, fresh"]},
        clock_only=AWAY,
    ),
    Case(
        "steps are signs of life",
        (
            dispatches("mail", heartbeat_timeout_seconds=60),
            Later(50),
            steps("mail", "look"),
            Later(50),
            returns("mail"),
        ),
        {"mail": ["delivered: fresh", "end: delivered, fresh"]},
    ),
    Case(
        "one agent falls silent, another does not",
        (
            dispatches("silent", heartbeat_timeout_seconds=SOON),
            dispatches("alive", heartbeat_timeout_seconds=60),
            Later(2 * SOON),
            returns("alive"),
        ),
        {
            "silent": ["cancel: heartbeat_missed", "end: expired, heartbeat_missed"],
            "alive": ["delivered: fresh", "end: delivered, fresh"],
        },
    ),
    Case(
        "an agent that falls silent while it is stale",
        (
            sets({"doc/42": "v1"}),
            dispatches(
                "mail",
                {"doc/42": "v1"},
                heartbeat_timeout_seconds=SOON,
                while_stale="cancel",
                while_stale_grace_seconds=NEVER,
            ),
            sets({"doc/42": "v2"}),
            Later(2 * SOON),
        ),
        {"mail": ["cancel: heartbeat_missed", "end: expired, heartbeat_missed"]},
    ),
)
