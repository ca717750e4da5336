"""Which worker gets which partitions: as even as they divide, and as few moved as that takes.

Responsible for one group's assignment. Faust's own assignor keeps as many partitions on a worker as the fullest one may
have: the fourth worker of nine partitions gets none, and a newcomer to two workers with two partitions each stays idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog
from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.partition_assignor import PartitionAssignor
from yarl import URL

_log = structlog.get_logger(__name__)


def shares(held: Mapping[str, set[int]], partitions: int) -> dict[str, set[int]]:
    """Each worker's partitions, given those it has held: nobody's share is larger than another's by more than one.

    `held` has every worker of the group. Two may claim the same partition, where one of them has slept through a
    rebalance: the one with more claims keeps it.
    """
    even, over = divmod(partitions, len(held))
    free = set(range(partitions))
    found: dict[str, set[int]] = {}
    for place, worker in enumerate(sorted(held, key=lambda worker: (-len(held[worker]), worker))):
        kept = sorted(free & held[worker])[: even + (place < over)]
        found[worker] = set(kept)
        free -= found[worker]
    for partition in sorted(free):
        min(found.values(), key=len).add(partition)
    return found


PROTOCOL: Final = "tidegate"
"""What the group's members must have in common. Workers that had a transactional producer for each partition, and
committed without the group's generation, call theirs `faust`: none of them is let into a group with newer ones."""


class MemberAssignor(PartitionAssignor):
    """Faust's assignor with `shares`, knowing a worker by its member identity.

    Every input topic has the same number of partitions, and a worker gets the same ones of each. Stock Faust asserts
    that an assignment carries this process's URL: a worker that comes back under the same instance id but with another
    port or host name would assert, and live on consuming nothing.
    """

    @property
    def name(self) -> str:
        """The protocol's name."""
        return PROTOCOL

    @property
    def _url(self) -> URL:
        url: URL = self.app.member_url
        return url

    def _perform_assignment(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Any:
        """The assignment of every member, as its leader hands it to the group."""
        members = {name: self._get_client_metadata(metadata) for name, metadata in member_metadata.items()}
        self._update_member_urls(members)
        topics = sorted({topic for metadata in member_metadata.values() for topic in metadata.subscription})
        partitions = _partition_count({topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics})
        held = {name: {tp.partition for tp in member.assignment.active_tps} for name, member in members.items()}
        assignments = {
            name: ClientAssignment(actives={topic: sorted(share) for topic in topics}, standbys={})
            for name, share in shares(held, partitions).items()
        }
        return self._protocol_assignments(assignments, {}, {}, dict.fromkeys(topics, 0))


def _partition_count(counts: Mapping[str, int]) -> int:
    """How many partitions there are to share out: as many as every topic has of which the brokers know.

    A broker that comes up may not know a topic for a moment: that is no reason to take everything from everyone.
    """
    partitions = min((count for count in counts.values() if count), default=0)
    if set(counts.values()) != {partitions}:
        _log.warning("partition_counts_differ", counts=dict(counts), shared_out=partitions)
    return partitions
