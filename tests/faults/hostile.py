"""Malicious requests: the corpus of this folder, combined and damaged at random from a seed.

Each line of a corpus file is one cookie header, header line, path, body or whole request, with
Python's escapes. `{damaged}` stands for a session token of somebody with an error in it, `{marker}`
for a text that must never be in the log, `{name}` for the name of the cookie, `{long}` for 4 KiB.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
# Contains a character that no accepted request id has, because request ids are logged.
MARKER = "marker_that_must_not_be_logged"
METHODS = ("GET", "GET", "POST", "POST", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "X")
TYPES = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
ODD_BYTES = b"\x00\x01\t\n\r \"%&',/:;<=>\\\x7f\x80\xff"


class Hostile:
    """An endless, repeatable stream of malicious requests.

    A class because it knows the tokens whose damaged copies it sends.
    """

    def __init__(self, tokens: Sequence[str], *, cookie_name: str, seed: int = 20) -> None:
        self._tokens = tokens
        self._name = cookie_name
        self._random = random.Random(seed)
        self._lines = {
            kind: [
                line.encode().decode("unicode_escape").encode("latin-1", "replace")
                for line in (CORPUS / f"{kind}.txt").read_text().splitlines()
            ]
            for kind in ("cookies", "headers", "paths", "bodies", "requests")
        }

    def whole(self) -> Iterator[bytes]:
        """Yield every whole request of the corpus."""
        for line in self._lines["requests"]:
            yield self._filled(line)

    def listed(self) -> Iterator[bytes]:
        """Yield every other line of the corpus once, each in an otherwise normal request."""
        for cookie in self._lines["cookies"]:
            yield self._request(cookie=cookie)
        for header in self._lines["headers"]:
            yield self._request(headers=[header])
        for path in self._lines["paths"]:
            yield self._request(path=path)
        for body in self._lines["bodies"]:
            for content_type in TYPES:
                for path in (b"/login", b"/api/auth/login", b"/api/auth/signup"):
                    yield self._request(
                        method="POST", path=path, body=body, content_type=content_type
                    )

    def generated(self, number: int) -> Iterator[bytes]:
        """Yield combinations of the corpus; about half of them are damaged further."""
        pick = self._random.choice
        for _ in range(number):
            yield self._request(
                method=pick(METHODS),
                path=self._worse(pick(self._lines["paths"])),
                headers=[
                    self._worse(pick(self._lines["headers"]))
                    for _ in range(self._random.choice((0, 0, 1, 1, 2, 4)))
                ],
                cookie=self._worse(pick(self._lines["cookies"])),
                body=self._worse(pick(self._lines["bodies"])),
                content_type=pick(TYPES),
            )

    def _request(
        self,
        *,
        method: str = "GET",
        path: bytes = b"/profile",
        headers: Sequence[bytes] = (),
        cookie: bytes = b"",
        body: bytes = b"",
        content_type: str = TYPES[0],
    ) -> bytes:
        filled = self._filled(body)
        site = self._random.choice(("same-origin", "same-origin", "same-origin", "cross-site"))
        # The app reads Origin only where a browser has not sent the other header.
        has_origin = any(header.startswith(b"Origin:") for header in headers)
        lines = [
            method.encode() + b" " + self._filled(path) + b" HTTP/1.1",
            *self._usual_headers(headers),
            *([] if has_origin else [b"Sec-Fetch-Site: " + site.encode()]),
            b"Content-Type: " + content_type.encode(),
            b"Content-Length: %d" % len(filled),
            b"Connection: close",
            *(self._filled(header) for header in headers),
            *([b"Cookie: " + self._filled(cookie)] if cookie else []),
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n" + filled

    def _usual_headers(self, headers: Sequence[bytes]) -> Iterator[bytes]:
        """Yield what the router adds, except what the attack replaces."""
        address = f"198.51.{self._random.randrange(256)}.{self._random.randrange(256)}".encode()
        usual = {
            b"Host": b"app.example",
            b"X-Forwarded-For": address,
            b"X-Forwarded-Proto": b"https",
        }
        replaced = {header.partition(b":")[0] for header in headers}
        for name, value in usual.items():
            if name not in replaced:
                yield name + b": " + value

    def _filled(self, line: bytes) -> bytes:
        if b"{damaged}" in line:
            line = line.replace(b"{damaged}", self._damaged())
        line = line.replace(b"{marker}", MARKER.encode()).replace(b"{name}", self._name.encode())
        return line.replace(b"{long}", b"x" * 4096)

    def _damaged(self) -> bytes:
        """Return a real session token with one error in it."""
        token = self._random.choice(self._tokens)
        position = self._random.randrange(len(token))
        wrong = self._random.choice([c for c in "ABCabc019-_" if c != token[position]])
        shapes = (
            token[:position] + wrong + token[position + 1 :],
            token[:position] + token[position + 1 :],
            token[:position] + wrong + token[position:],
            token.swapcase(),
            token[::-1],
        )
        return self._random.choice(shapes).encode()

    def _worse(self, line: bytes) -> bytes:
        """Damage a line at random places, or return it unchanged."""
        damaged = bytearray(line)
        while damaged and self._random.random() < 0.4:
            position = self._random.randrange(len(damaged))
            kind = self._random.randrange(4)
            if kind == 0:
                damaged[position] = self._random.randrange(256)
            elif kind == 1:
                del damaged[position]
            elif kind == 2:
                damaged.insert(position, self._random.choice(ODD_BYTES))
            else:
                damaged[position:position] = damaged[: self._random.randrange(64)]
        return bytes(damaged)
