"""The session token, the document id and the handle: one spelling each, derived one way."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from storage.tokens import (
    CACHED_TOKENS,
    _read,
    document_id,
    from_cookie,
    from_handle,
    new_token,
    to_cookie,
    to_handle,
)

TOKEN = bytes(range(32))
COOKIE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
HANDLE = "5c8d57a3c6bd0b6e3a4ba84c2b1b1d6b1d0e8d7e5ac9c0e0d1b7ac1f6c8c2a11"


def test_token_is_written_as_43_characters_and_read_back() -> None:
    """Base64url without padding, as RFC 4648 section 5 spells it."""
    assert to_cookie(TOKEN) == COOKIE
    assert from_cookie(COOKIE) == TOKEN


def test_every_new_token_is_unique_and_read_back_from_its_cookie() -> None:
    """A thousand tokens of 32 bytes."""
    tokens = {new_token() for _ in range(1000)}

    assert len(tokens) == 1000
    assert {len(token) for token in tokens} == {32}
    assert all(from_cookie(to_cookie(token)) == token for token in tokens)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="no cookie"),
        pytest.param("", id="empty"),
        pytest.param(COOKIE[:-1], id="42 characters"),
        pytest.param(COOKIE + "A", id="44 characters"),
        pytest.param(COOKIE + "=", id="padded"),
        pytest.param(COOKIE[:-1] + "9", id="spare bits 01"),
        pytest.param(COOKIE[:-1] + "-", id="spare bits 10"),
        pytest.param(COOKIE[:-1] + "_", id="spare bits 11"),
        pytest.param(COOKIE[:-1] + "=", id="an equals sign at the end"),
        pytest.param("=" + COOKIE[1:], id="an equals sign at the start"),
        pytest.param("+" + COOKIE[1:], id="plus of the other alphabet"),
        pytest.param("/" + COOKIE[1:], id="slash of the other alphabet"),
        pytest.param(" " + COOKIE[1:], id="a space"),
        pytest.param("\0" + COOKIE[1:], id="a NUL"),
        pytest.param("%41" + COOKIE[3:], id="percent-encoded"),
        pytest.param("é" + COOKIE[1:], id="an accent"),
        pytest.param("\udcff" + COOKIE[1:], id="a lone surrogate, as the byte FF arrives"),
        pytest.param(
            "\N{MATHEMATICAL BOLD DIGIT ZERO}" + COOKIE[1:], id="a digit of another script"
        ),
        pytest.param('"' + COOKIE[1:-1] + '"', id="quoted"),
    ],
)
def test_other_text_is_no_token(text: str | None) -> None:
    """Each token has one canonical spelling; anything else is malformed."""
    assert from_cookie(text) is None


def test_token_cache_is_bounded_and_keeps_no_long_text() -> None:
    """Endless other cookies, or long ones, do not fill the memory."""
    _read.cache_clear()
    assert from_cookie("A" * 8000) is None
    assert _read.cache_info().currsize == 0

    for _ in range(CACHED_TOKENS + 1):
        token = from_cookie(to_cookie(new_token()))
        assert token is not None
        document_id(token)

    assert _read.cache_info().currsize == CACHED_TOKENS
    assert document_id.cache_info().currsize == CACHED_TOKENS


def test_token_has_one_spelling_only() -> None:
    """Of a cookie with any character replaced, no other spelling is read as a token."""
    characters = [chr(code) for code in (*range(256), 0x2126, 0xDCFF, 0xFF21)]

    for at, other in itertools.product(range(len(COOKIE)), characters):
        text = COOKIE[:at] + other + COOKIE[at + 1 :]
        token = from_cookie(text)
        assert token is None or to_cookie(token) == text


def test_only_one_last_character_in_four_is_canonical() -> None:
    """The last character carries four bits of the token and two spare ones, which are zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    accepted = [last for last in alphabet if from_cookie(COOKIE[:-1] + last) is not None]

    assert accepted == list(alphabet[::4])


def test_document_id_is_the_pinned_hash_of_the_token() -> None:
    """SHA-256 of a prefix and the token; another hash would find no stored session."""
    expected = hashlib.sha256(b"aiohttp-session-mongostorage document id 1\0" + TOKEN)

    assert document_id(TOKEN) == expected.digest()
    assert document_id(TOKEN) != hashlib.sha256(TOKEN).digest()


def test_handle_is_64_digits_that_lead_to_the_document_but_not_to_the_token() -> None:
    """It may be shown and logged: it is no cookie, and a hash cannot be inverted."""
    identifier = document_id(TOKEN)
    handle = to_handle(identifier)

    assert len(handle) == 64
    assert from_handle(handle) == identifier
    assert from_cookie(handle[:43]) != TOKEN
    assert from_cookie(handle) is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="None"),
        pytest.param(7, id="a number"),
        pytest.param(bytes.fromhex(HANDLE), id="the document id itself"),
        pytest.param("", id="empty"),
        pytest.param(HANDLE[:-1], id="63 digits"),
        pytest.param(HANDLE + "0", id="65 digits"),
        pytest.param(HANDLE.upper(), id="capital letters"),
        pytest.param("g" + HANDLE[1:], id="no hexadecimal digit"),
        pytest.param(" " + HANDLE[:-1], id="a space before"),
        pytest.param(HANDLE[:31] + "  " + HANDLE[:31], id="spaces between, which fromhex skips"),
        pytest.param("\N{ARABIC-INDIC DIGIT ONE}" + HANDLE[1:], id="a digit of another script"),
        pytest.param("\udcff" + HANDLE[1:], id="a lone surrogate"),
        pytest.param({"$ne": ""}, id="an operator of MongoDB"),
    ],
)
def test_other_text_is_no_handle(text: object) -> None:
    """It names no document."""
    assert from_handle(text) is None
