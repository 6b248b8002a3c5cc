"""Which secrets are accepted: strong ones, each once. No message shows a secret."""

from __future__ import annotations

import secrets as random_source
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from storage import generate_secret
from storage.sealing import Keyring
from tests.processes import ROOT

STRONG = "9f3c1e7ab04d5826c7e1f09b3a5d4c8281b6f7e0d9c3a4251670f8e9d2b5c4a3"


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        pytest.param("", "has 0 bytes, fewer than 32", id="empty"),
        pytest.param("correct horse battery staple", "fewer than 32", id="28 characters"),
        pytest.param(bytes(range(31)), "has 31 bytes, fewer than 32", id="31 bytes"),
        pytest.param("a" * 64, "distinct characters", id="one character"),
        pytest.param("0123456" * 9 + "0", "distinct characters", id="seven characters"),
        pytest.param("abcdefgh" * 4, "1 is a short block repeated; use", id="a block four times"),
        pytest.param(
            "abcdefghi" * 4 + "ab", "1 is a short block repeated; use", id="cut within a block"
        ),
        pytest.param(
            "change-me-please" * 2, "1 is a short block repeated; use", id="a phrase twice"
        ),
        pytest.param(STRONG * 2, "1 is a short block repeated; use", id="a strong one twice"),
    ],
)
def test_weak_secret_is_refused_with_the_reason(secret: str | bytes, problem: str) -> None:
    """The message says what is wrong and how to make a strong one, without the secret."""
    with pytest.raises(ValueError, match=problem) as refusal:
        Keyring(secret)

    message = str(refusal.value)
    assert message.startswith("secrets: number 1 ")
    assert message.endswith("use generate_secret()")
    assert not secret or str(secret) not in message


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(STRONG, id="64 hexadecimal digits"),
        pytest.param(STRONG[:32], id="32 hexadecimal digits"),
        pytest.param(bytes(range(32)), id="32 bytes"),
        pytest.param("ключ-ключ, ещё 32 байта", id="32 bytes of UTF-8 in fewer characters"),
        pytest.param("k" * 25 + "eybdsjz", id="eight characters"),
        pytest.param(f"{STRONG[:15]}!?{STRONG[:15]}", id="an end that is as the beginning"),
        pytest.param(f"{STRONG}\udcff", id="a byte that is no UTF-8, as os.environ has it"),
    ],
)
def test_strong_secret_is_accepted(secret: str | bytes) -> None:
    """Hexadecimal digits, bytes, and text of any script, of at least 32 bytes."""
    assert len(Keyring(secret).keys) == 1


@pytest.mark.parametrize("listed", [False, True], ids=["alone", "listed"])
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_of_another_type_are_refused_with_what_to_write(
    kind: type,
    listed: bool,  # noqa: FBT001 - a case
) -> None:
    """They may change after the keys were derived from them."""
    secret = kind(random_source.token_bytes(32))

    with pytest.raises(TypeError, match=rf"{kind.__name__}.*; use bytes\(secret\)$"):
        Keyring([secret] if listed else secret)


def test_any_sequence_of_secrets_is_accepted() -> None:
    """The first one seals, whatever the sequence is."""
    old, new = generate_secret(), generate_secret()

    assert Keyring(deque([new, old])).first == Keyring([new, old]).first == Keyring(new).first


@pytest.mark.long
def test_list_of_text_passes_strict_type_checkers(tmp_path: Path) -> None:
    """As it comes from `os.environ[...].split(",")`: a list is invariant, a sequence is not."""
    program = tmp_path / "typed.py"
    program.write_text(
        "from typing import Any\n"
        "from storage import MongoStorage\n"
        "def one(collection: Any, secrets: list[str]) -> MongoStorage:\n"
        "    return MongoStorage(collection, secrets)\n"
        "def two(collection: Any, secrets: tuple[bytes, ...]) -> MongoStorage:\n"
        "    return MongoStorage(collection, secrets)\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def test_random_secrets_are_always_accepted() -> None:
    """A thousand secrets as from `openssl rand -hex 32`, and of `generate_secret()`."""
    for _ in range(1000):
        Keyring([random_source.token_hex(32), generate_secret()])


@pytest.mark.parametrize(
    "secrets",
    [
        pytest.param([STRONG, STRONG], id="twice as text"),
        pytest.param([STRONG, STRONG.encode()], id="as text and as bytes"),
        pytest.param([STRONG, generate_secret(), STRONG], id="with another between"),
    ],
)
def test_secret_listed_twice_is_refused(secrets: list[str | bytes]) -> None:
    """A rotation that lists one secret twice would not rotate."""
    with pytest.raises(ValueError, match=r"^secrets: one is listed twice") as refusal:
        Keyring(secrets)

    assert STRONG not in str(refusal.value)


def test_weak_secret_anywhere_in_the_list_is_named_by_its_number() -> None:
    """With a weak older secret, anybody could forge sessions."""
    with pytest.raises(ValueError, match=r"^secrets: number 2 has 5 bytes"):
        Keyring([STRONG, "short"])


def test_first_secret_seals_and_all_of_them_open() -> None:
    """The order decides which secret seals; every secret opens."""
    old, new = generate_secret(), generate_secret()
    token, identifier = bytes(32), bytes(32)
    before = Keyring([old]).session_keys(token, identifier, 0)
    sealed = before.seal(before.field("a"), "a", "1")

    for secrets in ([old, new], [new, old]):
        keyring = Keyring(secrets)
        keys = keyring.session_keys(token, identifier, 0)
        assert keys.open(keys.field("a"), sealed) == ("a", "1")
        assert keys.seal("f", "a", "1")[1:5] == Keyring(secrets[0]).first.key_id


def test_owner_is_looked_up_under_every_secret_and_stored_under_the_first() -> None:
    """During a rotation all sessions of an owner are found."""
    old, new = generate_secret(), generate_secret()

    both = Keyring([new, old])

    assert both.owner_hashes("7") == [Keyring(new).owner_hash("7"), Keyring(old).owner_hash("7")]
    assert both.owner_hash("7") == Keyring(new).owner_hash("7")
    assert both.owner_hash("7") != both.owner_hash("8")


def test_text_and_its_utf_8_bytes_are_the_same_secret() -> None:
    """Sessions stay when a secret is read from a file instead of the environment."""
    assert Keyring(STRONG).first == Keyring(STRONG.encode()).first
