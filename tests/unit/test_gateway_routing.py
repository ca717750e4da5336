from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.problems import Problem
from gateway.routing import ROUTES, encode_id, match
from schemas.fields import MAX_NAME_BYTES

IDS = st.text(min_size=1, max_size=60).filter(lambda text: 0 < len(_utf8(text)) <= MAX_NAME_BYTES)


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass") if text.isprintable() or text.isascii() else b""


@given(IDS, IDS, st.sampled_from(sorted(ROUTES)))
def test_every_id_comes_back_in_both_forms(session_id: str, inner_id: str, name: tuple[str, ...]) -> None:
    if "\ud800" <= max(session_id + inner_id) <= "\udfff":
        return
    for encode in (encode_id, lambda text: quote(text, safe="")):
        if encode is not encode_id and (session_id.startswith("~") or inner_id.startswith("~")):
            continue  # a tilde announces the other form
        rest = "/".join(encode(inner_id) if part.startswith("{") else part for part in name)
        route = match(f"/v1/sessions/{encode(session_id)}/{rest}".encode())
        assert route is not None
        assert (route.session_id, route.name) == (session_id, name)
        assert route.resource_id == (inner_id if len(name) > 1 else None)
        assert route.template == "/v1/sessions/{session}/" + "/".join(name), "a bounded metric label"


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/v1/sessions",
        b"/v1/sessions/a",
        b"/v1/sessions/a/",
        b"/v1/sessions/a/b/context",  # a proxy has decoded the slash: it is not guessed where the id ends
        b"/v1/sessions/a/context/",
        b"/v1/sessions/a/nothing",
        b"/v2/sessions/a/context",
        b"//v1/sessions/a/context",
    ],
)
def test_other_paths_are_none(path: bytes) -> None:
    assert match(path) is None


@pytest.mark.parametrize("segment", [b"", b"%ff", b"~%", b"~YQ==", b"~_w", b"a" * 257])
def test_malformed_ids_are_told(segment: bytes) -> None:
    with pytest.raises(Problem) as caught:
        match(b"/v1/sessions/" + segment + b"/context")
    assert caught.value.status == 400
