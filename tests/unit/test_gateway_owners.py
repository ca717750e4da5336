import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import GroupCoordinatorNotAvailableError
from yarl import URL

from gateway.owners import REFRESH_SECONDS, Owners, addresses_of, announced_address
from streams.queries import announced

TOPIC = "tidegate.context.v1"


def metadata(url: str) -> bytes:
    return bytes(ConsumerProtocolMemberMetadata(0, [TOPIC], orjson.dumps({"url": url})).encode())


def assignment(*partitions: int) -> bytes:
    topics = [(TOPIC, list(partitions)), ("other", [7])]
    return bytes(ConsumerProtocolMemberAssignment(0, topics, b"").encode())


def member(port: int, *partitions: int) -> tuple[Any, ...]:
    url = str(announced(URL(f"tidegate://w{port}"), "10.0.0.1", port))
    return (f"m{port}", "client", "/10.0.0.1", metadata(url), assignment(*partitions))


def group(*members: tuple[Any, ...]) -> Any:
    return SimpleNamespace(groups=[(0, "tidegate", "Stable", "consumer", "faust", list(members), 0)])


def test_every_partition_has_the_address_of_its_owner() -> None:
    silent = ("m", "client", "/10.0.0.2", metadata("tidegate://w9"), assignment(5))
    joining = ("m", "client", "/10.0.0.2", metadata("tidegate://w8?read=x:1"), b"")
    found = addresses_of(group(member(1, 0, 2), member(2, 1), silent, joining), TOPIC)
    assert found == {0: "10.0.0.1:1", 2: "10.0.0.1:1", 1: "10.0.0.1:2"}


def test_other_members_announce_nothing() -> None:
    assert announced_address(b"\x00") is None
    for user_data in (b"", b"not JSON", b"[]", b'{"url": 1}', b'{"url": "tidegate://x"}'):
        encoded = bytes(ConsumerProtocolMemberMetadata(0, [TOPIC], user_data).encode())
        assert announced_address(encoded) is None, user_data


class Admin:
    def __init__(self) -> None:
        self.asked = 0
        self.answer: Any = group(member(1, 0))

    async def describe_consumer_groups(self, names: list[str]) -> list[Any]:
        assert names == ["tidegate"]
        self.asked += 1
        if self.answer is None:
            raise GroupCoordinatorNotAvailableError
        return [self.answer]


def test_the_coordinator_is_asked_seldom_and_again_when_the_answer_was_wrong() -> None:
    async def story() -> None:
        admin = Admin()
        owners = Owners(admin, "tidegate", TOPIC)
        assert [await owners.address(0) for _ in range(5)] == ["10.0.0.1:1"] * 5
        assert await owners.address(3) is None
        assert admin.asked == 1
        await asyncio.sleep(REFRESH_SECONDS + 0.05)
        admin.answer = group(member(2, 0, 3))
        assert await owners.address(0) == "10.0.0.1:1"
        assert await owners.address(0, fresh=True) == "10.0.0.1:2"
        assert await owners.address(3) == "10.0.0.1:2"
        assert admin.asked == 2
        await asyncio.sleep(REFRESH_SECONDS + 0.05)
        admin.answer = None
        assert await owners.address(0, fresh=True) == "10.0.0.1:2", "what is known is used while nobody answers"

    asyncio.run(story())
