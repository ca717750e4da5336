"""The demo's page and the JavaScript client, as files. Off unless `GatewayConfig.page` is set."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.responses import Response

_HERE: Final = Path(__file__).parent
_FOLDERS: Final = {"": _HERE / "page", "client/": _HERE.parent / "clients" / "javascript" / "src"}
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)


def _paths() -> dict[bytes, Path]:
    found = {
        f"/{prefix}{file.name}".encode(): file
        for prefix, folder in _FOLDERS.items()
        for file in sorted(folder.glob("*"))
        if file.suffix in _TYPES
    }
    return found | {b"/": _HERE / "page" / "index.html"}


PATHS: Final = _paths()
"""Every file there is, by its path. Nothing else is ever opened."""


def page_file(raw_path: bytes) -> Response | None:
    """The file at a path; None if no file is there."""
    file = PATHS.get(raw_path)
    if file is None:
        return None
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}
    return Response(file.read_bytes(), headers=headers, media_type=_TYPES[file.suffix])
