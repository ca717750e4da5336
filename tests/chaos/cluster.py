"""Three real brokers on this machine that hold everything three times, and may lose one of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from local.broker import HOST, LocalBroker

NODES = 3


class Node(LocalBroker):
    """One of them: broker and controller."""

    def __init__(self, number: int) -> None:
        super().__init__(ephemeral=True, short_lived=True, heap_mb=384)
        self.number = number
        self.voters = ""

    def join(self, others: list[Node]) -> None:
        """Belong to one cluster with these, before the first start."""
        self._cluster_id = others[0]._cluster_id
        self.voters = ",".join(f"{each.number}@{HOST}:{each._controller_port}" for each in others)

    def _server_properties(self) -> dict[str, str | int]:
        return {
            **super()._server_properties(),
            "node.id": self.number,
            "controller.quorum.voters": self.voters,
            "default.replication.factor": NODES,
            "min.insync.replicas": NODES - 1,
            "offsets.topic.replication.factor": NODES,
            "transaction.state.log.replication.factor": NODES,
            "transaction.state.log.min.isr": NODES - 1,
        }


@contextmanager
def cluster() -> Iterator[list[Node]]:
    """Three nodes, all of them running."""
    nodes = [Node(number) for number in range(1, NODES + 1)]
    for node in nodes:
        node.join(nodes)
    with ExitStack() as stack, ThreadPoolExecutor(NODES) as pool:
        for node in nodes:
            stack.callback(node.close)
        list(pool.map(LocalBroker.start, nodes))  # two of them have to be there before any is ready
        yield nodes
