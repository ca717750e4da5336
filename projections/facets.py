"""The facets of a session while events are folded. Each stays encoded, as it stands in the row, until it is asked for.

A session has many facets, and an event concerns one or two of them. The rest are never decoded, and are written again
as the bytes they came in.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from mypy_extensions import mypyc_attr

from projections.rows import Facet, StoredFacet

_Raw: Final = msgspec.Raw
_decode: Final = msgspec.msgpack.Decoder(Facet).decode


@mypyc_attr(acyclic=True)
class Facets:
    """A view of a row's facets by name. What is set through it is set in the row."""

    def __init__(self, stored: dict[str, StoredFacet]) -> None:
        self.stored = stored

    def get(self, name: str) -> Facet | None:
        """The facet; None if it never changed."""
        found = self.stored.get(name)
        return None if found is None else _facet(found)

    def starting_with(self, prefix: str) -> list[Facet]:
        """The facets whose names start like this."""
        return [_facet(found) for name, found in self.stored.items() if name.startswith(prefix)]

    def __getitem__(self, name: str) -> Facet:
        return _facet(self.stored[name])

    def __setitem__(self, name: str, facet: Facet) -> None:
        self.stored[name] = facet

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def items(self) -> list[tuple[str, Facet]]:
        """Every name with its facet."""
        return [(name, _facet(found)) for name, found in self.stored.items()]


def facets_of(facets: Mapping[str, Facet]) -> Facets:
    """Facets as they were made, none of them read from a row."""
    return Facets(dict(facets))


def _facet(found: StoredFacet) -> Facet:
    return _decode(found) if type(found) is _Raw else found
