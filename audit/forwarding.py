"""Records on the wrong partition: each must have been sent on, unchanged, to the right one."""

from __future__ import annotations

from collections.abc import Sequence

from audit.collect import PartitionLogs, Passed
from schemas.topics import Role


def check_forwarding(partitions: Sequence[PartitionLogs]) -> None:
    """Compare records met on a wrong partition with the copies sent on. `partitions` are all of them."""
    copies: dict[tuple[Role, int, int], list[tuple[PartitionLogs, Passed]]] = {}
    for logs in partitions:
        for copy in logs.copies:
            copies.setdefault((copy.role, copy.partition, copy.offset), []).append((logs, copy))
    for logs in partitions:
        for stray in logs.strays:
            sent = copies.pop((stray.role, stray.partition, stray.offset), [])
            if any(copy.digest != stray.digest for _, copy in sent):
                logs.note("forwarded_altered", "the copy differs", stray.role, stray.offset)
            if not sent and stray.handled:
                logs.note("misrouted_not_forwarded", "no copy on the right partition", stray.role, stray.offset)
    begins = {logs.partition: logs.bounds for logs in partitions}
    for (role, partition, offset), sent in copies.items():
        for logs, _ in sent:
            if partition not in begins or offset >= begins[partition][role].beginning:
                logs.note("forwarded_without_origin", f"{logs.names[role]}/{partition}/{offset}", role, None)
