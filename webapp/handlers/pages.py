"""The HTML pages: each handler reads a form, calls `auth` or `devices`, and answers.

No decision about accounts or sessions is made here. A refused form is shown again with its
sentence, its status and what was typed, except passwords.

Each reads the body first and asks who is signed in then: a body may take its sender many seconds,
and who is signed out meanwhile must not change anything any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import aiohttp_jinja2
import humanize
import jinja2
from aiohttp import web
from pymongo.errors import PyMongoError

from storage import StorageUnavailable
from webapp.accounts import auth
from webapp.accounts.forms import Confirmation, PasswordChange, SignIn, SignUp, from_page
from webapp.accounts.users import Account
from webapp.handlers import devices, notices
from webapp.handlers.redirects import local_path, with_query
from webapp.handlers.static_files import StaticFiles
from webapp.http.app_keys import CONFIG, STORAGE
from webapp.http.bodies import form_fields
from webapp.http.refusals import NotSignedIn, Refusal

_TEMPLATES = Path(__file__).parent / "templates"
# ASVS 5.0, 14.3.1. Not "cookies": that would also delete those of sites under the same domain.
# Not "cache": browsers search their whole disk cache for it, and nothing personal is in there.
CLEAR_SITE_DATA = {"Clear-Site-Data": '"storage"'}
# The variables of layout.html, for a page that sets none of them.
_DEFAULTS: dict[str, Any] = {"account": None, "notice": None, "problem": None, "errors": {}}
# What relative dates are rounded to, the largest first.
_UNITS = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
_KEPT_WHEN_REFUSED = ("username", "email", "remember")


async def home(request: web.Request) -> web.Response:
    """Show the start page, also while the database does not answer."""
    return _page(request, "home.html", notice=notices.named(request), **await _layout(request))


async def sign_up_form(request: web.Request) -> web.Response:
    """Show the empty sign-up form, also while the database does not answer."""
    return _page(request, "signup.html", **await _layout(request))


async def sign_up(request: web.Request) -> web.Response:
    """Create an account, then redirect to the sign-in page."""
    values = await form_fields(request)
    try:
        await auth.sign_up(request, from_page(SignUp, values))
    except Refusal as refusal:
        return _form_again(request, "signup.html", refusal, values, await _visitor(request))
    raise web.HTTPSeeOther(with_query("/login", notice="signed-up"))


async def sign_in_form(request: web.Request) -> web.Response:
    """Show the sign-in form, or redirect a visitor who is signed in already."""
    next_ = local_path(request.query.get("next"))
    if await _visitor(request):
        raise web.HTTPSeeOther(next_)
    return _page(request, "login.html", notice=notices.named(request), next=next_)


async def sign_in(request: web.Request) -> web.Response:
    """Open a session and redirect to the page that the visitor asked for."""
    values = await form_fields(request)
    next_ = local_path(values.get("next"))
    try:
        await auth.sign_in(request, from_page(SignIn, values))
    except Refusal as refusal:
        visitor = await _visitor(request)
        return _form_again(request, "login.html", refusal, values, visitor, next=next_)
    raise web.HTTPSeeOther(next_)


async def sign_out(request: web.Request) -> NoReturn:
    """End the session and redirect to the start page."""
    await auth.sign_out(request)
    raise web.HTTPSeeOther(with_query("/", notice="signed-out"), headers=CLEAR_SITE_DATA)


async def profile(request: web.Request) -> web.Response:
    """Show who is signed in, since when, and how long this session lasts."""
    account = await _signed_in(request)
    return _page(
        request,
        "profile.html",
        account,
        notice=await notices.take(request),
        device=await devices.current(request),
    )


async def password_form(request: web.Request) -> web.Response:
    """Show the form for a new password."""
    return _page(request, "password.html", await _signed_in(request))


async def change_password(request: web.Request) -> web.Response:
    """Change the password and sign out every other device."""
    values = await form_fields(request)
    account = await _signed_in(request)
    try:
        await auth.change_password(request, account, from_page(PasswordChange, values))
    except NotSignedIn as refusal:  # the account was deleted meanwhile
        raise _to_sign_in(request, refusal) from None
    except Refusal as refusal:
        return _form_again(request, "password.html", refusal, values, account)
    await notices.keep(request, "Your password is changed. All other devices are signed out.")
    raise web.HTTPSeeOther("/profile")


async def to_password_form(_request: web.Request) -> NoReturn:
    """Redirect a password manager to the form for a new password (W3C, change password URL)."""
    raise web.HTTPSeeOther("/profile/password")


async def delete_form(request: web.Request) -> web.Response:
    """Ask for the password before an account is deleted."""
    return _page(request, "delete.html", await _signed_in(request))


async def delete_account(request: web.Request) -> web.Response:
    """Delete the account with all its sessions and redirect to the start page."""
    values = await form_fields(request)
    account = await _signed_in(request)
    try:
        await auth.delete_account(request, account, from_page(Confirmation, values))
    except NotSignedIn as refusal:  # the account was deleted meanwhile
        raise _to_sign_in(request, refusal) from None
    except Refusal as refusal:
        return _form_again(request, "delete.html", refusal, values, account)
    raise web.HTTPSeeOther(with_query("/", notice="account-deleted"), headers=CLEAR_SITE_DATA)


async def device_list(request: web.Request) -> web.Response:
    """Show every device on which this account is signed in."""
    account = await _signed_in(request)
    found = await devices.signed_in(request, account)
    return _page(
        request, "sessions.html", account, notice=await notices.take(request), devices=found
    )


async def sign_out_devices(request: web.Request) -> web.Response:
    """Sign out the device with the handle of the form, or all others without a handle."""
    handle = (await form_fields(request)).get("handle")
    account = await _signed_in(request)
    if not isinstance(handle, str):
        count = await devices.sign_out_others(request, account)
        await notices.keep(request, _others_signed_out(count))
        raise web.HTTPSeeOther("/profile/sessions")
    device = await devices.sign_out(request, account, handle)
    if device and device.current:
        raise web.HTTPSeeOther(with_query("/", notice="signed-out"), headers=CLEAR_SITE_DATA)
    await notices.keep(
        request,
        f"{device.label} was signed out." if device else "That device was signed out already.",
    )
    raise web.HTTPSeeOther("/profile/sessions")


def error_page(request: web.Request, *, status: int, heading: str, sentence: str) -> str:
    """Return an error page; nobody is asked who they are, so that it works whatever is broken."""
    return aiohttp_jinja2.render_string(
        "error.html",
        request,
        {
            **_DEFAULTS,
            "signed_in": _may_be_signed_in(request),
            "path": "",
            "status": status,
            "heading": heading,
            "sentence": sentence,
        },
    )


def add_routes(app: web.Application) -> None:
    """Mount the pages, their templates and the static files."""
    files = StaticFiles()
    environment = aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        default_helpers=False,
        undefined=jinja2.StrictUndefined,
        auto_reload=not app[CONFIG].production,
        trim_blocks=True,
        lstrip_blocks=True,
        filters={"relative": relative},
    )
    environment.globals["static"] = files.address
    app.add_routes(
        [
            web.get("/static/{name}", files.answer),
            web.get("/", home),
            web.get("/signup", sign_up_form),
            web.post("/signup", sign_up),
            web.get("/login", sign_in_form),
            web.post("/login", sign_in),
            web.post("/logout", sign_out),
            web.get("/profile", profile),
            web.get("/profile/password", password_form),
            web.post("/profile/password", change_password),
            web.get("/.well-known/change-password", to_password_form),
            web.get("/profile/delete", delete_form),
            web.post("/profile/delete", delete_account),
            web.get("/profile/sessions", device_list),
            web.post("/profile/sessions", sign_out_devices),
        ]
    )


def relative(moment: datetime) -> str:
    """Return how far away a moment is, in words: "an hour ago", "14 days from now"."""
    # The difference, not the moment: humanize would compare local times, which jump twice a year.
    difference = datetime.now(UTC) - moment
    for unit in _UNITS:
        if abs(difference) >= unit:
            # humanize drops what is left over: a session of 14 days would begin with 13.
            difference = round(difference / unit) * unit
            break
    # Days, not months: 30 and 45 days would both be "a month".
    return humanize.naturaltime(difference, months=False)


def _may_be_signed_in(request: web.Request) -> bool:
    """Tell whether to offer the sign-out button on a page that cannot ask who is there.

    Signing out is harmless where nobody is signed in (OWASP ASVS 5.0, 7.4.4). The storage reads
    the cookie, as it does for a load: aiohttp's own parser would find other ones.
    """
    return request.app[STORAGE].load_cookie(request) is not None


async def _layout(request: web.Request) -> dict[str, Any]:
    """Return what the layout says of the visitor, also while the database does not answer."""
    try:
        account = await _visitor(request)
    except (StorageUnavailable, PyMongoError):
        return {"account": None, "signed_in": _may_be_signed_in(request)}
    return {"account": account, "signed_in": account is not None}


async def _visitor(request: web.Request) -> Account | None:
    try:
        return await auth.current_account(request)
    except NotSignedIn:
        return None


async def _signed_in(request: web.Request) -> Account:
    """Return who is signed in, or redirect to the sign-in page, and back after signing in."""
    try:
        return await auth.current_account(request)
    except NotSignedIn as refusal:
        raise _to_sign_in(request, refusal) from None


def _to_sign_in(request: web.Request, refusal: NotSignedIn) -> web.HTTPSeeOther:
    notice = "session-ended" if refusal.ended else "sign-in-first"
    back = request.path_qs if request.method in {"GET", "HEAD"} else request.path
    return web.HTTPSeeOther(with_query("/login", notice=notice, next=back))


def _page(
    request: web.Request,
    template: str,
    account: Account | None = None,
    *,
    status: int = 200,
    **context: Any,
) -> web.Response:
    context = {
        **_DEFAULTS,
        "account": account,
        "signed_in": account is not None,
        "path": request.path,
        "typed": {},
        "password_min_length": request.app[CONFIG].password_min_length,
        **context,
    }
    return aiohttp_jinja2.render_template(template, request, context, status=status)


def _form_again(
    request: web.Request,
    template: str,
    refusal: Refusal,
    values: Mapping[str, object],
    account: Account | None = None,
    **context: Any,
) -> web.Response:
    """Show a refused form again with what was typed, except passwords."""
    response = _page(
        request,
        template,
        account,
        status=refusal.status,
        problem=None if refusal.fields else refusal.sentence,
        errors=refusal.fields,
        typed={name: values[name] for name in _KEPT_WHEN_REFUSED if name in values},
        **context,
    )
    response.headers.update(refusal.extra_headers)
    return response


def _others_signed_out(count: int) -> str:
    if count == 0:
        return "No other device was signed in."
    if count == 1:
        return "1 other device was signed out."
    return f"{count} other devices were signed out."
