"""TLS, client certificates, SASL and ACLs: the gate works with what docs/operations.md allows it, and no more.

Everything of the gate that speaks to a broker has connections of its own: consumers, transactional producers, the
barrier, the restore, topics, audit. One that forgets the settings is turned away here.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from testing.process import ROOT, environment
from tests.broker.events import changed, dispatched, returned
from tests.broker.harness import Gate
from tests.broker.secured import SecuredBroker
from tidegate.settings import Settings, load_settings

ACL: Final = re.compile(r"^kafka-acls\.sh --bootstrap-server \$KAFKA (.*)$", re.MULTILINE)
OPERATIONS: Final = ROOT / "docs" / "operations.md"
PASSWORD: Final = "with = and spaces"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """A broker with the users and the permissions of docs/operations.md."""
    with SecuredBroker(tmp_path_factory.mktemp("certificates")) as broker:
        for user in ("gate", "operator"):
            broker.add_user(user, PASSWORD)
        rules = ACL.findall(OPERATIONS.read_text())
        assert len(rules) == 6
        asyncio.run(broker.allow(rules))
        yield broker


def as_user(broker: SecuredBroker, user: str, **changes: object) -> dict[str, Any]:
    """The settings with which a user comes in by the secured listener."""
    return {
        "bootstrap_servers": broker.secured_servers,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": user,
        "sasl_password": PASSWORD,
        "ssl_cafile": broker.certificates / "authority.pem",
        "ssl_certfile": broker.certificates / "client.pem",
        "ssl_keyfile": broker.certificates / "client.key",
        **changes,
    }


@pytest.fixture
def settings(secured: SecuredBroker, tmp_path: Path) -> Settings:
    """Those of the services around the gate, which may do everything."""
    return load_settings(bootstrap_servers=secured.bootstrap_servers, partitions=2, state_dir=tmp_path, metrics_port=0)


def tidegate(settings: Settings, *arguments: str, **changes: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidegate", *arguments],
        cwd=settings.state_dir,
        env=environment(settings, **changes),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def _works(secured: SecuredBroker, settings: Settings) -> None:
    gate_user, operator = as_user(secured, "gate"), as_user(secured, "operator")
    created = tidegate(settings, "topics", "create", **operator)
    assert created.returncode == 0, created.stderr
    async with Gate(settings, Path(settings.state_dir), **operator) as gate, gate.outputs() as outputs:
        (first,) = await gate.start("first", **gate_user)
        await gate.send(changed("s", {"view/tab-1": "1"}))
        await gate.send(dispatched("s", "fresh", {}), dispatched("s", "stale", {"view/tab-1": "1"}))
        await gate.send(changed("s", {"view/tab-1": "2"}))
        await gate.drained(30)
        first.kill()  # another one restores
        await gate.start("second", **gate_user)
        await gate.send(returned("s", "fresh"), returned("s", "stale"))
        await gate.write_raw("context", 0, (b"s", b"not an event", []))
        await outputs.until(lambda: len(outputs.decided(["fresh", "stale"])) == 2, 30, "both are judged")
        assert outputs.decided(["fresh", "stale"]) == {"fresh": ("delivered", "fresh"), "stale": ("withheld", "stale")}
        await gate.drained(30)
        assert len(await gate.read("dlq")) == 1
        await gate.audit(tasks=2)
        await gate.orphans()
    checked = tidegate(settings, "topics", "check", **operator)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_gate_works_with_the_permissions_it_is_said_to_need(secured: SecuredBroker, settings: Settings) -> None:
    asyncio.run(_works(secured, settings))


# ---- turned away: every command says why, and what to look at; none of them hangs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sasl_password": "wrong"}, ("does not let us in", "invalid credentials", "TIDEGATE_SASL_PASSWORD")),
        ({"sasl_mechanism": "PLAIN"}, ("does not let us in", "TIDEGATE_SASL_MECHANISM")),
        ({"ssl_cafile": "client.pem"}, ("CERTIFICATE_VERIFY_FAILED", "TIDEGATE_SSL_CAFILE")),
        ({"ssl_certfile": None, "ssl_keyfile": None}, ("hung up", "TIDEGATE_SSL_CERTFILE")),
        ({"security_protocol": "PLAINTEXT"}, ("hung up", "TIDEGATE_SECURITY_PROTOCOL")),
    ],
    ids=["password", "mechanism", "authority", "certificate", "protocol"],
)
def test_who_is_not_let_in_is_told_why(
    secured: SecuredBroker, settings: Settings, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    if "ssl_cafile" in changes:
        changes = {"ssl_cafile": secured.certificates / str(changes["ssl_cafile"])}
    told = {name: value for name, value in as_user(secured, "operator", **changes).items() if value is not None}
    checked = tidegate(settings, "topics", "check", **told)
    assert checked.returncode == 2
    for word in words:
        assert word in checked.stderr
    assert "Traceback" not in checked.stderr


MISSING: Final = {
    "topics": ("--operation Read --operation Write --topic", "topics are missing"),
    "group": ("--operation Read --group", "GroupAuthorizationFailedError"),
    "transactions": ("--operation Write --transactional-id", "TransactionalIdAuthorizationFailed"),
}


@pytest.mark.parametrize("lacking", MISSING)
def test_a_worker_without_a_permission_stops_and_says_so(
    secured: SecuredBroker, settings: Settings, lacking: str
) -> None:
    rule, words = MISSING[lacking]
    operator = as_user(secured, "operator")
    assert tidegate(settings, "topics", "create", **operator).returncode == 0
    secured.add_user(f"without-{lacking}", PASSWORD)
    rules = [each for each in ACL.findall(OPERATIONS.read_text()) if "User:gate" in each]
    granted = [each.replace("User:gate", f"User:without-{lacking}") for each in rules if rule not in each]
    assert len(granted) == len(rules) - 1
    asyncio.run(secured.allow(granted))
    worked = tidegate(settings, "worker", **as_user(secured, f"without-{lacking}"))
    assert worked.returncode == 2, worked.stdout + worked.stderr
    assert words in worked.stderr
    assert "permissions" in worked.stderr
    assert "Traceback" not in worked.stderr
