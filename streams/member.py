"""Who this worker is in its consumer group, as captured with an assignment: what fences its transactions."""

from __future__ import annotations

from typing import NamedTuple


class GroupMember(NamedTuple):
    """A member of one generation of the group.

    Taken where the assignment is taken, never when offsets are committed: by then aiokafka may have reset its own to
    generation -1 and an empty member id, which a broker accepts without any fencing.
    """

    group_id: str
    generation: int
    member_id: str
    instance_id: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether the coordinator knows the member: only such a one may commit."""
        return self.generation >= 0 and bool(self.member_id)

    def continues(self, earlier: GroupMember | None) -> bool:
        """Whether nobody else can have owned, in between, what this member owns now and owned as `earlier`.

        A member that the group removed gets another member id. A member that missed a generation may have lost a
        partition in it to somebody who worked on it and gave it back.
        """
        return (
            earlier is not None
            and self.member_id == earlier.member_id
            and earlier.generation <= self.generation <= earlier.generation + 1
        )
