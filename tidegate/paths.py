"""Where Tidegate keeps its files on this machine. Not where Kafka keeps yours."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Directory of what can be downloaded again, such as Kafka's jars. It may not exist yet."""
    return Path(platformdirs.user_cache_dir("tidegate", appauthor=False))


def state_dir() -> Path:
    """Directory of what should survive a restart, such as the local broker's data. It may not exist yet."""
    return Path(platformdirs.user_state_dir("tidegate", appauthor=False))
