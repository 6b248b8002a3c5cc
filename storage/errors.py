"""What can go wrong, as the storage's users see it."""

from __future__ import annotations

import aiohttp
from aiohttp import web

if not hasattr(web, "RequestKey"):
    # This module is the first that is imported: otherwise a bare AttributeError would come later.
    raise ImportError(
        f"storage needs aiohttp 3.14 or newer, and {aiohttp.__version__} is installed; "
        "run: pip install --upgrade aiohttp"
    )


class StorageError(Exception):
    """Base class of every error that the storage raises on purpose."""


class StorageUnavailable(StorageError, web.HTTPServiceUnavailable):
    """MongoDB did not answer in time, or cannot be used as it is configured.

    Its text says why, and what to do about it; visitors are not shown it.

    It is a response too (RFC 9110 section 15.6.4): an app without a handler of its own answers
    503 with ``Retry-After``. As a response it belongs to one request: raise a new one for each.
    """

    def __init__(
        self, cause: str = "MongoDB did not answer in time", *, retry_after_seconds: int = 1
    ) -> None:
        web.HTTPServiceUnavailable.__init__(
            self,
            headers={"Retry-After": str(retry_after_seconds)},
            text="The session store does not answer at the moment; please try again.",
        )
        # The response's own text would be the text of the exception.
        Exception.__init__(self, cause)


class SessionEnded(StorageError):
    """The session was revoked, signed out or deleted, or it has expired.

    Raised by ``save_session``, which has written nothing, and by ``watch_session``. If you do
    not catch it, ``setup`` closes the stream or the WebSocket, or answers 401 if there is none yet.
    """

    def __init__(self) -> None:
        super().__init__("the session has ended: revoked, signed out, deleted or expired")


class SessionTooLarge(StorageError):
    """The sealed values of a session are larger than ``max_bytes``; nothing was written."""


class SessionNotSerializable(StorageError):
    """A session key is not text, or its value cannot be encoded and read back; nothing was written.

    Values may be nested 400 deep.
    """


class IndexConflict(StorageError):
    """An index is missing or wrong, and this user or this server cannot create or repair it.

    The message holds the exact command that an administrator has to run, or says what to do on a
    server or with a collection that cannot have the index. Sessions work without the indexes.
    """


class Unreadable(Exception):
    """A stored document is not a session that this storage can open; the text says why.

    Never leaves the storage: a request that meets one has no session.
    """
