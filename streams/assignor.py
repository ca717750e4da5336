"""Which worker gets which partitions: as even as they divide, and as few moved as that takes.

Responsible for one group's assignment. Faust's own assignor keeps as many partitions on a worker as the fullest one may
have: the fourth worker of nine partitions gets none, and a newcomer to two workers with two partitions each stays idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.partition_assignor import PartitionAssignor
from yarl import URL


def shares(held: Mapping[str, set[int]], partitions: int) -> dict[str, set[int]]:
    """Each worker's partitions, given those it has held: nobody's share is larger than another's by more than one.

    `held` has every worker of the group. Two may claim the same partition, where one of them has slept through a
    rebalance: one of them keeps it.
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


class MemberAssignor(PartitionAssignor):
    """Faust's assignor with `shares`, knowing a worker by its member identity.

    Every input topic has the same number of partitions, and a worker gets the same ones of each. Stock Faust asserts
    that an assignment carries this process's URL: a worker that comes back under the same instance id but with another
    port or host name would assert, and live on consuming nothing.
    """

    @property
    def _url(self) -> URL:
        url: URL = self.app.member_url
        return url

    def _perform_assignment(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Any:
        """The assignment of every member, as its leader hands it to the group."""
        members = {name: self._get_client_metadata(metadata) for name, metadata in member_metadata.items()}
        self._update_member_urls(members)
        topics = sorted({topic for metadata in member_metadata.values() for topic in metadata.subscription})
        partitions = min(len(cluster.partitions_for_topic(topic) or ()) for topic in topics)
        held = {name: {tp.partition for tp in member.assignment.active_tps} for name, member in members.items()}
        assignments = {
            name: ClientAssignment(actives={topic: sorted(share) for topic in topics}, standbys={})
            for name, share in shares(held, partitions).items()
        }
        return self._protocol_assignments(assignments, {}, {}, dict.fromkeys(topics, 0))
