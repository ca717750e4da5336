"""Mutual TLS between a gateway and the worker's read endpoint."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.problems import Problem
from gateway.reads import SessionState, WorkerReader
from streams.queries import serve
from tests.unit.test_queries import SECRET, Fed
from tidegate.errors import TidegateError
from tidegate.settings import Settings


class OneOwner:
    """Every partition is at this address."""

    def __init__(self, port: int) -> None:
        self._address = f"127.0.0.1:{port}"

    async def address(self, partition: int, *, fresh: bool = False) -> str:
        del partition, fresh
        return self._address


def settings(directory: Path, authority: trustme.CA, name: str) -> Settings:
    """A process with a certificate of an authority."""
    certificate = authority.issue_cert(name)
    files = {part: directory / f"{name}.{part}" for part in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(str(files["ca"]))
    certificate.private_key_pem.write_to_path(str(files["key"]))
    files["cert"].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    return Settings(query_cafile=files["ca"], query_certfile=files["cert"], query_keyfile=files["key"])


async def asked(worker: Settings, gateway: Settings) -> SessionState:
    """What a gateway is told by a worker. Raises `Problem`."""
    fed = Fed()
    fed.feed("context", type="context.changed", set={"view": "flights"})
    fed.write(commit=True)
    owned: Any = lambda number: (fed.partition, fed.ends) if number == 0 else None  # noqa: E731
    async with serve("127.0.0.1", 0, SECRET, "gate", owned, worker.query_tls(server=True)) as port:
        owners: Any = OneOwner(port)
        reader = WorkerReader(owners, SECRET, lambda _: 0, gateway.query_tls(server=False))
        try:
            return await reader.read("s")
        finally:
            await reader.stop()


def test_both_sides_need_a_certificate_of_the_authority(tmp_path: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    worker, gateway = settings(tmp_path, ours, "worker.example"), settings(tmp_path, ours, "gateway.example")
    stranger = settings(tmp_path, theirs, "stranger.example")
    assert asyncio.run(asked(worker, gateway)).facets == {"view": "flights"}
    assert asyncio.run(asked(Settings(), Settings())).facets == {"view": "flights"}
    only_trusts = stranger.model_copy(update={"query_cafile": worker.query_cafile})
    for one, other in ((worker, stranger), (stranger, gateway), (worker, Settings()), (worker, only_trusts)):
        with pytest.raises(Problem, match="does not answer"):
            asyncio.run(asked(one, other))


def test_files_go_together_and_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        Settings(query_cafile=tmp_path / "ca")
    missing = Settings(query_cafile=tmp_path / "ca", query_certfile=tmp_path / "c", query_keyfile=tmp_path / "k")
    with pytest.raises(TidegateError, match="Cannot read the TLS files of the read endpoint"):
        missing.query_tls(server=True)
