"""The stylesheet and the icon: served from memory, and cached by browsers until they change."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parent / "static"
# The address of a file changes with its content, so browsers never need to ask again.
IMMUTABLE = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"


@dataclass(frozen=True)
class StaticFile:
    """One file as it is served; `version` is the start of its SHA-256."""

    name: str
    body: bytes
    content_type: str
    version: str

    @property
    def address(self) -> str:
        """The address that pages link to."""
        return f"/static/{self.name}?v={self.version}"


class StaticFiles:
    """All files of one folder: a few kilobytes, which do not change while the app runs.

    Not aiohttp's `add_static`, which reads the disk for each request and cannot send `immutable`.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {path.name: _read(path) for path in sorted(folder.iterdir())}

    def address(self, name: str) -> str:
        """Return the address of a file, for templates. Raises `KeyError` for an unknown name."""
        return self._files[name].address

    async def answer(self, request: web.Request) -> web.Response:
        """Serve the file that the route's `name` asks for."""
        file = self._files.get(request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound
        is_current = request.query.get("v") == file.version
        return web.Response(
            body=file.body,
            content_type=file.content_type,
            charset="utf-8",
            headers={"Cache-Control": IMMUTABLE if is_current else ASK_AGAIN},
        )


def _read(path: Path) -> StaticFile:
    body = path.read_bytes()
    content_type, _ = mimetypes.guess_type(path.name)
    return StaticFile(
        name=path.name,
        body=body,
        content_type=content_type or "application/octet-stream",
        version=hashlib.sha256(body).hexdigest()[:12],
    )
