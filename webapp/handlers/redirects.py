"""Where a page may send its visitor next: to a path of this site and nowhere else."""

from __future__ import annotations

import re
from urllib.parse import urlencode

HOME_OF_THE_SIGNED_IN = "/profile"
MAX_LENGTH = 512

# A list of what is allowed, since browsers mend what looks broken: "//evil.example" and
# "/\\evil.example" name another host to them, and tabs and line ends vanish before they look.
_PATH = re.compile(r"(/[\w\-.~!$&'()*+,;=:@%]*)+(\?[\w\-.~!$&'()*+,;=:@%/?]*)?", re.ASCII)


def local_path(next_: object) -> str:
    """Return `next_` when it is a path on this site, else the signed-in visitor's home.

    OWASP ASVS 5.0, 3.7.2: no open redirects. The value comes from a query or a hidden field.
    """
    if not isinstance(next_, str) or len(next_) > MAX_LENGTH or not _PATH.fullmatch(next_):
        return HOME_OF_THE_SIGNED_IN
    path = next_.partition("?")[0]
    return HOME_OF_THE_SIGNED_IN if "//" in path else next_


def with_query(path: str, **query: str) -> str:
    """Return `path` with a query of the non-empty values."""
    text = urlencode({name: value for name, value in query.items() if value})
    return f"{path}?{text}" if text else path
