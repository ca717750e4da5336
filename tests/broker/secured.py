"""A broker as companies run it: a listener with TLS and SASL, client certificates, and nothing allowed unless said."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import trustme
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from local.broker import HOST, LocalBroker, free_port
from local.java import find_java
from local.kafka_jars import classpath


class SecuredBroker(LocalBroker):
    """Clients of `secured_servers` need the authority's trust, a certificate of it, and a user's password.

    Who comes in by the plain listener may do everything: the broker itself, and a test that prepares something.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(ephemeral=True, short_lived=True)
        self.certificates = directory
        self.secured_port = free_port()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "authority.pem"))
        for name, certificate in {
            "broker": authority.issue_cert(HOST),
            "client": authority.issue_cert("gate.example"),
        }.items():
            key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
            (directory / f"{name}.key").write_bytes(pem)
            (directory / f"{name}.pem").write_bytes(chain)
            (directory / f"{name}.both").write_bytes(pem + chain)

    @property
    def secured_servers(self) -> str:
        """`host:port` of the secured listener."""
        return f"{HOST}:{self.secured_port}"

    def _server_properties(self) -> dict[str, str | int]:
        plain = super()._server_properties()
        listener, security = f",SECURED://{self.secured_servers}", ",SECURED:SASL_SSL"
        return {
            **plain,
            "listeners": f"{plain['listeners']}{listener}",
            "advertised.listeners": f"{plain['advertised.listeners']}{listener}",
            "listener.security.protocol.map": f"{plain['listener.security.protocol.map']}{security}",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.secured.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.secured.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.secured.ssl.client.auth": "required",
            "listener.name.secured.ssl.keystore.type": "PEM",
            "listener.name.secured.ssl.keystore.location": str(self.certificates / "broker.both"),
            "listener.name.secured.ssl.truststore.type": "PEM",
            "listener.name.secured.ssl.truststore.location": str(self.certificates / "authority.pem"),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }

    def add_user(self, name: str, password: str) -> None:
        """What `kafka-configs.sh` does."""
        done = subprocess.run(
            [
                *(str(find_java()), "-XX:TieredStopAtLevel=1", "-cp", os.pathsep.join(map(str, classpath()))),
                *("kafka.admin.ConfigCommand", "--bootstrap-server", self.bootstrap_servers, "--alter"),
                *("--entity-type", "users", "--entity-name", name),
                *("--add-config", f"SCRAM-SHA-512=[password={password}]"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    async def allow(self, rules: Iterable[str]) -> None:
        """What `kafka-acls.sh` does with these arguments."""
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        try:
            for rule in rules:
                for request in _requests(rule):
                    answer = await admin._send_request(request)
                    assert [error for error, _ in answer.creation_responses] == [0], (rule, answer)
        finally:
            await admin.close()


def _requests(rule: str) -> Iterator[CreateAclsRequest]:
    said = _ACL.parse_args(shlex.split(rule))
    kind, name = next((kind, name) for kind in _KINDS if (name := getattr(said, kind)) is not None)
    pattern = _PATTERNS[said.resource_pattern_type]
    for operation in said.operation:
        yield CreateAclsRequest(_KINDS[kind], name, pattern, said.allow_principal, "*", _OPERATIONS[operation], _ALLOW)


_KINDS: Final = {"topic": 2, "group": 3, "transactional_id": 5}
_PATTERNS: Final = {"literal": 3, "prefixed": 4}
_OPERATIONS: Final = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
_ALLOW: Final = 3
_ACL = argparse.ArgumentParser(exit_on_error=False)
_ACL.add_argument("--add", action="store_true", required=True)
_ACL.add_argument("--allow-principal", required=True)
_ACL.add_argument("--operation", action="append", required=True, choices=_OPERATIONS)
_ACL.add_argument("--resource-pattern-type", choices=_PATTERNS, default="literal")
_RESOURCE = _ACL.add_mutually_exclusive_group(required=True)
for _kind in _KINDS:
    _RESOURCE.add_argument(f"--{_kind.replace('_', '-')}")
