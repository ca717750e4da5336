import pytest

from schemas.topics import topics
from tidegate.topics import FoundTopic, mismatches

WANTED = topics("t")


def found(**changes: FoundTopic | None) -> dict[str, FoundTopic]:
    """What a broker says when all is well with 4 partitions and 3 replicas, but for `changes` by role."""
    there = {topic.name: changes.get(topic.role, FoundTopic(4, 3, topic.config)) for topic in WANTED}
    return {name: topic for name, topic in there.items() if topic is not None}


def config(role: str, **changes: str) -> dict[str, str]:
    wanted = next(topic.config for topic in WANTED if topic.role == role)
    return {**wanted, **{key.replace("_", "."): value for key, value in changes.items()}}


def test_nothing_is_said_when_all_is_well() -> None:
    assert mismatches(WANTED, found(), 4, 3) == []


def test_more_replicas_than_asked_for_are_fine() -> None:
    assert mismatches(WANTED, found(), 4, 1) == []


@pytest.mark.parametrize(
    ("role", "there", "line"),
    [
        ("context", None, "t.context.v1: missing"),
        ("steps", FoundTopic(8, 3, config("steps")), "t.steps.v1: 8 partitions, expected 4: all topics need the same"),
        (
            "tasks",
            FoundTopic(4, 2, config("tasks")),
            "t.tasks.v1: replication factor 2, expected at least 3",
        ),
        (
            "tasks",
            FoundTopic(4, 3, config("tasks", cleanup_policy="delete")),
            "t.tasks.v1: cleanup.policy is delete, expected compact",
        ),
        (
            "withheld",
            FoundTopic(4, 3, config("withheld", retention_ms="1000")),
            "t.withheld.v1: retention.ms is 1000, expected 604800000",
        ),
        (
            "context",
            FoundTopic(4, 3, config("context", message_timestamp_type="CreateTime")),
            "t.context.v1: message.timestamp.type is CreateTime, expected LogAppendTime",
        ),
        (
            "dlq",
            FoundTopic(4, 3, config("dlq", max_message_bytes="1048588")),
            "t.dlq.v1: max.message.bytes is 1048588, expected 2097176",
        ),
    ],
)
def test_each_mismatch_is_one_line(role: str, there: FoundTopic | None, line: str) -> None:
    assert mismatches(WANTED, found(**{role: there}), 4, 3) == [line]


@pytest.mark.parametrize(
    ("replicas", "changes", "said"),
    [
        (1, {"min_insync_replicas": "2"}, "min.insync.replicas is 2, but a partition has 1 replicas"),
        (3, {"min_insync_replicas": "1"}, "min.insync.replicas is 1"),
        (3, {"min_insync_replicas": "2"}, None),
        (1, {"min_insync_replicas": "1"}, None),
        (3, {"unclean_leader_election_enable": "true"}, "unclean.leader.election.enable"),
    ],
)
def test_settings_that_lose_records_are_told(replicas: int, changes: dict[str, str], said: str | None) -> None:
    there = {topic.name: FoundTopic(4, replicas, topic.config) for topic in WANTED}
    there["t.context.v1"] = FoundTopic(4, replicas, config("context", **changes))
    lines = mismatches(WANTED, there, 4, 1)
    assert [line.startswith(f"t.context.v1: {said}") for line in lines] == ([] if said is None else [True])


def test_a_larger_message_size_is_fine() -> None:
    larger = FoundTopic(4, 3, config("dlq", max_message_bytes="9999999"))
    assert mismatches(WANTED, found(dlq=larger), 4, 3) == []


def test_a_setting_the_broker_does_not_know_is_told() -> None:
    lines = mismatches(WANTED, found(tasks=FoundTopic(4, 3, {})), 4, 3)
    assert lines == ["t.tasks.v1: cleanup.policy is not known to the broker, expected compact"]


def test_equal_counts_that_differ_from_the_settings_are_one_line() -> None:
    assert mismatches(WANTED, found(), 12, 3) == ["all topics: 4 partitions, the settings say 12"]
