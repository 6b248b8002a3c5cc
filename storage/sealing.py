"""How values are sealed: secrets, the keys derived from them, and the bytes at rest.

Pure: no clock, no MongoDB. ``docs/security.md`` shows the format byte by byte.

    root        = HKDF-SHA256(secret, purpose "root")
    key id      = HKDF-SHA256(root, purpose "key id"), the first four bytes
    owner key   = HKDF-SHA256(root, purpose "owner")
    label key   = HKDF-SHA256(root, purpose "label", bound to version + _id + created_at)
    field key   = HKDF-SHA256(token, purpose "field names")
    session key = HKDF-SHA256(token, salt = root, purpose "values", bound to the same)
    forward key = HKDF-SHA256(token, salt = root, purpose "forward", bound to the same)

info = "aiohttp-session-mongostorage 1 " + purpose + a zero byte + what the key is bound to.

Sealed value = version (1) + key id (4) + nonce (12) + AES-256-GCM(plain), with the first five bytes
and the field name as associated data. Plain = kind (1) + length of the name (4) + name + encoded.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from os import urandom
from secrets import token_urlsafe
from struct import Struct
from types import MappingProxyType
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from storage.errors import Unreadable
from storage.undisclosed import Held

VERSION = b"\x01"
KEY_ID_BYTES = 4
OWNER_BYTES = 16
MAX_SECRETS = 5
MIN_SECRET_BYTES = 32
MIN_DISTINCT_BYTES = 8
_DOMAIN = b"aiohttp-session-mongostorage 1 "
_HEADER_BYTES = len(VERSION) + KEY_ID_BYTES
_NONCE_BYTES = 12
_TAG_BYTES = 16
_TEXT_START = _HEADER_BYTES + _NONCE_BYTES
_SHORTEST = _TEXT_START + _TAG_BYTES
_SHA256 = SHA256()
_FIELD_BYTES = 12
_TEXT, _BYTES = 0, 1
_PREFIX = Struct(">BI")
_CREATED_AT = Struct(">q")

_ACCEPTED = "text or bytes, or a sequence of up to 5 of them"
# What EncryptedCookieStorage takes for a key, by the names of the types.
_INSTEAD = {
    "Fernet": "the key that it was made from, for a Fernet does not give it back",
    "bytearray": "bytes(secret)",
    "memoryview": "bytes(secret)",
}


def generate_secret() -> str:
    """Return a new secret: 32 random bytes as base64url text."""
    return token_urlsafe(MIN_SECRET_BYTES)


class SecretKey(NamedTuple):
    """The keys that one configured secret gives."""

    key_id: bytes
    root: bytes
    owner: bytes

    def __repr__(self) -> str:
        """Show nothing of it: error trackers record this."""
        return "<SecretKey>"

    def __sentry_repr__(self) -> str:
        """Show no more to Sentry, which looks into sequences otherwise."""
        return repr(self)


class Keyring:
    """Every configured secret; the first seals, all of them open."""

    def __init__(self, secrets: object) -> None:
        """Derive the keys of ``secrets`` (text or bytes, or a sequence of up to 5 of them)."""
        keys = [_secret_key(secret) for secret in checked_secrets(secrets)]
        self.first: SecretKey = keys[0]
        self.keys: Mapping[bytes, SecretKey] = MappingProxyType({k.key_id: k for k in keys})

    def session_keys(self, token: bytes, identifier: bytes, created_ms: int) -> SessionKeys:
        """Return the keys of one session, each derived when it is first needed."""
        return SessionKeys(self, token, identifier, created_ms)

    def owner_hash(self, owner: str) -> bytes:
        """Hash an owner's id for storing, under the first secret."""
        return _owner_hash(self.first, owner)

    def owner_hashes(self, owner: str) -> list[bytes]:
        """Hash an owner's id for look-ups: under every secret, the first one first."""
        return [_owner_hash(key, owner) for key in self.keys.values()]

    def seal_label(self, label: str, identifier: bytes, created_ms: int) -> bytes:
        """Seal a device label so that the server can read it without the token."""
        cipher = AESGCM(_label_key(self.first, identifier, created_ms))
        return _encrypt(cipher, VERSION + self.first.key_id, label.encode(), b"label")

    def open_label(self, sealed: bytes, identifier: bytes, created_ms: int) -> str:
        """Open a device label; raises ``Unreadable`` when it was not sealed for this document."""
        key = self.key_of(sealed[:_HEADER_BYTES])
        cipher = AESGCM(_label_key(key, identifier, created_ms))
        return _decrypt(cipher, sealed, b"label").decode()

    def key_of(self, header: bytes) -> SecretKey:
        """Return the key that the header of a sealed value names, or raise ``Unreadable``."""
        if header[:1] != VERSION:
            raise Unreadable("a sealed value has an unknown version")
        key = self.keys.get(header[1:])
        if key is None:
            raise Unreadable("it is sealed under a secret that is not configured")
        return key


class SessionKeys:
    """Seal and open the values of one session.

    A class because the derived keys are worth keeping from a request's load to its save.
    """

    __slots__ = ("_bound", "_ciphers", "_field_key", "_keyring", "_token")

    def __init__(self, keyring: Keyring, token: bytes, identifier: bytes, created_ms: int) -> None:
        """Bind the keys to the token, the document id and the creation (milliseconds)."""
        self._keyring = keyring
        self._token = token
        self._bound = VERSION + identifier + _CREATED_AT.pack(created_ms)
        self._ciphers: dict[bytes, AESGCM] = {}
        self._field_key: bytes | None = None

    def field(self, name: str) -> str:
        """Return the opaque field name of a value: 16 characters, the same under every secret."""
        if self._field_key is None:
            self._field_key = _derive(self._token, b"field names")
        digest = hmac.digest(self._field_key, _name_bytes(name), "sha256")
        return urlsafe_b64encode(digest[:_FIELD_BYTES]).decode("ascii")

    def seal(self, field: str, name: str, encoded: str | bytes) -> bytes:
        """Seal one encoded value under the first secret."""
        kind, payload = (_TEXT, encoded.encode()) if isinstance(encoded, str) else (_BYTES, encoded)
        named = _name_bytes(name)
        header = VERSION + self._keyring.first.key_id
        plain = _PREFIX.pack(kind, len(named)) + named + payload
        return _encrypt(self._cipher(header), header, plain, field.encode())

    def open(self, field: str, sealed: bytes) -> tuple[str, str | bytes]:
        """Return the name and the encoded value; raises ``Unreadable`` for any other bytes."""
        plain = _decrypt(self._cipher(sealed[:_HEADER_BYTES]), sealed, field.encode())
        kind, length = _PREFIX.unpack_from(plain)
        start = _PREFIX.size + length
        name = plain[_PREFIX.size : start].decode("utf-8", "surrogatepass")
        return name, plain[start:].decode() if kind == _TEXT else plain[start:]

    def seal_forward(self, plain: bytes) -> bytes:
        """Seal where this session has moved to, under the first secret."""
        header = VERSION + self._keyring.first.key_id
        return _encrypt(self._forward_cipher(header), header, plain, b"forward")

    def open_forward(self, sealed: bytes) -> bytes:
        """Return what was sealed by ``seal_forward``; raises ``Unreadable`` for any other bytes."""
        return _decrypt(self._forward_cipher(sealed[:_HEADER_BYTES]), sealed, b"forward")

    def _forward_cipher(self, header: bytes) -> AESGCM:
        # A purpose of its own: no value can be put in the place of a forward. From the token alone,
        # an old cookie and a copy of the database would be enough to read the new token.
        root = self._keyring.key_of(header).root
        return AESGCM(_derive(self._token, b"forward", self._bound, salt=root))

    def _cipher(self, header: bytes) -> AESGCM:
        cipher = self._ciphers.get(header)
        if cipher is None:
            root = self._keyring.key_of(header).root
            cipher = AESGCM(_derive(self._token, b"values", self._bound, salt=root))
            self._ciphers[header] = cipher
        return cipher


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the secret that sealed these bytes."""
    return sealed[len(VERSION) : _HEADER_BYTES]


def checked_secrets(secrets: object) -> list[bytes]:
    """Return the secrets as bytes; raises ``TypeError`` or ``ValueError`` without showing any.

    They may come in a ``Held``, so that the frames of an error do not show them either.
    """
    held = secrets if isinstance(secrets, Held) else Held(secrets)
    del secrets
    try:
        return _checked_secrets(held.content)
    except (TypeError, ValueError) as refusal:
        # Without the frames that have the secrets.
        raise refusal.with_traceback(None) from None


def _checked_secrets(secrets: object) -> list[bytes]:
    listed = [secrets] if isinstance(secrets, str | bytes) else secrets
    kind = type(secrets).__name__
    if kind in _INSTEAD or not isinstance(listed, Sequence):
        raise TypeError(f"secrets: {kind} is not accepted; use {_INSTEAD.get(kind, _ACCEPTED)}")
    if not 1 <= len(listed) <= MAX_SECRETS:
        raise ValueError(f"secrets: {len(listed)} given; use 1 to {MAX_SECRETS}, newest first")
    found: list[bytes] = []
    for number, secret in enumerate(listed, start=1):
        if not isinstance(secret, str | bytes):
            kind = type(secret).__name__
            accepted = _INSTEAD.get(kind, _ACCEPTED)
            raise TypeError(f"secrets: number {number} is {kind}; use {accepted}")
        found.append(secret if isinstance(secret, bytes) else secret.encode("utf-8", "replace"))
        if problem := secret_problem(found[-1]):
            raise ValueError(f"secrets: number {number} {problem}; use generate_secret()")
    if len(set(found)) < len(found):
        raise ValueError("secrets: one is listed twice; list each once, newest first")
    return found


def secret_problem(secret: bytes) -> str | None:
    """Say what makes a secret too weak, without showing it; ``None`` when nothing does.

    The floor of 32 bytes is the strength of the keys derived from it (NIST SP 800-131A).
    """
    if len(secret) < MIN_SECRET_BYTES:
        return f"has {len(secret)} bytes, fewer than {MIN_SECRET_BYTES}"
    if len(set(secret)) < MIN_DISTINCT_BYTES:
        return f"has fewer than {MIN_DISTINCT_BYTES} distinct characters"
    # A shorter block has fewer distinct characters.
    longest = len(secret) // 2
    if any(secret[n:] == secret[:-n] for n in range(MIN_DISTINCT_BYTES, longest + 1)):
        return "is a short block repeated"
    return None


def _secret_key(secret: bytes) -> SecretKey:
    root = _derive(secret, b"root")
    key_id = _derive(root, b"key id")[:KEY_ID_BYTES]
    return SecretKey(key_id, root, owner=_derive(root, b"owner"))


def _owner_hash(key: SecretKey, owner: str) -> bytes:
    return hmac.digest(key.owner, _name_bytes(owner), "sha256")[:OWNER_BYTES]


def _label_key(key: SecretKey, identifier: bytes, created_ms: int) -> bytes:
    # A key for each document: random nonces stay far from repeating, however many labels there are.
    return _derive(key.root, b"label", VERSION + identifier + _CREATED_AT.pack(created_ms))


def _derive(
    material: bytes, purpose: bytes, bound: bytes = b"", salt: bytes | None = None
) -> bytes:
    info = _DOMAIN + purpose + b"\0" + bound
    return HKDF(algorithm=_SHA256, length=32, salt=salt, info=info).derive(material)


def _encrypt(cipher: AESGCM, header: bytes, plain: bytes, place: bytes) -> bytes:
    nonce = urandom(_NONCE_BYTES)
    return header + nonce + cipher.encrypt(nonce, plain, header + place)


def _decrypt(cipher: AESGCM, sealed: bytes, place: bytes) -> bytes:
    if len(sealed) < _SHORTEST:
        raise Unreadable("a sealed value is cut short")
    nonce = sealed[_HEADER_BYTES:_TEXT_START]
    try:
        return cipher.decrypt(nonce, sealed[_TEXT_START:], sealed[:_HEADER_BYTES] + place)
    except InvalidTag:
        raise Unreadable("a sealed value was changed or moved") from None


def _name_bytes(name: str) -> bytes:
    # JSON can hold lone surrogates, so a session key may hold them too.
    return name.encode("utf-8", "surrogatepass")
