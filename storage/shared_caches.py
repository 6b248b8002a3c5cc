"""Keep shared caches from giving one visitor's answer, or cookie, to another.

``Vary: Cookie`` stands on whatever depends on the session (RFC 9111 section 4.1). An answer that
carries the session cookie must be stored by the visitor's own browser alone (section 5.2.2.7).
"""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from storage.route_warnings import RouteWarnings, route_of

_PRIVATE, _PUBLIC = ("private", "no-store"), ("public", "s-maxage")
# A quoted argument may contain commas. ``private="Set-Cookie"`` is another directive than
# ``private``: it lets the rest of the answer be stored.
_DIRECTIVE = re.compile(r'\s*([^\s,="]+)\s*(=\s*(?:"(?:[^"\\]|\\.)*"|[^,]*))?[^,]*')
# What shared caches obey before ``Cache-Control``: RFC 9213, CDNs before it, and nginx.
_FOR_SHARED_CACHES = ("CDN-Cache-Control", "Surrogate-Control", "X-Accel-Expires")


def vary_by_cookie(response: web.StreamResponse) -> None:
    """Say that the answer depends on the cookie."""
    headers = response.headers
    if hdrs.VARY in headers:
        fields = ",".join(headers.getall(hdrs.VARY)).lower().split(",")
        if {"cookie", "*"} & {field.strip() for field in fields}:
            return
    headers.add(hdrs.VARY, "Cookie")


def make_private(
    request: web.Request, response: web.StreamResponse, warnings: RouteWarnings
) -> None:
    """Let no shared cache store the answer, and say once for a route what gave way."""
    headers = response.headers
    given = ",".join(headers.getall(hdrs.CACHE_CONTROL, ()))
    directives = [(found[1].lower(), found[0].strip()) for found in _DIRECTIVE.finditer(given)]
    kept = [(name, text) for name, text in directives if name not in _PUBLIC]
    if not any(text.lower() in _PRIVATE for _name, text in kept):
        kept.append(("private", "private"))
    gave_way = [text for name, text in directives if name in _PUBLIC]
    gave_way += [name for name in _FOR_SHARED_CACHES if headers.popall(name, None)]
    if len(kept) != len(directives) or gave_way:
        headers[hdrs.CACHE_CONTROL] = ", ".join(text for _name, text in kept)
    if gave_way:
        warnings.warn(
            route_of(request),
            "%s was removed from an answer that carries the session cookie; a shared cache would "
            "have given the cookie to other visitors",
            ", ".join(gave_way),
        )
