"""Read all topics and recompute what the gate should have done, by code that shares nothing with it: `tidegate audit`.

What it knows is what the topics say. Its limits:
- The tasks topic is compacted, so values taken for `depends_on` facets come from the newest status or, failing that,
  from the verdict's echoed snapshot. That the facet once had that value is checked, not that it had it at the right
  moment.
- Where the oldest records are gone, what cannot be verified any more is counted, and not held against the gate.
- Sessions that were erased: their verdicts are checked against the context since, their dispositions are not.
- The topics have no common order. What a task depends on through others (its children's reads, reads of results that
  waited, effects) is told exactly only where a verdict names the place; elsewhere several values are possible, and only
  what contradicts all of them is held against the gate. So it is with slots, scopes and cancellations: an older or
  newer task, a parent or a child counts as open where a verdict shows it. Such verdicts are counted as uncertain.
- Whether a step comes again is told among those of its task's lane. Of two lanes the order is not known.
- Whether a proposal that was refused kept its key is not always told (was its task open, had the session room): until
  another proposal with the key is answered, both are possible. Of more than 256 keys of a session none is verified,
  nor are answers of versions that did not name their proposals.
- A verdict that waited names a steps offset without saying of which lane's topic.
- How full a session was is counted roughly: a part may be withheld `session_full` if it depends on a facet that changed
  when the session may have kept an eighth of its limit or more. Where it may have, own changes perhaps moved nothing.
- That a task was stopped while its snapshot was broken is checked by its policy and its grace only.
- Whether a barrier was kept is told by the brokers' timestamps. With replicas or several brokers a record can carry an
  older time than one that was acknowledged before it: give a margin there.
"""

from audit.config import AuditConfig
from audit.errors import AuditError
from audit.report import Report
from audit.run import audit

__all__ = ["AuditConfig", "AuditError", "Report", "audit"]
