"""The sealed format, byte by byte, and what must not be opened."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import generate_secret
from storage.errors import Unreadable
from storage.forwards import Forward, open_forward, seal_forward
from storage.sealing import Keyring, SessionKeys
from storage.tokens import document_id

SECRET = "known-answer-secret-0123456789abcdef"
TOKEN = bytes(range(32))
OTHER_TOKEN = bytes(range(1, 33))
IDENTIFIER = document_id(TOKEN)
CREATED_MS = 1_795_435_200_123
NONCE = bytes(range(100, 112))

# A change of any of these ends every stored session: it needs another version byte, and version 1
# must still be opened.
KNOWN_IDENTIFIER = "7e77966c89a3b1d648444cf4e403d77a32c2271bb6648e35b1a7b267f32d6143"
KNOWN_KEY_ID = "fcae8197"
KNOWN_FIELD = "9LAJozdhko-1AWHc"
KNOWN_OWNER = "536bef15754b190306c7c9530ddd402f"
SHORTEST = 1 + 4 + 12 + 16  # version, key id, nonce and tag
KNOWN_SEALED = (
    "01" + KNOWN_KEY_ID + "6465666768696a6b6c6d6e6f"  # version, key id, nonce
    "065b65356f8357ffef69960381bac7"  # text, "cart", [1, 2]
    "dcdfc3511b500b1ffec17a0c123f5c9d"  # tag
)
KNOWN_LABEL = (
    "01" + KNOWN_KEY_ID + "6465666768696a6b6c6d6e6f"
    "76be7820d2a44d96f39f53d76309341a7c"  # "Firefox – Linux"
    "9b954fbf29c61418e6cf865e348838f1"
)


def hkdf(material: bytes, purpose: bytes, bound: bytes = b"", salt: bytes = bytes(32)) -> bytes:
    """Derive 32 bytes as in RFC 5869; they are one block."""
    info = b"aiohttp-session-mongostorage 1 " + purpose + b"\0" + bound
    pseudo_random_key = hmac.digest(salt, material, "sha256")
    return hmac.digest(pseudo_random_key, info + b"\x01", "sha256")


ROOT = hkdf(SECRET.encode(), b"root")
BOUND = b"\x01" + IDENTIFIER + CREATED_MS.to_bytes(8, "big")
HEADER = bytes.fromhex("01" + KNOWN_KEY_ID)

KNOWN_FORWARD = (
    "01" + KNOWN_KEY_ID + "6465666768696a6b6c6d6e6f"
    "76c6eb43d1250c9fd49b7f025421b8438e50754aef8b8f6dda04ce1e529dd416"  # the new token
    "c8d8c92c69e212d8a3a026cee4dc2ea136"  # two instants and a flag
    "7a5cc2e8d934cbd6c25d0fa14f2fc0da"
)


@pytest.fixture
def keyring() -> Keyring:
    """Return a keyring with the known secret."""
    return Keyring(SECRET)


@pytest.fixture
def keys(keyring: Keyring) -> SessionKeys:
    """Return the keys of the known session."""
    return keyring.session_keys(TOKEN, IDENTIFIER, CREATED_MS)


def test_names_in_the_document_are_derived_as_documented(
    keyring: Keyring, keys: SessionKeys
) -> None:
    """HKDF and HMAC of the standard library give the same id, key id, field and owner."""
    field = hmac.digest(hkdf(TOKEN, b"field names"), b"cart", "sha256")[:12]
    owner = hmac.digest(hkdf(ROOT, b"owner"), b"7", "sha256")[:16]

    assert IDENTIFIER.hex() == KNOWN_IDENTIFIER
    assert keyring.first.key_id.hex() == hkdf(ROOT, b"key id")[:4].hex() == KNOWN_KEY_ID
    assert keys.field("cart") == urlsafe_b64encode(field).decode() == KNOWN_FIELD
    assert keyring.owner_hash("7").hex() == owner.hex() == KNOWN_OWNER


def test_known_sealed_value_is_what_the_documented_steps_give_and_opens(keys: SessionKeys) -> None:
    """Version, key id, nonce, AES-256-GCM with header and field name as associated data."""
    cipher = AESGCM(hkdf(TOKEN, b"values", BOUND, salt=ROOT))
    plain = b"\x00" + (4).to_bytes(4, "big") + b"cart" + b"[1, 2]"

    by_hand = HEADER + NONCE + cipher.encrypt(NONCE, plain, HEADER + KNOWN_FIELD.encode())

    assert by_hand.hex() == KNOWN_SEALED
    assert keys.open(KNOWN_FIELD, by_hand) == ("cart", "[1, 2]")


def test_what_is_sealed_today_opens_by_the_documented_steps(keys: SessionKeys) -> None:
    """A value that the storage sealed is opened step by step; bytes and text differ."""
    cipher = AESGCM(hkdf(TOKEN, b"values", BOUND, salt=ROOT))

    for encoded, kind in (("[1, 2]", 0), (b"[1, 2]", 1)):
        sealed = keys.seal(KNOWN_FIELD, "cart", encoded)
        plain = cipher.decrypt(sealed[5:17], sealed[17:], HEADER + KNOWN_FIELD.encode())

        assert sealed[:5] == HEADER
        assert plain == bytes([kind, 0, 0, 0, 4]) + b"cart[1, 2]"
        assert keys.open(KNOWN_FIELD, sealed) == ("cart", encoded)


def test_known_label_is_what_the_documented_steps_give_and_opens(keyring: Keyring) -> None:
    """The key of a label depends on the secret, the document id and the creation date."""
    cipher = AESGCM(hkdf(ROOT, b"label", BOUND))
    text = "Firefox – Linux"

    by_hand = HEADER + NONCE + cipher.encrypt(NONCE, text.encode(), HEADER + b"label")

    assert by_hand.hex() == KNOWN_LABEL
    assert keyring.open_label(by_hand, IDENTIFIER, CREATED_MS) == text


def test_known_forward_is_what_the_documented_steps_give_and_opens(keys: SessionKeys) -> None:
    """The new token, two instants, and whether there was an owner, under a key of its own."""
    cipher = AESGCM(hkdf(TOKEN, b"forward", BOUND, salt=ROOT))
    ends_ms, grace_ends_ms = CREATED_MS + 60_000, CREATED_MS + 10_000
    plain = OTHER_TOKEN + ends_ms.to_bytes(8, "big") + grace_ends_ms.to_bytes(8, "big") + b"\x01"

    by_hand = HEADER + NONCE + cipher.encrypt(NONCE, plain, HEADER + b"forward")

    assert by_hand.hex() == KNOWN_FORWARD
    forward = Forward(OTHER_TOKEN, ends_ms, grace_ends_ms, had_owner=True)
    assert open_forward(keys, by_hand) == forward
    sealed = seal_forward(keys, forward)
    assert cipher.decrypt(sealed[5:17], sealed[17:], HEADER + b"forward") == plain


def test_forward_opens_only_where_it_was_left_and_as_nothing_else(
    keyring: Keyring, keys: SessionKeys
) -> None:
    """Not at another place or creation date, not with a flipped bit, not as a value or label."""
    sealed = seal_forward(keys, Forward(OTHER_TOKEN, CREATED_MS, 0, had_owner=False))
    elsewhere = [
        keyring.session_keys(OTHER_TOKEN, document_id(OTHER_TOKEN), CREATED_MS),
        keyring.session_keys(TOKEN, document_id(OTHER_TOKEN), CREATED_MS),
        keyring.session_keys(TOKEN, IDENTIFIER, CREATED_MS + 1),
        Keyring(generate_secret()).session_keys(TOKEN, IDENTIFIER, CREATED_MS),
    ]

    for other in elsewhere:
        with pytest.raises(Unreadable):
            open_forward(other, sealed)
    for bit in range(len(sealed) * 8):
        with pytest.raises(Unreadable):
            open_forward(keys, flipped(sealed, bit))
    with pytest.raises(Unreadable):
        keys.open("forward", sealed)
    with pytest.raises(Unreadable):
        keyring.open_label(sealed, IDENTIFIER, CREATED_MS)
    with pytest.raises(Unreadable):
        open_forward(keys, bytes.fromhex(KNOWN_SEALED))


def test_sealing_twice_never_gives_the_same_bytes(keys: SessionKeys) -> None:
    """The nonce is random, so equal values do not look equal."""
    sealed = {keys.seal(KNOWN_FIELD, "cart", "[]") for _ in range(1000)}
    nonces = {value[5:17] for value in sealed}

    assert len(nonces) == 1000


def test_key_of_a_session_is_derived_once(keys: SessionKeys) -> None:
    """A derivation takes longer than a value takes to open."""
    header = bytes.fromhex(KNOWN_SEALED)[:5]

    assert keys._cipher(header) is keys._cipher(header)


def test_value_moved_to_another_field_does_not_open(keys: SessionKeys) -> None:
    """The field name is authenticated."""
    with pytest.raises(Unreadable, match=r"^a sealed value was changed or moved$"):
        keys.open(keys.field("role"), bytes.fromhex(KNOWN_SEALED))


def test_value_moved_to_another_session_does_not_open(keyring: Keyring) -> None:
    """Neither with the other token nor with the other document id."""
    sealed = bytes.fromhex(KNOWN_SEALED)

    for token, identifier in (
        (OTHER_TOKEN, document_id(OTHER_TOKEN)),
        (OTHER_TOKEN, IDENTIFIER),
        (TOKEN, document_id(OTHER_TOKEN)),
    ):
        keys = keyring.session_keys(token, identifier, CREATED_MS)
        with pytest.raises(Unreadable, match=r"^a sealed value was changed or moved$"):
            keys.open(KNOWN_FIELD, sealed)


@pytest.mark.parametrize("moved_ms", [-86_400_000, -1, 1, 86_400_000])
def test_value_moved_to_another_creation_date_does_not_open(
    keyring: Keyring, moved_ms: int
) -> None:
    """Changing `created_at` would extend the absolute timeout."""
    keys = keyring.session_keys(TOKEN, IDENTIFIER, CREATED_MS + moved_ms)

    with pytest.raises(Unreadable, match=r"^a sealed value was changed or moved$"):
        keys.open(KNOWN_FIELD, bytes.fromhex(KNOWN_SEALED))
    with pytest.raises(Unreadable, match=r"^a sealed value was changed or moved$"):
        keyring.open_label(bytes.fromhex(KNOWN_LABEL), IDENTIFIER, CREATED_MS + moved_ms)


def test_flipped_bit_anywhere_does_not_open(keyring: Keyring, keys: SessionKeys) -> None:
    """Every bit of the version, the key id, the nonce, the text and the tag."""
    sealed, label = bytes.fromhex(KNOWN_SEALED), bytes.fromhex(KNOWN_LABEL)

    for bit in range(len(sealed) * 8):
        with pytest.raises(Unreadable):
            keys.open(KNOWN_FIELD, flipped(sealed, bit))
    for bit in range(len(label) * 8):
        with pytest.raises(Unreadable):
            keyring.open_label(flipped(label, bit), IDENTIFIER, CREATED_MS)


def test_value_of_another_length_does_not_open(keyring: Keyring, keys: SessionKeys) -> None:
    """Cut at every length, and with one more byte."""
    sealed, label = bytes.fromhex(KNOWN_SEALED), bytes.fromhex(KNOWN_LABEL)

    # Without a key id it is not known which secret would open it.
    for length in range(5, len(sealed)):
        reason = "is cut short" if length < SHORTEST else "was changed or moved"
        with pytest.raises(Unreadable, match=f"^a sealed value {reason}$"):
            keys.open(KNOWN_FIELD, sealed[:length])
        with pytest.raises(Unreadable, match=f"^a sealed value {reason}$"):
            keyring.open_label(label[:length], IDENTIFIER, CREATED_MS)
    for length in range(5):
        with pytest.raises(Unreadable):
            keys.open(KNOWN_FIELD, sealed[:length])
        with pytest.raises(Unreadable):
            keyring.open_label(label[:length], IDENTIFIER, CREATED_MS)
    with pytest.raises(Unreadable):
        keys.open(KNOWN_FIELD, sealed + b"\0")


def test_nothing_opens_without_the_cookie_even_with_the_secret(keyring: Keyring) -> None:
    """Every key that can be derived from the database and the secret fails."""
    sealed = bytes.fromhex(KNOWN_SEALED)

    for instead_of_the_token in (b"", bytes(32), IDENTIFIER, keyring.first.root, SECRET.encode()):
        keys = keyring.session_keys(instead_of_the_token, IDENTIFIER, CREATED_MS)
        with pytest.raises(Unreadable, match=r"^a sealed value was changed or moved$"):
            keys.open(KNOWN_FIELD, sealed)


def test_nothing_opens_without_the_secret_even_with_the_cookie() -> None:
    """With the cookie and the database: another secret has another key id and another key."""
    other = Keyring(generate_secret()).session_keys(TOKEN, IDENTIFIER, CREATED_MS)

    with pytest.raises(Unreadable, match=r"^it is sealed under a secret that is not configured$"):
        other.open(KNOWN_FIELD, bytes.fromhex(KNOWN_SEALED))


def test_unknown_version_is_named(keyring: Keyring, keys: SessionKeys) -> None:
    """A document of a later release is not reported as damaged."""
    with pytest.raises(Unreadable, match=r"^a sealed value has an unknown version$"):
        keys.open(KNOWN_FIELD, b"\x02" + bytes.fromhex(KNOWN_SEALED)[1:])
    with pytest.raises(Unreadable, match=r"^a sealed value has an unknown version$"):
        keyring.open_label(b"\x02" + bytes.fromhex(KNOWN_LABEL)[1:], IDENTIFIER, CREATED_MS)


def test_label_is_no_value_and_a_value_is_no_label(keyring: Keyring, keys: SessionKeys) -> None:
    """Neither can be copied to the place of the other."""
    with pytest.raises(Unreadable):
        keys.open("label", bytes.fromhex(KNOWN_LABEL))
    with pytest.raises(Unreadable):
        keyring.open_label(bytes.fromhex(KNOWN_SEALED), IDENTIFIER, CREATED_MS)


def test_label_may_be_empty(keyring: Keyring) -> None:
    """Nothing that is sealed is shorter."""
    sealed = keyring.seal_label("", IDENTIFIER, CREATED_MS)

    assert keyring.open_label(sealed, IDENTIFIER, CREATED_MS) == ""


@pytest.mark.parametrize("name", ["", "a.b", "$set", "a\0b", "ключ", "🍪", "\udcff", "n" * 10_000])
def test_any_name_is_hidden_in_sixteen_characters(keys: SessionKeys, name: str) -> None:
    """MongoDB gets no dots, dollar signs, NUL or surrogates, and the name is read back."""
    field = keys.field(name)

    assert len(field) == 16
    assert field.replace("-", "").replace("_", "").isalnum()
    assert keys.open(field, keys.seal(field, name, "1")) == (name, "1")


ANY_NAME = st.text(st.characters(codec=None, categories=None))  # lone surrogates too


@settings(deadline=None)
@given(name=ANY_NAME, encoded=st.text() | st.binary())
def test_any_name_and_any_encoded_value_come_back(name: str, encoded: str | bytes) -> None:
    """Text is read back as text, and bytes as bytes."""
    keys = Keyring(SECRET).session_keys(TOKEN, IDENTIFIER, CREATED_MS)
    field = keys.field(name)

    sealed = keys.seal(field, name, encoded)

    opened = keys.open(field, sealed)
    assert opened == (name, encoded)
    assert type(opened[1]) is type(encoded)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_other_bytes_open(noise: bytes) -> None:
    """Any other bytes raise `Unreadable` and no other error."""
    keyring = Keyring(SECRET)
    keys = keyring.session_keys(TOKEN, IDENTIFIER, CREATED_MS)

    for sealed in (noise, HEADER + noise):
        with pytest.raises(Unreadable):
            keys.open(KNOWN_FIELD, sealed)
        with pytest.raises(Unreadable):
            keyring.open_label(sealed, IDENTIFIER, CREATED_MS)


def test_field_name_is_kept_in_a_rotation_and_differs_between_sessions(keyring: Keyring) -> None:
    """It depends on the token alone; otherwise a rotation would leave two fields for one value."""
    rotated = Keyring([generate_secret(), SECRET])

    assert rotated.session_keys(TOKEN, IDENTIFIER, CREATED_MS).field("cart") == KNOWN_FIELD
    other = keyring.session_keys(OTHER_TOKEN, document_id(OTHER_TOKEN), CREATED_MS)
    assert other.field("cart") != KNOWN_FIELD


def flipped(sealed: bytes, bit: int) -> bytes:
    """Flip one bit."""
    changed = bytearray(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
