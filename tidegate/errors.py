"""The error a user can cause: what was wrong, and what to do about it.

Not for defects: those keep their own exception and their traceback.
"""

from __future__ import annotations


class TidegateError(Exception):
    """A mistake or a state of the environment that the user can put right.

    `message` says what was wrong and where; `hint` says what to do. The CLI prints both without a traceback and exits
    with status 2.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message
