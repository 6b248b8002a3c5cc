"""The OpenAPI 3.1 description of the JSON API, served at `/api/openapi.json`.

Written by hand, not generated from the handlers. The tests send what it allows and what it
forbids to the running app, so that the two agree.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from webapp.accounts.forms import MAX_TEXT_LENGTH, Confirmation, SignIn, SignUp
from webapp.accounts.usernames import EMAIL_MAX_LENGTH, USERNAME_MAX_LENGTH
from webapp.http.api_prefix import API

_ABOUT = """\
Sign up, sign in, see and end your sessions. The session is a cookie.

A program must send the header `Origin` with every POST and DELETE: the scheme and the host of this
site, such as `Origin: https://app.example`. Browsers send it by themselves. Without it the answer
is 403 in production.
"""
_TIME = {"type": "string", "format": "date-time"}
_SECURED: dict[str, Any] = {"security": [{"session": []}]}
_HANDLE = {"name": "handle", "in": "path", "required": True, "schema": {"type": "string"}}


def description(*, password_min_length: int, cookie_name: str) -> dict[str, Any]:
    """Build the description; `password_min_length` is in characters."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Accounts and sessions",
            "version": "1",
            "description": _ABOUT,
        },
        "paths": {f"{API}{path}": operations for path, operations in _paths().items()},
        "components": {
            "schemas": _schemas(password_min_length),
            "responses": _responses(),
            "securitySchemes": {
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": cookie_name,
                    "description": "Set by signing in.",
                }
            },
        },
    }


def _paths() -> dict[str, Any]:
    return {
        "/auth/signup": {
            "post": _operation(
                "sign_up", "Create an account", 201, "Profile", 409, 422, 429, 503, body="SignUp"
            )
        },
        "/auth/login": {
            "post": _operation(
                "sign_in", "Sign in", 200, "Profile", 401, 422, 429, 503, body="SignIn"
            )
        },
        "/auth/logout": {
            "post": _operation("sign_out", "Sign out, if signed in", 204, None, 503),
        },
        "/profile": {
            "get": _SECURED | _operation("get_profile", "Who am I?", 200, "Profile", 401, 503),
            "delete": _SECURED
            | _operation(
                "delete_profile",
                "Delete the account and all its sessions",
                204,
                None,
                *(401, 403, 422, 429, 503),
                body="Confirmation",
            ),
        },
        "/sessions": {
            "get": _SECURED
            | _operation("list_sessions", "Where am I signed in?", 200, "Sessions", 401, 503),
            "delete": _SECURED
            | _operation("end_other_sessions", "Sign out everywhere else", 204, None, 401, 503),
        },
        "/sessions/{handle}": {
            "parameters": [_HANDLE],
            "delete": _SECURED
            | _operation("end_session", "Sign out one device", 204, None, 401, 404, 503),
        },
        "/openapi.json": {
            "get": _operation("describe_api", "This description", 200, "Description"),
        },
    }


def _operation(
    name: str,
    summary: str,
    success: int,
    schema: str | None,
    *errors: int,
    body: str | None = None,
) -> dict[str, Any]:
    # 403: from the cross-site check, which comes before every route.
    refused = (403, *((400, 413, 415) if body else ()), *errors)
    responses = {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(refused)
    }
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": name,
        "responses": {str(success): _answer(schema), **responses},
    }
    if body:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    return operation


def _answer(schema: str | None) -> dict[str, Any]:
    if schema is None:
        return {"description": "Done; no content."}
    return {"description": f"A {schema.lower()}.", "content": _content(schema)}


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _schemas(password_min_length: int) -> dict[str, Any]:
    sign_up = _form(SignUp)
    sign_up["properties"]["username"]["maxLength"] = USERNAME_MAX_LENGTH
    # No "format": only the shape of an address is checked, and RFC 5321 is stricter.
    sign_up["properties"]["email"] |= {
        "description": "An address such as ada@example.org.",
        "maxLength": EMAIL_MAX_LENGTH,
    }
    sign_up["properties"]["password"]["minLength"] = password_min_length
    sign_in = _form(SignIn)
    sign_in["properties"]["email"]["description"] = "The email address or the user name."
    device = {
        "handle": {"type": "string"},
        "label": {"type": "string", "examples": ["Firefox on Linux"]},
        "created_at": _TIME,
        "last_seen_at": _TIME,
        "expires_at": _TIME,
        "current": {"type": "boolean"},
    }
    text = {"type": "string"}
    return {
        "SignUp": sign_up,
        "SignIn": sign_in,
        "Confirmation": _form(Confirmation),
        "Profile": _record({"username": text, "email": text, "created_at": _TIME}),
        "Session": _record(device),
        "Sessions": _record(
            {"sessions": {"type": "array", "items": {"$ref": "#/components/schemas/Session"}}}
        ),
        "Description": {"type": "object"},
        "Problem": _problem(),
    }


def _form(kind: type) -> dict[str, Any]:
    """Describe a form by its class: the fields, their types, which are required."""
    no_nul = "^[^\\u0000]*$"
    text = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_LENGTH, "pattern": no_nul}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [field.name for field in fields(kind) if field.default is MISSING],
        "properties": {
            field.name: {"type": "boolean"} if field.type == "bool" else dict(text)
            for field in fields(kind)
        },
    }


def _record(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


def _problem() -> dict[str, Any]:
    """Describe the problem of RFC 9457, with one more member: the fields that are wrong."""
    text = {"type": "string"}
    error = _record({"field": text, "detail": text})
    problem = _record({"type": text, "title": text, "status": {"type": "integer"}, "detail": text})
    problem["properties"]["errors"] = {"type": "array", "items": error}
    return problem


def _responses() -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    seconds = {"type": "integer", "minimum": 1}
    wait = {"Retry-After": {"description": "Seconds to wait.", "schema": seconds}}
    meanings = {
        400: "The body could not be read.",
        401: "Not signed in, or signing in failed.",
        403: "Not from an allowed origin, no `Origin` at all, or the current password is wrong.",
        404: "You have no session with this handle.",
        409: "The email address or user name is taken.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        422: "Some fields cannot be accepted; `errors` names them.",
        429: "Too many attempts.",
        503: "The server is busy, or the database does not answer.",
    }
    return {
        str(status): {"description": meaning, "content": content}
        | ({"headers": wait} if status in {429, 503} else {})
        for status, meaning in meanings.items()
    }
