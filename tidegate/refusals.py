"""What it means to a person that Kafka does not answer: not there, not let in, or not allowed.

aiokafka says only that it could not bootstrap; why, it tells its log. So the last of those messages is kept here.
"""

from __future__ import annotations

import logging
import ssl

from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from streams.errors import NOT_ALLOWED
from tidegate.errors import TidegateError
from tidegate.settings import Settings

_NOT_LET_IN = (IllegalSaslStateError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)


class _LastRefusal(logging.Handler):
    """Keeps the error of the last message about a connection that failed."""

    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("Unable connect") and isinstance(record.args, tuple):
            self.error = next((each for each in record.args if isinstance(each, BaseException)), None)


_last = _LastRefusal()
logging.getLogger("aiokafka").addHandler(_last)


def tell_once() -> None:
    """Keep aiokafka's messages off the screen: its errors come back as ours, with what to do."""
    logging.getLogger("aiokafka").propagate = False


def unanswered(settings: Settings, error: BaseException) -> TidegateError:
    """The error to show where `error` came instead of Kafka's answer, with what to look at first."""
    servers = settings.bootstrap_servers
    if isinstance(error, NOT_ALLOWED):
        user = f" to {settings.sasl_username}" if settings.sasl_username else ""
        return TidegateError(
            f"Kafka at {servers} does not allow this{user}: {error}.",
            "docs/operations.md lists under Security what each user needs.",
        )
    reason = _last.error if isinstance(error, KafkaConnectionError) and _last.error is not None else error
    told = f"No answer from Kafka at {servers}: {str(reason) or type(reason).__name__}."
    if isinstance(reason, _NOT_LET_IN):
        return TidegateError(
            f"Kafka at {servers} does not let us in: {reason}.",
            "Check TIDEGATE_SASL_MECHANISM, TIDEGATE_SASL_USERNAME and TIDEGATE_SASL_PASSWORD.",
        )
    if isinstance(reason, ssl.SSLError):
        return TidegateError(
            told, "Check TIDEGATE_SSL_CAFILE, TIDEGATE_SSL_CHECK_HOSTNAME and TIDEGATE_SECURITY_PROTOCOL."
        )
    if isinstance(reason, KafkaConnectionError) and "closed" in str(reason):
        return TidegateError(
            told,
            "It hung up. Check TIDEGATE_SECURITY_PROTOCOL, and whether it wants a client's certificate:"
            " TIDEGATE_SSL_CERTFILE and TIDEGATE_SSL_KEYFILE.",
        )
    return TidegateError(
        told, "Is it running? `tidegate broker` starts one on this machine; TIDEGATE_BOOTSTRAP_SERVERS names another."
    )
