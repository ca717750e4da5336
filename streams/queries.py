"""The worker's read endpoint: the committed state of sessions whose partition it owns, with its position.

Responsible for what is told of a session and for who may ask. Only committed records are read, so an answer is never
taken back. Everything it needs of the engine is `owned`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
from aiohttp import web
from yarl import URL

from projections.ended import task_of
from projections.partition import Partition
from projections.publish import Publisher
from projections.records import row_from_bytes
from projections.session import Session
from projections.store import Kept, Store
from schemas.queries import MAX_AGE_MS, PATH, READ_QUERY, SIGNATURE_HEADER, is_signature, sign_answer, sign_request
from schemas.times import rfc3339
from schemas.topics import Role

MAX_ENDED: Final = 256
"""Ended tasks in one answer, the newest."""
_ENVELOPE: Final = ("source", "session_id", "event_id")

Owned = Callable[[int], tuple[Partition, Mapping[Role, int]] | None]
"""By number, a partition that this worker owns and has taken over, and the positions its committed rows reach."""


def announced(address: URL, host: str, port: int) -> URL:
    """A member's address in the group metadata, with that of its read endpoint."""
    return address.with_query({READ_QUERY: f"{host}:{port}"})


@asynccontextmanager
async def serve(
    host: str, port: int, secret: str, source: str, owned: Owned, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve until the block ends; gives the port that was bound. Raises `OSError` if the address cannot be bound."""
    runner = web.AppRunner(application(secret, source, owned), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def application(secret: str, source: str, owned: Owned) -> web.Application:
    """Build the route, without a socket."""

    async def answer(request: web.Request) -> web.Response:
        query = request.query
        session_id, nonce, at = query.get("session", ""), query.get("nonce", ""), query.get("at", "")
        found = request.headers.get(SIGNATURE_HEADER)
        if not (at.isascii() and at.isdecimal()) or abs(time.time() * 1000 - int(at[:16])) > MAX_AGE_MS:
            return web.Response(status=401, text="the request is too old, or the clocks differ")
        if not is_signature(sign_request(secret, session_id, int(at), nonce), found):
            return web.Response(status=401, text="the signature is wrong")
        number = query.get("partition", "")
        owns = owned(int(number)) if number.isascii() and number.isdecimal() else None
        if owns is None:
            return _signed(secret, nonce, 421, b"{}")
        partition, positions = owns
        return _signed(secret, nonce, 200, state_of(partition.store, session_id, positions, source))

    app = web.Application()
    app.router.add_get(PATH, answer)
    return app


def state_of(store: Store, session_id: str, positions: Mapping[Role, int], source: str) -> bytes:
    """What is committed of a session, as JSON."""
    row, tasks, lines, kept = _committed(store, session_id)
    session = Session(session_id, row_from_bytes(row, tasks or None)) if row is not None else None
    told: dict[str, Any] = {
        "session_id": session_id,
        "positions": dict(positions),
        "facets": _facets(session) if session is not None else {},
        "tasks": [*(_open_tasks(session, source) if session is not None else []), *_ended_tasks(lines)],
        "held": _held(session, kept) if session is not None and kept is not None else [],
    }
    return orjson.dumps(told)


def _committed(store: Store, session_id: str) -> tuple[bytes | None, dict[str, bytes], bytes, Kept | None]:
    """The records of a session as the last transaction left them: one under way may still be aborted."""
    row, lines, kept = store._rows.get(session_id), store._ended.get(session_id, b""), store._kept.get(session_id)
    tasks = dict(store._tasks.get(session_id, {}))
    for name, row_before, lines_before, kept_before in store._before:
        if name == session_id:
            row, lines, kept = row_before, lines_before, kept_before
            break
    for task_id, before in store._tasks_before.get(session_id, {}).items():
        if before is None:
            tasks.pop(task_id, None)
        else:
            tasks[task_id] = before
    return row, tasks, lines, kept


def _facets(session: Session) -> dict[str, str | None]:
    # without a change nobody knows the value (the session was full)
    return {name: facet.value for name, facet in session.facets.items() if facet.change}


def _open_tasks(session: Session, source: str) -> list[dict[str, Any]]:
    publisher = Publisher(source)
    publisher.at(None, session.last_event_at)
    told = []
    for task_id, task in session.tasks.items():
        value = publisher.open_status(session, task_id, task).value
        told.append(_without_envelope(orjson.loads(value or b"{}")))
    return told


def _ended_tasks(lines: bytes) -> list[dict[str, Any]]:
    told = []
    for line in reversed([line for line in lines.split(b"\n") if line][-MAX_ENDED:]):
        task = task_of(line)
        if task.was_unknown:
            continue
        status: dict[str, Any] = {
            "type": "task.status",
            "task_id": task.task_id,
            "status": "ended",
            "disposition": task.disposition,
            "reason": task.reason,
            "dispatched_at": rfc3339(task.dispatched_at),
            "ended_at": rfc3339(task.ended_at),
            "steps_started": task.steps_started,
            "steps_completed": task.steps_completed,
            **orjson.loads(f"{{{task.echo}}}"),
            **orjson.loads(f"{{{task.work}}}"),
        }
        if task.acknowledged is not None:
            status["acknowledged"] = task.acknowledged
        if task.outcomes is not None:
            status["acknowledged_parts"] = task.outcomes
        if task.detail is not None:
            status["detail"] = task.detail
        told.append(status)
    return told


def _held(session: Session, kept: Kept) -> list[dict[str, Any]]:
    told = []
    for task_id, result in kept.waiting.items():
        task = session.tasks.get(task_id)
        if task is None or task.wait is None:
            continue
        undecided = set(task.wait.undecided)
        parts = [part for part in orjson.loads(result.parts_json) if part["part_id"] in undecided]
        told.append(
            {
                "task_id": task_id,
                "waiting_for": task.wait.why,
                "until": rfc3339(task.wait.until) if task.wait.until is not None else None,
                "outcome": result.event.outcome,
                "result": {
                    "source": result.event.source,
                    "event_id": result.event.event_id,
                    "offset": result.offset,
                    "at": rfc3339(result.timestamp),
                },
                "parts": parts,
            }
        )
    return told


def _without_envelope(status: dict[str, Any]) -> dict[str, Any]:
    for name in _ENVELOPE:
        status.pop(name, None)
    return status


def _signed(secret: str, nonce: str, status: int, body: bytes) -> web.Response:
    headers = {SIGNATURE_HEADER: sign_answer(secret, nonce, status, body), "Cache-Control": "no-store"}
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
