"""What went wrong in a partition's own work: the class of the error and the place, never what a record says."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, Final, NamedTuple

PACKAGES: Final = ("projections", "schemas", "streams")


class Failure(NamedTuple):
    """`error` is the name of the exception's class, `place` a file of this project with the line."""

    error: str
    place: str

    def __str__(self) -> str:
        return f"{self.error} in {self.place}"

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception stands for. Its message is left out: it may quote the record."""
        place = "unknown"
        for frame in traceback.extract_tb(error.__traceback__):
            path = Path(frame.filename)
            if path.parent.name in PACKAGES:
                place = f"{path.parent.name}/{path.name}:{frame.lineno}"
        return cls(type(error).__name__, place)

    def to_json(self) -> dict[str, str]:
        """As the progress row has it."""
        return {"error": self.error, "place": self.place}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Failure:
        """From a progress row."""
        return cls(str(found.get("error", "unknown")), str(found.get("place", "unknown")))
