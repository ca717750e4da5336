from pathlib import Path
from typing import Any

import pytest

from tidegate.commands.gateway import gateway_config
from tidegate.errors import TidegateError
from tidegate.settings import load_settings

SECRET = "a secret of the tests, with more than 32 bytes"


def config(*, unauthenticated: bool = False, **arguments: Any) -> Any:
    return gateway_config(load_settings(**arguments), unauthenticated=unauthenticated)


def test_settings_reach_the_gateway(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN PUBLIC KEY-----")
    made = config(
        gateway_jwt_secret=SECRET,
        gateway_jwt_public_key_file=key,
        gateway_jwt_audience="a",
        gateway_ticket_secret=SECRET,
        query_secret=SECRET,
        gateway_requests_per_second=3,
        gateway_cors_origins=["https://a"],
        topic_prefix="x",
    )
    assert (made.tokens.secret, made.tokens.public_key, made.tokens.audience) == (SECRET, key.read_text(), "a")
    assert (made.ticket_secret, made.query_secret, made.topic_prefix) == (SECRET, SECRET, "x")
    assert (made.limits.requests_per_second, made.limits.burst, made.cors_origins) == (3, 6, ("https://a",))
    assert not made.unauthenticated
    assert not made.page


def test_without_keys_it_does_not_run_unless_it_is_told_to() -> None:
    with pytest.raises(TidegateError, match="no key to verify tokens with"):
        config()
    assert config(unauthenticated=True).unauthenticated
    with pytest.raises(TidegateError, match="localhost only"):
        config(unauthenticated=True, gateway_host="0.0.0.0")


@pytest.mark.parametrize("name", ["gateway_jwt_secret", "gateway_ticket_secret", "query_secret"])
def test_short_secrets_are_refused(name: str) -> None:
    with pytest.raises(TidegateError, match=name):
        load_settings(**{name: "x" * 31})


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TidegateError, match=r"missing\.pem"):
        config(gateway_jwt_public_key_file=tmp_path / "missing.pem")
