"""The attacks on `users` and `throttle` that the security page calls possible are possible."""

from __future__ import annotations

import hashlib
import hmac

from tests.webapp.conftest import CHEAP, Client
from tests.webapp.people import ADA, sign_in, sign_up, sign_up_and_in
from webapp.accounts.passwords import Passwords
from webapp.http.app_keys import CONFIG, DATABASE

CHOSEN = "chosen by the attacker"


async def test_writer_can_replace_a_password_and_sign_in(client: Client) -> None:
    """Without the secret: a hash of one's own is as good as any other."""
    await sign_up(client)
    passwords = Passwords(CHEAP)
    phc = await passwords.hash(CHOSEN)
    passwords.close()

    await client.app[DATABASE]["users"].update_one({}, {"$set": {"password": phc}})

    assert (await sign_in(client, password=CHOSEN)).status == 200
    assert (await sign_in(client)).status == 401


async def test_secret_and_collection_tell_which_addresses_are_familiar(client: Client) -> None:
    """A person with the secret computes the key of a counter, and looks whether it is there."""
    await sign_up_and_in(client)
    (secret,) = client.app[CONFIG].session_secrets
    key = hmac.digest(secret.encode(), b"webapp throttle v1", hashlib.sha256)
    counters = client.app[DATABASE]["throttle"]

    async def is_familiar(address: str) -> bool:
        name = b"\0".join(part.encode() for part in ("familiar", ADA["email"], address))
        identifier = hmac.digest(key, name, hashlib.sha256)[:16]
        return bool(await counters.count_documents({"_id": identifier}))

    assert await is_familiar("127.0.0.1")
    assert not await is_familiar("198.51.100.7")
