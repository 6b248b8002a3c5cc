"""An encoder and a decoder of the app: unusual ones, new ones, and ones that use the context."""

from __future__ import annotations

import ast
import json
import os
import pickle
from collections import OrderedDict
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from storage import SessionNotSerializable
from tests.storage.conftest import MakeStorage, OpenSite, Visitor
from tests.storage.direct import load, values, visit

LANGUAGE: ContextVar[str] = ContextVar("LANGUAGE")


def salted(value: object) -> str:
    """Encode to another text each time, as an encrypting encoder does."""
    return json.dumps([os.urandom(8).hex(), value])


def unsalted(encoded: str) -> Any:
    """Undo ``salted``."""
    return json.loads(encoded)[1]


async def test_second_save_with_a_salting_encoder_writes_nothing_again(
    make_storage: MakeStorage,
) -> None:
    """What a parallel request wrote between the two saves is not overwritten."""
    storage = make_storage(encoder=salted, decoder=unsalted)
    cookie = str(await visit(storage, None, lambda session: session.update(name="Ada", n=7000)))
    begun = await load(storage, cookie)
    begun.session.update(name="Grace", n=8000)
    await begun.save()
    await visit(storage, cookie, lambda session: session.update(name="Hedy", n=9000))

    await begun.save()

    assert await values(storage, cookie) == {"name": "Hedy", "n": 9000}


async def test_decoder_is_called_in_the_context_of_its_request(make_storage: MakeStorage) -> None:
    """At a renewal too, which runs in a task of its own."""
    storage = make_storage(decoder=lambda text: (LANGUAGE.get(), json.loads(text))[1])
    LANGUAGE.set("en")

    cookie = str(await visit(storage, None, lambda session: session.update(user_id=1, n=[1])))
    await visit(storage, cookie, lambda session: session.renew())

    assert storage.counters["inserts"] == 2


async def test_value_that_the_new_encoder_does_not_know_is_replaced(
    make_storage: MakeStorage,
) -> None:
    """An app moves from pickle to JSON: its decoder still reads the old values."""
    before = make_storage(encoder=pickle.dumps, decoder=pickle.loads)
    when = datetime(2026, 1, 1, tzinfo=UTC)
    cookie = str(await visit(before, None, lambda session: session.update(at=when, ats=[when])))
    after = make_storage(
        decoder=lambda text: json.loads(text) if isinstance(text, str) else pickle.loads(text),  # noqa: S301 - its own
    )

    await visit(after, cookie, lambda session: session.update(at=1, ats=[1]))

    assert await values(after, cookie) == {"at": 1, "ats": [1]}


class Markup(str):
    """A subclass of str, as template engines have it."""

    __slots__ = ("page",)


class Blob(bytes):
    """A subclass of bytes."""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(bytes, bytes), (Markup, str), (Blob, bytes)],
    ids=lambda kind: kind.__name__,
)
async def test_encoder_may_return_bytes_or_a_subclass_of_str_or_bytes(
    make_storage: MakeStorage, kind: type, expected: type
) -> None:
    """The decoder gets plain str or bytes, and nested changes are noticed."""
    seen: set[type] = set()

    def decode(encoded: Any) -> Any:
        seen.add(type(encoded))
        return json.loads(encoded)

    def encode(value: object) -> Any:
        text = json.dumps(value)
        return kind(text if expected is str else text.encode())

    storage = make_storage(encoder=encode, decoder=decode)
    cookie = await visit(storage, None, lambda session: session.update(a=["x"]))
    assert await values(storage, cookie) == {"a": ["x"]}

    await visit(storage, cookie, lambda session: session["a"].append("y"))

    assert await values(storage, cookie) == {"a": ["x", "y"]}
    assert seen == {expected}


async def test_text_that_cannot_be_written_as_utf_8_is_refused_and_not_shown(
    make_storage: MakeStorage,
) -> None:
    """An encoder may leave a lone surrogate in its text; Python's own error would show the text."""
    storage = make_storage(encoder=partial(json.dumps, ensure_ascii=False))

    with pytest.raises(SessionNotSerializable, match=r"^session\['name'\]: .*str") as refusal:
        await visit(storage, None, lambda session: session.update(name="hidden\ud800"))

    assert "hidden" not in str(refusal.value)


async def test_refusal_of_an_encoder_or_a_decoder_never_shows_the_value(
    make_storage: MakeStorage,
) -> None:
    """Neither in the error nor in its cause."""

    def refuse(value: object) -> Any:
        raise ValueError(f"cannot take {value!r}")

    for codec in ({"encoder": refuse}, {"decoder": refuse}):
        storage = make_storage(**codec)
        for value in ("hidden", ["hidden"]):
            with pytest.raises(SessionNotSerializable) as caught:
                await visit(storage, None, lambda session, value=value: session.update(a=value))

            assert "hidden" not in str(caught.value)
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__


async def test_decoder_makes_new_objects_for_every_request(make_storage: MakeStorage) -> None:
    """They are not copied: a copy might have another type, or share a part with the original."""
    storage = make_storage(owner_key=None, encoder=bytes, decoder=bytearray)
    cookie = await visit(storage, None, lambda session: session.update(a=b"x"))
    one, two = await load(storage, cookie), await load(storage, cookie)

    one.session["a"].append(0)

    assert two.session["a"] == bytearray(b"x")
    assert type(two.session["a"]) is bytearray


async def test_another_encoding_of_the_same_value_does_not_undo_a_parallel_change(
    make_storage: MakeStorage,
) -> None:
    """Only values that the request changed are written, whatever the encoder."""
    storage = make_storage()
    cookie = str(await visit(storage, None, lambda session: session.update(a=[1, 2])))
    begun = await load(
        make_storage(encoder=lambda value: json.dumps(value, separators=(",", ":"))), cookie
    )
    await visit(storage, cookie, lambda session: session.update(a=[3, 4]))

    begun.session["b"] = 5
    await begun.save()

    assert await values(storage, cookie) == {"a": [3, 4], "b": 5}


def refusing(_encoded: object) -> Any:
    """Refuse every value."""
    raise LookupError("the value itself")


@pytest.mark.parametrize("value", [[1], "a"], ids=["nested", "scalar"])
@pytest.mark.parametrize(
    ("codec", "message"),
    [
        pytest.param(
            {"encoder": lambda _: 7}, "the encoder returned int", id="encoder returns a number"
        ),
        pytest.param(
            {"decoder": refusing}, r"the decoder refused .* \(LookupError\)", id="decoder refuses"
        ),
    ],
)
async def test_value_that_the_decoder_cannot_read_is_refused_by_name(
    make_storage: MakeStorage, codec: dict[str, Any], message: str, value: object
) -> None:
    """An encoder that returns no text and a decoder that refuses it are noticed at the save."""
    storage = make_storage(**codec)

    with pytest.raises(SessionNotSerializable, match=rf"session\['cart'\]: .*{message}") as caught:
        await visit(storage, None, lambda session: session.update(cart=value))

    assert "the value itself" not in str(caught.value)


async def test_stored_value_that_the_decoder_refuses_is_no_session_and_no_error(
    make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """An app with another decoder signs visitors out, without an error page."""
    before = await (await open_site(make_storage())).visitor()
    await before.do(lambda session: session.update(name="Ada"))
    storage = make_storage(decoder=refusing)

    after = await (await open_site(storage)).visitor(before.cookie)

    assert await after.session() == {}
    assert storage.counters["unreadable"] == 1


async def test_new_encoder_rewrites_no_unchanged_value(
    make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """Another encoding of the same value is no change."""
    before = await (await open_site(make_storage())).visitor()
    await before.do(lambda session: session.update(cart={"items": [1, 2]}, name="Zoë"))
    spaced = make_storage(encoder=partial(json.dumps, indent=2, ensure_ascii=False))
    after = await (await open_site(spaced)).visitor(before.cookie)

    assert await after.session() == {"cart": {"items": [1, 2]}, "name": "Zoë"}
    assert spaced.counters["updates"] == 0


async def test_value_that_did_not_change_is_not_encoded(
    make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding it costs five times what comparing it does, also where it was assigned again."""
    storage, dumps = make_storage(), json.dumps
    others = {"cart": [1], "city": "Paris", "n": 7, "ratio": 1.5, "flag": True, "none": None}
    cookie = await visit(storage, None, lambda session: session.update(others, name="Ada"))
    encoded: list[object] = []

    def counted(value: object) -> str:
        encoded.append(value)
        return dumps(value)

    monkeypatch.setattr(json, "dumps", counted)
    await visit(storage, cookie, lambda session: session.update(name="Bob", city="Paris"))

    assert encoded == ["Bob"]


async def test_nested_value_of_a_foreign_type_is_saved(visitor: Visitor) -> None:
    """A nested change to an `OrderedDict` is noticed and stored."""
    await visitor.do(lambda session: session.update(cart=[]))

    await visitor.do(lambda session: session["cart"].append(OrderedDict(a=1)))

    assert await visitor.session() == {"cart": [{"a": 1}]}


async def test_value_without_a_json_form_comes_back_with_an_own_encoder_and_decoder(
    make_storage: MakeStorage,
) -> None:
    """Whatever the encoder accepts is stored, in its order."""

    def encode(value: Any) -> str:
        return json.dumps(value, default=lambda other: {"set": sorted(other)})

    def decode(text: Any) -> Any:
        return json.loads(text, object_hook=lambda found: set(found.get("set", ())) or found)

    storage = make_storage(encoder=encode, decoder=decode)
    cookie = await visit(storage, None, lambda session: session.update(x={"b": {2, 1}, "a": 0}))

    got = await values(storage, cookie)

    assert list(got["x"].items()) == [("b", {1, 2}), ("a", 0)]


async def test_json_gives_a_tuple_back_as_a_list_and_keys_as_text(
    make_storage: MakeStorage,
) -> None:
    """An encoder and a decoder of the app's own keep both."""
    stored = {"point": (1, 2), "names": {1: "a"}}
    by_json = make_storage()
    by_own = make_storage(encoder=repr, decoder=ast.literal_eval)

    found = [
        await values(storage, await visit(storage, None, lambda session: session.update(stored)))
        for storage in (by_json, by_own)
    ]

    assert found == [{"point": [1, 2], "names": {"1": "a"}}, stored]
