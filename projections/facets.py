"""The facets of a session while events are folded. Each stays encoded, as it stands in the row, until it is asked for.

A session has many facets, and an event concerns one or two of them. To decode, encode and free the others, too, was a
twentieth of what an event costs.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from projections.rows import Facet

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Facet).decode


class Facets:
    """A view of a row's facets by name. What is set through it is set in the row."""

    def __init__(self, encoded: dict[str, msgspec.Raw]) -> None:
        self.encoded = encoded

    def get(self, name: str) -> Facet | None:
        """The facet; None if it never changed."""
        found = self.encoded.get(name)
        return None if found is None else _decode(found)

    def put(self, name: str, value: str | None, cause: str | None, change: bytes) -> None:
        """Set a facet to a `Facet` with these fields."""
        self.encoded[name] = msgspec.Raw(_encode((value, cause, change)))

    def starting_with(self, prefix: str) -> list[Facet]:
        """The facets whose names start like this."""
        return [_decode(found) for name, found in self.encoded.items() if name.startswith(prefix)]

    def __getitem__(self, name: str) -> Facet:
        return _decode(self.encoded[name])

    def __setitem__(self, name: str, facet: Facet) -> None:
        self.encoded[name] = encoded(facet)

    def __contains__(self, name: str) -> bool:
        return name in self.encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __iter__(self) -> Iterator[str]:
        return iter(self.encoded)

    def items(self) -> list[tuple[str, Facet]]:
        """Every name with its facet."""
        return [(name, _decode(found)) for name, found in self.encoded.items()]


def encoded(facet: Facet) -> msgspec.Raw:
    """The facet as it stands in a row."""
    return msgspec.Raw(_encode(facet))


def facets_of(facets: Mapping[str, Facet]) -> Facets:
    """The same facets, encoded."""
    found = Facets({})
    for name, facet in facets.items():
        found[name] = facet
    return found
