"""Create the contract's topics on a broker, and check those that are there. Which ones: `schemas.topics`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from schemas.topics import Topic, topics
from streams.control import Control
from streams.errors import FatalError, LostInputError
from streams.handover import check_layout
from tidegate.engine_config import engine_config
from tidegate.errors import TidegateError
from tidegate.partitions import progress
from tidegate.placement import Replicas, placement, split_leaders
from tidegate.refusals import unanswered
from tidegate.settings import Settings

_POLL_SECONDS = 0.02
_STOPS_WORK = ("cleanup.policy", "message.timestamp.type", "nothing can be written")
"""In lines about what makes the gate lose events, or judge by producers' clocks."""
_IS_THERE = (0, TopicAlreadyExistsError.errno)
_AT_LEAST = frozenset({"max.message.bytes"})  # more than asked does no harm; everything else must be equal


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """What a broker says of one topic.

    `replication_factor` is that of its least replicated partition. `leaders`: broker ids by partition, -1 for none.
    """

    partitions: int
    replication_factor: int
    config: Mapping[str, str]
    leaders: tuple[int, ...] = ()


async def create_topics(settings: Settings) -> dict[str, bool]:
    """Create the topics that are missing; per topic name, in registry order, whether it was created now.

    Returns when the broker knows a leader for every partition. Leaves existing topics alone, right or wrong:
    `check_topics` tells. Raises `TidegateError` if the broker cannot be reached or refuses a topic. Cancelled on the
    way, it leaves the topics created so far; calling it again is safe.
    """
    wanted = topics(settings.topic_prefix)
    async with _admin(settings) as admin:
        codes = await _create(admin, wanted, settings, await _placement(admin, wanted, settings))
        again = [topic for topic in wanted if codes[topic.name][0] not in _IS_THERE]
        if again:  # some clusters choose the brokers themselves, and refuse whoever does
            codes.update(await _create(admin, again, settings, None))
        refused = [
            f"  {name}: {message or for_code(code).__name__}"
            for name, (code, message) in codes.items()
            if code not in _IS_THERE
        ]
        if refused:
            raise TidegateError(
                "The broker refused to create:\n" + "\n".join(refused),
                "TIDEGATE_REPLICATION_FACTOR and TIDEGATE_PARTITIONS set how much is asked for;"
                " docs/operations.md lists under Security what the user needs.",
            )
        try:
            async with asyncio.timeout(settings.request_timeout_seconds):
                await _until_led(admin, {topic.name for topic in wanted})
        except TimeoutError as error:
            raise TidegateError(
                "The topics were created, but the broker does not show them to this user, or found no leader for them.",
                "To see them, the user needs the right to read or describe them; else the broker's log may say more.",
            ) from error
    return {topic.name: codes[topic.name][0] == 0 for topic in wanted}


async def _create(
    admin: Any, wanted: Iterable[Topic], settings: Settings, replicas: Replicas | None
) -> dict[str, tuple[int, str | None]]:
    """Ask for the topics, the inputs on these brokers; per name the broker's error code (0: created) and message."""
    answer = await admin.create_topics(
        [
            NewTopic(topic.name, -1, -1, replicas, topic_configs=topic.config)
            if replicas is not None and topic.is_input
            else NewTopic(topic.name, settings.partitions, settings.replication_factor, topic_configs=topic.config)
            for topic in wanted
        ]
    )
    return {name: (code, message) for name, code, message in answer.topic_errors}


async def _placement(admin: Any, wanted: Iterable[Topic], settings: Settings) -> Replicas | None:
    """Where the inputs go: to the brokers of one that is there, else evenly spread. None: where Kafka puts them."""
    described = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
    for topic in wanted:
        there = {each["partition"]: each["replicas"] for each in described.get(topic.name, ())}
        is_alike = all(len(replicas) == settings.replication_factor for replicas in there.values())
        if topic.is_input and len(there) == settings.partitions and is_alike:
            return there
    cluster = await admin.describe_cluster()
    brokers = [(broker["node_id"], broker.get("rack")) for broker in cluster["brokers"]]
    return placement(brokers, settings.partitions, settings.replication_factor)


async def _until_led(admin: Any, names: set[str]) -> None:
    """Wait until the broker knows these topics: the controller does a moment earlier (10 of 12 missing, measured)."""
    while True:
        described = await admin.describe_topics()
        led = {topic["topic"] for topic in described if all(part["leader"] >= 0 for part in topic["partitions"])}
        if names <= led:
            return
        await asyncio.sleep(_POLL_SECONDS)


async def check_topics(settings: Settings) -> tuple[list[str], list[str]]:
    """One line per mismatch between the registry and the broker, and one per partition whose inputs are led apart.

    The latter is no mistake while a broker is away. Raises `TidegateError` if the broker cannot be reached.
    """
    wanted = topics(settings.topic_prefix)
    found = await describe_topics(settings, [topic.name for topic in wanted])
    lines = mismatches(wanted, found, settings.partitions, settings.replication_factor)
    apart = split_leaders(
        {each.name: found[each.name].leaders for each in wanted if each.is_input and each.name in found}
    )
    if len(found) == len(wanted):
        lines += await _replaced(settings)
    return lines, apart


async def check_before_work(settings: Settings) -> tuple[list[str], list[str]]:
    """What keeps a worker from working on the topics there are, and what it can live with.

    Missing topics are not told: the engine waits for them to appear. Raises `TidegateError` if the broker cannot be
    reached, or does not tell the configuration of a topic.
    """
    wanted = topics(settings.topic_prefix)
    found = await describe_topics(settings, [topic.name for topic in wanted])
    there = [topic for topic in wanted if topic.name in found]
    if not there:
        return [], []
    partitions = found[there[0].name].partitions
    lines = mismatches(there, found, partitions, settings.replication_factor)
    stops = [line for line in lines if any(key in line for key in _STOPS_WORK)]
    apart = split_leaders({each.name: found[each.name].leaders for each in there if each.is_input})
    return stops, [*(line for line in lines if line not in stops), *apart]


async def _replaced(settings: Settings) -> list[str]:
    """Inputs that are not those whose events the rows were folded from."""
    config = engine_config(settings)
    control = Control(config)
    try:
        await control.start()
        layout = await control.layout()
    except FatalError:
        return []  # told above
    except (KafkaError, TimeoutError) as error:
        raise unanswered(settings, error) from error
    finally:
        await control.stop()
    lines: dict[str, None] = {}
    for number, restored in (await progress(settings)).items():
        try:
            check_layout(config, number, restored.layout, layout)
        except LostInputError as error:
            lines[str(error)] = None
    return list(lines)


async def describe_topics(settings: Settings, names: Iterable[str]) -> dict[str, FoundTopic]:
    """What the broker says of those topics that exist. Raises `TidegateError` if it cannot be reached."""
    wanted = set(names)
    async with _admin(settings) as admin:
        # All topics, not these: aiokafka lets the broker create the ones it is asked for, where it may.
        described = {topic["topic"]: topic for topic in await admin.describe_topics() if topic["topic"] in wanted}
        if not described:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in described]
        configs = await _configs(admin, resources)
    return {
        name: FoundTopic(
            len(topic["partitions"]),
            min((len(partition["replicas"]) for partition in topic["partitions"]), default=0),
            configs[name],
            tuple(part["leader"] for part in sorted(topic["partitions"], key=lambda part: part["partition"])),
        )
        for name, topic in described.items()
    }


def mismatches(
    wanted: Sequence[Topic], found: Mapping[str, FoundTopic], partitions: int, replication_factor: int
) -> list[str]:
    """One line per way in which `found` (by topic name) is not what was `wanted`, in registry order."""
    lines = []
    counts = {found[topic.name].partitions for topic in wanted if topic.name in found}
    if len(counts) == 1 and counts != {partitions}:
        lines.append(f"all topics: {counts.pop()} partitions, the settings say {partitions}")
        counts = set()
    for topic in wanted:
        there = found.get(topic.name)
        if there is None:
            lines.append(f"{topic.name}: missing")
            continue
        if counts and there.partitions != partitions:
            lines.append(
                f"{topic.name}: {there.partitions} partitions, expected {partitions}: all topics need the same"
            )
        if there.replication_factor < replication_factor:
            lines.append(
                f"{topic.name}: replication factor {there.replication_factor}, expected at least {replication_factor}"
            )
        lines += _unsafe(topic.name, there)
        lines += [
            f"{topic.name}: {key} is {there.config.get(key, 'not known to the broker')}, expected {value}"
            for key, value in topic.config.items()
            if not _satisfies(key, there.config.get(key), value)
        ]
    return lines


def _unsafe(name: str, there: FoundTopic) -> list[str]:
    """Settings with which acknowledged records can be lost, or none can be written."""
    lines, least = [], there.config.get("min.insync.replicas")
    if least is not None and int(least) > there.replication_factor:
        lines.append(
            f"{name}: min.insync.replicas is {least}, but a partition has {there.replication_factor} replicas:"
            " nothing can be written"
        )
    elif least == "1" and there.replication_factor > 1:
        lines.append(f"{name}: min.insync.replicas is 1, expected 2: what one broker has acknowledged can be lost")
    if there.config.get("unclean.leader.election.enable") == "true":
        lines.append(f"{name}: unclean.leader.election.enable is true: acknowledged records can be lost")
    return lines


def _satisfies(key: str, there: str | None, wanted: str) -> bool:
    if there is None:
        return False
    return int(there) >= int(wanted) if key in _AT_LEAST else there == wanted


async def _configs(admin: AIOKafkaAdminClient, resources: list[ConfigResource]) -> dict[str, dict[str, str]]:
    configs = {}
    for answer in await admin.describe_configs(resources):
        for code, message, _, name, entries, *_ in answer.resources:
            if code:
                raise TidegateError(
                    f"The broker does not tell the configuration of {name}: {message or for_code(code).__name__}.",
                    "The user needs the right to describe configurations of topics.",
                )
            configs[name] = {str(entry[0]): str(entry[1]) for entry in entries}
    return configs


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(
        **settings.kafka_kwargs(), request_timeout_ms=int(settings.request_timeout_seconds * 1000)
    )
    try:
        await admin.start()
        yield admin
    except (KafkaError, TimeoutError) as error:
        raise unanswered(settings, error) from error
    finally:
        await admin.close()
