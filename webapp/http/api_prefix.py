"""Where the JSON API is: its errors, its CORS headers and its cross-site check differ."""

from __future__ import annotations

from aiohttp import web

API = "/api"


def is_api(request: web.BaseRequest) -> bool:
    """Tell whether a request asks for the JSON API, whether the route exists or not."""
    return request.path.startswith(f"{API}/")
