"""The Faust application: one agent over the input topics, fed with record batches, that folds them.

Of Faust are used: the application and its services, the consumer's thread with group membership and rebalancing, the
stream, and the agent with its supervision. Replaced are fetching (`streams.transport`: a message for each record costs
60 to 80 µs), tables and changelogs (rows are restored and written with the outputs in one transaction), the producer
and commits (exactly-once needs a transaction of them all), and the assignor's shares (`streams.assignor`).
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import faust
import mode
from faust.app import BootStrategy
from faust.types import TP
from yarl import URL

from projections.decode import Batch
from streams.assignor import MemberAssignor
from streams.config import HOT_ROLES, EngineConfig
from streams.fetching import Flow
from streams.member import GroupMember
from streams.transport import BatchTransport


class BatchHandler(Protocol):
    """What the application drives: the engine."""

    flow: Flow

    def offer(self, batch: Batch) -> None:
        """Take a fetched batch. Never waits: one queue serves all partitions."""

    async def fold(self) -> None:
        """Fold what was offered, as far as that is possible now."""

    async def on_revoked(self) -> None:
        """Partitions are being given up, all of them for now."""

    def on_assigned(self, partitions: set[int], member: GroupMember) -> None:
        """These partitions are this worker's, as this member, until the next rebalance. Only marks; never waits."""


class BatchSchema(faust.Schema):
    """Passes a message's value through: it is a list of `Batch`es already."""

    def compile(self, app: Any, **_kwargs: Any) -> Callable[..., Awaitable[Any]]:
        """The function Faust decodes every message with."""

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            del propagate
            return app.create_event(None, message.value, message.headers, message)

        return decode


class WithoutProducer(BootStrategy):
    """Boots no Faust producer: records are written by the worker's own transactional producer."""

    enable_kafka_producer = False


class GateApp(faust.App):
    """The application of one gate worker."""

    BootStrategy = WithoutProducer

    flow: Flow
    member_url: URL
    member: GroupMember
    """As the consumer's thread has captured it with the last assignment."""

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)


def build_app(config: EngineConfig, handler: BatchHandler) -> GateApp:
    """The application, ready to be started as a service in the running loop."""
    servers = config.kafka["bootstrap_servers"]
    app = GateApp(
        config.group_id,
        broker=[URL(f"kafka://{server}") for server in servers],
        broker_session_timeout=config.session_timeout_seconds,
        broker_heartbeat_interval=config.heartbeat_interval_seconds,
        broker_rebalance_timeout=config.rebalance_timeout_seconds,
        broker_request_timeout=max(config.request_timeout_seconds, config.session_timeout_seconds),
        consumer_group_instance_id=config.instance_id,
        PartitionAssignor=MemberAssignor,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        web_enabled=False,
        autodiscover=False,
        store="memory://",
        datadir=Path(config.state_dir) / "faust",
    )
    app.flow = handler.flow
    app.member_url = URL(f"tidegate://{config.instance_id or uuid4().hex}")
    inputs = app.topic(*[config.topic(role) for role in HOT_ROLES], schema=BatchSchema(), acks=False)

    @app.agent(inputs, name="gate", concurrency=1, supervisor_strategy=mode.CrashingSupervisor)
    async def gate(fetches: faust.Stream[list[Batch]]) -> None:
        async for batches in fetches.noack():
            while batches:  # Faust and the fetching loop hold the list until the next one comes
                handler.offer(batches.pop(0))
            await handler.fold()

    @app.on_partitions_revoked.connect(weak=False)
    async def revoked(_app: Any, _partitions: set[TP], **_kwargs: Any) -> None:
        await handler.on_revoked()

    @app.on_partitions_assigned.connect(weak=False)
    async def assigned(_app: Any, partitions: set[TP], **_kwargs: Any) -> None:
        handler.on_assigned({tp.partition for tp in partitions}, app.member)

    return app
