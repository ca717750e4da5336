"""What an operator sets, as far as decisions depend on it."""

from dataclasses import dataclass

from schemas.topics import DEFAULT_PREFIX


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in milliseconds; `source` is the gate's own CloudEvents source.

    `shadow_task_types`: results of these are delivered whatever the verdict, and say what it was; `shadow` does so
    for all.
    """

    source: str = "tidegate"
    unknown_task_grace_ms: int = 30_000
    ended_task_retention_ms: int = 86_400_000
    ended_tasks_per_session: int = 256
    scope_grace_ms: int = 30_000
    hold_ttl_ms: int = 600_000
    session_ttl_ms: int = 86_400_000
    topic_prefix: str = DEFAULT_PREFIX
    """To name topics to people."""
    shadow: bool = False
    shadow_task_types: frozenset[str] = frozenset()

    def is_shadow(self, task_type: str | None) -> bool:
        """Whether results of this type of task are delivered whatever the verdict."""
        return self.shadow or task_type in self.shadow_task_types
