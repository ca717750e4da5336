"""What keeps an audit from being made."""

from __future__ import annotations


class AuditError(Exception):
    """`message` says what was wrong and where, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
