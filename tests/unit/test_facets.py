"""Facets of a session that stay encoded until they are asked for."""

import msgspec
import orjson
from hypothesis import given
from hypothesis import strategies as st

from projections.facets import Facets, facets_of
from projections.records import change_to_bytes, row_from_bytes, row_to_bytes
from projections.rows import Facet, new_row
from projections.text import quoted

CHANGED = change_to_bytes(0, 0, "app", "e")

some_facets = st.dictionaries(
    st.text(max_size=8),
    st.builds(Facet, st.none() | st.text(max_size=8), st.none() | st.text(max_size=8), st.sampled_from([b"", CHANGED])),
    max_size=6,
)


@given(some_facets)
def test_facets_are_what_was_put_in_and_stand_in_the_row_as_if_they_had_never_been_encoded_alone(
    facets: dict[str, Facet],
) -> None:
    row = new_row()
    session = Facets(row.facets)
    for name, facet in facets.items():
        session[name] = facet
        assert session.get(name) == session[name] == facet
        assert name in session
    assert dict(session.items()) == facets
    assert list(session) == list(facets)
    assert len(session) == len(facets)
    whole = msgspec.msgpack.encode(facets)
    assert msgspec.msgpack.encode(row.facets) == whole
    read = row_from_bytes(row_to_bytes(row))
    assert dict(Facets(read.facets).items()) == facets
    assert row_to_bytes(read) == row_to_bytes(row)


def test_a_facet_that_never_changed_is_not_there() -> None:
    session = facets_of({"presence/1": Facet("present", None, CHANGED), "presence": Facet("x", None, CHANGED)})
    assert session.get("doc") is None
    assert "doc" not in session
    assert [facet.value for facet in session.starting_with("presence/")] == ["present"]


def test_a_facet_is_decoded_when_it_is_asked_for_and_not_before() -> None:
    row = new_row()
    row.facets["a"] = row.facets["b"] = Facet("1", "t", CHANGED)
    read = row_from_bytes(row_to_bytes(row))
    assert {type(facet) for facet in read.facets.values()} == {msgspec.Raw}
    assert Facets(read.facets)["a"] == Facet("1", "t", CHANGED)


def test_text_is_quoted_as_orjson_does_it() -> None:
    for first in range(0, 0x110000, 0x100):
        if 0xD800 <= first < 0xE000:
            continue
        text = "".join(map(chr, range(first, first + 0x100)))
        assert quoted(text) == orjson.dumps(text).decode()
