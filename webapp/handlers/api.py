"""The JSON API: the same actions as the pages, for a separate front end.

Errors are raised and become `application/problem+json` in `http.error_pages`. `openapi` describes
what each route takes and answers.

A handler reads the body first and asks who is signed in then, as those of the pages do.
"""

from __future__ import annotations

from aiohttp import web

from webapp.accounts import auth
from webapp.accounts.forms import Confirmation, SignIn, SignUp, from_json
from webapp.accounts.users import Account
from webapp.handlers import devices, openapi
from webapp.handlers.devices import Device
from webapp.handlers.pages import CLEAR_SITE_DATA
from webapp.http.api_prefix import API
from webapp.http.app_keys import CONFIG
from webapp.http.bodies import json_fields


async def sign_up(request: web.Request) -> web.Response:
    """Create an account: 201 with its profile."""
    form = from_json(SignUp, await json_fields(request))
    return web.json_response(_profile(await auth.sign_up(request, form)), status=201)


async def sign_in(request: web.Request) -> web.Response:
    """Open a session: 200 with the profile, and the cookie."""
    form = from_json(SignIn, await json_fields(request))
    return web.json_response(_profile(await auth.sign_in(request, form)))


async def sign_out(request: web.Request) -> web.Response:
    """End the session if there is one: 204 either way."""
    await auth.sign_out(request)
    return _no_content(clear=True)


async def profile(request: web.Request) -> web.Response:
    """Return the profile of who is signed in."""
    return web.json_response(_profile(await auth.current_account(request)))


async def delete_profile(request: web.Request) -> web.Response:
    """Delete the account with all its sessions: 204."""
    values = await json_fields(request)
    account = await auth.current_account(request)
    form = from_json(Confirmation, values)
    await auth.delete_account(request, account, form)
    return _no_content(clear=True)


async def device_list(request: web.Request) -> web.Response:
    """Return every active session of this account."""
    account = await auth.current_account(request)
    found = await devices.signed_in(request, account)
    return web.json_response({"sessions": [_device(device) for device in found]})


async def sign_out_device(request: web.Request) -> web.Response:
    """End one session of this account: 204, or 404 when it has no such session."""
    account = await auth.current_account(request)
    device = await devices.sign_out(request, account, request.match_info["handle"])
    if device is None:
        raise web.HTTPNotFound(text="You have no session with this handle.")
    return _no_content(clear=device.current)


async def sign_out_others(request: web.Request) -> web.Response:
    """End every other session of this account: 204."""
    account = await auth.current_account(request)
    await devices.sign_out_others(request, account)
    return _no_content()


async def description(request: web.Request) -> web.Response:
    """Return the OpenAPI description of this API."""
    config = request.app[CONFIG]
    return web.json_response(
        openapi.description(
            password_min_length=config.password_min_length, cookie_name=config.cookie_name
        )
    )


def add_routes(app: web.Application) -> None:
    """Mount the API."""
    app.add_routes(
        [
            web.post(f"{API}/auth/signup", sign_up),
            web.post(f"{API}/auth/login", sign_in),
            web.post(f"{API}/auth/logout", sign_out),
            web.get(f"{API}/profile", profile),
            web.delete(f"{API}/profile", delete_profile),
            web.get(f"{API}/sessions", device_list),
            web.delete(f"{API}/sessions", sign_out_others),
            web.delete(f"{API}/sessions/{{handle}}", sign_out_device),
            web.get(f"{API}/openapi.json", description),
        ]
    )


def _no_content(*, clear: bool = False) -> web.Response:
    return web.Response(status=204, headers=CLEAR_SITE_DATA if clear else None)


def _profile(account: Account) -> dict[str, str]:
    """Return the fields of an account that a client may see."""
    return {
        "username": account.username,
        "email": account.email,
        "created_at": account.created_at.isoformat(),
    }


def _device(device: Device) -> dict[str, str | bool]:
    return {
        "handle": device.handle,
        "label": device.label,
        "created_at": device.created_at.isoformat(),
        "last_seen_at": device.last_seen_at.isoformat(),
        "expires_at": device.expires_at.isoformat(),
        "current": device.current,
    }
