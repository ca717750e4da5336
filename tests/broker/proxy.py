"""A TCP proxy in front of a broker that can hold requests of one kind back, and everything else goes on.

Kafka's own timeouts and orders stay real: a held request is not lost, its connection only seems slow. All clients go
through it, because it is the address that the broker advertises.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from local.broker import HOST, LocalBroker, free_port

FETCH: Final = 1
END_TXN: Final = 26
TXN_OFFSET_COMMIT: Final = 28

_CHUNK: Final = 256 * 1024


class Proxy:
    """Runs in a thread of its own, so that it passes bytes on whatever a test's own loop does."""

    def __init__(self, broker_port: int) -> None:
        self.port = free_port()
        self.held = 0
        """Requests that were held back so far."""
        self._broker_port = broker_port
        self._holding: tuple[frozenset[int], str] | None = None
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()

    def hold(self, api_keys: set[int], client_id_contains: str = "") -> None:
        """Hold back every request with one of these API keys, of clients whose id contains the text."""
        self._loop.call_soon_threadsafe(self._released.clear)
        self._holding = frozenset(api_keys), client_id_contains

    def release(self) -> None:
        """Pass on what was held back, in order, and hold nothing more."""
        self._holding = None
        self._loop.call_soon_threadsafe(self._released.set)

    def start(self) -> None:
        """Listen."""
        listening = threading.Event()
        self._listening = listening
        self._thread.start()
        listening.wait(10)

    def stop(self) -> None:
        """Close every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, self.port, limit=_CHUNK))
        self._listening.set()
        self._loop.run_forever()
        server.close()
        for connection in self._connections:
            connection.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._connections, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        to_broker: asyncio.StreamWriter | None = None
        try:
            broker, to_broker = await asyncio.open_connection(HOST, self._broker_port, limit=_CHUNK)
            await _first_to_end(self._requests(client, to_broker), _copy(broker, to_client))
        except OSError:
            pass  # the broker is away: so is this connection
        finally:
            self._connections.discard(task)
            for writer in (to_client, to_broker):
                if writer is not None:
                    writer.close()
                    with contextlib.suppress(OSError, asyncio.CancelledError):
                        await writer.wait_closed()

    async def _requests(self, client: asyncio.StreamReader, to_broker: asyncio.StreamWriter) -> None:
        while True:
            head = await client.readexactly(14)  # size, api key, api version, correlation id, length of the client id
            size, api_key, _version, _correlation, id_bytes = struct.unpack(">ihhih", head)
            rest = await client.readexactly(size - 10)
            holding = self._holding
            if holding is not None and api_key in holding[0]:
                client_id = rest[: max(id_bytes, 0)].decode()
                if holding[1] in client_id:
                    self.held += 1
                    await self._released.wait()
            to_broker.write(head + rest)
            await to_broker.drain()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK):
        target.write(chunk)
        await target.drain()


async def _first_to_end(*coroutines: object) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def proxied_broker() -> Iterator[tuple[LocalBroker, Proxy]]:
    """A broker of the test's own, and the proxy it advertises as its address."""
    port = free_port()
    proxy = Proxy(port)
    properties = {"advertised.listeners": f"PLAINTEXT://{HOST}:{proxy.port}"}
    proxy.start()
    try:
        with LocalBroker(port, ephemeral=True, short_lived=True, properties=properties) as broker:
            yield broker, proxy
    finally:
        proxy.stop()
