import asyncio
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.config import GatewayConfig, TokenConfig
from gateway.problems import Problem
from gateway.tokens import JWKS_REFETCH_SECONDS, KeySet, Tickets, Verifier, bearer

SECRET = "a secret of the tests, with more than 32 bytes"
GRANT: dict[str, Any] = {"sessions": ["acme/user-7", "acme/team/*"], "actions": ["read", "context"]}
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def pem(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def claims(**changes: Any) -> dict[str, Any]:
    told = {"aud": "tidegate", "exp": time.time() + 60, "sub": "u", "tidegate": GRANT, **changes}
    return {name: value for name, value in told.items() if value is not None}


def hs256(**changes: Any) -> str:
    return jwt.encode(claims(**changes), SECRET, algorithm="HS256")


def refused(token: str, config: TokenConfig) -> str:
    with pytest.raises(Problem) as caught:
        asyncio.run(Verifier(config).grant(token))
    assert caught.value.status == 401
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer ")
    assert token not in str(caught.value)
    return caught.value.detail


HS = TokenConfig(secret=SECRET)


def test_grant_bounds_sessions_and_actions() -> None:
    grant = asyncio.run(Verifier(HS).grant(hs256()))
    grant.require("acme/user-7", "read")
    grant.require("acme/team/a/b", "context")
    for session_id, action in [
        ("acme/user-7", "cancel"),
        ("acme/user-70", "read"),
        ("acme/user-7/", "read"),
        ("acme/team", "read"),
        ("acme/teams/a", "read"),
        ("ACME/user-7", "read"),
        ("*", "read"),
    ]:
        with pytest.raises(Problem) as caught:
            grant.require(session_id, action)  # type: ignore[arg-type]
        assert caught.value.status == 403
        assert session_id not in caught.value.detail


def test_a_star_alone_is_every_session() -> None:
    grant = asyncio.run(Verifier(HS).grant(hs256(tidegate={**GRANT, "sessions": ["*"]})))
    assert grant.covers("anything")
    bounded = asyncio.run(Verifier(HS).grant(hs256(tidegate={**GRANT, "sessions": ["*"], "tenant": "acme"})))
    assert [bounded.covers(session_id) for session_id in ("acme/x", "other/x", "acmes/x")] == [True, False, False]


def test_tenant_bounds_every_pattern() -> None:
    granted = {**GRANT, "sessions": ["other/x", "acme/x"], "tenant": "acme"}
    grant = asyncio.run(Verifier(HS).grant(hs256(tidegate=granted)))
    assert [grant.covers(session_id) for session_id in ("acme/x", "other/x", "acme")] == [True, False, False]
    tenants = TokenConfig(secret=SECRET, require_tenant=True)
    assert "tenant" in refused(hs256(), tenants)
    assert "lists" in refused(hs256(tidegate={**GRANT, "tenant": "a/b"}), tenants)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": time.time() - 60}, "expired"),
        ({"exp": None}, "lacks a claim"),
        ({"aud": "another"}, "another audience"),
        ({"aud": None}, "lacks a claim"),
        ({"nbf": time.time() + 86_400}, "not valid yet"),
        ({"tidegate": None}, "no object"),
        ({"tidegate": {"sessions": "acme/*", "actions": ["read"]}}, "lists"),
        ({"tidegate": {"sessions": ["acme/*"]}}, "lists"),
        ({"tidegate": {"sessions": [1], "actions": ["read"]}}, "lists"),
    ],
)
def test_refuses(changes: dict[str, Any], reason: str) -> None:
    assert reason in refused(hs256(**changes), HS)


def test_issuer_is_checked_where_it_is_set() -> None:
    config = TokenConfig(secret=SECRET, issuer="https://login")
    assert "lacks a claim" in refused(hs256(), config)
    assert "another issuer" in refused(hs256(iss="https://elsewhere"), config)
    assert asyncio.run(Verifier(config).grant(hs256(iss="https://login"))).holder == "https://login|u"


def test_the_algorithm_is_that_of_the_key() -> None:
    public = TokenConfig(public_key=pem(RSA_KEY))
    # the public key as an HMAC secret, which PyJWT itself would refuse to sign with
    forged = _hmac_signed(pem(RSA_KEY).encode())
    assert "algorithm" in refused(forged, public)
    assert "algorithm" in refused(jwt.encode(claims(), "", algorithm="none"), public)
    assert "algorithm" in refused(jwt.encode(claims(), RSA_KEY, algorithm="RS256"), HS)
    assert "algorithm" in refused(jwt.encode(claims(), SECRET * 2, algorithm="HS512"), HS)
    assert "signature" in refused(jwt.encode(claims(), OTHER_RSA_KEY, algorithm="RS256"), public)
    assert asyncio.run(Verifier(public).grant(jwt.encode(claims(), RSA_KEY, algorithm="RS256"))).holder == "|u"
    elliptic = TokenConfig(public_key=pem(EC_KEY))
    assert asyncio.run(Verifier(elliptic).grant(jwt.encode(claims(), EC_KEY, algorithm="ES256"))).holder == "|u"
    refused(jwt.encode(claims(), RSA_KEY, algorithm="RS256"), elliptic)
    for nonsense in ("zzz", "a.b.c", "Bearer", hs256()[:-3] + "AAA", "x" * 20_000):
        refused(nonsense, HS)


def _hmac_signed(secret: bytes) -> str:
    import base64
    import hmac
    import json

    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims())
    mac = base64.urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")
    return (signed + b"." + mac).decode()


class Address:
    """A JWKS address with the keys that it has at the moment."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys
        self.asked = 0

    async def fetch(self, url: str) -> Any:
        assert url == "https://login/jwks"
        self.asked += 1
        if not self.keys:
            raise TimeoutError
        found = []
        for key_id, key in self.keys.items():
            is_elliptic = isinstance(key, ec.EllipticCurvePrivateKey)
            algorithm: Any = jwt.algorithms.ECAlgorithm if is_elliptic else jwt.algorithms.RSAAlgorithm
            told = algorithm.to_jwk(key.public_key(), as_dict=True)
            name = "ES256" if is_elliptic else "RS256"
            found.append({**told, "kid": key_id, "alg": name})
        return jwt.PyJWKSet(found)


def test_keys_of_a_jwks_rotate() -> None:
    address = Address(one=RSA_KEY)
    keys = KeySet("https://login/jwks", 300, address.fetch)

    async def story() -> None:
        assert await keys.key("one", 0) is not None
        address.keys = {"two": OTHER_RSA_KEY}
        assert await keys.key("two", 5) is None, "too early to ask again"
        assert await keys.key("two", 5 + JWKS_REFETCH_SECONDS) is not None
        assert await keys.key("one", 17) is None, "it was taken out"
        for number in range(100):  # anyone can send unknown key ids
            await keys.key(f"unknown-{number}", 18)
        assert address.asked == 2
        address.keys = {}
        assert await keys.key("two", 1000) is not None, "known keys are used while the address does not answer"
        assert address.asked == 3

    asyncio.run(story())


def test_tokens_are_verified_with_the_keys_of_a_jwks() -> None:
    address = Address(one=RSA_KEY, two=EC_KEY)
    verifier = Verifier(TokenConfig(jwks_url="https://login/jwks"), address.fetch)

    async def story() -> None:
        signers: list[tuple[str, Any, str]] = [("one", RSA_KEY, "RS256"), ("two", EC_KEY, "ES256")]
        for key_id, key, algorithm in signers:
            token = jwt.encode(claims(), key, algorithm=algorithm, headers={"kid": key_id})
            assert (await verifier.grant(token)).covers("acme/user-7")
        for token in (
            jwt.encode(claims(), OTHER_RSA_KEY, algorithm="RS256", headers={"kid": "one"}),
            jwt.encode(claims(), RSA_KEY, algorithm="RS256", headers={"kid": "two"}),
            jwt.encode(claims(), RSA_KEY, algorithm="RS256"),
            hs256(),
        ):
            with pytest.raises(Problem):
                await verifier.grant(token)

    asyncio.run(story())


def test_a_ticket_opens_one_session_for_reading_as_long_as_its_token() -> None:
    tickets = Tickets(SECRET)
    grant = asyncio.run(Verifier(HS).grant(hs256(exp=time.time() + 40)))
    ticket, expires_at = tickets.issue(grant, "acme/user-7")
    assert 30 < expires_at - time.time() <= 40
    found = tickets.grant(ticket)
    assert found.sessions == ("acme/user-7",)
    assert found.actions == {"read"}
    assert found.holder == grant.holder
    with pytest.raises(Problem):
        Tickets(SECRET + "!").grant(ticket)
    refused(ticket, HS)  # the same secret by mistake: a ticket is no token
    with pytest.raises(Problem):
        tickets.grant(hs256())
    old = tickets.issue(asyncio.run(Verifier(HS).grant(hs256(exp=time.time() - 5))), "acme/user-7")[0]
    with pytest.raises(Problem):
        tickets.grant(old)


def test_bearer() -> None:
    assert bearer("Bearer abc") == bearer("bearer  abc") == "abc"
    for header in (None, "", "Basic abc", "Bearer", "Bearer  "):
        with pytest.raises(Problem):
            bearer(header)


def test_open_gateways_are_local() -> None:
    GatewayConfig(kafka={}, unauthenticated=True)
    with pytest.raises(ValueError, match="localhost only"):
        GatewayConfig(kafka={}, unauthenticated=True, host="0.0.0.0")
    with pytest.raises(ValueError, match="no key"):
        GatewayConfig(kafka={})
