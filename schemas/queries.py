"""The signature of requests to a worker's read endpoint, and of its answers.

Addresses of workers come from group metadata, which whoever may join the group can write. So neither side sends a
secret: each shows that it knows one. Times bound how long a request could be replayed; the answer is bound to it.
"""

import hmac
from hashlib import sha256
from typing import Final

PATH: Final = "/v1/state"
SIGNATURE_HEADER: Final = "X-Tidegate-Signature"
MAX_AGE_MS: Final = 30_000
"""How far the clocks of a gateway and a worker may be apart, with the time a request takes."""
READ_QUERY: Final = "read"
"""Query parameter of a member's address, in the group metadata, that holds the `host:port` of its read endpoint."""


def sign_request(secret: str, session_id: str, at_ms: int, nonce: str) -> str:
    """The signature of a question about a session, asked at this time (ms since 1970)."""
    return _sign(secret, b"request", session_id.encode(), str(at_ms).encode(), nonce.encode())


def sign_answer(secret: str, nonce: str, status: int, body: bytes) -> str:
    """The signature of the answer to the question with this nonce."""
    return _sign(secret, b"answer", nonce.encode(), str(status).encode(), body)


def is_signature(expected: str, found: str | None) -> bool:
    """Whether a signature is the expected one, in constant time."""
    return found is not None and hmac.compare_digest(expected.encode(), found.encode())


def _sign(secret: str, *parts: bytes) -> str:
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new(secret.encode(), message, sha256).hexdigest()
