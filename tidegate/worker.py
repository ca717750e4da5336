"""`tidegate worker`: one gate process. Starts the engine, and ends it on a signal or a fatal error."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from aiokafka.errors import KafkaError

from projections import partition
from streams import queries
from streams.app import GateApp, build_app
from streams.config import EngineConfig
from streams.engine import Engine
from streams.errors import FatalError
from streams.exposition import serve
from streams.garbage import collect_when_idle
from streams.metrics import Metrics
from streams.watchdog import watch
from tidegate import __version__
from tidegate.engine_config import engine_config
from tidegate.errors import TidegateError
from tidegate.settings import Settings
from tidegate.topics import check_before_work

_log = structlog.get_logger(__name__)

RETRY_SECONDS = 2.0
STOP_SECONDS = 5.0


def run(settings: Settings) -> int:
    """Work until told to stop. Returns the exit status: 0 after a signal, 1 after a fatal error."""
    Path(settings.state_dir).mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(_run(settings))
    except FatalError as error:
        _log.error("worker_stopped", error=str(error))
        raise TidegateError(str(error)) from error
    return 0


async def _run(settings: Settings) -> None:
    config = engine_config(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics(__version__, {name: version(name) for name in ("faust-streaming", "aiokafka")})
    metrics.worker("starting")
    engine = Engine(config, metrics)
    async with serve(settings.metrics_host, settings.metrics_port, metrics, engine) as port:
        _log.info(
            "worker_starting",
            group_id=config.group_id,
            instance_id=config.instance_id,
            metrics_port=port,
            core="interpreted" if str(partition.__file__).endswith(".py") else "compiled",
        )
        try:
            if await _connected(engine, settings, stop):
                await _work(config, engine, settings, stop)
        finally:
            await engine.stop()
    _log.info("worker_stopped")


async def _connected(engine: Engine, settings: Settings, stop: asyncio.Event) -> bool:
    """Start the engine as soon as a broker answers. False where a signal came first."""
    while not stop.is_set():
        try:
            await _check_topics(settings)
            await engine.start()
        except (KafkaError, OSError) as error:
            _log.warning(
                "waiting_for_broker",
                bootstrap_servers=settings.bootstrap_servers,
                error=repr(error),
                retry_seconds=RETRY_SECONDS,
            )
            try:
                await asyncio.wait_for(stop.wait(), RETRY_SECONDS)
            except TimeoutError:
                continue
        else:
            return True
    return False


async def _check_topics(settings: Settings) -> None:
    """Raise `FatalError` where the topics are such that events would be lost or misjudged; log what is less bad."""
    try:
        stops, others = await check_before_work(settings)
    except TidegateError as error:
        if error.__cause__ is None:  # else no broker answers, and the engine waits for one
            _log.warning("topics_not_checked", error=error.message, hint=error.hint)
        return
    for line in others:
        _log.warning("topic_mismatch", mismatch=line)
    if stops:
        raise FatalError("; ".join(stops) + ". See: tidegate topics check")


async def _work(config: EngineConfig, engine: Engine, settings: Settings, stop: asyncio.Event) -> None:
    app = build_app(config, engine)
    async with _answering(app, engine, settings):
        await _until_told(app, engine, stop)


@asynccontextmanager
async def _answering(app: GateApp, engine: Engine, settings: Settings) -> AsyncIterator[None]:
    """Serve the read endpoint and announce it, if there is a secret to sign with. Raises `FatalError`."""
    secret, host = settings.query_secret, settings.query_host
    if secret is None:
        yield
        return
    try:
        serving = queries.serve(
            host,
            settings.query_port,
            secret.get_secret_value(),
            settings.group_id,
            engine.owned,
            settings.query_tls(server=True),
        )
        async with serving as port:
            named = socket.gethostname() if host in {"0.0.0.0", "::"} else host  # noqa: S104 - not bound here
            app.member_url = queries.announced(app.member_url, named, port)
            yield
    except OSError as error:
        raise FatalError(
            f"Cannot serve the read endpoint on {host}, port {settings.query_port}: {error.strerror or error}."
            " Check TIDEGATE_QUERY_HOST and TIDEGATE_QUERY_PORT."
        ) from error


async def _until_told(app: GateApp, engine: Engine, stop: asyncio.Event) -> None:
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(stop.wait(), name="signal"),
        asyncio.create_task(watch(app), name="watchdog"),
        asyncio.create_task(_until_stopped(app), name="faust"),
        asyncio.create_task(collect_when_idle(), name="garbage"),
    ]
    try:
        done, _ = await asyncio.wait([*tasks, engine.fatal], return_when=asyncio.FIRST_COMPLETED)
        _log.info("worker_stopping", because=", ".join(_name(each) for each in done))
        for each in done:
            each.result()
        if not stop.is_set():
            reason = app._crash_reason
            if isinstance(reason, FatalError):
                raise reason
            raise FatalError(f"the consumer has stopped: {reason!r}; restart the worker") from reason
    finally:
        await engine.on_revoked()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await app.stop()
        except TimeoutError:
            _log.warning("group_not_left", reason="no answer from the broker", seconds=STOP_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_stopped(app: GateApp) -> None:
    await app.start()
    await app.wait_until_stopped()


def _name(done: asyncio.Future[object]) -> str:
    return done.get_name() if isinstance(done, asyncio.Task) else "fatal error"
