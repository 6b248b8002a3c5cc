"""No frame and no `repr` of the storage shows a token, a key, a secret or a value.

Error trackers, structured tracebacks and debuggers record them.
"""

from __future__ import annotations

import base64
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session

import storage as package
from storage import MongoStorage, StorageUnavailable, generate_secret, setup
from storage.sealing import Keyring
from storage.session import MongoSession
from tests.storage.conftest import MakeStorage, OpenSite
from tests.storage.direct import load, visit

HERE = str(Path(package.__file__).parent)
CARD = "CARD-4111-1111"
USER = "ada@example.com"
LEVELS = 6


def _errors(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, as tracebacks show them."""
    while error is not None:
        yield error
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)


def _frames(error: BaseException) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the variables of each frame of the storage."""
    for one in _errors(error):
        for frame, _line in traceback.walk_tb(one.__traceback__):
            if frame.f_code.co_filename.startswith(HERE):
                yield frame.f_code.co_qualname, frame.f_locals


def _shown(value: object, levels: int = LEVELS) -> Iterator[str]:
    """Yield what a tracker records of a variable: `repr`, and Sentry looks into containers."""
    yield repr(value)
    sentry_repr = getattr(type(value), "__sentry_repr__", None)
    if callable(sentry_repr):
        yield sentry_repr(value)
    elif levels and isinstance(value, Mapping) and not isinstance(value, web.BaseRequest):
        for name, item in value.items():
            yield repr(name)
            yield from _shown(item, levels - 1)
    elif (
        levels and isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes)
    ):
        for item in value:
            yield from _shown(item, levels - 1)


def _leaks(error: BaseException, secrets: Mapping[str, str | bytes]) -> list[str]:
    """Return which frame shows what."""
    spellings = {
        name: {repr(secret)[1:-1].removeprefix("'"), str(secret)}
        for name, secret in secrets.items()
    }
    frames = list(_frames(error))
    assert frames, "the error passed no frame of the storage"
    return [
        f"{function}: {variable} shows {name}"
        for function, variables in frames
        for variable, value in variables.items()
        for text in _shown(value)
        for name, spelled in spellings.items()
        if any(spelling in text for spelling in spelled)
    ]


def test_this_test_finds_what_a_frame_shows() -> None:
    """Otherwise every test below would always pass."""
    code = compile("def fail(card): raise LookupError", f"{HERE}/planted.py", "exec")
    planted: dict[str, Any] = {}
    exec(code, planted)  # noqa: S102 - the line above

    for value in (CARD, [{"x": CARD}], {CARD: 1}, (1, CARD.encode())):
        with pytest.raises(LookupError) as raised:
            planted["fail"](value)
        assert _leaks(raised.value, {"card": CARD})


class _Seen:
    """Keeps the errors that leave the storage, outside of the sessions."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def set_up(self, app: web.Application, storage: MongoStorage) -> None:
        """Add a middleware that sees them, then the sessions."""

        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await handler(request)
            except Exception as error:
                self.errors.append(error)
                raise

        app.middlewares.append(watch)
        setup(app, storage)


def _fail(storage: MongoStorage, *calls: str) -> None:
    """Let these calls of the driver fail as if the server was away."""

    class Gone:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            if name not in calls:
                return getattr(self._real, name)

            async def fail(*_arguments: Any, **_options: Any) -> Any:
                raise StorageUnavailable from ConnectionError("gone")

            return fail

    storage._driver.collection = Gone(storage._driver.collection)
    storage._driver._raw = Gone(storage._driver._raw)


FAILURES = [
    pytest.param(lambda s: s.update(when={CARD}), (), id="value that cannot be encoded"),
    pytest.param(lambda s: s.update(big=CARD * 30_000), (), id="too large"),
    pytest.param(lambda s: s.update({7: CARD}), (), id="key that is no text"),
    pytest.param(lambda s: s.update(user_id=(CARD,)), (), id="owner that is no text"),
    pytest.param(lambda s: s.update(n=1), ("update_one",), id="update fails"),
    pytest.param(lambda s: s.update(user_id="bob"), ("insert_one",), id="sign-in fails"),
    pytest.param(
        lambda s: s.renew(), ("find_one_and_delete", "find_one_and_replace"), id="renewal fails"
    ),
    pytest.param(lambda s: s.invalidate(), ("delete_one",), id="sign-out fails"),
    pytest.param(len, ("find_one",), id="load fails"),
]


@pytest.mark.parametrize(("change", "calls"), FAILURES)
async def test_error_of_a_load_or_a_save_shows_nothing_of_the_session(
    change: Callable[[Any], Any],
    calls: tuple[str, ...],
    open_site: OpenSite,
    make_storage: MakeStorage,
) -> None:
    """Whatever is refused, and wherever MongoDB goes away."""
    secret = generate_secret()
    storage, seen = make_storage(secrets=secret), _Seen()
    visitor = await (await open_site(storage, seen.set_up)).visitor()
    await visitor.do(lambda session: session.update(user_id=USER, card=CARD))
    token = visitor.cookie or ""
    _fail(storage, *calls)

    response = await visitor.do(change)

    assert response.status >= 500
    (error,) = seen.errors
    hidden = _hidden(storage, secret, token)
    assert _leaks(error, hidden) == []
    assert not any(str(part) in str(error) for part in (CARD, USER, token, secret))


def _hidden(storage: MongoStorage, secret: str, token: str) -> dict[str, str | bytes]:
    key = Keyring(secret).first
    return {
        "the token": token,
        "the token's bytes": base64.urlsafe_b64decode(token + "="),
        "the secret": secret,
        "a key": key.root,
        "the owner key": key.owner,
        "a value": CARD,
        "the owner": USER,
    }


async def test_handler_that_crashes_shows_only_its_own_variables(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """The session that it holds shows how many values it has."""
    secret = generate_secret()
    storage, seen = make_storage(secrets=secret), _Seen()
    visitor = await (await open_site(storage, seen.set_up)).visitor()
    await visitor.do(lambda session: session.update(user_id=USER, card=CARD))
    shown: list[str] = []

    async def crash(request: web.Request) -> web.Response:
        session = await get_session(request)
        shown.extend(_shown(session))
        raise LookupError

    await visitor.visit(crash)

    (error,) = seen.errors
    assert _leaks(error, _hidden(storage, secret, visitor.cookie or "")) == []
    assert all("with 2 values>" in text for text in shown)


async def test_unhashable_key_shows_no_value(make_storage: MakeStorage) -> None:
    """The assignment itself fails."""
    session = (await load(make_storage())).session

    with pytest.raises(TypeError) as raised:
        session[["a", "list"]] = CARD  # type: ignore[index]

    assert _leaks(raised.value, {"a value": CARD}) == []


SECRET = "hunter2-" + generate_secret()
WEAK = "hunter2" * 4
WRONG = [
    pytest.param(SECRET, {"cookie_name": "a b"}, id="cookie name"),
    pytest.param(SECRET, {"max_bytes": 0}, id="max_bytes"),
    pytest.param([SECRET], {"touch_interval": 10**9}, id="touch_interval"),
    pytest.param((SECRET, SECRET), {}, id="listed twice"),
    pytest.param([SECRET, 7], {}, id="a number among them"),
    pytest.param([SECRET, "hunter2"], {}, id="too short"),
    pytest.param(WEAK + WEAK, {}, id="repeated"),
    pytest.param([SECRET] * 6, {}, id="too many"),
    pytest.param({"secret": SECRET}, {}, id="a dict"),
    pytest.param(bytearray(SECRET.encode()), {}, id="a bytearray"),
]


@pytest.mark.parametrize(("secrets", "options"), WRONG)
@pytest.mark.parametrize("collection", [None, object()], ids=["collection", "no collection"])
async def test_wrong_argument_of_the_constructor_shows_no_secret(
    secrets: Any, options: dict[str, Any], collection: Any, make_storage: MakeStorage
) -> None:
    """The constructor hides the secret before it checks anything."""
    with pytest.raises((TypeError, ValueError)) as raised:
        make_storage(collection, secrets, **options)

    assert _leaks(raised.value, {"a secret": "hunter2"}) == []
    assert "hunter2" not in str(raised.value)


async def test_objects_that_hold_secrets_have_a_repr_without_them(
    make_storage: MakeStorage,
) -> None:
    """Debuggers show them."""
    storage = make_storage(secrets=SECRET)
    cookie = await visit(storage, None, lambda s: s.update(user_id=USER, card=CARD))
    session = (await load(storage, cookie)).session
    assert isinstance(session, MongoSession)
    assert session.snapshot is not None
    hidden = _hidden(storage, SECRET, str(cookie))

    for shown in (session, session.snapshot, storage, Keyring(SECRET), Keyring(SECRET).first):
        for text in _shown(shown):
            for name, secret in hidden.items():
                assert str(secret) not in text, name
                assert repr(secret)[2:-1] not in text, name
