"""Sessions with aiohttp-security: who is signed in, and what they may do.

`remember` stores the user in the session under the key of the policy. With this key as
`owner_key`, the session gets a new token at every sign-in, and `storage.sessions()` finds the
sessions of the user.
"""

import os

import aiohttp_security
from aiohttp import web
from aiohttp_security import SessionIdentityPolicy
from aiohttp_security.abc import AbstractAuthorizationPolicy
from pymongo import AsyncMongoClient

from storage import MongoStorage, setup

IDENTITY = "user"
MAY = {"ada": {"read", "write"}, "bob": {"read"}}


class Permissions(AbstractAuthorizationPolicy):
    """Looks up permissions in a table; your app would ask a database."""

    async def authorized_userid(self, identity: str) -> str | None:
        """Return the user, or ``None`` if the user does not exist any more."""
        return identity if identity in MAY else None

    async def permits(
        self, identity: str | None, permission: object, context: object = None
    ) -> bool:
        """Return whether the user may do this."""
        return identity is not None and permission in MAY.get(identity, set())


async def sign_in(request: web.Request) -> web.Response:
    user = (await request.post())["user"]
    response = web.Response(text="welcome\n")  # check a password first
    await aiohttp_security.remember(request, response, str(user))
    return response


async def sign_out(request: web.Request) -> web.Response:
    response = web.Response(text="bye\n")
    await aiohttp_security.forget(request, response)
    return response


async def write(request: web.Request) -> web.Response:
    await aiohttp_security.check_permission(request, "write")
    return web.Response(text="written\n")


async def make_app(mongo_uri: str, secret: str) -> web.Application:
    client = AsyncMongoClient[dict[str, object]](mongo_uri)
    sessions = client.get_default_database("shop")["sessions"]
    app = web.Application()
    setup(app, MongoStorage(sessions, secret, owner_key=IDENTITY))
    aiohttp_security.setup(app, SessionIdentityPolicy(IDENTITY), Permissions())
    app.router.add_post("/sign-in", sign_in)
    app.router.add_post("/sign-out", sign_out)
    app.router.add_post("/write", write)

    async def close(_app: web.Application) -> None:
        await client.close()

    app.on_cleanup.append(close)
    return app


if __name__ == "__main__":
    web.run_app(
        make_app(os.environ["MONGO_URI"], os.environ["SESSION_SECRET"]),
        host="127.0.0.1",
        port=8080,
    )
