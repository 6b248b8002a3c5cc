"""Warnings of what a handler does, once for each route and not for each request."""

from __future__ import annotations

import logging

from aiohttp import web

logger: logging.Logger = logging.getLogger(__name__)


def route_of(request: web.Request) -> str:
    """Return the method and the path of a request's route, for the log."""
    resource = request.match_info.route.resource
    return f"{request.method} {'(no route)' if resource is None else resource.canonical}"


class RouteWarnings:
    """Remembers the routes that it has warned of."""

    def __init__(self) -> None:
        """Start with no route."""
        self._warned: set[tuple[str, str]] = set()

    def warn(self, route: str, text: str, *details: object) -> None:
        """Log a WARNING that begins with the route, unless the same text was logged for it."""
        if (route, text) not in self._warned:
            self._warned.add((route, text))
            logger.warning(f"%s: {text}", route, *details)  # noqa: G004 - a constant of the caller
