"""Identities: digests of contents, and the ids of output events."""

from hashlib import blake2b, sha1
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import orjson

NAMESPACE: Final = uuid5(NAMESPACE_URL, "urn:tidegate:v1")
_NAMESPACE_BYTES: Final = NAMESPACE.bytes


def output_event_id(*names: str | bytes) -> str:
    """The UUIDv5 of `names` in the project's namespace: the same decision always has the same id.

    Equal to `uuid5(NAMESPACE, "\\0".join(names))`, at a third of its cost. Source: RFC 9562, section 5.5.
    """
    name = b"\0".join(part if isinstance(part, bytes) else part.encode() for part in names)
    text = sha1(_NAMESPACE_BYTES + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits (64 bits) of a JSON value's content, whatever the order of its keys."""
    return blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
