"""Ids of output events are UUIDs of version 5, computed faster than the standard library does; digests are bounded."""

from __future__ import annotations

from hashlib import blake2b
from uuid import NAMESPACE_URL, RFC_4122, UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from schemas.identity import NAMESPACE, digest, event_digest, output_event_id


@given(st.text())
def test_an_output_event_id_is_the_uuid5_of_its_name(name: str) -> None:
    assert output_event_id(name.encode()) == str(uuid5(NAMESPACE, name))


@given(st.binary())
def test_an_output_event_id_is_a_valid_uuid_for_any_bytes(name: bytes) -> None:
    parsed = UUID(output_event_id(name))
    assert (parsed.version, parsed.variant) == (5, RFC_4122)
    assert str(parsed) == output_event_id(name)


def test_the_namespace_is_forever() -> None:
    assert uuid5(NAMESPACE_URL, "urn:tidegate:v1") == NAMESPACE
    assert str(NAMESPACE) == "d5ac540e-d213-5277-829d-4af3edab2cba"
    assert output_event_id(b"a") == "21a92114-52c3-582d-ab64-cc54739cee24"


@given(st.binary(), st.binary())
def test_a_digest_has_sixteen_digits_and_tells_contents_apart(one: bytes, other: bytes) -> None:
    assert len(digest(one)) == 16
    assert digest(one) == blake2b(one, digest_size=8).hexdigest()
    assert (digest(one) == digest(other)) == (one == other)


def test_an_events_digest_stays_what_it_is() -> None:
    assert event_digest("web", "c-1").hex() == "57dc1c8ed08aa958"
    assert event_digest("web", "c-1") == event_digest("web", "c-1")


@given(st.text(), st.text(), st.text(), st.text())
def test_other_events_have_other_digests(source: str, event_id: str, other_source: str, other_id: str) -> None:
    if (source, event_id) != (other_source, other_id):
        assert event_digest(source, event_id) != event_digest(other_source, other_id)
