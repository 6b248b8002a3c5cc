"""Where a page may redirect to: a path of this site and nowhere else."""

from __future__ import annotations

import re
from urllib.parse import urlencode

DEFAULT_PATH = "/profile"
MAX_LENGTH = 512

# A list of what is allowed, since browsers accept much more: for them "//evil.example" and
# "/\\evil.example" name another host, and they remove tabs and line ends first.
_PATH = re.compile(r"(/[\w\-.~!$&'()*+,;=:@%]*)+(\?[\w\-.~!$&'()*+,;=:@%/?]*)?", re.ASCII)


def local_path(next_: object) -> str:
    """Return `next_` when it is a path of this site, else the profile page.

    OWASP ASVS 5.0, 3.7.2: no open redirects. The value comes from a query or a hidden field.
    """
    if not isinstance(next_, str) or len(next_) > MAX_LENGTH or not _PATH.fullmatch(next_):
        return DEFAULT_PATH
    path = next_.partition("?")[0]
    return DEFAULT_PATH if "//" in path else next_


def with_query(path: str, **query: str) -> str:
    """Return `path` with a query."""
    return f"{path}?{urlencode(query)}"
